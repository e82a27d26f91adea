"""Dropping entries that were archived: checked against the archives, told in the log, and then from the oldest on."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import UsageError
from qflare.manager.settings import ManagerSettings
from qflare.model.call import call_about
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, ID_BYTES, CallId
from qflare.monitor.audit import verify_log
from qflare.monitor.erasure import ARCHIVED
from qflare.protocol.log_key import LogKey
from qflare.protocol.new_event import Draft, prepare_events
from qflare.service.archiving import check_archives
from qflare.service.assembly import LONG_STATEMENT_S, Place, open_foundation
from qflare.service.config import make_data_dir, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qflare.monitor.export_check import ExportFindings
    from qflare.secret import SecretBytes
    from qflare.service.assembly import Foundation

MIN_AGE_S: Final = 2 * 86_400
"""Entries younger than this stay: sessions live for a day, and ask for their receipts again."""
_CHUNK: Final = 10_000
_CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DropReport:
    """What was dropped, or would be."""

    size: int
    """Entries before this index are in the archives."""
    dropped: int | None
    """How many went now; None where nothing was confirmed."""


async def drop_archived(
    dsn: str | None,
    data_dir: Path | None,
    archives: Sequence[Path],
    passphrase: SecretBytes,
    *,
    confirmed: int | None,
    min_age_s: int = MIN_AGE_S,
) -> DropReport:
    """
    Drop from the database the entries that archives hold, all of them or, if interrupted, the oldest ones.

    The archives are checked from entry 0 on, the database from where they end; the log gets an entry with the archives'
    size, root and SHA-256 before the first one goes.  Leaf hashes, nodes and keys of entries stay.

    Args:
        dsn: Of who may change the schema; None for the embedded database.
        data_dir: Its folder.
        archives: All of them in their order, the first from entry 0 on.
        passphrase: Theirs.
        confirmed: The size that the archives end at, to drop; None only says it.
        min_age_s: How old the youngest entry must be.

    Raises:
        EvidenceError: archives or database do not hold.
        LogForkError: the database does not go on from the archives.
        StoreError: the login may not do this.
        UsageError: another size was confirmed, or the entries are too young.
    """
    async with AsyncExitStack() as stack:
        if dsn is None:
            from qflare.stores.embedded import open_embedded

            folder = await asyncio.to_thread(make_data_dir) if data_dir is None else data_dir
            dsn, data_dir = (await stack.enter_async_context(await open_embedded(folder))).dsn, folder
        settings = read_settings(ManagerSettings)
        place = Place(database=dsn, data_dir=data_dir)
        foundation = await stack.enter_async_context(open_foundation(place, settings=settings))
        found = await _check(foundation, archives, passphrase)
        if confirmed is None:
            return DropReport(size=found.size, dropped=None)
        if confirmed != found.size:
            raise UsageError(f"the archives end at {found.size} entries, not {confirmed}: nothing was dropped")
        if foundation.clock.now_ms() * 1000 - found.recorded_at_us < min_age_s * 10**6:
            raise UsageError(
                f"the archives hold entries younger than {min_age_s // 3600} hours, which sessions may ask for: "
                "archive up to an earlier time"
            )
        index = await _tell(foundation, found, await asyncio.to_thread(_digest, archives))
        return DropReport(size=found.size, dropped=await _drop(stack, dsn, found.size, index))


async def _check(foundation: Foundation, archives: Sequence[Path], passphrase: SecretBytes) -> ExportFindings:
    identity = foundation.identity
    found = await asyncio.to_thread(partial(check_archives, archives, passphrase, server_id=identity.server_id))
    await verify_log(
        store=foundation.store,
        keys=[LogKey.of(each) for each in identity.certificates],
        vault=foundation.entry_keys,
        runner=foundation.offload,
        since=found.findings.checkpoint,
        references=[found.reference],
    )
    return found.findings


async def _tell(foundation: Foundation, found: ExportFindings, digest: str) -> int:
    draft = Draft(
        SecurityEventType.OPERATOR_ACTION,
        EventSeverity.WARNING,
        {"archives_sha256": digest, "root": found.root.hex(), "size": found.size, "what": ARCHIVED},
    )
    (event,) = prepare_events([draft], occurred_at_ms=foundation.clock.now_ms())
    # One entry for the same archives, however often it is tried, such as while no head can be signed.
    change = call_about(CallId(found.root[:ID_BYTES]), b"archives-dropped", digest.encode())
    return (await foundation.log.log_event(DEFAULT_TENANT, event, call_id=change)).index


async def _drop(stack: AsyncExitStack, dsn: str, before: int, entry: int) -> int:
    from qflare.stores.postgres import PoolSettings, open_connection
    from qflare.stores.postgres.audit import drop_archived_entries

    connection = await open_connection(dsn, PoolSettings(command_timeout_s=LONG_STATEMENT_S))
    stack.push_async_callback(connection.close, timeout=_CLOSE_S)
    dropped = 0
    while gone := await drop_archived_entries(connection, before, entry, limit=_CHUNK, timeout_s=LONG_STATEMENT_S):
        dropped += gone
    return dropped


def _digest(archives: Sequence[Path]) -> str:
    """Return SHA-256 over the archives' own digests in order."""
    whole = hashlib.sha256()
    for path in archives:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
