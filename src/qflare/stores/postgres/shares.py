"""What the workers' detectors tell each other, in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.model.ids import WorkerId
from qflare.model.share import Share, WorkerClock
from qflare.stores.postgres.columns import as_uuid, as_uuids
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DROPPED_MAX: Final = 256
"""Shares deleted in one exchange."""


class Shares(Connected):
    """Tables detector_share and detector_clock."""

    async def exchange_shares(
        self, worker_id: WorkerId, shares: Sequence[Share], *, after: Mapping[WorkerId, int], keep_s: int, limit: int
    ) -> tuple[Share, ...]:
        """Add a worker's shares, and return what others shared after what is known of them."""
        mine = as_uuid(worker_id)
        async with self._connections.transaction() as transaction:
            if shares:
                numbers, counts = [share.number for share in shares], [share.counts for share in shares]
                await transaction.execute("add_shares", mine, numbers, counts)
                await transaction.execute("drop_shares", keep_s, _DROPPED_MAX)
            rows = await transaction.fetch(
                "list_shares", mine, as_uuids(list(after)), list(after.values()), keep_s, limit
            )
        return tuple(
            Share(
                worker_id=WorkerId(row["worker_id"].bytes),
                number=row["share_number"],
                counts=row["counts"],
                written_at=row["written_at"],
            )
            for row in rows
        )

    async def exchange_clocks(self, worker_id: WorkerId, *, offset_ms: int, keep_s: int) -> tuple[WorkerClock, ...]:
        """Note how far a worker's clock is off, and return what others noted within *keep_s* seconds."""
        async with self._connections.transaction() as transaction:
            await transaction.execute("note_clock", as_uuid(worker_id), offset_ms)
            await transaction.execute("drop_clocks", keep_s)
            rows = await transaction.fetch("list_clocks", as_uuid(worker_id), keep_s)
        return tuple(
            WorkerClock(worker_id=WorkerId(row["worker_id"].bytes), offset_ms=row["offset_ms"]) for row in rows
        )
