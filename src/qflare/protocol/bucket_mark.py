"""Which bucket it is, by a clock that may jump (A2)."""

from __future__ import annotations

from dataclasses import dataclass

from qflare.errors import UsageError
from qflare.protocol import wire

_NS: int = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketTick:
    """What the clock said and what became of it."""

    bucket: int
    """The current bucket: never falls.  Published are it and the next."""
    is_behind: bool
    """The clock is behind the mark: buckets go on by elapsed time."""
    held_buckets: int
    """How far the clock is ahead beyond what is taken without an operator; 0 is good, anything else an alarm."""


class BucketMark:
    """
    The highest bucket that has been current, and how it grows.

    ``b = max(floor(wall time / width), mark)``.  While the wall clock is behind the mark, buckets go on by monotonic
    time.  While running, one tick goes at most one bucket above what the mark and the elapsed time account for (so at
    most mark + 2 is published); if the wall clock jumps further, buckets go on by elapsed time as well, and the jump is
    held until `accept_jump`, so that neither jump locks a fleet out or makes keys immortal.

    Pure: both times are arguments.  Not thread-safe: one owner ticks.

    Source: docs/protocol.md, step A2.
    """

    def __init__(self, *, width_s: int, mark: int, now_s: int, monotonic_ns: int) -> None:
        """
        Start, as at start-up: a larger step is taken, and `startup_step` says how large.

        Args:
            width_s: Seconds a bucket, at least 1.
            mark: The highest bucket that has been current, as stored; 0 if none.
            now_s: Wall clock, whole seconds since the Unix epoch.
            monotonic_ns: Monotonic clock, nanoseconds.

        Raises:
            UsageError: a number is out of range.
        """
        if not 1 <= width_s <= wire.U32_MAX or not 0 <= mark < wire.U64_MAX or now_s < 0:
            message = f"width_s must be 1 to {wire.U32_MAX}, mark and now_s not negative"
            raise UsageError(message)
        self._width_s = width_s
        self._mark = max(mark, now_s // width_s)
        self._wall_accepted = 0
        self.startup_step = self._mark - mark if mark > 0 else 0
        """Buckets that passed while the server was down; more than 1 is worth an alarm."""
        self._anchor(now_s, monotonic_ns)

    @property
    def mark(self) -> int:
        """Return the highest bucket that has been current."""
        return self._mark

    @property
    def width_s(self) -> int:
        """Return the width in seconds."""
        return self._width_s

    def tick(self, *, now_s: int, monotonic_ns: int) -> BucketTick:
        """
        Read both clocks and return the current bucket.

        Args:
            now_s: Wall clock, whole seconds since the Unix epoch.
            monotonic_ns: Monotonic clock, nanoseconds, as at the start.
        """
        wall = max(0, now_s) // self._width_s
        elapsed = self._anchor_bucket + (self._anchor_ns + monotonic_ns - self._anchor_at_ns) // (self._width_s * _NS)
        # A2: one bucket of slack, for a wall clock may run ahead of the monotonic one across a boundary.
        highest = max(self._mark, elapsed, self._wall_accepted) + 1
        if self._mark < wall <= highest:
            self._mark = wall
            self._anchor(now_s, monotonic_ns)
        elif wall == self._mark and elapsed > wall + 1:
            # A clock that stands still, or is set back again and again inside one bucket, would keep its keys alive.
            self._mark += 1
            self._anchor(now_s, monotonic_ns)
        elif wall != self._mark:
            self._mark = max(self._mark, elapsed)
        return BucketTick(bucket=self._mark, is_behind=wall < self._mark, held_buckets=max(0, wall - self._mark))

    def accept_jump(self, bucket: int) -> None:
        """Take the wall clock's word up to *bucket* at the next tick: an operator has looked at the alarm."""
        self._wall_accepted = max(self._wall_accepted, bucket)

    def raise_to(self, mark: int, *, monotonic_ns: int) -> None:
        """Take over a higher *mark* that another worker has stored; a lower one changes nothing."""
        if mark > self._mark:
            self._mark = mark
            self._anchor_bucket, self._anchor_ns, self._anchor_at_ns = mark, 0, monotonic_ns

    def _anchor(self, now_s: int, monotonic_ns: int) -> None:
        # Elapsed time is counted from where a bucket began: inside it if the wall clock is in it, else from its start.
        self._anchor_bucket = self._mark
        offset_s = now_s - self._mark * self._width_s
        self._anchor_ns = offset_s * _NS if 0 <= offset_s < self._width_s else 0
        self._anchor_at_ns = monotonic_ns
