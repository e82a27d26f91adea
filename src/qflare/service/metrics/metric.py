"""What one metric is: its name, kind and labels, and how the values of several workers become one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus's types that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Join(StrEnum):
    """What becomes of a gauge that several workers tell; counters and histograms are always summed."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of the catalogue."""

    name: str
    kind: Kind
    help: str
    """One sentence, which is what stands in docs/operations.md too."""
    labels: tuple[str, ...] = ()
    join: Join = Join.SUM
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram."""

    @property
    def is_counted(self) -> bool:
        """Whether it only grows: then what an ended worker told stays in the sum."""
        return self.kind is not Kind.GAUGE
