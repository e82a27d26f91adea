"""What the monitor is tested on: PostgreSQL, and where a test asks for `database` the memory store as well."""

import pytest

from memory_world import make_memory_store


@pytest.fixture(params=["postgres", "memory"])
def database(request):
    """What `manager_world.make_manager` opens: a fresh database's dsn, or an empty memory store."""
    return request.getfixturevalue("database_dsn") if request.param == "postgres" else make_memory_store()
