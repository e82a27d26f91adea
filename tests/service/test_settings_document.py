"""docs/settings.md says what the settings classes say."""

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from pathlib import Path

import pytest

from qflare.errors import ConfigError
from qflare.manager.settings import ManagerSettings
from qflare.service.aggregator.settings import AggregatorSettings
from qflare.service.config import read_settings
from qflare.service.logs import LogSettings
from qflare.service.metrics.settings import MetricsSettings
from qflare.service.page.settings import PageSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
CLASSES = (ManagerSettings, AggregatorSettings, MetricsSettings, LogSettings, PageSettings)


def meanings(kind):
    """Return the sentence below each field of a settings class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = " ".join(text.value.value.split())
    return found


def rows(kind):
    """Return the table of a settings class."""
    said = meanings(kind)
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(kind):
        default = "unset" if field.default is None else f"{field.default:,}" if field.default else "0"
        lines.append(f"| `QFLARE_{field.name.upper()}` | {default} | {said[field.name]} |")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_table_is_the_class(kind):
    """Every field stands in the table with its default and its meaning, and nothing else does."""
    section = re.search(rf"## .*`{kind.__name__}`\n(.*?)(\n## |\Z)", DOCUMENT.read_text(), re.DOTALL)[1]
    table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert rows(kind) == table


def test_no_variable_means_two_things():
    """The classes share the prefix, so no two fields have one name."""
    names = [field.name for kind in CLASSES for field in dataclasses.fields(kind)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", CLASSES)
def test_variables_are_read(kind):
    """Each numeric field is taken from its variable; a value that is no number names the variable."""
    for field in dataclasses.fields(kind):
        if isinstance(field.default, int | float):
            name = f"QFLARE_{field.name.upper()}"
            assert field.default == getattr(read_settings(kind, {name: str(field.default)}), field.name)
            with pytest.raises(ConfigError, match=name):
                read_settings(kind, {name: "many"})


@pytest.mark.parametrize("kind", CLASSES)
def test_values_out_of_range_are_refused(kind):
    """No numeric setting takes a negative number; the error names it."""
    for field in dataclasses.fields(kind):
        if isinstance(field.default, int | float):
            with pytest.raises(ConfigError, match=field.name):
                kind(**{field.name: -1})
