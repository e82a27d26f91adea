"""One worker's detector and the others': every two seconds each tells what it counted, and hears what they did."""

from __future__ import annotations

import asyncio
import logging
import secrets
from functools import partial
from typing import TYPE_CHECKING

from qflare.errors import DecodeError
from qflare.model.ids import ID_BYTES, WorkerId
from qflare.model.share import Share
from qflare.monitor.hearing import hear
from qflare.monitor.parameters import CLOCKS_KEPT_S, SHARE_KEPT_S, SHARES_READ_MAX
from qflare.monitor.tally import decode_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from qflare.model.ids import TenantId
    from qflare.monitor.detector import Detector
    from qflare.service.assembly import Foundation

_log = logging.getLogger("qflare.service.sharing")


class Sharing:
    """What one worker tells the others and has heard of them; `Detection` has one."""

    def __init__(self, detector: Detector, foundation: Foundation) -> None:
        """Be a worker of which nobody has heard."""
        self.worker_id = WorkerId(secrets.token_bytes(ID_BYTES))
        self._detector = detector
        self._foundation = foundation
        self._exchanging = asyncio.Lock()
        self._told = 0
        self._waiting: list[Share] = []
        """The share that was not written for certain, if there is one: it is told again under its number."""
        self._heard: dict[WorkerId, int] = {}
        self._heard_s: dict[WorkerId, float] = {}
        self.left_out = 0
        """Shares of others that could not be read."""

    async def catch_up(self, saved_at: Mapping[TenantId, datetime]) -> None:
        """Hear what was counted after the states that were recalled, of all other workers, ended ones too."""
        async with self._exchanging:
            while len(shares := await self._fetch()) == SHARES_READ_MAX:
                await self._hear(shares, saved_at)
            await self._hear(shares, saved_at)

    async def exchange(self) -> None:
        """Tell what was counted since the last time, and hear the others; raises what the store raises."""
        async with self._exchanging:
            if not self._waiting:
                counts = self._detector.take_counts()
                if counts:
                    self._told += 1
                    encoded = await self._foundation.offload.run(counts.encode)
                    self._waiting = [Share(worker_id=self.worker_id, number=self._told, counts=encoded)]
            shares = await self._fetch()
            self._waiting = []
            await self._hear(shares, {})

    async def exchange_clocks(self, offset_ms: int) -> list[int]:
        """Tell how far this worker's clock is ahead of the database's, and return how far those of others are."""
        clocks = await self._foundation.deadline.of(
            self._foundation.store.exchange_clocks(self.worker_id, offset_ms=offset_ms, keep_s=CLOCKS_KEPT_S)
        )
        return [clock.offset_ms for clock in clocks]

    async def _fetch(self) -> Sequence[Share]:
        loop = asyncio.get_running_loop()
        shares = await self._foundation.deadline.of(
            self._foundation.store.exchange_shares(
                self.worker_id, self._waiting, after=self._heard, keep_s=SHARE_KEPT_S, limit=SHARES_READ_MAX
            )
        )
        for share in shares:
            self._heard[share.worker_id] = max(share.number, self._heard.get(share.worker_id, 0))
            self._heard_s[share.worker_id] = loop.time()
        for worker_id, heard_s in list(self._heard_s.items()):
            # A worker that is silent for so long has no shares any more that could be heard twice.
            if heard_s < loop.time() - 2 * SHARE_KEPT_S:
                del self._heard[worker_id], self._heard_s[worker_id]
        return shares

    async def _hear(self, shares: Sequence[Share], saved_at: Mapping[TenantId, datetime]) -> None:
        for share in shares:
            try:
                counts = await self._foundation.offload.run(partial(decode_counts, share.counts))
            except DecodeError as failure:
                self.left_out += 1
                _log.warning("%s", failure)
                continue
            known = {
                tenant_id
                for tenant_id, at in saved_at.items()
                if share.written_at is not None and share.written_at <= at
            }
            for part in counts.without(known).sliced():
                hear(self._detector, part, at_s=self._foundation.clock.now_s())
                await asyncio.sleep(0)
