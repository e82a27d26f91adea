"""Accepted streams in memory (PROTOCOL R4)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.model.session import SessionState
from qflare.testing.memory.constraints import require, require_ids
from qflare.testing.memory.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import TenantId
    from qflare.model.session import StreamClaim

DIRECTIONS: Final = (1, 2)


class Streams(Sessions):
    """What was accepted already."""

    async def accept_streams(
        self, tenant_id: TenantId, claims: Sequence[StreamClaim], *, now_s: int
    ) -> tuple[bool, ...]:
        """Insert streams; True where new, False where accepted before, or session or epoch do not live (R4, R7)."""
        del now_s  # the store notes that a session has carried a record, not when
        async with self._transaction(tenant_id, *(claim.sid for claim in claims)):
            return tuple(self._accept(tenant_id, claim) for claim in claims)

    def _accept(self, tenant_id: TenantId, claim: StreamClaim) -> bool:
        """Take one stream, once, in a live session and a live bucket."""
        tables = self._tables
        require_ids(claim.stream_id)
        require(claim.direction in DIRECTIONS, "stream_direction_known")
        row = self._find(tenant_id, claim.sid)
        if (
            row is None
            or row.state is not SessionState.LIVE
            or not row.start <= claim.bucket <= row.last
            or claim.bucket not in tables.buckets
        ):
            return False
        # The old epoch of a session is read to the end of the bucket after its rekey (R7).
        is_read = row.rekey_bucket is not None and tables.bucket_mark.value <= row.rekey_bucket + 1
        if claim.epoch != row.epoch and not (is_read and claim.epoch == row.epoch - 1):
            return False
        key = (claim.bucket, tenant_id, claim.sid, claim.direction, claim.stream_id)
        if not tables.streams.put_new(key, None):
            return False
        tables.sessions.put(row.sid, replace(row, has_carried=True))
        return True
