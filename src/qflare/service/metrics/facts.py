"""The values of all metrics at one moment, of one worker or of several together."""

from __future__ import annotations

import json
import operator
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import DecodeError
from qflare.service.metrics.catalogue import BY_NAME
from qflare.service.metrics.metric import Join, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.model.histogram import Histogram
    from qflare.service.metrics.metric import Metric

SERIES_MAX: Final = 512
"""Most series of one metric: beyond it, what belongs to new ones is counted under the label `other`."""
OTHER: Final = "other"
_JOINS: Final[dict[Join, Callable[[float, float], float]]] = {Join.SUM: operator.add, Join.MAX: max, Join.MIN: min}

Value = tuple[float, ...]
"""One number; of a histogram the counts of its bounds, one more, and the sum."""


class Facts:
    """Values by metric and label values."""

    def __init__(self) -> None:
        """Hold none."""
        self.values: dict[str, dict[tuple[str, ...], Value]] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        """Take the value of a counter or gauge; one more of the same series joins it."""
        self._join(BY_NAME[name], labels, (float(value),))

    def add_histogram(self, name: str, histogram: Histogram, *labels: str) -> None:
        """Take a histogram of the bounds that the catalogue says."""
        metric = BY_NAME[name]
        if histogram.bounds != metric.bounds:
            raise ValueError(f"{name} has other bounds in the catalogue")
        self._join(metric, labels, (*histogram.counts, histogram.total))

    def join(self, other: Facts, *, counted_only: bool = False) -> None:
        """Take what another worker told too; *counted_only* what only grows, of a worker that has ended."""
        for name, series in other.values.items():
            metric = BY_NAME[name]
            if metric.is_counted or not counted_only:
                for labels, value in series.items():
                    self._join(metric, labels, value)

    def encode(self) -> bytes:
        """Write it as one line of JSON."""
        lines = {name: [[*labels, list(value)] for labels, value in series.items()] for name, series in self._items()}
        return json.dumps(lines, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """
        Read what `encode` wrote.

        Raises:
            DecodeError: it is something else.
        """
        facts = cls()
        try:
            for name, series in json.loads(line).items():
                metric = BY_NAME[name]
                for *labels, value in series:
                    facts._join(metric, tuple(map(str, labels)), tuple(map(float, value)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DecodeError("a worker's figures cannot be read: it may be of another version") from None
        return facts

    def _items(self) -> list[tuple[str, dict[tuple[str, ...], Value]]]:
        return list(self.values.items())

    def _join(self, metric: Metric, labels: tuple[str, ...], value: Value) -> None:
        if len(labels) != len(metric.labels) or len(value) != _width(metric):
            raise ValueError(f"{metric.name} takes the labels {metric.labels} and {_width(metric)} numbers")
        series = self.values.setdefault(metric.name, {})
        held = series.get(labels)
        if held is None and len(series) >= SERIES_MAX:
            labels = (OTHER,) * len(labels)
            held = series.get(labels)
        if held is None:
            series[labels] = value
            return
        join = _JOINS[metric.join if metric.kind is Kind.GAUGE else Join.SUM]
        series[labels] = tuple(join(one, other) for one, other in zip(held, value, strict=True))


def _width(metric: Metric) -> int:
    return len(metric.bounds) + 2 if metric.kind is Kind.HISTOGRAM else 1
