"""Sealed chain keys in PostgreSQL (PROTOCOL R8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.ids import SessionId, TenantId
from qflare.model.session import SealedChain
from qflare.stores.postgres.columns import as_uuid, as_uuids
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Sequence


class Chains(Connected):
    """Table session_state."""

    async def find_chains(
        self, tenant_id: TenantId, sids: Sequence[SessionId], *, first: int, last: int
    ) -> tuple[SealedChain, ...]:
        """Return the sealed chain keys of *sids* for live buckets *first* to *last* inclusive."""
        if not sids:
            return ()
        rows = await self._connections.fetch("find_chains", as_uuid(tenant_id), as_uuids(sids), first, last)
        return tuple(
            SealedChain(
                tenant_id=tenant_id,
                sid=SessionId(row["sid"].bytes),
                bucket=row["bucket"],
                epoch=row["epoch"],
                sealed_chain_key=row["sealed_chain_key"],
            )
            for row in rows
        )

    async def save_chains(self, chains: Sequence[SealedChain]) -> int:
        """Insert chain keys of live sessions in live buckets where absent; return how many were new."""
        if not chains:
            return 0
        row = await self._connections.get_row(
            "save_chains",
            as_uuids([chain.tenant_id for chain in chains]),
            as_uuids([chain.sid for chain in chains]),
            [chain.bucket for chain in chains],
            [chain.epoch for chain in chains],
            [chain.sealed_chain_key for chain in chains],
        )
        saved: int = row["saved"]
        return saved
