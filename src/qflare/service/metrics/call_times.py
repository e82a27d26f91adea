"""How long calls into C took in this process; its threads share one lock, held for one count a call."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from qflare.model.histogram import Histogram
from qflare.primitives.stopwatch import watch_with
from qflare.service.metrics.catalogue import CALL_SECONDS

if TYPE_CHECKING:
    from qflare.service.metrics.facts import Facts

_NS: Final = 1_000_000_000


class CallTimes:
    """The process's stopwatch (`qflare.primitives.stopwatch`)."""

    def __init__(self) -> None:
        """Hold no time yet."""
        self._lock = threading.Lock()
        self._seconds: dict[str, Histogram] = {}
        self._rows: dict[str, int] = {}

    now_ns = staticmethod(time.perf_counter_ns)

    def note(self, operation: str, rows: int, elapsed_ns: int) -> None:
        """Count one call."""
        with self._lock:
            histogram = self._seconds.get(operation)
            if histogram is None:
                histogram = self._seconds[operation] = Histogram(CALL_SECONDS)
                self._rows[operation] = 0
            histogram.observe(elapsed_ns / _NS)
            self._rows[operation] += rows

    def tell(self, facts: Facts) -> None:
        """Put what was counted into *facts*."""
        with self._lock:
            for operation, histogram in self._seconds.items():
                facts.add_histogram("qflare_call_seconds", histogram, operation)
                facts.add("qflare_call_rows_total", self._rows[operation], operation)


_TIMES: Final = CallTimes()


def watch_calls() -> None:
    """Take the times of this process's calls from now on."""
    watch_with(_TIMES)


def tell_calls(facts: Facts) -> None:
    """Put the times of this process's calls into *facts*; none unless `watch_calls` was called."""
    _TIMES.tell(facts)
