"""What the erasure of a subject asks of whoever holds the keys of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qflare.model.ids import DeviceId, TenantId


class SubjectVault(Protocol):
    """Names the subjects under which keys of entries are listed."""

    def subject(self, tenant_id: TenantId, device_id: DeviceId) -> bytes:
        """Return under which name the keys of a device's entries are listed: 32 bytes."""
