"""The port to the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qflare.model.event import (
        AuditEntry,
        EventSeverity,
        LogAppend,
        LogHead,
        NewEvent,
        SecurityEventType,
        SessionRun,
        SignedCheckpoint,
    )
    from qflare.model.ids import CallId, TenantId


class LogStore(Protocol):
    """The audit log: append-only entries, their tree and its signed heads."""

    async def append_events(
        self, tenant_id: TenantId, events: Sequence[NewEvent], *, call_ids: Sequence[CallId | None] | None = None
    ) -> LogAppend:
        """
        Append *events* in order, in one transaction; those whose change was carried out before stand already.

        `indexes` says where each stands; only the new ones have leaf hashes.
        """

    async def log_head(self) -> LogHead:
        """Return size and frontier as committed."""

    async def list_entries(self, tenant_id: TenantId | None, *, first: int, limit: int) -> tuple[AuditEntry, ...]:
        """Return entries from index *first* on; None reads all tenants and needs the auditor's role."""

    async def list_acts(
        self, tenant_id: TenantId, *, first: int, last: int, types: Collection[SecurityEventType]
    ) -> tuple[AuditEntry, ...]:
        """Return the tenant's entries of *types* from index *first* to the one before *last*."""

    async def find_entry(self, tenant_id: TenantId, index: int) -> AuditEntry | None:
        """Return one entry of the tenant, or None."""

    async def find_run(self, tenant_id: TenantId, index: int) -> SessionRun:
        """
        Return the tenant's entry at *index* and the sessions' before it, of all tenants.

        Where the tenant's own do not lead to an entry that is no session's, the auditor's role is needed.
        """

    async def find_nodes(self, nodes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return hashes of complete subtrees by (level, index); level 0 are the leaves."""

    async def find_leaf_pairs(self, indexes: Sequence[int]) -> dict[int, bytes]:
        """Return both leaf hashes below nodes of level 1, 64 bytes, as kept with the node; of old ones none are."""

    async def save_checkpoint(self, checkpoint: SignedCheckpoint) -> None:
        """Store a signed head; the same size again keeps the first."""

    async def latest_checkpoint(self) -> SignedCheckpoint | None:
        """Return the signed head of the largest size, or None."""

    async def list_checkpoints(self, *, first: int, limit: int) -> tuple[SignedCheckpoint, ...]:
        """Return signed heads of *first* entries and more, the smallest first."""

    async def list_archived_leaves(self, *, first: int, limit: int) -> tuple[tuple[int, bytes], ...]:
        """Return index and leaf hash of entries that were archived and dropped, from index *first* on."""

    async def count_events(self, tenant_id: TenantId, *, since_s: int) -> dict[tuple[str, str], int]:
        """Return counts by (event type, severity) since a time."""

    async def latest_events(
        self, tenant_id: TenantId, *, severities: Collection[EventSeverity], limit: int, among: int
    ) -> tuple[int, ...]:
        """Return where the newest entries but sessions' and headings' stand, newest first, *among* the last so many."""
