"""Changes that every worker must hear of: listed for those who poll, told by NOTIFY to those who listen."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final

from qflare.errors import StoreUnavailableError
from qflare.model.change import Change, ChangePage
from qflare.model.ids import ID_BYTES, DeviceRef, SessionId, TenantId
from qflare.stores.postgres.connections import Connected
from qflare.stores.postgres.failures import translated
from qflare.stores.postgres.pool import open_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.stores.postgres.connections import Connections
    from qflare.stores.postgres.pool import PoolSettings

CHANNEL: Final = "qflare_change"
"""As `note_change` in database/schema.sql names it."""
LISTENER_NAME: Final = "qflare listener"
PING_EVERY_S: Final = 10.0
PING_TIMEOUT_S: Final = 1.0
_REF_BYTES: Final = 32
_BUCKET_BYTES: Final = 8

_log = logging.getLogger(__name__)


class Changes(Connected):
    """Table change."""

    async def list_changes(self, since: int | None, *, limit: int) -> ChangePage:
        """Return what changed since the mark of the last page; None reads only where to begin."""
        row = await self._connections.get_row("list_changes", since, limit)
        return ChangePage(
            mark=row["mark"],
            changes=tuple(
                Change(
                    tenant_id=TenantId(tenant.bytes),
                    ref=None if ref is None else DeviceRef(ref),
                    sid=None if sid is None else SessionId(sid.bytes),
                )
                for tenant, ref, sid in zip(row["tenants"], row["refs"], row["sids"], strict=True)
            )[:limit],
            is_cut=row["is_cut"],
            bucket=row["bucket"],
        )

    async def drop_changes(self) -> int:
        """Delete changes older than a day; return how many."""
        dropped: int = (await self._connections.get_row("drop_changes"))["dropped"]
        return dropped


class ChangeListener:
    """
    Hears of changes over a connection of its own.

    It proves now and then that it hears: a pooler that lends server connections for a transaction takes LISTEN and
    delivers nothing, and a connection whose other end is gone looks like a quiet one.
    """

    def __init__(self, dsn: str, settings: PoolSettings, others: Connections) -> None:
        """Connect to *dsn* when `listen` is called; *others* send what proves that it hears."""
        self._dsn = dsn
        self._others = others
        # One for all its connections: a pooler's server connection never forgets what it listens to.
        self._ping_channel = f"{CHANNEL}_{secrets.token_hex(8)}"
        self._settings = settings

    async def listen(self, hear: Callable[[Change | None], None]) -> None:
        """
        Connect, listen, and call *hear* for each change; with None each time that hearing was proven.

        Ends only by being cancelled, or:

        Raises:
            StoreUnavailableError: the connection ended, or hears nothing; whatever came meanwhile was not heard.
        """
        with translated():
            await self._listen(hear)

    async def _listen(self, hear: Callable[[Change | None], None]) -> None:
        ping_channel = self._ping_channel
        gone, ponged = asyncio.Event(), asyncio.Event()

        def heard(_connection: object, _pid: int, channel: str, payload: object) -> None:
            if channel == ping_channel:
                ponged.set()
            elif (change := decode_change(str(payload))) is not None:
                hear(change)
            else:
                _log.warning("a message on channel %s is none of ours and was passed over", CHANNEL)

        connection = await open_connection(self._dsn, self._settings, name=LISTENER_NAME)
        try:
            connection.add_termination_listener(lambda _connection: gone.set())
            await connection.add_listener(CHANNEL, heard)
            await connection.add_listener(ping_channel, heard)
            while not gone.is_set():
                ponged.clear()
                # From another connection: its own message would come back even where no other does.
                await self._others.fetch("ping_listener", ping_channel)
                try:
                    async with asyncio.timeout(PING_TIMEOUT_S):
                        await ponged.wait()
                except TimeoutError:
                    raise StoreUnavailableError(
                        "the listening connection hears nothing; PgBouncer in transaction mode stands between, or the "
                        "network is cut: changes are polled"
                    ) from None
                hear(None)
                try:
                    async with asyncio.timeout(PING_EVERY_S):
                        await gone.wait()
                except TimeoutError:
                    continue
            raise StoreUnavailableError("the listening connection ended; it is opened again")
        finally:
            # At once: closing in order would wait for a server that may be gone.
            connection.terminate()


def decode_change(payload: str) -> Change | None:
    """Read a message: what changed, its tenant and its ref, sid or bucket in hex; None if it is none."""
    kind, _, rest = payload.partition(" ")
    tenant, _, name = rest.partition(" ")
    try:
        tenant_id, value = bytes.fromhex(tenant), bytes.fromhex(name)
    except ValueError:
        return None
    if len(tenant_id) != ID_BYTES:
        return None
    if kind == "device" and len(value) == _REF_BYTES:
        return Change(tenant_id=TenantId(tenant_id), ref=DeviceRef(value))
    if kind == "session" and len(value) == ID_BYTES:
        return Change(tenant_id=TenantId(tenant_id), sid=SessionId(value))
    if kind == "bucket" and len(value) == _BUCKET_BYTES:
        return Change(tenant_id=TenantId(tenant_id), bucket=int.from_bytes(value))
    return None
