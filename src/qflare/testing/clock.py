"""A clock that a test turns."""

from __future__ import annotations

from qflare.clock import SystemClock


class TurnableClock:
    """
    A clock that stands still until it is turned; both of its hands move together unless told otherwise.

    Args:
        now_s: Where it begins, seconds since the Unix epoch; now if not given.
    """

    def __init__(self, now_s: float | None = None) -> None:
        self.seconds: float = SystemClock().now_s() if now_s is None else now_s
        """The wall clock, seconds since the Unix epoch; may be set, also backwards."""
        self.elapsed_ns = 10**12
        """The clock that only grows."""

    def now_s(self) -> int:
        """Return whole seconds since the Unix epoch."""
        return int(self.seconds)

    def now_ms(self) -> int:
        """Return whole milliseconds since the Unix epoch."""
        return int(self.seconds * 1000)

    def monotonic_ns(self) -> int:
        """Return nanoseconds that only grow, from an unknown start."""
        return self.elapsed_ns

    def turn(self, seconds: float, *, monotonic: bool = True) -> None:
        """Move on by *seconds*; without *monotonic* the wall clock alone, as when an operator sets it."""
        self.seconds += seconds
        if monotonic:
            self.elapsed_ns += int(seconds * 1e9)
