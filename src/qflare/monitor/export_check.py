"""
The check of an export, without the database: every leaf hashed again, every node, root and signature made again.

Whatever is edited, moved, left out, doubled or put in shows at its place by the running hash; who made the running
hashes anew is found at the next signed head, and the range between two heads is named.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from qflare.errors import (
    AuthenticationError,
    ConfigError,
    DecodeError,
    EvidenceError,
    LogForkError,
    OtherLogError,
    ServerIdentityError,
)
from qflare.model.event import EVENT_ENTRY, FIELDS_ENTRY, SESSION_ENTRY, SecurityEventType
from qflare.monitor.audit_state import AuditState
from qflare.monitor.bounds import Bounds
from qflare.monitor.headings import Headings
from qflare.monitor.held import check_held, sizes_of
from qflare.monitor.known import Known
from qflare.protocol import log_export
from qflare.protocol.entry import decode_fields_leaf, digest_row
from qflare.protocol.identity import decode_identity
from qflare.protocol.labels import MAGIC_LEAF
from qflare.protocol.leaf import decode_event_leaf
from qflare.protocol.log import Frontier, hash_leaf
from qflare.protocol.log_export import RecordKind
from qflare.protocol.log_key import LogKey, open_note
from qflare.protocol.wire import LEAF_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import BinaryIO

    from qflare.model.event import SignedCheckpoint
    from qflare.monitor.held import HeldReceipt
    from qflare.monitor.known import Reference

_REPORT_EVERY: Final = 1000
_SESSION_HEAD: Final = MAGIC_LEAF + bytes((SESSION_ENTRY,))
_EVENT_HEAD: Final = MAGIC_LEAF + bytes((EVENT_ENTRY,))
_NO_DATA: Final = b"{}"
_FIELDS_HEAD: Final = MAGIC_LEAF + bytes((FIELDS_ENTRY,))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFindings:
    """What a check of an export found to be in order."""

    first: int
    """Index of its first entry."""
    size: int
    root: bytes
    checkpoint: SignedCheckpoint
    """The signed head that covers every entry."""
    heads: int
    """Signed heads that were verified."""
    heads_of_others: int
    """Signed heads by keys that were not given: none with a server_id, which vouches for them all."""
    entries: dict[str, int]
    receipts: int
    recorded_at_us: int
    """When the last entry was recorded, of an archive, µs since the Unix epoch."""
    resumed_at: int | None
    """Where this run went on: entries from `first` to here were read by an earlier run, and not again."""


class ExportCheck:
    """
    One pass over an export, part after part.

    Args:
        server_id: The pinned id of the server: the certificates in the export are checked against it.
        key: The log's verifier key instead, which alone is trusted then.
        since: A signed head that was kept, already verified or about to be: see `note`.
        receipts: What devices hold.
        progress: Told how many entries are done.
        resume: Where an earlier run was interrupted; of another scope it is not used (`ExportFindings.resumed_at`).
        note_state: Told now and then how far the check has come; it decides what to keep.
        now_s: When this check began, for what is noted.
        is_archive: Whether what the rows held has to be there as well.
        references: Leaf hashes that were kept elsewhere, each shown to lead to a signed head.
        note_leaf: Told each leaf hash in order.
        is_reference: Whether it may begin anywhere: its signed head shows that it is right, and nothing before it is
            asked for.
    """

    def __init__(
        self,
        *,
        server_id: bytes | None = None,
        key: LogKey | None = None,
        since: str | None = None,
        receipts: Sequence[HeldReceipt] = (),
        progress: Callable[[int], None] | None = None,
        resume: AuditState | None = None,
        note_state: Callable[[AuditState], None] | None = None,
        now_s: int = 0,
        is_archive: bool = False,
        references: Sequence[Reference] = (),
        note_leaf: Callable[[bytes], None] | None = None,
        is_reference: bool = False,
    ) -> None:
        if (server_id is None) == (key is None):
            raise ConfigError("pin the log by one of server_id and verifier key: an export vouches for nobody")
        self._server_id = server_id
        self.root_key: bytes | None = None
        """The server's root key as the export shows it, once the server_id vouched for it."""
        self._pinned = key
        self._keys: tuple[LogKey, ...] = () if key is None else (key,)
        self._since_note = since
        self._since: SignedCheckpoint | None = None
        self._receipts = receipts
        self._wanted = sizes_of(receipts)
        self._progress = progress
        self._first: int | None = None
        self._frontier = Frontier()
        self._running = b""
        self._roots: dict[int, bytes] = {}
        self._kinds: Counter[str] = Counter()
        self._signed: SignedCheckpoint | None = None
        self._heads = self._others = self._signed_size = self._position = 0
        self._references = references
        self._known = Known()
        self._bounds = Bounds(self._known)
        self._scope = _scope_of(server_id, key, since, receipts, references)
        self._skips = resume if resume is not None and resume.scope == self._scope else None
        self._resumed_at: int | None = None
        self._note_state, self._now_s = note_state, now_s
        self._is_archive = is_archive
        self._note_leaf = note_leaf
        self._is_reference = is_reference
        self.start = Frontier()
        """Of the tree before its first entry."""
        self._leaf_data = b""
        self._needs_row = False
        self._headings = Headings()
        self._misfit: EvidenceError | None = None
        """The first session whose row its heading does not fit; which of both was altered, the next head tells."""
        self._recorded_at_us = 0

    def read(self, file: BinaryIO) -> None:
        """
        Check the next part, from its first byte to its last.

        Raises:
            ConfigError: the export begins in the middle, and no kept head says that its beginning is right.
            DecodeError: it is no export.
            EvidenceError: it does not hold; `index` is the first bad entry.
            LogForkError: it shows another history than the kept head.
            OtherLogError: it is of another log than the pinned one.
        """
        records = log_export.read_records(file)
        self._begin(records)
        try:
            for kind, body in records:
                self._take(kind, body)
                if kind is RecordKind.END:
                    break
            else:
                raise self._bad("the export is cut short: its end is missing")
            for _ in records:
                raise self._bad("something stands behind the end of the export")
        except OtherLogError:
            raise
        except DecodeError as failure:
            raise self._bad(str(failure)) from None

    def _take(self, kind: RecordKind, body: bytes) -> None:
        if self._skips is not None and kind in {RecordKind.ENTRY, RecordKind.CHECKPOINT, RecordKind.END}:
            self._skip(kind, body, self._skips)
        elif kind is RecordKind.ROW:
            self._row(body)
        elif self._needs_row:
            raise self._bad(f"what the row of entry {self._position - 1} held is missing")
        elif kind is RecordKind.ENTRY:
            self._entry(body)
        elif kind is RecordKind.CHECKPOINT:
            self._checkpoint(body)
        elif kind is RecordKind.END:
            self._end(body)
        else:
            raise self._bad(f"a record of kind {kind} does not stand behind entries")

    @property
    def size(self) -> int:
        """How many entries of the log there are up to the end of what was read."""
        return self._frontier.size

    def set_aside(self) -> list[HeldReceipt]:
        """Leave receipts under heads beyond what was read to who checks what follows, and return them."""
        size = self._frontier.size
        beyond = [each for each in self._receipts if max(sizes_of([each])) > size]
        self._receipts = [each for each in self._receipts if each not in beyond]
        return beyond

    def finish(self) -> ExportFindings:
        """
        Check what was kept outside against the whole, and return what holds.

        Raises:
            EvidenceError: a receipt or kept head is of another history, or of a longer one.
        """
        signed = self._signed
        if self._skips is not None:
            raise self._bad(f"an earlier run checked {self._skips.frontier.size} entries, the export has fewer")
        if signed is None or self._first is None:
            raise EvidenceError("the export holds no entry under a signed head", index=self._frontier.size)
        if self._since is not None and self._since.size > self._frontier.size:
            raise EvidenceError(
                f"a head of {self._since.size} entries was kept, the export ends with {self._frontier.size}: cut, or "
                "an older copy",
                index=self._frontier.size,
            )
        self._known.require_reached(self._frontier.size)
        check_held(
            self._receipts,
            self._roots,
            keys=self._keys,
            first=self._first,
            size=self._frontier.size,
            low=self._bounds.low,
        )
        return ExportFindings(
            first=self._first,
            size=self._frontier.size,
            root=self._frontier.root(),
            checkpoint=signed,
            heads=self._heads,
            heads_of_others=self._others,
            entries=dict(self._kinds),
            receipts=len(self._receipts),
            recorded_at_us=self._recorded_at_us,
            resumed_at=self._resumed_at,
        )

    def _begin(self, records: Iterable[tuple[RecordKind, bytes]]) -> None:
        served: list[bytes] = []
        for kind, body in records:
            if kind is RecordKind.IDENTITY:
                served.append(body)
                continue
            if kind is not RecordKind.START:
                break
            self._trust(served)
            self._start(body)
            return
        raise self._bad("the export has no beginning: who made it and where it starts are missing")

    def _trust(self, served: Sequence[bytes]) -> None:
        if self._server_id is not None:
            try:
                found = [decode_identity(each, server_id=self._server_id) for each in served]
            except ServerIdentityError as failure:
                raise OtherLogError(f"the export is of another log: {failure}") from None
            except AuthenticationError:
                raise self._bad("a certificate in the export was altered") from None
            if not found:
                raise self._bad("the export holds no certificate")
            self.root_key = found[0].root_key
            keys = (LogKey.of(identity.certificate) for identity in found)
            self._keys = tuple(dict.fromkeys((*self._keys, *keys)))
        if self._first is None:
            self._known = Known(self._receipts, self._keys, self._references)
            self._bounds = Bounds(self._known)
        if self._since_note is not None and self._since is None:
            self._since = open_note(self._since_note, self._keys)
            self._wanted.add(self._since.size)

    def _start(self, body: bytes) -> None:
        try:
            start = log_export.decode_frontier(body)
        except DecodeError as failure:
            raise self._bad(str(failure)) from None
        if self._first is not None:
            is_next = start.size == self._position if self._skips is not None else start == self._frontier
            if not is_next:
                raise self._bad(
                    f"this part begins at entry {start.size}, the one before ended at {self._position}: a part is "
                    "missing, or of another history"
                )
        else:
            if start.size and not self._is_reference:
                self._require_since(start)
            self._first, self._frontier, self.start = start.size, start, start
            self._bounds.begin(start.size)
            self._position = start.size
            self._mark_root()
            if self._skips is not None and self._skips.first != start.size:
                self._skips = None
        self._running = log_export.running_before(body)

    def _require_since(self, start: Frontier) -> None:
        since = self._since
        if since is None or since.size != start.size:
            raise ConfigError(
                f"the export begins at entry {start.size}: give the signed head of {start.size} entries that you kept, "
                "or the parts before"
            )
        if since.root != start.root():
            raise LogForkError(f"the export goes on from other {start.size} entries than those of the head you kept")

    def _entry(self, body: bytes) -> None:
        record, index = log_export.decode_entry(body), self._frontier.size
        if record.index != index:
            raise self._bad(f"entry {index} is missing, entry {record.index} stands in its place")
        leaf_hash = hash_leaf(record.leaf_data)
        running = log_export.next_running(self._running, leaf_hash)
        if running != record.running:
            raise self._bad(f"entry {index} is not the one that was exported")
        self._kinds[self._kind_of(record.leaf_data)] += 1
        self._running = running
        self._grow(leaf_hash)
        self._position = self._frontier.size
        self._leaf_data = record.leaf_data
        self._needs_row = self._is_archive and not record.leaf_data.startswith(_EVENT_HEAD)
        if record.leaf_data.startswith(_EVENT_HEAD):
            # Also of an archive that is a reference: the rows of sessions in it are held against their headings.
            leaf = decode_event_leaf(record.leaf_data)
            self._headings.problem_of(
                index, EVENT_ENTRY, leaf.event_type, tenant_id=leaf.tenant_id, recorded_at_ms=leaf.occurred_at_ms
            )
        self._mark_root()
        if self._position % _REPORT_EVERY == 0:
            if self._progress is not None:
                self._progress(self._position)
            if self._note_state is not None:
                self._note_state(self.state())

    def _grow(self, leaf_hash: bytes) -> None:
        """Take the next leaf, unless it or a node above it is not what others show."""
        index = self._frontier.size
        problem = self._known.problem_of(index, leaf_hash)
        if problem is not None:
            raise problem
        self._frontier, made = self._frontier.append([leaf_hash])
        if self._known.nodes:
            for level, position, node in made:
                self._bounds.compare((level, position), node)
            if self._bounds.is_contradicted:
                raise self._rewritten(index + 1, "others hold")
        if self._note_leaf is not None:
            self._note_leaf(leaf_hash)

    def _row(self, body: bytes) -> None:
        """Check what a row held beside its leaf, as far as the leaf says it."""
        if self._skips is not None:
            return
        row, leaf_data = log_export.decode_row(body), self._leaf_data
        if row.index != self._position - 1 or not leaf_data:
            raise self._bad(f"what the row of entry {row.index} held stands in the place of another")
        time_ms, rest_us = divmod(row.recorded_at_us, 1000)
        problem = "no entry has a time like that" if rest_us else None
        kind, event_type = SESSION_ENTRY, SecurityEventType.KEY_EXCHANGE
        if leaf_data.startswith(_FIELDS_HEAD):
            leaf = decode_fields_leaf(leaf_data)
            kind, event_type = FIELDS_ENTRY, leaf.event_type
            if (leaf.row_digest, leaf.occurred_at_ms) != (digest_row(row.tenant_id, row.stored), time_ms):
                problem = "it is not what its leaf says"
        elif row.stored != _NO_DATA:
            problem = "a session's holds nothing"
        unfit = self._headings.problem_of(row.index, kind, event_type, tenant_id=row.tenant_id, recorded_at_ms=time_ms)
        if problem is not None:
            raise _altered(row.index, problem)
        if unfit is not None and self._misfit is None:
            self._misfit = _altered(row.index, unfit)
        self._leaf_data, self._needs_row = b"", False
        self._recorded_at_us = max(self._recorded_at_us, row.recorded_at_us)

    def _skip(self, kind: RecordKind, body: bytes, done: AuditState) -> None:
        """Pass over what an earlier run checked; what follows must go on from the frontier that it reached."""
        if kind is not RecordKind.ENTRY:
            return
        record = log_export.decode_entry(body)
        if record.index != self._position:
            raise self._bad(f"entry {self._position} is missing, entry {record.index} stands in its place")
        self._position += 1
        if self._position < done.frontier.size:
            return
        self._skips, self._resumed_at = None, self._position
        self._frontier, self._running = done.frontier, record.running
        self._roots |= done.roots
        self._kinds = Counter(done.kinds)
        self._headings = replace(done.headings)
        self._heads, self._signed_size = done.heads, done.signed_size
        self._bounds.begin(done.signed_size)

    def state(self) -> AuditState:
        """Return how far the check has come."""
        return AuditState(
            scope=self._scope,
            first=self._first or 0,
            frontier=self._frontier,
            roots=dict(self._roots),
            signed_size=self._signed_size,
            heads=self._heads,
            kinds=Counter(self._kinds),
            tenants=frozenset(),
            erased=0,
            unsaid={},
            headings=replace(self._headings),
            checked_at_s=self._now_s,
        )

    def _kind_of(self, leaf_data: bytes) -> str:
        if leaf_data.startswith(_SESSION_HEAD) and len(leaf_data) == LEAF_BYTES:
            return SecurityEventType.KEY_EXCHANGE.value
        if leaf_data.startswith(_EVENT_HEAD):
            try:
                return decode_event_leaf(leaf_data).event_type.value
            except DecodeError:
                pass
        if leaf_data.startswith(_FIELDS_HEAD):
            try:
                return decode_fields_leaf(leaf_data).event_type.value
            except DecodeError:
                pass
        raise self._bad(f"entry {self._frontier.size} is none that this code can read")

    def _checkpoint(self, body: bytes) -> None:
        size = self._frontier.size
        try:
            checkpoint = open_note(body.decode(), self._keys)
        except OtherLogError:
            if self._pinned is None:
                raise self._bad(f"the head behind entry {size - 1} is not by a key of this server") from None
            self._others += 1
            return
        except (AuthenticationError, DecodeError, UnicodeDecodeError):
            raise self._bad(f"the signed head behind entry {size - 1} was altered") from None
        if checkpoint.size != size:
            raise self._bad(f"a head of {checkpoint.size} entries stands behind {size} entries")
        if checkpoint.root != self._frontier.root():
            raise self._rewritten(size, f"the signed head of {size} entries is of")
        self._bounds.note_head(size, holds=True)
        if self._misfit is not None:
            raise self._misfit
        self._signed, self._signed_size, self._heads = checkpoint, size, self._heads + 1

    def _end(self, body: bytes) -> None:
        if log_export.decode_frontier(body) != self._frontier:
            raise self._bad("the end of the export is not that of its entries")
        if self._misfit is not None:
            raise self._misfit
        signed = max(self._signed_size, self._first or 0)
        if self._signed is None or self._signed_size != self._frontier.size:
            if self._others and not self._heads:
                raise OtherLogError("no head in the export is by the key that was given: it is of another log")
            self._known.require_reached(self._frontier.size)
            raise EvidenceError(
                f"entries from {signed} on stand under no signed head: what follows was cut off, or they were put in",
                index=signed,
                last=self._frontier.size,
            )

    def _mark_root(self) -> None:
        size = self._frontier.size
        if size not in self._wanted:
            return
        root = self._roots[size] = self._frontier.root()
        if self._since is not None and size == self._since.size and root != self._since.root:
            raise LogForkError(f"the first {size} entries are not those of the head that was kept: a fork")

    def _rewritten(self, size: int, whose: str) -> EvidenceError:
        """Return what is wrong with entries before *size* that were written anew together with the running hashes."""
        first, last = self._bounds.narrow(self._bounds.low, size - 1)
        which = f"entry {first} is not the one" if first == last else f"the entries {first} to {last} are not those"
        hint = "" if first == last else "; receipts (--receipts) or a copy that was kept (--reference) tell which"
        return EvidenceError(
            f"{which} that {whose}: rewritten together with the running hashes{hint}", index=first, last=last
        )

    def _bad(self, message: str) -> EvidenceError:
        return self._misfit or EvidenceError(message, index=self._position)


def _altered(index: int, problem: str) -> EvidenceError:
    return EvidenceError(f"what the row of entry {index} held was altered: {problem}", index=index)


def _scope_of(
    server_id: bytes | None,
    key: LogKey | None,
    since: str | None,
    receipts: Sequence[HeldReceipt],
    references: Sequence[Reference],
) -> str:
    """Return what another check must have in common to go on from this one."""
    said = [
        "export",
        "" if server_id is None else server_id.hex(),
        "" if key is None else key.encode(),
        since or "",
        *(held.leaf_hash.hex() + held.receipt.hex() for held in receipts),
        *(each.digest() for each in references),
    ]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()
