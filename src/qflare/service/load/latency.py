"""Latencies in an HdrHistogram: three digits from a microsecond to ten minutes, whatever the number of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from qflare.errors import MissingExtraError

_LOWEST_US: Final = 1
_HIGHEST_US: Final = 600_000_000
_DIGITS: Final = 3
_PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """What a histogram says, in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Latencies:
    """A histogram of one kind of request."""

    def __init__(self) -> None:
        """
        Begin an empty one.

        Raises:
            MissingExtraError: hdrhistogram is not installed.
        """
        try:
            from hdrh.histogram import HdrHistogram
        except ImportError:
            raise MissingExtraError(feature="qflare bench load", extra="bench", package="hdrhistogram") from None
        self._histogram: Any = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)

    def add(self, seconds: float) -> None:
        """Count one request that took so long from when it was due."""
        self._histogram.record_value(min(_HIGHEST_US, max(_LOWEST_US, round(seconds * 1e6))))

    def merge(self, other: Latencies) -> None:
        """Count what *other* counted as well."""
        self._histogram.add(other._histogram)

    @property
    def count(self) -> int:
        """Return how many were counted."""
        return int(self._histogram.get_total_count())

    def percentiles(self) -> Percentiles:
        """Return the usual ones; all zero if nothing was counted."""
        values = [
            self._histogram.get_value_at_percentile(percent) / 1e3 if self.count else 0.0 for percent in _PERCENTILES
        ]
        return Percentiles(p50_ms=values[0], p90_ms=values[1], p99_ms=values[2], p999_ms=values[3], max_ms=values[4])

    def encode(self) -> str:
        """Return it whole, in HdrHistogram's own compressed form, for tools that merge and plot them."""
        encoded: bytes = self._histogram.encode()
        return encoded.decode("ascii")
