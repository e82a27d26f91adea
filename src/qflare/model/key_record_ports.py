"""The port to the lives of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.model.key_record import KeyRecord


class KeyRecordStore(Protocol):
    """Lives of keys: states, times and reasons."""

    async def list_device_records(
        self, tenant_id: TenantId, ref: DeviceRef, *, limit: int, before: int | None = None
    ) -> tuple[KeyRecord, ...]:
        """Return a device's keys and psks of versions below *before*, newest first."""

    async def list_bucket_records(self, *, limit: int, before: int | None = None) -> tuple[KeyRecord, ...]:
        """Return keys of buckets below *before*, newest first."""

    async def list_server_records(self, *, limit: int) -> tuple[KeyRecord, ...]:
        """Return the keys of the server's identity, newest first."""
