"""
What the manager does by itself: look at the clock, turn buckets, sweep, clean up, mark device keys that are due.

Every worker does all of it.  Each step is safe to do twice or at the same time elsewhere: keys are destroyed by number,
of a turn's steps each is led by one worker, rows are deleted below a bucket.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from qflare.errors import QflareError
from qflare.manager.deadline import Deadline
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.histogram import SECONDS, Histogram
from qflare.model.ids import DEFAULT_TENANT
from qflare.protocol.new_event import new_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.clock import Clock
    from qflare.manager.background import Background
    from qflare.manager.buckets import Buckets
    from qflare.manager.identity import Identity
    from qflare.manager.log import Log
    from qflare.manager.offload import Offload
    from qflare.manager.policies import Policies
    from qflare.manager.replies import Replies
    from qflare.manager.settings import ManagerSettings
    from qflare.manager.turns import Turns
    from qflare.manager.uses import Uses
    from qflare.model.keeper_ports import Keeper
    from qflare.model.ports import Store

_log = logging.getLogger("qflare.manager")

_LAST_TENTH: Final = 0.1
"""The second sweep of a bucket runs in its last tenth: what began late is carried on before its KEK dies."""
_SWEEPS: Final = 3
"""How often a step sweeps into a bucket that has begun while it swept into the one before; then others are due."""
_BACKOFF_MAX_S: Final = 30.0
_JITTER: Final = 1 << 16
_DAY_S: Final = 86_400
_FINISHED_MAX: Final = 1000
"""Most old responses, and incidents, that a clean-up removes; there is another with each bucket."""
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupReport:
    """What a clean-up found to remove."""

    bucket: int
    """The server's bucket."""
    bucket_rows: int
    """Bucket keys whose rows were deleted, with the handshakes, streams and chain states of their buckets."""
    bucket_keys_destroyed: int
    """KEK_b destroyed in the keeper."""
    sessions_expired: int


@dataclass(slots=True)
class CareTally:
    """What this worker's care came to since the manager was opened."""

    failures: int = 0
    """Rounds of the loop that failed and were tried again."""
    bucket_rows: int = 0
    bucket_keys_destroyed: int = 0
    sessions_expired: int = 0
    done_ns: int = 0
    """Monotonic nanoseconds of the last round that succeeded."""


class MadeAhead(Protocol):
    """A reserve, as far as maintenance is concerned."""

    def discard_old(self) -> None:
        """Wipe what is too old."""


