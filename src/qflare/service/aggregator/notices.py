"""Log lines about refused requests: exact, without secrets, and bounded, so that a flood does not fill the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qflare.clock import Clock

_log = logging.getLogger("qflare.service.aggregator")
PER_MINUTE: Final = 60
"""Most lines a minute for one step and reason; the next minute's first line counts what was left out."""
_MINUTE_NS: Final = 60 * 10**9
_KINDS_MAX: Final = 1024
"""Steps and reasons are few; beyond this the oldest is forgotten."""


class Notices:
    """One worker's lines about what it did not take."""

    def __init__(self, clock: Clock, *, per_minute: int = PER_MINUTE, log: logging.Logger = _log) -> None:
        """Begin with nothing said; write to *log*."""
        self._log = log
        self._clock = clock
        self._per_minute = per_minute
        self._windows: dict[tuple[str, str], list[int]] = {}
        """By step and reason: when its minute began, lines written in it, lines left out since the last."""

    def say(self, level: int, step: str, reason: str, detail: str = "") -> None:
        """Write one line, or count it; lines that differ in *detail* alone are of one kind."""
        if not self._log.isEnabledFor(level):
            return
        now_ns = self._clock.monotonic_ns()
        window = self._windows.get((step, reason))
        if window is None:
            if len(self._windows) >= _KINDS_MAX:
                self._windows.pop(next(iter(self._windows)))
            window = self._windows[step, reason] = [now_ns, 0, 0]
        if now_ns - window[0] >= _MINUTE_NS:
            window[0], window[1] = now_ns, 0
        if window[1] >= self._per_minute:
            window[2] += 1
            return
        window[1] += 1
        left_out, window[2] = window[2], 0
        more = f" ({left_out} lines like this were left out)" if left_out else ""
        self._log.log(level, "%s not taken: %s%s%s", step, reason, f": {detail}" if detail else "", more)
