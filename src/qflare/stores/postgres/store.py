"""The whole store on PostgreSQL: its parts by noun, put together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from qflare.errors import UsageError
from qflare.model.statistics import PoolStatistics
from qflare.stores.postgres.buckets import Buckets
from qflare.stores.postgres.calls import Calls
from qflare.stores.postgres.chains import Chains
from qflare.stores.postgres.changes import ChangeListener, Changes
from qflare.stores.postgres.connections import Connections
from qflare.stores.postgres.devices import Devices, Tenants
from qflare.stores.postgres.failures import translated
from qflare.stores.postgres.identity import Identities
from qflare.stores.postgres.incidents import Incidents
from qflare.stores.postgres.key_records import KeyRecords
from qflare.stores.postgres.log import Log
from qflare.stores.postgres.operators import Operators
from qflare.stores.postgres.pool import PoolSettings, has_pooler, open_pool
from qflare.stores.postgres.reply_keys import ReplyKeys
from qflare.stores.postgres.responses import Responses
from qflare.stores.postgres.restores import Restores
from qflare.stores.postgres.rotations import Rotations
from qflare.stores.postgres.schema import check_schema
from qflare.stores.postgres.sessions import Sessions
from qflare.stores.postgres.shares import Shares
from qflare.stores.postgres.statistics import Statistics
from qflare.stores.postgres.streams import Streams
from qflare.stores.postgres.tokens import Tokens
from qflare.stores.postgres.turns import Turns
from qflare.stores.postgres.two_person_control import TwoPersonControls

if TYPE_CHECKING:
    from qflare.model.ports import Store

CLOSE_TIMEOUT_S = 5.0


class PostgresStore(
    Identities,
    Buckets,
    Tenants,
    Devices,
    Rotations,
    Tokens,
    Sessions,
    Chains,
    Turns,
    Streams,
    ReplyKeys,
    Log,
    Calls,
    Statistics,
    KeyRecords,
    Changes,
    Restores,
    Incidents,
    Shares,
    Operators,
    Responses,
    TwoPersonControls,
):
    """
    `model.ports.Store` on a pool of asyncpg.

    Args:
        pool: Connections whose login is a member of qflare_app, or a superuser.
        owns_pool: Whether `close` closes the pool.
        settings: Timeouts for calls on the pool.
        dsn: The same database, for a connection that listens; None has changes polled alone.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        owns_pool: bool,
        settings: PoolSettings | None = None,
        dsn: str | None = None,
    ) -> None:
        limits = settings or PoolSettings()
        super().__init__(
            Connections(
                pool,
                acquire_timeout_s=limits.acquire_timeout_s,
                command_timeout_s=limits.command_timeout_s,
                retry_for_s=limits.retry_for_s,
            )
        )
        self._pool = pool
        self._owns_pool = owns_pool
        self._limits = limits
        self._dsn = dsn
        self._is_checked = False

    async def check(self) -> None:
        """Raise `StoreUnavailableError` or `SchemaMismatchError` if the store cannot be used."""
        with translated():
            async with self._pool.acquire(timeout=self._limits.acquire_timeout_s) as connection:
                self._connections.is_pooled = await has_pooler(connection)
                async with connection.transaction():
                    await check_schema(
                        connection, timeout_s=self._limits.command_timeout_s, is_running=self._is_checked
                    )
            self._is_checked = True

    def pool_statistics(self) -> PoolStatistics:
        """Return how many connections are in use."""
        size, idle = self._pool.get_size(), self._pool.get_idle_size()
        return PoolStatistics(used=size - idle, idle=idle, size_max=self._pool.get_max_size())

    def listener(self) -> ChangeListener | None:
        """Return what hears of changes over a connection of its own, None where only a pool or a pooler is known."""
        if self._dsn is None or self._connections.is_pooled:
            return None
        return ChangeListener(self._dsn, self._limits, self._connections)

    async def close(self) -> None:
        """Close the pool if the store opened it; connections in use get a few seconds to end."""
        if not self._owns_pool:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


async def open_store(
    dsn_or_pool: str | asyncpg.Pool, *, settings: PoolSettings | None = None, dsn: str | None = None
) -> PostgresStore:
    """
    Open the store and check the schema.

    Args:
        dsn_or_pool: ``postgresql://…``, or a pool that the caller opened and closes.
        settings: Limits of the pool and timeouts of calls.
        dsn: Beside a pool, the same database: for the connection that listens for changes.

    Raises:
        ConfigError: the dsn cannot be read.
        StoreUnavailableError: the database does not answer.
        SchemaMismatchError: the schema is missing, too old or too new.
    """
    if isinstance(dsn_or_pool, str):
        pool, owns_pool, dsn = await open_pool(dsn_or_pool, settings), True, dsn_or_pool
    elif isinstance(dsn_or_pool, asyncpg.Pool):
        pool, owns_pool = dsn_or_pool, False
    else:
        raise UsageError("pass a dsn ('postgresql://…') or a pool made by asyncpg.create_pool")
    store = PostgresStore(pool, owns_pool=owns_pool, settings=settings, dsn=dsn)
    try:
        await store.check()
    except BaseException:
        await store.close()
        raise
    return store


if TYPE_CHECKING:

    def _fits_the_port(store: PostgresStore) -> Store:
        return store
