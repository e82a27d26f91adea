"""The memory store of `qflare.testing` for the suite's own tests."""

import warnings

import pytest

from qflare.testing import MemoryStore, TestingOnlyWarning


def make_memory_store(clock=None):
    """A memory store without its warning, which the suite would take for an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TestingOnlyWarning)
        return MemoryStore(clock)


@pytest.fixture
def memory_store():
    """An empty store in memory."""
    return make_memory_store()
