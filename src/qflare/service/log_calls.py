"""The key manager's calls about its log as everybody may see it: signed heads and hashes, no entry (docs/audit.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import KeyNotFoundError
from qflare.protocol.log_key import LogKey
from qflare.service.arguments import as_rows, require_whole
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import SignedCheckpoint
    from qflare.protocol.log import Node


class LogCalls(TenantView):
    """Mixed into `QuantumKeyManager`; the log is the whole cluster's, whatever the tenant."""

    async def log_checkpoint(self) -> SignedCheckpoint | None:
        """Return the largest signed head that is stored, None in a log that was never signed."""
        foundation = (await self._engine()).foundation
        return await foundation.deadline.of(foundation.store.latest_checkpoint())

    async def log_keys(self) -> tuple[LogKey, ...]:
        """Return every log key that was in force, the newest first."""
        return tuple(LogKey.of(each) for each in (await self._engine()).foundation.identity.certificates)

    async def log_hashes(self, nodes: Sequence[Node]) -> bytes:
        """
        Return the hashes of complete nodes of the log's tree, 32 bytes each, in order.

        Args:
            nodes: (level, index); level 0 are the leaf hashes.

        Raises:
            KeyNotFoundError: the tree has not all of them.
        """
        wanted = [(level, index) for level, index in as_rows(nodes, name="nodes", columns=("level", "index"))]
        for level, index in wanted:
            require_whole(level, name="level", is_needed=True)
            require_whole(index, name="index", is_needed=True)
        foundation = (await self._engine()).foundation
        found = await foundation.deadline.of(foundation.store.find_nodes(wanted))
        if len(found) != len(set(wanted)):
            raise KeyNotFoundError("the log has not all of these nodes")
        return b"".join(found[node] for node in wanted)
