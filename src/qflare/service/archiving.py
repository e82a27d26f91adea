"""Archiving old entries: which head they end under, and writing them, with what their rows hold, sealed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, ConfigError, EvidenceError, KeyNotFoundError, UsageError
from qflare.monitor.export import ExportReport, export_log
from qflare.monitor.export_check import ExportCheck, ExportFindings
from qflare.monitor.known import Reference
from qflare.protocol.checkpoint import decode_note_body, encode_note
from qflare.protocol.log import frontier_from_nodes, nodes_for_frontier
from qflare.protocol.log_key import verify_under
from qflare.service.archive_file import ArchiveWriter, open_archive
from qflare.service.exports import new_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from qflare.model.audit_ports import AuditSource
    from qflare.model.event import SignedCheckpoint
    from qflare.monitor.held import HeldReceipt
    from qflare.protocol.log_key import LogKey
    from qflare.secret import SecretBytes
    from qflare.service.auditing import Audit

_HEADS: Final = 1000
"""Signed heads that are looked at in one step backwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveReport:
    """What an archive holds."""

    first: int
    size: int
    """Entries of the log up to its end: from there on the database has them."""
    checkpoint: SignedCheckpoint
    note: str
    """The head that it ends under, as a signed note: for a countersignature."""


@dataclass(frozen=True, slots=True)
class ArchivesFound:
    """What a check of archives found: for who checks the database from there on."""

    findings: ExportFindings
    beyond: list[HeldReceipt]
    """Receipts under heads beyond them."""
    reference: Reference
    """Their leaf hashes, to compare with what the database kept of them."""


async def write_archive(
    audit: Audit,
    path: Path,
    passphrase: SecretBytes,
    *,
    before: int | datetime,
    progress: Callable[[int, int], None] | None = None,
) -> ArchiveReport:
    """
    Write the entries before an index or a time into a new sealed file; the database keeps them.

    It ends under a signed head of an even number of entries, at or before the bound: whatever is proven of later
    entries is then proven from complete subtrees, without a leaf that is in the archive.

    Raises:
        ConfigError: the file or the passphrase cannot be used.
        EvidenceError: the log does not hold.
        KeyNotFoundError: nothing is signed before the bound, or the database has no identity.
        UsageError: the bound is beyond the log.
    """
    if not audit.keys:
        raise KeyNotFoundError("the database has no identity yet: a worker makes one when it opens it")
    kept = await audit.log.list_entries(None, first=0, limit=1)
    first = kept[0].index if kept else 0
    bound = before if isinstance(before, int) else await _index_at(audit.log, before)
    head = await _head_before(audit.log, bound, first)
    start = frontier_from_nodes(first, await audit.log.find_nodes(nodes_for_frontier(first)) if first else {})
    with new_file(path) as file:
        writer = await audit.offload.run(partial(ArchiveWriter, file, passphrase))
        report: ExportReport = await export_log(
            source=audit.log,
            identities=audit.served,
            keys=audit.keys,
            runner=audit.offload,
            write=writer.write,
            start=start,
            until=head,
            with_rows=True,
            progress=progress,
        )
        await audit.offload.run(writer.finish)
    key = verify_under(audit.keys, report.checkpoint)
    return ArchiveReport(
        first=report.first,
        size=report.size,
        checkpoint=report.checkpoint,
        note=encode_note(key.origin, key.key, report.checkpoint),
    )


def check_archives(
    paths: Sequence[Path],
    passphrase: SecretBytes,
    *,
    server_id: bytes | None = None,
    key: LogKey | None = None,
    since: str | None = None,
    receipts: Sequence[HeldReceipt] = (),
) -> ArchivesFound:
    """
    Check archives that follow one another from entry 0 on; blocking.

    Args:
        paths: In their order.
        passphrase: Of all of them.
        server_id: The pinned one, or
        key: the log's pinned key.
        since: A signed note that was kept of a head within them, such as the countersigned one of their end.
        receipts: What devices hold.

    Raises:
        ConfigError: a file cannot be read, or the kept head is beyond them.
        EvidenceError: one does not open or does not hold, or they do not follow one another.
        OtherLogError: they are of another log than the pinned one.
    """
    hashes = bytearray()
    check = ExportCheck(
        server_id=server_id, key=key, since=since, receipts=receipts, is_archive=True, note_leaf=hashes.extend
    )
    for path in paths:
        try:
            with path.open("rb") as file:
                check.read(open_archive(file, passphrase))
        except OSError as failure:
            raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
        except AuthenticationError:
            raise EvidenceError(f"the archive {path} does not open: another passphrase, or it was altered") from None
    if since is not None and (kept := decode_note_body(since).size) > check.size:
        raise ConfigError(
            f"the kept head has {kept} entries, the archives end with {check.size}: give a head within them, or check "
            "the database alone with --since"
        )
    beyond = check.set_aside()
    found = check.finish()
    name = "the archive" if len(paths) == 1 else "the archives"
    return ArchivesFound(found, beyond, Reference(name=name, first=found.first, start=(), hashes=bytes(hashes)))


async def _index_at(log: AuditSource, time: datetime) -> int:
    """Return the index of the first entry, about in order of time, that was recorded at *time* or later."""
    low, high = 0, (await log.log_head()).size
    while low < high:
        middle = (low + high) // 2
        found = await log.list_entries(None, first=middle, limit=1)
        if found and found[0].recorded_at < time:
            low = found[0].index + 1
        else:
            high = middle
    return low


async def _head_before(log: AuditSource, bound: int, first: int) -> SignedCheckpoint:
    """Return the last signed head of an even size that is at most *bound*, beyond the entries that are gone."""
    size = (await log.log_head()).size
    if not 0 <= bound <= size:
        raise UsageError(f"the log has {size} entries: name an index up to that, or a time")
    step = _HEADS
    while True:
        begin = max(first + 1, bound - step)
        heads = await log.list_checkpoints(first=begin, limit=_HEADS)
        fitting = [each for each in heads if each.size <= bound and each.size % 2 == 0]
        if fitting:
            return fitting[-1]
        if begin <= first + 1:
            raise KeyNotFoundError(f"no head of an even number of entries was signed between {first} and {bound}")
        step *= 4
