"""The store through PgBouncer in transaction mode: its contract, and tenants that never mix (goals E1 and E2)."""

# ruff: noqa: F401, F811 - tests of other modules run here again, on this module's store

import asyncio
import contextlib
import itertools
from os import urandom

import asyncpg
import pytest

from pgbouncer import SERVERS, pgbouncer
from qflare.errors import StoreUnavailableError
from qflare.model.ids import TenantId
from qflare.stores.postgres import PoolSettings, PostgresStore, open_store
from qflare.stores.postgres.pool import has_pooler
from store_records import new_event, register
from stores.test_store_log import test_concurrent_appends_leave_no_gap
from stores.test_store_sessions import *  # noqa: F403 - the contract of what happens most
from stores.test_store_tenancy import (
    filled,
    test_a_row_of_another_tenant_cannot_be_written,
    test_no_verb_reaches_a_foreign_row,
    test_own_rows_are_seen,
    test_the_auditor_reads_all_and_writes_nothing,
    test_the_owner_sees_nothing_either,
    tokens,
)
from stores.test_store_tenancy import test_many_tenants_with_cancellations_never_mix as many_tenants


@pytest.fixture
async def store(database_dsn, pgbouncer):
    """A store of more connections than the pooler has."""
    opened = await open_store(pgbouncer.dsn(database_dsn), settings=PoolSettings(max_size=2 * SERVERS))
    yield opened
    await opened.close()


class Asker:
    """As much of a connection as the matrix needs: each transaction comes from the next client of the pooler."""

    def __init__(self, clients):
        self._clients = itertools.cycle(clients)
        self._client = None

    def transaction(self):
        self._client = next(self._clients)
        return self._client.transaction()

    async def execute(self, *arguments):
        return await self._client.execute(*arguments)


@pytest.fixture
async def asker(database_dsn, pgbouncer):
    """Clients in turn: each finds a server that the one before, of another tenant, was just served by."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(SERVERS):
            client = await asyncpg.connect(pgbouncer.dsn(database_dsn), statement_cache_size=0)
            stack.push_async_callback(client.close)
            clients.append(client)
        yield Asker(clients)


async def test_it_is_found_and_nothing_listens_through_it(store, database_dsn, pgbouncer, admin):
    """A pooler is told from the server itself, on a dsn and on a pool of the caller's; no LISTEN goes through it."""
    assert store.listener() is None
    assert not await has_pooler(admin)
    async with asyncpg.create_pool(pgbouncer.dsn(database_dsn), min_size=1, max_size=2, statement_cache_size=0) as pool:
        own = PostgresStore(pool, owns_pool=False, dsn=pgbouncer.dsn(database_dsn))
        await own.check()
        assert own.listener() is None
        assert 0 == (await own.log_head()).size
    direct = await open_store(database_dsn)
    assert direct.listener() is not None
    await direct.close()


async def test_the_store_works_through_it(store, admin):
    """Many calls at once over fewer servers are all answered, in several processes of the server's."""
    tenants = [TenantId(urandom(16)) for _ in range(20)]
    for number, tenant_id in enumerate(tenants):
        await store.save_tenant(tenant_id, f"tenant {number}", event=new_event())
    added = await asyncio.gather(*(register(store, 3, tenant_id=tenant_id) for tenant_id in tenants))
    listed = await asyncio.gather(*(store.list_devices(tenant_id, limit=9) for tenant_id in tenants))
    assert [{device.ref for device in each} for each in added] == [{device.ref for device in each} for each in listed]
    assert 60 == await admin.fetchval("SELECT count(*) FROM qflare.device")
    left = await admin.fetch(
        "SELECT pid, query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert 1 <= len(left) <= SERVERS
    assert not any("LISTEN" in row["query"] for row in left)


async def test_tenants_never_mix_through_it(store, pgbouncer):
    """Goal E2 through the pooler: 5,000 requests of 50 tenants, some cancelled, see their own rows alone."""
    try:
        await many_tenants(store)
    except StoreUnavailableError:
        # PgBouncer 1.18, which is Debian's, may end itself when queries are cancelled under load (its issue 822, mended
        # in 1.19); then all is asked again of another one.  Whatever else it was is a failure.
        if not pgbouncer.has_crashed():
            raise
        pgbouncer.start()
        await many_tenants(store)
