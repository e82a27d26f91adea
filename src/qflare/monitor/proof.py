"""The proof that one entry stands in the log, unaltered, under a signed head (docs/audit.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from qflare.errors import AuthenticationError, DecodeError, EvidenceError, KeyNotFoundError
from qflare.model.event import (
    EVENT_ENTRY,
    FIELDS_ENTRY,
    SESSION_ENTRY,
    AuditEntry,
    EventSeverity,
    LoggedEvent,
    SecurityEventType,
    SignedCheckpoint,
)
from qflare.monitor.headings import misfit
from qflare.protocol.checkpoint import verify_checkpoint
from qflare.protocol.entry import EntryVault, check_opening, decode_fields_leaf, digest_row, open_entry, open_stored
from qflare.protocol.labels import MAGIC_LEAF
from qflare.protocol.leaf import decode_event_leaf
from qflare.protocol.log import (
    consistency_path,
    frontier_from_nodes,
    hash_leaf,
    inclusion_path,
    nodes_for_consistency,
    nodes_for_frontier,
    nodes_for_path,
    verify_consistency,
    verify_inclusion,
)
from qflare.protocol.receipt import decode_receipt, verify_receipt
from qflare.protocol.wire import LEAF_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qflare.model.ids import TenantId
    from qflare.model.log_ports import LogStore
    from qflare.monitor.event_log import EventLog
    from qflare.protocol.identity import Certificate


T = TypeVar("T")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SESSION_COLUMNS: Final = (SecurityEventType.KEY_EXCHANGE, EventSeverity.INFO, None, b"{}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventProof:
    """Everything that shows an entry's place; anyone with the log's key can check it again."""

    entry: AuditEntry
    checkpoint: SignedCheckpoint
    path: tuple[bytes, ...]
    """Inclusion hashes from the leaf's sibling upwards."""

    @property
    def index(self) -> int:
        """Zero-based index of the entry."""
        return self.entry.index

    @property
    def leaf_hash(self) -> bytes:
        """RFC 9162 leaf hash, 32 bytes."""
        return self.entry.leaf_hash


async def prove_event(
    event: int | LoggedEvent,
    *,
    tenant_id: TenantId,
    store: LogStore,
    log: EventLog,
    vault: EntryVault,
    certificate: Certificate,
    earlier: Sequence[Certificate] = (),
) -> EventProof:
    """
    Prove an entry of one tenant against the log's signed head.

    Args:
        event: Its index, or what `log_security_event` returned: then its receipt is checked too.
        tenant_id: Whose entry it is.
        store: Where the log is kept.
        log: Signs the head as it stands.
        vault: Opens what is sealed.
        certificate: Holds the log's key and origin.
        earlier: Certificates that were in force before: what was signed under their log keys stays signed.

    Raises:
        EvidenceError: the entry, its leaf, the tree or a signature does not hold; `index` is the entry's.
        KeyNotFoundError: there is no such entry in this tenant, and nothing says that there was.
    """
    index = event.index if isinstance(event, LoggedEvent) else event
    entry = await store.find_entry(tenant_id, index)
    if entry is None:
        if isinstance(event, LoggedEvent):
            raise EvidenceError(f"entry {index} was logged and is gone", index=index)
        raise KeyNotFoundError(f"no entry {index} in this tenant's log")
    check_entry(entry, vault)
    if isinstance(event, LoggedEvent):
        _check_logged(event, entry, (certificate, *earlier))
    checkpoint = await log.checkpoint()
    if checkpoint.size <= index:
        raise EvidenceError(f"the log's head covers {checkpoint.size} entries, entry {index} is beyond it", index=index)
    nodes = await store.find_nodes(nodes_for_path(index, checkpoint.size))
    path = inclusion_path(index, checkpoint.size, nodes)
    try:
        verify_inclusion(entry.leaf_hash, index, checkpoint.size, path, checkpoint.root)
        under_any((certificate, *earlier), lambda each: verify_checkpoint(each.log_key, each.log_origin, checkpoint))
    except AuthenticationError:
        raise EvidenceError(f"entry {index} does not lead to the signed head", index=index) from None
    if entry.entry_type == SESSION_ENTRY:
        await _check_headed(entry, store, checkpoint)
    return EventProof(entry=open_entry(entry, vault), checkpoint=checkpoint, path=path)


def under_any(certificates: Sequence[Certificate], verify: Callable[[Certificate], T]) -> T:
    """
    Return what *verify* returns for the first of *certificates* under which it holds.

    Raises:
        AuthenticationError: it holds under none.
    """
    for certificate in certificates[:-1]:
        try:
            return verify(certificate)
        except AuthenticationError:
            continue
    return verify(certificates[-1])


def check_entry(entry: AuditEntry, vault: EntryVault | None = None) -> None:
    """
    Check that a row's columns, its leaf data and its leaf hash say the same.

    What is sealed is opened by *vault* and compared with its commitments; without one, or without its key, it is still
    compared with the digest in the leaf.

    Raises:
        EvidenceError: they do not; `index` is the row's.
    """
    problem = _problem_of(entry, vault)
    if problem is not None:
        raise EvidenceError(f"entry {entry.index} was altered: {problem}", index=entry.index)


