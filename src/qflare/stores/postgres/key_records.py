"""Lives of keys, read from PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.device import KeyState
from qflare.model.key_record import KeyMove, KeyRecord
from qflare.stores.postgres.columns import BIGINT_MAX
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from qflare.model.ids import DeviceRef, TenantId


class KeyRecords(Connected):
    """Tables device_key, device_psk, bucket_record and server_key with their moves."""

    async def list_device_records(
        self, tenant_id: TenantId, ref: DeviceRef, *, limit: int, before: int | None = None
    ) -> tuple[KeyRecord, ...]:
        """Return a device's keys and psks of versions below *before*, newest first."""
        async with self._connections.transaction(tenant_id) as transaction:
            wanted = (transaction.tenant_id, ref, BIGINT_MAX if before is None else before, limit)
            rows = await transaction.fetch("list_device_records", *wanted)
            psks = await transaction.fetch("list_device_psks", *wanted)
        found = (*_records(rows), *_records(psks))
        return tuple(sorted(found, key=lambda record: (record.number, record.kind), reverse=True)[:limit])

    async def list_bucket_records(self, *, limit: int, before: int | None = None) -> tuple[KeyRecord, ...]:
        """Return keys of buckets below *before*, newest first."""
        async with self._connections.transaction() as transaction:
            rows = await transaction.fetch("list_bucket_records", BIGINT_MAX if before is None else before, limit)
        return _records(rows)

    async def list_server_records(self, *, limit: int) -> tuple[KeyRecord, ...]:
        """Return the keys of the server's identity, newest first."""
        async with self._connections.transaction() as transaction:
            rows = await transaction.fetch("list_server_records", limit)
        return _records(rows)


def _records(rows: Sequence[asyncpg.Record]) -> tuple[KeyRecord, ...]:
    return tuple(
        KeyRecord(
            kind=row["kind"],
            number=row["number"],
            algorithm=row["algorithm"],
            state=KeyState(row["state"]),
            created_at=row["created_at"],
            moves=tuple(
                KeyMove(from_state=KeyState(old), to_state=KeyState(new), reason=reason, moved_at=moved_at)
                for old, new, reason, moved_at in zip(
                    row["from_states"] or (),
                    row["to_states"] or (),
                    row["reasons"] or (),
                    row["moved_at"] or (),
                    strict=True,
                )
            ),
        )
        for row in rows
    )
