"""
Key pairs made ahead, so that whoever needs them does not wait for their making.

The reserve is filled in the background while no other batch runs, from its low water mark up to its high one.  It lives
in memory alone, is wiped when it grows old, at closing, and in a child process after a fork; what was taken is the
taker's and never comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import QflareError
from qflare.manager.forks import wipe_after_fork
from qflare.protocol.device_keys import DeviceKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.clock import Clock
    from qflare.manager.background import Background
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings

_log = logging.getLogger("qflare.manager")

CHUNK: Final = 16
"""Pairs made in one job, about 2 ms: whoever comes meanwhile waits no longer."""
_BUSY_PAUSE_S: Final = 0.01
_FAILURE_PAUSE_S: Final = 5.0
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveStatistics:
    """What a reserve did since the manager was opened."""

    ready: int
    """In the reserve now."""
    made: int
    taken: int
    missed: int
    """Asked for and not there: they were made while the caller waited."""
    discarded: int
    """Wiped unused: too old, bound to keys that are not current any more, or at closing."""


@dataclass(slots=True)
class Tally:
    """What a reserve counts as it goes."""

    made: int = 0
    taken: int = 0
    missed: int = 0
    discarded: int = 0

    def statistics(self, *, ready: int) -> ReserveStatistics:
        """Return the counts as they stand, and how much is *ready*."""
        return ReserveStatistics(
            ready=ready, made=self.made, taken=self.taken, missed=self.missed, discarded=self.discarded
        )


class Reserve:
    """Both key pairs of devices to come: what `generate_device_keypair` and `rotate_device_keys` take."""

    def __init__(self, *, offload: Offload, clock: Clock, settings: ManagerSettings) -> None:
        """Hold nothing yet; `run` fills it."""
        self._offload = offload
        self._clock = clock
        self._low = settings.reserve_keys_low
        self._high = settings.reserve_keys_high
        self._age_ns = settings.reserve_max_age_s * _NS
        self._ready: deque[tuple[int, DeviceKeys]] = deque()
        """Oldest first, with the monotonic nanoseconds of their making."""
        self._is_low = asyncio.Event()
        self._is_closed = False
        self._tally = Tally()
        wipe_after_fork(self.close)

    def __len__(self) -> int:
        """Return how many pairs are ready."""
        return len(self._ready)

    def __repr__(self) -> str:
        """Say how much there is, no secret."""
        return f"<Reserve of {len(self._ready)} key pairs>"

    @property
    def statistics(self) -> ReserveStatistics:
        """What it did since it was made."""
        return self._tally.statistics(ready=len(self._ready))

    async def take(self, count: int) -> list[DeviceKeys]:
        """
        Return *count* pairs that nobody else has or gets; the caller wipes them.

        What the reserve does not have is made now.  A caller that is cancelled loses what it took: that is wiped.
        """
        taken = self._take(count)
        missing = count - len(taken)
        if not missing:
            return taken
        self._tally.missed += missing
        try:
            return taken + await self._offload.run(partial(DeviceKeys.generate_many, missing), wipe=_wipe)
        except BaseException:
            _wipe(taken)
            raise

    def _take(self, count: int) -> list[DeviceKeys]:
        self.discard_old()
        taken = [self._ready.popleft()[1] for _ in range(min(count, len(self._ready)))]
        self._tally.taken += len(taken)
        if len(self._ready) < self._low:
            self._is_low.set()
        return taken

    def discard_old(self) -> None:
        """Wipe what is older than the settings' age; the maintenance step does it too, every few seconds."""
        oldest_ns = self._clock.monotonic_ns() - self._age_ns
        while self._ready and self._ready[0][0] <= oldest_ns:
            self._ready.popleft()[1].wipe()
            self._tally.discarded += 1
        if len(self._ready) < self._low:
            self._is_low.set()

    async def run(self, background: Background) -> None:
        """Fill the reserve whenever it is low and no other batch runs, until the manager closes."""
        if not self._high:
            return
        self._is_low.set()
        while not background.stop.is_set() and not self._is_closed:
            self.discard_old()
            if not self._is_low.is_set():
                await background.pause_until(self._is_low)
            elif not self._offload.is_idle:
                await background.pause(_BUSY_PAUSE_S)
            else:
                try:
                    await self._make_chunk()
                except QflareError as failure:
                    _log.warning("the reserve was not filled (%s)", type(failure).__name__)
                    await background.pause(_FAILURE_PAUSE_S)

    async def fill(self) -> None:
        """Fill the reserve up to its high mark now, whatever else runs."""
        while len(self._ready) < self._high and not self._is_closed:
            await self._make_chunk()

    async def _make_chunk(self) -> None:
        count = min(CHUNK, self._high - len(self._ready))
        if count <= 0:
            self._is_low.clear()
            return
        self._add(await self._offload.run(partial(DeviceKeys.generate_many, count), wipe=_wipe))

    def _add(self, made: Sequence[DeviceKeys]) -> None:
        self._tally.made += len(made)
        if self._is_closed:
            self._tally.discarded += len(made)
            _wipe(made)
            return
        now_ns = self._clock.monotonic_ns()
        self._ready.extend((now_ns, keys) for keys in made)

    def close(self) -> None:
        """Wipe everything, and hold nothing from then on. Safe to call twice."""
        self._is_closed = True
        while self._ready:
            self._ready.popleft()[1].wipe()
            self._tally.discarded += 1


def _wipe(made: Sequence[DeviceKeys]) -> None:
    for keys in made:
        keys.wipe()
