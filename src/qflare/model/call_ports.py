"""The port to what was carried out before, by call id (decision 0031)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import CallId, TenantId


class CallStore(Protocol):
    """Remembers for a day which changes were carried out, and with what outcome."""

    async def find_calls(self, tenant_id: TenantId, changes: Sequence[CallId]) -> dict[CallId, int]:
        """Return the outcomes of those of *changes* that were carried out."""

    async def forget_calls(self) -> bool:
        """Forget changes of a day ago and before; False if that has to wait for the next call."""
