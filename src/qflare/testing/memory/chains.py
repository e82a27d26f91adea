"""Sealed chain keys in memory, one by one (PROTOCOL R8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.model.session import SealedChain, SessionState
from qflare.testing.memory.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import SessionId, TenantId

_EPOCHS: Final = 2
"""Epochs of a session that are found: the present one and the one before it (R7)."""


class Chains(Sessions):
    """Chain keys that are rows of their own."""

    async def find_chains(
        self, tenant_id: TenantId, sids: Sequence[SessionId], *, first: int, last: int
    ) -> tuple[SealedChain, ...]:
        """Return the sealed chain keys of *sids* for live buckets *first* to *last*, of two epochs where one ends."""
        async with self._transaction(tenant_id, *sids) as tables:
            found: list[SealedChain] = []
            for sid in sorted(set(sids)):
                for bucket in sorted(tables.buckets):
                    if not first <= bucket <= last:
                        continue
                    mine = [row for key, row in tables.chains.items() if key[:3] == (bucket, tenant_id, sid)]
                    found += sorted(mine, key=lambda row: -row.epoch)[:_EPOCHS]
            return tuple(found)

    async def save_chains(self, chains: Sequence[SealedChain]) -> int:
        """Insert chain keys of live sessions in live buckets where absent; return how many were new."""
        async with self._transaction():
            return sum(self._may_stand(chain) and self._put_chain(chain) for chain in chains)

    def _may_stand(self, chain: SealedChain) -> bool:
        row = self._find(chain.tenant_id, chain.sid)
        return (
            row is not None
            and chain.bucket in self._tables.buckets
            and row.state is SessionState.LIVE
            and row.epoch == chain.epoch
            and row.start <= chain.bucket <= row.last
        )
