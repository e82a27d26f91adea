"""The audit log in memory: entries, tree nodes and signed heads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.errors import BatchError, ConflictError
from qflare.model.event import (
    RUN_MAX,
    SESSION_ENTRY,
    AuditEntry,
    EventSeverity,
    LogAppend,
    LogHead,
    NewEvent,
    SealedKey,
    SecurityEventType,
    SessionRun,
    SignedCheckpoint,
)
from qflare.model.ids import CallId, DeviceId, TenantId
from qflare.protocol.log import HASH_BYTES
from qflare.testing.memory.constraints import require, require_numbers, require_size
from qflare.testing.memory.entries import Logging

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_SIGNATURE_BYTES: Final = 2420


class Log(Logging):
    """Entries, head, nodes and checkpoints."""

    async def append_events(
        self, tenant_id: TenantId, events: Sequence[NewEvent], *, call_ids: Sequence[CallId | None] | None = None
    ) -> LogAppend:
        """Append *events* in order; those whose change was carried out before stand already; `indexes` says where."""
        if not events:
            raise BatchError("an append needs at least one event")
        changes = [None] * len(events) if call_ids is None else list(call_ids)
        if len(changes) != len(events):
            raise BatchError(f"{len(events)} events need as many call ids or None, got {len(changes)}")
        async with self._transaction(tenant_id, *filter(None, changes)) as tables:
            known = {
                change: row.outcome for change in changes if change and (row := tables.calls.get((tenant_id, change)))
            }
            indexes: list[int] = []
            fresh: list[NewEvent] = []
            size = tables.head.value.size
            for event, change in zip(events, changes, strict=True):
                if change is not None and change in known:
                    indexes.append(known[change])
                    continue
                index = size + len(fresh)
                fresh.append(event)
                indexes.append(index)
                if change is not None:
                    known[change] = index
                    self._note_call(tenant_id, change, outcome=index)
            append = self._write_events(tenant_id, fresh)
            if append is None:
                return LogAppend(first_index=0, old_frontier=(), leaf_hashes=(), indexes=tuple(indexes))
            return replace(append, indexes=tuple(indexes))

    async def log_head(self) -> LogHead:
        """Return size and frontier as committed."""
        async with self._transaction() as tables:
            head = tables.head.value
            return LogHead(size=head.size, frontier=head.hashes, headed_from=tables.headed_from.value)

    async def list_entries(self, tenant_id: TenantId | None, *, first: int, limit: int) -> tuple[AuditEntry, ...]:
        """Return entries from index *first* on; None reads all tenants, as the auditor does."""
        require_numbers(first, limit)
        async with self._transaction(*([] if tenant_id is None else [tenant_id])) as tables:
            # Entries come in order of index, and none ever goes.
            found = (row for index, row in tables.entries.items() if index >= first)
            mine = [row for row in found if tenant_id is None or row.tenant_id == tenant_id]
            return tuple(mine[:limit])

    async def list_acts(
        self, tenant_id: TenantId, *, first: int, last: int, types: Collection[SecurityEventType]
    ) -> tuple[AuditEntry, ...]:
        """Return entries of *types* from index *first* to the one before *last*."""
        require_numbers(first, last)
        async with self._transaction(tenant_id) as tables:
            return tuple(
                row
                for index, row in tables.entries.items()
                if first <= index < last and row.tenant_id == tenant_id and row.event_type in types
            )

    async def find_entry(self, tenant_id: TenantId, index: int) -> AuditEntry | None:
        """Return one entry of the tenant, or None."""
        require_numbers(index)
        async with self._transaction(tenant_id) as tables:
            row = tables.entries.get(index)
            return row if row is not None and row.tenant_id == tenant_id else None

    async def find_subject_entries(self, tenant_id: TenantId, subject: bytes, *, limit: int) -> tuple[int, ...]:
        """Return the first *limit* indexes of a subject's entries that can still be opened."""
        async with self._transaction(tenant_id) as tables:
            found = (
                index
                for index, row in tables.entries.items()
                if row.tenant_id == tenant_id and row.sealed_key is not None and row.sealed_key.subject == subject
            )
            return tuple(islice(found, limit))

    async def find_entry_keys(self, tenant_id: TenantId, indexes: Sequence[int]) -> dict[int, SealedKey]:
        """Return the keys of sealed entries by index, of those alone that can still be opened."""
        async with self._transaction(tenant_id) as tables:
            rows = {index: tables.entries.get(index) for index in indexes}
            return {
                index: row.sealed_key
                for index, row in rows.items()
                if row is not None and row.tenant_id == tenant_id and row.sealed_key is not None
            }

    async def count_named_entries(self, tenant_id: TenantId, device_id: DeviceId) -> int:
        """Return how many entries of type 2 name a device in their leaves: these nothing erases."""
        async with self._transaction(tenant_id) as tables:
            return sum(row.tenant_id == tenant_id and row.device_id == device_id for row in tables.entries.values())

    async def erase_entries(
        self, tenant_id: TenantId, subject: bytes, indexes: Sequence[int], *, event: NewEvent
    ) -> None:
        """Destroy the keys of a subject's entries and write the *event* that says so, both or neither."""
        async with self._transaction(tenant_id) as tables:
            for index in indexes:
                row = tables.entries.get(index)
                key = None if row is None else row.sealed_key
                if row is None or key is None or row.tenant_id != tenant_id or key.subject != subject:
                    raise ConflictError("some of these entries were erased meanwhile: look again which are left")
                tables.entries.put(index, replace(row, sealed_key=None))
            self._write_events(tenant_id, [event])

    async def find_run(self, tenant_id: TenantId, index: int) -> SessionRun:  # noqa: ARG002 - there is no login here
        """Return the entry at *index* and the sessions' before it, of all tenants."""
        require_numbers(index)
        async with self._transaction() as tables:
            run: list[AuditEntry] = []
            while len(run) < RUN_MAX and (row := tables.entries.get(index - len(run))):
                run.insert(0, row)
                if row.index < index and row.entry_type != SESSION_ENTRY:
                    break
            head = run[0] if run and run[0].entry_type != SESSION_ENTRY else None
            return SessionRun(index + 1 - len(run), tuple(row.leaf_data for row in run), head)

    async def find_nodes(self, nodes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return hashes of complete subtrees by (level, index); level 0 are the leaves."""
        async with self._transaction() as tables:
            return {node: tables.nodes[node] for node in nodes if node in tables.nodes}

    async def find_leaf_pairs(self, indexes: Sequence[int]) -> dict[int, bytes]:
        """Return both leaf hashes below nodes of level 1, 64 bytes, as kept with the node; of old ones none are."""
        async with self._transaction() as tables:
            return {index: tables.leaf_pairs[index] for index in indexes if index in tables.leaf_pairs}

    async def save_checkpoint(self, checkpoint: SignedCheckpoint) -> None:
        """Store a signed head; the same size again keeps the first."""
        async with self._transaction() as tables:
            require(checkpoint.size >= 1, "checkpoint_size_range")
            require(checkpoint.time_s >= 1, "checkpoint_time_range")
            require_size(checkpoint.root, "checkpoint_root_size", HASH_BYTES)
            require_size(checkpoint.signature, "checkpoint_signature_size", _SIGNATURE_BYTES)
            tables.checkpoints.put_new(checkpoint.size, checkpoint)

    async def latest_checkpoint(self) -> SignedCheckpoint | None:
        """Return the signed head of the largest size, or None."""
        async with self._transaction() as tables:
            return tables.checkpoints[max(tables.checkpoints)] if tables.checkpoints else None

    async def list_checkpoints(self, *, first: int, limit: int) -> tuple[SignedCheckpoint, ...]:
        """Return signed heads of *first* entries and more, the smallest first."""
        require_numbers(first, limit)
        async with self._transaction() as tables:
            sizes = sorted(size for size in tables.checkpoints if size >= first)
            return tuple(tables.checkpoints[size] for size in sizes[:limit])

    async def list_archived_leaves(self, *, first: int, limit: int) -> tuple[tuple[int, bytes], ...]:
        """Return index and leaf hash of entries that were archived and dropped: here none ever is."""
        require_numbers(first, limit)
        return ()

    async def count_events(self, tenant_id: TenantId, *, since_s: int) -> dict[tuple[str, str], int]:
        """Return counts by (event type, severity) since a time."""
        async with self._transaction(tenant_id) as tables:
            since = utc(since_s)
            return dict(
                Counter(
                    (row.event_type.value, row.severity.value)
                    for row in tables.entries.values()
                    if row.tenant_id == tenant_id and row.recorded_at >= since
                )
            )

    async def latest_events(
        self, tenant_id: TenantId, *, severities: Collection[EventSeverity], limit: int, among: int
    ) -> tuple[int, ...]:
        """Return where the newest entries but sessions' and headings' stand, newest first, *among* the last so many."""
        require_numbers(limit, among)
        async with self._transaction(tenant_id) as tables:
            mine = [row for row in tables.entries.values() if row.tenant_id == tenant_id][::-1][:among]
            events = [
                row.index
                for row in mine
                if row.entry_type != SESSION_ENTRY
                and row.event_type is not SecurityEventType.SESSION_HEADING
                and row.severity in severities
            ]
            return tuple(events[:limit])
