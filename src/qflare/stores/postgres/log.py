"""The audit log in PostgreSQL: entries, tree nodes and signed heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import BatchError, EvidenceError
from qflare.model.event import AuditEntry, EventSeverity, LogAppend, LogHead, NewEvent, SecurityEventType
from qflare.model.event import SignedCheckpoint as Checkpoint
from qflare.model.ids import DeviceId, TenantId
from qflare.stores.postgres.columns import as_time, as_uuid, event_columns, log_append, split_frontier
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg


class Log(Connected):
    """Tables audit_entry, log_head, log_node and checkpoint."""

    async def append_events(self, tenant_id: TenantId, events: Sequence[NewEvent]) -> LogAppend:
        """Append *events* in order, in one transaction."""
        row = await self._connections.get_row("append_events", as_uuid(tenant_id), *event_columns(events))
        append = log_append(row, [event.leaf_data for event in events])
        if append is None:
            raise BatchError("an append needs at least one event")
        return append

    async def log_head(self) -> LogHead:
        """Return size and frontier as committed."""
        row = await self._connections.get_row("log_head")
        return LogHead(size=row["size"], frontier=split_frontier(row["frontier"]))

    async def list_entries(self, tenant_id: TenantId | None, *, first: int, limit: int) -> tuple[AuditEntry, ...]:
        """Return entries from index *first* on; None reads all tenants and needs the auditor's role."""
        if tenant_id is None:
            async with self._connections.transaction() as transaction:
                await transaction.execute("become_auditor")
                rows = await transaction.fetch("list_all_entries", first, limit)
        else:
            async with self._connections.transaction(tenant_id) as transaction:
                rows = await transaction.fetch("list_entries", transaction.tenant_id, first, limit)
        return tuple(_entry(row) for row in rows)

    async def find_entry(self, tenant_id: TenantId, index: int) -> AuditEntry | None:
        """Return one entry of the tenant, or None."""
        found = await self.list_entries(tenant_id, first=index, limit=1)
        return found[0] if found and found[0].index == index else None

    async def find_nodes(self, nodes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return hashes of complete subtrees by (level, index); level 0 are the leaves."""
        found: dict[tuple[int, int], bytes] = {}
        leaves = [index for level, index in nodes if level == 0]
        inner = [(level, index) for level, index in nodes if level > 0]
        if leaves:
            rows = await self._connections.fetch("find_leaves", leaves)
            found |= {(0, row["log_index"]): row["leaf_hash"] for row in rows}
        if inner:
            levels, indexes = zip(*inner, strict=True)
            rows = await self._connections.fetch("find_nodes", list(levels), list(indexes))
            found |= {(row["level"], row["node_index"]): row["hash"] for row in rows}
        return found

    async def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a signed head; the same size again keeps the first."""
        async with self._connections.transaction() as transaction:
            await transaction.execute(
                "save_checkpoint", checkpoint.size, checkpoint.root, checkpoint.time_s, checkpoint.signature
            )

    async def latest_checkpoint(self) -> Checkpoint | None:
        """Return the signed head of the largest size, or None."""
        row = await self._connections.fetch_row("latest_checkpoint")
        if row is None:
            return None
        return Checkpoint(size=row["size"], root=row["root"], time_s=row["time_s"], signature=row["signature"])

    async def count_events(self, tenant_id: TenantId, *, since_s: int) -> dict[tuple[str, str], int]:
        """Return counts by (event type, severity) since a time."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("count_events", transaction.tenant_id, as_time(since_s))
        return {(row["event_type"], row["severity"]): row["events"] for row in rows}


def _entry(row: asyncpg.Record) -> AuditEntry:
    device_id = row["device_id"]
    try:
        event_type, severity = SecurityEventType(row["event_type"]), EventSeverity(row["severity"])
    except ValueError:
        index = row["log_index"]
        raise EvidenceError(
            f"entry {index} was altered: its event type or severity is none that was ever written", index=index
        ) from None
    return AuditEntry(
        index=row["log_index"],
        entry_type=row["entry_type"],
        tenant_id=TenantId(row["tenant_id"].bytes),
        leaf_hash=row["leaf_hash"],
        leaf_data=row["leaf_data"],
        event_type=event_type,
        severity=severity,
        device_id=None if device_id is None else DeviceId(device_id),
        data=row["data"],
        recorded_at=row["recorded_at"],
    )
