"""What an auditor reads of the log: the port under the checks, exports and witnesses; it changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import AuditEntry, LogHead, SignedCheckpoint
    from qflare.model.ids import TenantId


class AuditSource(Protocol):
    """The log as it is stored: any `LogStore`, or a connection that may read and nothing else."""

    async def log_head(self) -> LogHead:
        """Return size and frontier as committed."""

    async def list_entries(self, tenant_id: TenantId | None, *, first: int, limit: int) -> tuple[AuditEntry, ...]:
        """Return entries from index *first* on; None reads all tenants."""

    async def find_nodes(self, nodes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return hashes of complete subtrees by (level, index); level 0 are the leaves."""

    async def find_leaf_pairs(self, indexes: Sequence[int]) -> dict[int, bytes]:
        """Return both leaf hashes below nodes of level 1, 64 bytes, as kept with the node; of old ones none are."""

    async def latest_checkpoint(self) -> SignedCheckpoint | None:
        """Return the signed head of the largest size, or None."""

    async def list_checkpoints(self, *, first: int, limit: int) -> tuple[SignedCheckpoint, ...]:
        """Return signed heads of *first* entries and more, the smallest first."""

    async def list_archived_leaves(self, *, first: int, limit: int) -> tuple[tuple[int, bytes], ...]:
        """Return index and leaf hash of entries that were archived and dropped, from index *first* on."""
