"""The contract of a store: its tests run on PostgreSQL and on the memory store of `qflare.testing`."""

import pytest

from memory_world import memory_store  # noqa: F401 - a fixture

POSTGRES_ONLY = {"admin", "database_dsn", "empty_database_dsn", "far", "hasty", "proxy", "disk", "failing_cluster"}
"""Fixtures of tests that look into PostgreSQL itself, or stand between it and the store."""


def pytest_generate_tests(metafunc):
    """Run the tests of modules that are marked as the contract on both stores."""
    asks = set(metafunc.fixturenames)
    if metafunc.definition.get_closest_marker("contract") and "store" in asks and not asks & POSTGRES_ONLY:
        metafunc.parametrize("store_kind", ["postgres", "memory"], indirect=True)


@pytest.fixture
def store_kind(request):
    """Which store a test is about."""
    return getattr(request, "param", "postgres")


@pytest.fixture
def store(request, store_kind):
    """The store that a test is about, empty."""
    return request.getfixturevalue(f"{store_kind}_store")
