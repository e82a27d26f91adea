"""Lives of keys in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.testing.memory.states import as_listed
from qflare.testing.memory.tables import Held

if TYPE_CHECKING:
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.model.key_record import KeyRecord


class KeyRecords(Held):
    """Keys of devices, buckets and the server's identity, with their moves."""

    async def list_device_records(
        self, tenant_id: TenantId, ref: DeviceRef, *, limit: int, before: int | None = None
    ) -> tuple[KeyRecord, ...]:
        """Return a device's keys and psks of versions below *before*, newest first."""
        async with self._transaction(tenant_id) as tables:
            found = [row.record for key, row in tables.device_keys.items() if key[:2] == (tenant_id, ref)]
            found += [record for key, record in tables.psks.items() if key[:2] == (tenant_id, ref)]
            return _page(sorted(found, key=lambda record: (record.number, record.kind), reverse=True), limit, before)

    async def list_bucket_records(self, *, limit: int, before: int | None = None) -> tuple[KeyRecord, ...]:
        """Return keys of buckets below *before*, newest first."""
        async with self._transaction() as tables:
            # The later pair of a bucket comes later; sorting keeps that order, so it is turned around first.
            found = reversed(list(tables.bucket_records.values()))
            return _page(sorted(found, key=lambda record: -record.number), limit, before)

    async def list_server_records(self, *, limit: int) -> tuple[KeyRecord, ...]:
        """Return the keys of the server's identity, newest first."""
        async with self._transaction() as tables:
            rows = sorted(tables.server_keys.values(), key=lambda row: (-row.serial, row.kind.value))
            return _page([row.record for row in rows], limit, None)


def _page(records: list[KeyRecord], limit: int, before: int | None) -> tuple[KeyRecord, ...]:
    found = [as_listed(record) for record in records if before is None or record.number < before]
    return tuple(found[:limit])
