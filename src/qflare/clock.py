"""
The only reader of the clock.  Everything below `manager` and `device` takes the time as an argument.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What tells the time: wall-clock seconds, and seconds that never go back."""

    def now_s(self) -> int:
        """Return whole seconds since the Unix epoch."""

    def now_ms(self) -> int:
        """Return whole milliseconds since the Unix epoch."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds that only grow, from an unknown start."""


class SystemClock:
    """The machine's clock."""

    def now_s(self) -> int:
        """Return whole seconds since the Unix epoch."""
        return time.time_ns() // 1_000_000_000

    def now_ms(self) -> int:
        """Return whole milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        """Return nanoseconds that only grow, from an unknown start."""
        return time.monotonic_ns()


def utc(seconds: int) -> datetime:
    """Return *seconds* since the Unix epoch as an aware UTC datetime."""
    return datetime.fromtimestamp(seconds, tz=UTC)
