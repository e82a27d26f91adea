"""Figures from PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import SchemaMismatchError
from qflare.model.statistics import KeyStatistics
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from qflare.model.ids import TenantId


class Statistics(Connected):
    """Counts: devices, keys and sessions from the counting tables, handshakes from the live buckets' partitions."""

    async def count_keys(self, tenant_id: TenantId, *, bucket: int) -> KeyStatistics:
        """Return the figures of `get_key_statistics` for one tenant; live are sessions that reach *bucket*."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("count_keys", transaction.tenant_id, bucket)
        if row is None:
            raise SchemaMismatchError("the rows of bucket_mark and log_head are missing; run database/schema.sql again")
        return KeyStatistics(**dict(row.items()))

    async def count_sessions(self, tenant_id: TenantId, *, first: int, last: int) -> dict[int, int]:
        """Return how many sessions, over or not, end with each of the buckets *first* to *last*; none, no key."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("count_sessions", transaction.tenant_id, first, last)
        return {row["last_bucket"]: row["total"] for row in rows}