def _problem_of(entry: AuditEntry, vault: EntryVault | None) -> str | None:  # noqa: PLR0911 - one sentence a problem
    if hash_leaf(entry.leaf_data) != entry.leaf_hash:
        return "its leaf hash is not that of its leaf data"
    if entry.entry_type == SESSION_ENTRY:
        # The leaf of a session names nobody and no time (H9): both are its heading's, the rest is fixed.
        head = MAGIC_LEAF + bytes((SESSION_ENTRY,))
        if len(entry.leaf_data) != LEAF_BYTES or not entry.leaf_data.startswith(head):
            return "it is marked as a session's, its leaf is not"
        if (entry.event_type, entry.severity, entry.device_id, entry.data) != _SESSION_COLUMNS:
            return "its columns are not those of a session's entry"
        return None
    if entry.entry_type == FIELDS_ENTRY:
        return _fields_problem_of(entry, vault)
    if entry.entry_type != EVENT_ENTRY:
        return f"there is no entry type {entry.entry_type}"
    try:
        leaf = decode_event_leaf(entry.leaf_data)
    except DecodeError:
        return "its leaf data is no event's"
    for name, stated, stored in (
        ("tenant", leaf.tenant_id, entry.tenant_id),
        ("event type", leaf.event_type, entry.event_type),
        ("severity", leaf.severity, entry.severity),
        ("device", leaf.device_id, entry.device_id),
        ("data", leaf.data, entry.data),
        ("time", leaf.occurred_at_ms, unix_ms(entry.recorded_at)),
    ):
        if stated != stored:
            return f"its column {name!r} is not what its leaf says"
    return None


def _fields_problem_of(entry: AuditEntry, vault: EntryVault | None) -> str | None:
    stored = entry.data if entry.stored is None else entry.stored
    try:
        leaf = decode_fields_leaf(entry.leaf_data)
    except DecodeError:
        return "its leaf data is no event's with committed fields"
    for name, is_same in (
        ("event type", leaf.event_type == entry.event_type),
        ("severity", leaf.severity == entry.severity),
        ("time", leaf.occurred_at_ms == unix_ms(entry.recorded_at)),
        ("device", entry.device_id is None or entry.stored is not None),
        ("tenant' or 'data", leaf.row_digest == digest_row(entry.tenant_id, stored)),
    ):
        if not is_same:
            return f"its column {name!r} is not what its leaf says"
    try:
        opening = open_stored(entry.tenant_id, stored, key=entry.sealed_key, vault=vault)
        if opening is not None:
            check_opening(leaf, entry.tenant_id, opening)
    except AuthenticationError:
        return "what it stores, or its key, does not open its commitments"
    except DecodeError:
        return "what it stores opens nothing"
    return None


def unix_ms(time: datetime) -> int | None:
    """Return Unix milliseconds, None for a time that no event was ever written with."""
    if time.tzinfo is None:  # what the driver makes of an infinite time
        return None
    whole, rest = divmod(time - _EPOCH, timedelta(milliseconds=1))
    return None if rest else whole


async def _check_headed(entry: AuditEntry, store: LogStore, checkpoint: SignedCheckpoint) -> None:
    """
    Check tenant and time of a session's row, which stands under a signed head, by the heading of its run.

    Which entry heads it, the leaves say, of whatever tenant: they are shown to stand under the same head.
    """
    run, size = await store.find_run(entry.tenant_id, entry.index), entry.index + 1
    if not run.leaves:
        raise KeyNotFoundError(f"entry {entry.index} was archived and dropped meanwhile")
    nodes = await store.find_nodes([*nodes_for_frontier(run.first), *nodes_for_consistency(size, checkpoint.size)])
    try:
        frontier, _ = frontier_from_nodes(run.first, nodes).append([hash_leaf(each) for each in run.leaves])
        path = consistency_path(size, checkpoint.size, nodes)
        verify_consistency(size, checkpoint.size, old_root=frontier.root(), new_root=checkpoint.root, path=path)
    except AuthenticationError:
        raise EvidenceError(
            f"the entries {run.first} to {entry.index}, which say whose session entry {entry.index} is, do not lead to "
            "the signed head",
            index=run.first,
            last=entry.index,
        ) from None
    heading = run.head
    if heading is not None:
        check_entry(heading)
        if heading.event_type is not SecurityEventType.SESSION_HEADING:
            heading = None
    # Where an entry that is no heading stands before it, that is what was signed; this tells of dropped ones.
    headed_from = None if heading is not None else (await store.log_head()).headed_from
    problem = misfit(
        None if heading is None else (heading.tenant_id, unix_ms(heading.recorded_at)),
        (entry.tenant_id, unix_ms(entry.recorded_at)),
        is_due=headed_from is not None and headed_from <= entry.index,
    )
    if problem is not None:
        raise EvidenceError(f"entry {entry.index} was altered: {problem}", index=entry.index)


def _check_logged(event: LoggedEvent, entry: AuditEntry, certificates: Sequence[Certificate]) -> None:
    index = event.index
    if entry.leaf_hash != event.leaf_hash:
        raise EvidenceError(f"entry {index} is another one than was logged there", index=index)
    try:
        receipt = decode_receipt(event.receipt)
        under_any(
            certificates,
            lambda each: verify_receipt(receipt, event.leaf_hash, log_key=each.log_key, origin=each.log_origin),
        )
    except (AuthenticationError, DecodeError):
        raise EvidenceError(f"the receipt of entry {index} does not hold", index=index) from None
    if receipt.index != index:
        raise EvidenceError(f"the receipt is of entry {receipt.index}, not {index}", index=index)
