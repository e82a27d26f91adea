"""Connections: named queries over a pool, alone or in a tenant's transaction, with a timeout on each."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from qflare.model.ids import DEFAULT_TENANT
from qflare.stores.postgres.attempts import Attempts
from qflare.stores.postgres.columns import as_uuid, event_columns, hashed_append
from qflare.stores.postgres.definition import queries
from qflare.stores.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from qflare.model.event import LogAppend, NewEvent
    from qflare.model.ids import CallId, TenantId

T = TypeVar("T")


class Transaction:
    """One transaction of one tenant; it lives inside `Connections.transaction`."""

    def __init__(self, connection: PoolConnectionProxy, tenant_id: TenantId, *, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self.tenant_id = as_uuid(tenant_id)

    async def fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        """Run the named query and return its rows."""
        return await self._connection.fetch(queries()[name].text, *arguments, timeout=self._timeout_s)

    async def fetch_row(self, name: str, *arguments: object) -> asyncpg.Record | None:
        """Run the named query and return its row, if any."""
        return await self._connection.fetchrow(queries()[name].text, *arguments, timeout=self._timeout_s)

    async def execute(self, name: str, *arguments: object) -> None:
        """Run the named query for its effect."""
        # fetch, not execute: with arguments both prepare, without any execute would not.
        await self._connection.fetch(queries()[name].text, *arguments, timeout=self._timeout_s)

    async def write_events(self, events: Sequence[NewEvent]) -> LogAppend | None:
        """Append *events*; the last statement of the transaction, since it locks the log's head."""
        row = await self.fetch_row("write_events", self.tenant_id, [True] * len(events), *event_columns(events))
        return hashed_append(row, [event.leaf_hash for event in events])

    async def note_call(self, change: CallId, kind: str, *, outcome: int = 1) -> None:
        """Remember what this transaction carries out; after its events, whose lock orders the attempts."""
        await self.execute("note_call", self.tenant_id, as_uuid(change), kind, outcome)


class Connections:
    """A pool and its timeouts."""

    def __init__(
        self, pool: asyncpg.Pool, *, acquire_timeout_s: float, command_timeout_s: float, retry_for_s: float
    ) -> None:
        self._pool = pool
        self._acquire_timeout_s = acquire_timeout_s
        self._command_timeout_s = command_timeout_s
        self.is_pooled = False
        """Whether a pooler in transaction mode stands between; the store finds out when it is checked."""
        self._attempts = Attempts(for_s=retry_for_s, is_over=pool.is_closing)

    async def fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        """
        Run the named query by itself, one round trip and one transaction, and return its rows.

        Repeated when its connection is lost, as `fetch_row` and `get_row` are: only for queries that end once however
        often they run.
        """
        return await self._attempts.of(partial(self.attempt, name, *arguments))

    async def fetch_row(self, name: str, *arguments: object) -> asyncpg.Record | None:
        """Run the named query by itself and return its row, if any."""
        rows = await self.fetch(name, *arguments)
        return rows[0] if rows else None

    async def get_row(self, name: str, *arguments: object) -> asyncpg.Record:
        """Run a named query that always has a row."""
        return (await self.fetch(name, *arguments))[0]

    async def attempt(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        """Run the named query by itself, once; `repeat` may try it again."""
        connection = await self._acquire()
        with translated():
            try:
                if not self.is_pooled:
                    return await connection.fetch(queries()[name].text, *arguments, timeout=self._command_timeout_s)
                # A statement with arguments is two messages: outside a transaction they may meet different servers.
                async with connection.transaction():
                    return await connection.fetch(queries()[name].text, *arguments, timeout=self._command_timeout_s)
            finally:
                await self._pool.release(connection, timeout=self._acquire_timeout_s)

    async def repeat(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await *call*, again when its connection is lost: only what ends once however often it is called."""
        return await self._attempts.of(call)

    async def _acquire(self) -> PoolConnectionProxy:
        with translated(is_sent=False):
            # Not the driver's own timeout: it starts a task for every call, which a free connection has no need of.
            async with asyncio.timeout(self._acquire_timeout_s):
                return await self._pool.acquire()

    @asynccontextmanager
    async def transaction(self, tenant_id: TenantId = DEFAULT_TENANT) -> AsyncIterator[Transaction]:
        """
        Open a transaction that acts as the application's role inside *tenant_id*.

        Three round trips beyond its statements: rare paths only. What happens often is one function call.
        """
        connection = await self._acquire()
        with translated():
            try:
                async with connection.transaction():
                    transaction = Transaction(connection, tenant_id, timeout_s=self._command_timeout_s)
                    await transaction.execute("enter", transaction.tenant_id)
                    yield transaction
            finally:
                await self._pool.release(connection, timeout=self._acquire_timeout_s)


class Connected:
    """What the parts of the store have in common: their connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
