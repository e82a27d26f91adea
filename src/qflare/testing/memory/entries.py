"""Entries of the audit log as transactions of the memory store write them, and the changes that they carry out."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from qflare.model.event import (
    EVENT_ENTRY,
    FIELDS_ENTRY,
    SESSION_ENTRY,
    AuditEntry,
    EventSeverity,
    LogAppend,
    SecurityEventType,
)
from qflare.model.ids import DEFAULT_TENANT
from qflare.protocol.log import HASH_BYTES, hash_leaf
from qflare.testing.memory.constraints import require, require_size, require_text
from qflare.testing.memory.rows import CallRow
from qflare.testing.memory.tables import EPOCH, Held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId, TenantId

_LEAF_BYTES_MAX: Final = 131_072
_DATA_BYTES_MAX: Final = 65_536
_TYPE_BYTES_MAX: Final = 64
_NAME_BYTES_MAX: Final = 255


class Logging(Held):
    """What a part needs whose changes stand in the log."""

    _log_tenant: Final = DEFAULT_TENANT
    """In whose log changes of the whole cluster stand."""

    def _write_events(self, tenant_id: TenantId, events: Sequence[NewEvent]) -> LogAppend | None:
        """Append events in the caller's transaction; None if there are none."""
        return self._append([event_entry(tenant_id, event) for event in events]) if events else None

    def _append(self, entries: Sequence[AuditEntry]) -> LogAppend:
        """Append entries, one at least, whose indexes are given here, in the caller's transaction."""
        tables = self._tables
        head = tables.head.value
        for number, entry in enumerate(entries):
            _require_entry(entry)
            tables.entries.put(head.size + number, replace(entry, index=head.size + number))
        hashes = tuple(entry.leaf_hash for entry in entries)
        grown, nodes = head.append(hashes)
        for level, index, value in nodes:
            tables.nodes.put((level, index), value)
            if level == 1:
                tables.leaf_pairs.put(index, tables.nodes[0, 2 * index] + tables.nodes[0, 2 * index + 1])
        tables.head.put(grown)
        return LogAppend(first_index=head.size, old_frontier=head.hashes, leaf_hashes=hashes)

    def _append_sessions(self, heading: AuditEntry, sessions: Sequence[AuditEntry]) -> LogAppend:
        """Append the entries of new sessions under their heading."""
        append = self._append([heading, *sessions])
        if self._tables.headed_from.value is None:
            self._tables.headed_from.put(append.first_index)
        return append

    def _note_call(self, tenant_id: TenantId, change: CallId, *, outcome: int = 1) -> None:
        """Remember what the caller's transaction carries out."""
        self._tables.calls.put((tenant_id, change), CallRow(outcome=outcome, at_s=self._tables.clock.now_s()))

    def _carried_out(self, tenant_id: TenantId, change: CallId) -> int | None:
        """Return the outcome of a change that was carried out before, None if it was not."""
        row = self._tables.calls.get((tenant_id, change))
        return None if row is None else row.outcome


def session_entry(tenant_id: TenantId, *, leaf_hash: bytes, leaf_data: bytes, at: datetime) -> AuditEntry:
    """Return a session's entry (PROTOCOL H9), without its index."""
    return AuditEntry(
        index=0,
        entry_type=SESSION_ENTRY,
        tenant_id=tenant_id,
        leaf_hash=leaf_hash,
        leaf_data=leaf_data,
        event_type=SecurityEventType.KEY_EXCHANGE,
        severity=EventSeverity.INFO,
        device_id=None,
        data=b"{}",
        recorded_at=at,
    )


def event_entry(tenant_id: TenantId, event: NewEvent) -> AuditEntry:
    """Return an event's entry, without its index."""
    return AuditEntry(
        index=0,
        entry_type=EVENT_ENTRY if event.stored is None else FIELDS_ENTRY,
        tenant_id=tenant_id,
        leaf_hash=hash_leaf(event.leaf_data),
        leaf_data=event.leaf_data,
        event_type=SecurityEventType(event.event_type),
        severity=EventSeverity(event.severity),
        device_id=event.device_id if event.stored is None else None,
        data=event.data if event.stored is None else event.stored,
        recorded_at=EPOCH + timedelta(milliseconds=event.occurred_at_ms),
        sealed_key=event.sealed_key,
    )


def _require_entry(entry: AuditEntry) -> None:
    require_size(entry.leaf_data, "audit_entry_leaf_data_size", 1, _LEAF_BYTES_MAX)
    require_size(entry.data, "audit_entry_data_size", 1, _DATA_BYTES_MAX)
    require_text(entry.event_type.value, "audit_entry_event_type_size", 1, _TYPE_BYTES_MAX)
    require_text(entry.device_id, "audit_entry_device_id_size", 1, _NAME_BYTES_MAX)
    require_size(entry.leaf_hash, "audit_entry_leaf_hash_size", HASH_BYTES)
    require(entry.leaf_hash == hash_leaf(entry.leaf_data), "audit_entry_leaf_hash_of_data")
