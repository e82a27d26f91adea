"""What a connection carries from one use to the next: nothing."""

import asyncpg
import pytest

from qflare.model.ids import DEFAULT_TENANT, SessionId
from qflare.stores.postgres import PoolSettings, open_pool, open_store

SEEN = (
    "SELECT current_setting('role'), current_setting('qflare.tenant', true), current_setting('lock_timeout'),"
    " current_setting('enable_seqscan'), current_setting('enable_nestloop')"
)


@pytest.fixture
async def pool(database_dsn):
    """A pool of one connection, so that every use is of the same."""
    opened = await open_pool(database_dsn, PoolSettings(min_size=1, max_size=1))
    yield opened
    await opened.close()


async def test_settings_end_with_their_transaction(pool):
    """Role, tenant, timeouts and planner settings of one use are gone at the next."""
    async with pool.acquire() as connection:
        fresh = await connection.fetchrow(SEEN)
    store = await open_store(pool)
    await store.find_sessions(DEFAULT_TENANT, [SessionId(bytes(16))])
    await store.drop_buckets(before=0)
    await store.list_devices(DEFAULT_TENANT, limit=1)
    async with pool.acquire() as connection:
        after = await connection.fetchrow(SEEN)
    # A setting that was made and rolled back reads as empty text where it was NULL.
    assert [value or "" for value in after] == [value or "" for value in fresh]


async def fail(connection):
    async with connection.transaction():
        await connection.execute("SELECT qflare.enter('00000000-0000-0000-0000-000000000000')")
        await connection.execute("SELECT 1 / 0")


async def test_failed_use_leaves_no_transaction(pool):
    """A use that ends in an error leaves no open transaction behind."""
    async with pool.acquire() as connection:
        with pytest.raises(asyncpg.PostgresError):
            await fail(connection)
    async with pool.acquire() as connection:
        assert not connection.is_in_transaction()
        assert await connection.fetchval("SELECT current_setting('role')") == "none"
