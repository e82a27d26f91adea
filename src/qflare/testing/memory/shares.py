"""What the workers' detectors tell each other, in memory."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from qflare.clock import utc
from qflare.model.share import SHARE_BYTES_MAX, Share, WorkerClock
from qflare.testing.memory.constraints import require, require_numbers, require_size
from qflare.testing.memory.tables import Held

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qflare.model.ids import WorkerId


class Shares(Held):
    """What workers counted, and their clocks."""

    async def exchange_shares(
        self, worker_id: WorkerId, shares: Sequence[Share], *, after: Mapping[WorkerId, int], keep_s: int, limit: int
    ) -> tuple[Share, ...]:
        """Add a worker's shares, and return what others shared after what is known of them."""
        require_numbers(keep_s, limit)
        async with self._transaction(worker_id, *after) as tables:
            now_s = tables.clock.now_s()
            for share in shares:
                require(share.number >= 1, "detector_share_number_range")
                require_size(share.counts, "detector_share_counts_size", 1, SHARE_BYTES_MAX)
                tables.shares.put_new((worker_id, share.number), (share.counts, now_s))
            if shares:
                old = {key for key, (_, at_s) in tables.shares.items() if at_s <= now_s - keep_s}
                tables.shares.drop_all(where=lambda key: key in old)
            known = Counter(after)
            found = sorted(
                (number, other)
                for (other, number), (_, at_s) in tables.shares.items()
                if other != worker_id and number > known[other] and at_s > now_s - keep_s
            )
            return tuple(
                Share(worker_id=other, number=number, counts=counts, written_at=utc(at_s))
                for number, other in found[:limit]
                for counts, at_s in (tables.shares[other, number],)
            )

    async def exchange_clocks(self, worker_id: WorkerId, *, offset_ms: int, keep_s: int) -> tuple[WorkerClock, ...]:
        """Note how far a worker's clock is off, and return what others noted within *keep_s* seconds."""
        require_numbers(offset_ms, keep_s)
        async with self._transaction(worker_id) as tables:
            now_s = tables.clock.now_s()
            tables.clocks.put(worker_id, (offset_ms, now_s))
            old = {key for key, (_, at_s) in tables.clocks.items() if at_s <= now_s - keep_s}
            tables.clocks.drop_all(where=lambda key: key in old)
            return tuple(
                WorkerClock(worker_id=other, offset_ms=offset)
                for other, (offset, _) in sorted(tables.clocks.items())
                if other != worker_id
            )
