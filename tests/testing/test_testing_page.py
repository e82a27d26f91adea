"""The page about users' own tests says what runs."""

import re
from pathlib import Path

import pytest

import qflare.testing
from qflare.testing import TestingOnlyWarning

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


async def test_the_example_runs_as_it_stands():
    """The example of the page is a test that passes, and warns of what it is made on."""
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    names = {}
    exec(compile(block, "testing.md", "exec"), names)  # noqa: S102 - the project's own page
    with pytest.warns(TestingOnlyWarning):
        await names["test_a_round_survives_a_bad_line"]()


def test_the_page_names_what_there_is():
    """Every public name of the module stands on its page."""
    page = PAGE.read_text()
    assert [] == [name for name in qflare.testing.__all__ if name not in page]
