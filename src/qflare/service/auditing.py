"""Opening the log for an auditor: read access to the database and a thread to hash in; no keeper, no key, no worker."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, EvidenceError
from qflare.manager.offload import Offload
from qflare.primitives.sig import SIG87
from qflare.protocol.identity import ServerIdentity, decode_identity, server_id_of
from qflare.protocol.log_key import LogKey
from qflare.service.config import make_data_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from qflare.stores.postgres.audit import AuditLog

CONNECTION_CLOSE_S: Final = 5.0
STATEMENT_S: Final = 60.0
"""Longest wait for one page of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an auditor's tool works with."""

    log: AuditLog
    offload: Offload
    identities: tuple[ServerIdentity, ...]
    """Every identity that was in force, the newest first; empty in a database that nobody opened yet."""

    @property
    def keys(self) -> tuple[LogKey, ...]:
        """Return the log keys of these identities."""
        return tuple(LogKey.of(identity.certificate) for identity in self.identities)

    @property
    def served(self) -> tuple[bytes, ...]:
        """Return every ``root vk ‖ CERT``."""
        return tuple(identity.served for identity in self.identities)


@asynccontextmanager
async def open_audit(dsn: str | None, data_dir: Path | None, *, server_id: bytes | None = None) -> AsyncIterator[Audit]:
    """
    Open the log of a database for reading.

    Args:
        dsn: Of a login that is a member of qflare_auditor; None for the embedded database.
        data_dir: Folder of the embedded database.
        server_id: The pinned one; None takes the identity that the database shows, which then vouches for itself.

    Raises:
        EvidenceError: the identity in the database is not the pinned one, or altered.
        SchemaMismatchError: the schema is missing, too old or too new.
        StoreError: the login may not audit.
        StoreUnavailableError: the database does not answer.
    """
    from qflare.stores.postgres import PoolSettings, open_connection
    from qflare.stores.postgres.audit import AuditLog

    async with AsyncExitStack() as stack:
        if dsn is None:
            from qflare.stores.embedded import open_embedded

            folder = await asyncio.to_thread(make_data_dir) if data_dir is None else data_dir
            dsn = (await stack.enter_async_context(await open_embedded(folder))).dsn
        connection = await open_connection(dsn, PoolSettings(command_timeout_s=STATEMENT_S))
        stack.push_async_callback(connection.close, timeout=CONNECTION_CLOSE_S)
        log = AuditLog(connection, timeout_s=STATEMENT_S)
        await log.check()
        offload = Offload(threads=1, jobs_max=8)
        stack.push_async_callback(asyncio.to_thread, offload.close)
        yield Audit(log=log, offload=offload, identities=decode_identities(await log.identities(), server_id))


def decode_identities(served: Sequence[bytes], server_id: bytes | None) -> tuple[ServerIdentity, ...]:
    """
    Check identities as a database shows them.

    Raises:
        EvidenceError: one is not the pinned one's, or altered.
    """
    try:
        return tuple(
            decode_identity(each, server_id=server_id or server_id_of(each[: SIG87.PK_BYTES])) for each in served
        )
    except AuthenticationError:
        raise EvidenceError("the server's identity is not the pinned one") from None
