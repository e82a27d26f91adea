"""Changes by id in memory: each is carried out once (decision 0031)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.testing.memory.tables import Held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import CallId, TenantId

_TURN_S: Final = 43_200
_TURNS: Final = 3
"""Whole turns for which a change is remembered besides the one in which it was made: a day at least."""


class Calls(Held):
    """What was carried out, as a whole."""

    async def find_calls(self, tenant_id: TenantId, changes: Sequence[CallId]) -> dict[CallId, int]:
        """Return the outcomes of those of *changes* that were carried out."""
        async with self._transaction(tenant_id) as tables:
            return {
                change: tables.calls[tenant_id, change].outcome
                for change in changes
                if (tenant_id, change) in tables.calls
            }

    async def forget_calls(self) -> bool:
        """Forget changes of a day ago and before."""
        async with self._transaction() as tables:
            turn = tables.clock.now_s() // _TURN_S
            over = {key for key, row in tables.calls.items() if row.at_s // _TURN_S <= turn - _TURNS}
            tables.calls.drop_all(where=over.__contains__)
            return True
