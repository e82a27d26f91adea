"""Writing an export of the log: every entry under a signed head, in one pass, holding one page at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, EvidenceError, KeyNotFoundError, LogForkError, OtherLogError
from qflare.model.event import EVENT_ENTRY
from qflare.monitor.audit import verify_log
from qflare.monitor.proof import check_entry
from qflare.protocol import log_export
from qflare.protocol.checkpoint import encode_note
from qflare.protocol.log import Frontier, frontier_from_nodes, hash_leaf, nodes_for_frontier
from qflare.protocol.log_export import RecordKind
from qflare.protocol.log_key import verify_under

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qflare.model.audit_ports import AuditSource
    from qflare.model.event import AuditEntry, SignedCheckpoint
    from qflare.monitor.event_log import Runner
    from qflare.protocol.log_key import LogKey

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
PAGE: Final = 1 << 10
"""Entries read and written at a time."""
NOTE_EVERY: Final = 1 << 10
"""Entries between the signed heads that go along: what a rewritten stretch is narrowed down to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export holds."""

    first: int
    """Index of its first entry."""
    size: int
    """Entries of the log up to its end."""
    checkpoint: SignedCheckpoint
    """The signed head that covers them all."""
    heads: int
    """Signed heads in it."""


class _Stream:
    """The records of one export, in order; pure but for *write*."""

    def __init__(self, start: Frontier, write: Callable[[bytes], object], *, with_rows: bool) -> None:
        self.frontier = start
        self._with_rows = with_rows
        self._write = write
        self._running = log_export.running_before(log_export.encode_frontier(start))

    def begin(self, identities: Sequence[bytes]) -> None:
        self._write(log_export.HEAD)
        for served in identities:
            self._write(log_export.encode_record(RecordKind.IDENTITY, served))
        self._write(log_export.encode_record(RecordKind.START, log_export.encode_frontier(self.frontier)))

    def entries(self, page: Sequence[AuditEntry]) -> None:
        for index, entry in enumerate(page, self.frontier.size):
            if entry.index != index:
                message = f"entry {index} is missing: the next one stored is {entry.index}"
                if index == 0:
                    message += "; if archives hold what is before it, export since the head that they end with"
                raise EvidenceError(message, index=index)
            leaf_hash = hash_leaf(entry.leaf_data)
            if leaf_hash != entry.leaf_hash:
                raise EvidenceError(
                    f"entry {index} was altered: its leaf hash is not that of its leaf data", index=index
                )
            self._running = log_export.next_running(self._running, leaf_hash)
            self._write(log_export.encode_entry(index, self._running, entry.leaf_data))
            if self._with_rows and entry.entry_type != EVENT_ENTRY:
                # The leaf of an entry of type 2 says all that its row does.
                self._write(log_export.encode_row(_row_of(entry)))
        self.frontier, _ = self.frontier.append([entry.leaf_hash for entry in page])

    def note(self, key: LogKey, checkpoint: SignedCheckpoint, *, signed_before: int) -> None:
        if self.frontier.root() != checkpoint.root:
            raise EvidenceError(
                f"the entries are not those of the head of {checkpoint.size} entries that was signed",
                index=signed_before,
                last=checkpoint.size - 1,
            )
        note = encode_note(key.origin, key.key, checkpoint)
        self._write(log_export.encode_record(RecordKind.CHECKPOINT, note.encode()))

    def end(self) -> None:
        self._write(log_export.encode_record(RecordKind.END, log_export.encode_frontier(self.frontier)))


async def export_log(
    *,
    source: AuditSource,
    identities: Sequence[bytes],
    keys: Sequence[LogKey],
    runner: Runner,
    write: Callable[[bytes], object],
    start: Frontier | None = None,
    until: SignedCheckpoint | None = None,
    with_rows: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """
    Write the log, up to its latest signed head.

    Args:
        source: The log.
        identities: Every ``root vk ‖ CERT`` that was in force, the newest first.
        keys: The log keys that these certificates vouch for.
        runner: Where hashing and writing run.
        write: Takes the bytes in order; called in the runner's threads, one call at a time.
        start: Frontier of the tree before the first entry that is wanted: where an earlier export ended.
        until: The signed head to end under, the latest if not given.
        with_rows: Whether what rows hold beside their leaves goes along, for an archive.
        progress: Told (entries done, entries in all).

    Raises:
        EvidenceError: the log does not hold; `index` is the first bad entry where one is known.
        KeyNotFoundError: the log has no signed head.
        LogForkError: the log does not go on from *start*.
    """
    before = start or Frontier()
    try:
        return await _export(
            source=source,
            identities=identities,
            keys=keys,
            runner=runner,
            write=write,
            before=before,
            until=until,
            with_rows=with_rows,
            progress=progress,
        )
    except EvidenceError as found:
        await _name_first(source, keys, runner, before.size, found)
        raise


async def _export(
    *,
    source: AuditSource,
    identities: Sequence[bytes],
    keys: Sequence[LogKey],
    runner: Runner,
    write: Callable[[bytes], object],
    before: Frontier,
    until: SignedCheckpoint | None,
    with_rows: bool,
    progress: Callable[[int, int], None] | None,
) -> ExportReport:
    head = await source.latest_checkpoint() if until is None else until
    if head is None:
        raise KeyNotFoundError("the log has no signed head yet: a worker signs one soon after the first entry")
    await _require_goes_on(source, before, head)
    key = await runner.run(partial(_signer_of, keys, head))
    stream, heads, signed_before = _Stream(before, write, with_rows=with_rows), 0, before.size
    await runner.run(partial(stream.begin, identities))
    upcoming = await _next_head(source, before.size, head)
    while (size := stream.frontier.size) < head.size:
        page = await source.list_entries(None, first=size, limit=min(PAGE, upcoming.size - size))
        if not page:
            message = f"a head of {head.size} entries was signed, {size} are stored"
            raise EvidenceError(message, index=signed_before, last=size)
        await runner.run(partial(stream.entries, page))
        if progress is not None:
            progress(stream.frontier.size - before.size, head.size - before.size)
        if stream.frontier.size == upcoming.size and upcoming.size < head.size:
            signer = await runner.run(partial(_signer_of, keys, upcoming))
            await runner.run(partial(stream.note, signer, upcoming, signed_before=signed_before))
            heads, signed_before = heads + 1, upcoming.size
            upcoming = await _next_head(source, upcoming.size, head)
    await runner.run(partial(stream.note, key, head, signed_before=signed_before))
    await runner.run(stream.end)
    return ExportReport(first=before.size, size=head.size, checkpoint=head, heads=heads + 1)


async def _name_first(
    source: AuditSource, keys: Sequence[LogKey], runner: Runner, first: int, found: EvidenceError
) -> None:
    """Check the log that could not be exported in depth, which may tell more exactly where it is bad."""
    since = None
    if first:
        signed = await source.list_checkpoints(first=first, limit=1)
        if not signed or signed[0].size != first:
            return
        since = signed[0]
    try:
        await verify_log(store=source, keys=keys, runner=runner, since=since)
    except EvidenceError as failure:
        is_another = (failure.index, failure.last) != (found.index, found.last)
        if is_another and failure.index is not None and (found.last is None or failure.index <= found.last):
            raise failure from None
    except (LogForkError, OtherLogError):
        return


def _row_of(entry: AuditEntry) -> log_export.RowRecord:
    try:
        check_entry(entry)
        micros = (entry.recorded_at - _EPOCH) // timedelta(microseconds=1)
    except TypeError:  # what the driver makes of an infinite time
        micros = -1
    if micros < 0:
        raise EvidenceError(f"entry {entry.index} was altered: no entry has its time", index=entry.index)
    return log_export.RowRecord(index=entry.index, tenant_id=entry.tenant_id, recorded_at_us=micros, stored=entry.data)


async def _require_goes_on(source: AuditSource, before: Frontier, head: SignedCheckpoint) -> None:
    if before.size > head.size:
        raise LogForkError(
            f"the log shrank: it was exported up to {before.size} entries, its latest signed head has {head.size}"
        )
    nodes = await source.find_nodes(nodes_for_frontier(before.size)) if before.size else {}
    if frontier_from_nodes(before.size, nodes) != before:
        raise LogForkError(f"the first {before.size} entries are not those that were exported before: a fork")


async def _next_head(source: AuditSource, size: int, head: SignedCheckpoint) -> SignedCheckpoint:
    """Return the first signed head from the next multiple of `NOTE_EVERY` on, *head* at the latest."""
    found = await source.list_checkpoints(first=(size // NOTE_EVERY + 1) * NOTE_EVERY, limit=1)
    return found[0] if found and found[0].size < head.size else head


def _signer_of(keys: Sequence[LogKey], checkpoint: SignedCheckpoint) -> LogKey:
    try:
        return verify_under(keys, checkpoint)
    except AuthenticationError:
        raise EvidenceError(f"the signature of the head of {checkpoint.size} entries does not hold") from None
