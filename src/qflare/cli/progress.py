"""How far a long check has come, on stderr: a line that moves on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
from typing import Final

from qflare.clock import SystemClock

_TERMINAL_EVERY_S: Final = 0.2
_PLAIN_EVERY_S: Final = 5.0
_NS: Final = 1_000_000_000


class Progress:
    """
    Shows (done, in all) of one piece of work; silent where nobody asked and stderr is no terminal.

    Args:
        verb: What is being done, such as "checked".
        is_wanted: Whether to show it where stderr is no terminal.
    """

    def __init__(self, verb: str, *, is_wanted: bool) -> None:
        self._verb = verb
        self._is_terminal = sys.stderr.isatty()
        self._is_shown = is_wanted or self._is_terminal
        self._clock = SystemClock()
        self._next_ns = 0
        self._width = 0

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show that *done* entries are done, of *total* if that is known."""
        now_ns = self._clock.monotonic_ns()
        is_last = done == total
        if not self._is_shown or (now_ns < self._next_ns and not is_last):
            return
        every_s = _TERMINAL_EVERY_S if self._is_terminal else _PLAIN_EVERY_S
        self._next_ns = now_ns + int(every_s * _NS)
        text = f"{self._verb} {done:,} entries"
        if total is not None:
            text = f"{self._verb} {done:,} of {total:,} entries"
        if self._is_terminal:
            print(f"\r{text:{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = max(self._width, len(text))
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line, so that what comes next stands by itself."""
        if self._width:
            print(f"\r{'':{self._width}}\r", end="", file=sys.stderr, flush=True)
            self._width = 0
