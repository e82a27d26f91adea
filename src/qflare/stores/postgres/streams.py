"""Accepted streams in PostgreSQL (PROTOCOL R4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.call import fresh_call
from qflare.stores.postgres.columns import as_time, as_uuid, as_uuids
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import TenantId
    from qflare.model.session import StreamClaim


class Streams(Connected):
    """Table stream."""

    async def accept_streams(
        self, tenant_id: TenantId, claims: Sequence[StreamClaim], *, now_s: int
    ) -> tuple[bool, ...]:
        """Insert streams; True where new, False where accepted before, or session or epoch do not live (R4, R7)."""
        if not claims:
            return ()
        row = await self._connections.get_row(
            "accept_streams",
            as_uuid(tenant_id),
            as_uuids([claim.sid for claim in claims]),
            [claim.direction for claim in claims],
            as_uuids([claim.stream_id for claim in claims]),
            [claim.bucket for claim in claims],
            [claim.epoch for claim in claims],
            as_time(now_s),
            # One id for all attempts of this call: what a lost one took is taken, for it alone.
            as_uuid(fresh_call()),
        )
        return tuple(row["accepted"])