class Maintenance:
    """The worker's own loop, and the same steps for callers who want them now."""

    def __init__(
        self,
        *,
        store: Store,
        keeper: Keeper,
        identity: Identity,
        buckets: Buckets,
        turns: Turns,
        replies: Replies,
        log: Log,
        policies: Policies,
        uses: Uses,
        made_ahead: Sequence[MadeAhead],
        offload: Offload,
        clock: Clock,
        settings: ManagerSettings,
    ) -> None:
        """Do nothing yet; `run` is the loop."""
        self._store = store
        self._keeper = keeper
        self._identity = identity
        self._ended_before = 0
        self._buckets = buckets
        self._turns = turns
        self._replies = replies
        self._log = log
        self._policies = policies
        self._uses = uses
        self._made_ahead = made_ahead
        self._offload = offload
        self._clock = clock
        self._settings = settings
        self._deadline = Deadline(settings.store_timeout_s)
        self.tally = CareTally(done_ns=clock.monotonic_ns())
        self.cleanups_s = Histogram(SECONDS)
        """How long each clean-up took, seconds."""
        self._swept = -1
        self._swept_late = -1
        self._cleaned = -1
        self._turning = asyncio.Lock()
        self._cleaning = asyncio.Lock()
        """A clean-up that somebody asks for does not wait for a long turn."""

    async def run(self, background: Background) -> None:
        """Work until the manager closes; after a failure wait longer and longer, then try again."""
        failures = 0
        while not background.stop.is_set():
            try:
                await self.step()
                failures = 0
            except Exception as failure:  # noqa: BLE001 - without this loop an idle worker's keys would live on
                failures += 1
                self.tally.failures += 1
                _log.warning("maintenance failed (%s) and will be tried again", type(failure).__name__)
            pause_s = self._pause_s() if not failures else min(_BACKOFF_MAX_S, 0.25 * 2 ** min(failures, 10))
            await background.pause(pause_s)

    async def step(self) -> int:
        """Look at the clock, do what is due, and return the server's bucket."""
        for reserve in self._made_ahead:
            reserve.discard_old()
        await self._buckets.refresh()
        await self._buckets.follow()
        async with self._turning:
            bucket = await self._turn()
        async with self._cleaning:
            alarms = self._buckets.take_alarms()
            if alarms:
                await self._log.append(DEFAULT_TENANT, alarms)
            if self._cleaned != bucket:
                await self._clean(bucket)
                self._cleaned = bucket
            # Last: what keeps keys from living too long comes before what makes devices renew theirs.
            await self._uses.flush()
            await self._policies.step()
        self.tally.done_ns = self._clock.monotonic_ns()
        return bucket

    async def _turn(self) -> int:
        """Sweep into the server's bucket, late in it once more, and return it."""
        # Looked at under the lock: what waited for it must not sweep into a bucket that is over.
        bucket = await self._buckets.refresh()
        for _ in range(_SWEEPS):
            if self._swept == bucket:
                break
            if await self._turns.sweep(bucket):
                await self._replies.sweep()
                self._swept = bucket
            bucket = await self._buckets.refresh()
        if (
            self._swept == bucket
            and self._swept_late != bucket
            and self._is_late()
            and await self._turns.settle(bucket)
        ):
            await self._replies.sweep()
            self._swept_late = bucket
        return bucket

    async def clean(self) -> CleanupReport:
        """Remove what is over, now."""
        bucket = await self._buckets.refresh()
        async with self._cleaning:
            return await self._clean(bucket)

    async def _clean(self, bucket: int) -> CleanupReport:
        began_ns = self._clock.monotonic_ns()
        report = await self._remove(bucket)
        self.cleanups_s.observe((self._clock.monotonic_ns() - began_ns) / _NS)
        self.tally.bucket_rows += report.bucket_rows
        self.tally.bucket_keys_destroyed += report.bucket_keys_destroyed
        self.tally.sessions_expired += report.sessions_expired
        return report

    async def _remove(self, bucket: int) -> CleanupReport:
        destroyed = await self._offload.run(partial(self._keeper.destroy_bucket_keys, before=bucket - 1))
        event = new_event(
            SecurityEventType.BUCKET_TURN,
            EventSeverity.INFO,
            {"bucket": bucket, "destroyed_before": bucket - 1},
            tenant_id=DEFAULT_TENANT,
            occurred_at_ms=self._clock.now_ms(),
        )
        rows = await self._deadline.of(self._store.drop_buckets(before=bucket - 1, event=event))
        await self._end_overlap(bucket)
        await self._replies.clean(bucket)
        # R1: records of the bucket before the current one are still read, so its last sessions still live.
        expired = await self._deadline.of(self._store.expire_sessions(before_bucket=bucket - 1))
        await self._deadline.of(self._store.forget_calls())
        await self._drop_finished()
        return CleanupReport(bucket=bucket, bucket_rows=rows, bucket_keys_destroyed=destroyed, sessions_expired=expired)

    async def _drop_finished(self) -> None:
        """Remove some of the incidents and responses that nobody needs any more; the log has what they came to."""
        keep_s = self._settings.incidents_kept_days * _DAY_S
        event = new_event(
            SecurityEventType.SYSTEM,
            EventSeverity.INFO,
            {"what": "old incidents and responses removed", "unchanged_for_s": keep_s},
            tenant_id=DEFAULT_TENANT,
            occurred_at_ms=self._clock.now_ms(),
        )
        try:
            await self._deadline.of(self._store.drop_finished(keep_s=keep_s, limit=_FINISHED_MAX, event=event))
        except QflareError as failure:
            # No key lives on in them: what comes after in this step is worth more than that they go now.
            _log.warning(
                "old incidents and responses were not removed (%s); tried again in the next bucket",
                type(failure).__name__,
            )

    async def _end_overlap(self, bucket: int) -> None:
        """End the announce and log keys before those in force, once no device takes anything under them (A1)."""
        serial = self._identity.serial
        if self._ended_before >= serial or not self._identity.is_overlap_over(bucket):
            return
        event = new_event(
            SecurityEventType.KEY_ROTATION,
            EventSeverity.INFO,
            {"what": "server keys deactivated", "before_serial": serial, "bucket": bucket},
            tenant_id=DEFAULT_TENANT,
            occurred_at_ms=self._clock.now_ms(),
        )
        await self._deadline.of(
            self._store.deactivate_server_keys(before=serial, reason=f"superseded by serial {serial}", event=event)
        )
        self._ended_before = serial

    def _is_late(self) -> bool:
        return self._buckets.seconds_left() <= self._settings.bucket_width_s * _LAST_TENTH

    def _pause_s(self) -> float:
        left_s = self._buckets.seconds_left()
        width_s = self._settings.bucket_width_s
        late_in_s = left_s - width_s * _LAST_TENTH
        # To the last tenth, to the next bucket, or to the next look at the clock, whichever comes first. Workers are
        # spread by up to a twentieth of a bucket, so that not all of them turn in the same instant.
        due_s = late_in_s if late_in_s > 0 else left_s
        jitter_s = secrets.randbelow(_JITTER) / _JITTER * min(0.25, width_s / 20)
        return min(self._settings.tick_max_s, max(0.02, due_s)) + jitter_s
