import gc
import weakref

import pytest

from qflare.service.collector import YOUNG_MAX, settle_collector


class Knot:
    """An object that holds itself."""

    def __init__(self):
        self.me = self


@pytest.fixture
def collector():
    """Put the collector back as it was."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_cycles_made_after_the_start_are_still_found():
    """A worker's settings leave the collector at work: a cycle goes after as many new objects as they say."""
    settle_collector()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    knot = Knot()
    seen = weakref.ref(knot)
    del knot
    assert seen() is not None
    kept = [[] for _ in range(2 * YOUNG_MAX)]
    assert seen() is None
    del kept
