"""Figures from the memory store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.device import KeyState
from qflare.model.statistics import KeyStatistics
from qflare.testing.memory.states import FINAL_STATES
from qflare.testing.memory.tables import Held

if TYPE_CHECKING:
    from qflare.model.ids import TenantId


class Statistics(Held):
    """Counts of rows."""

    async def count_keys(self, tenant_id: TenantId, *, bucket: int) -> KeyStatistics:
        """Return the figures of `get_key_statistics` for one tenant; live are sessions that reach *bucket*."""
        async with self._transaction(tenant_id) as tables:
            states = [row.state for row in tables.devices.values() if row.tenant_id == tenant_id]
            counts = [(last, count) for (owner, last), count in tables.session_counts.items() if owner == tenant_id]
            return KeyStatistics(
                devices_total=len(states),
                devices_active=states.count(KeyState.ACTIVE),
                devices_revoked=sum(state in FINAL_STATES for state in states),
                device_keys_total=sum(key[0] == tenant_id for key in tables.device_keys),
                sessions_live=sum(count.live for last, count in counts if last >= bucket),
                sessions_total=sum(count.total for _, count in counts),
                handshakes_recent=sum(key[1] == tenant_id and key[0] in tables.buckets for key in tables.handshakes),
                bucket=tables.bucket_mark.value,
                oldest_live_bucket=min(tables.buckets, default=0),
                log_size=tables.head.value.size,
            )

    async def count_sessions(self, tenant_id: TenantId, *, first: int, last: int) -> dict[int, int]:
        """Return how many sessions, over or not, end with each of the buckets *first* to *last*; none, no key."""
        async with self._transaction(tenant_id) as tables:
            return {
                bucket: count.total
                for (owner, bucket), count in sorted(tables.session_counts.items())
                if owner == tenant_id and first <= bucket <= last
            }
