"""Counts of values by size, for figures that are shown as distributions."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds for waits and works of a server."""
ITEMS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)
"""Upper bounds for sizes of batches."""


class Histogram:
    """
    How many values fell under each bound, and their sum.

    Not for several threads at once: whoever shares one holds a lock.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Count nothing yet; *bounds* rise, and what is above the last has a count of its own."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """One for each bound, not cumulative, and one more."""
        self.total = 0.0
        """Sum of all values."""

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
