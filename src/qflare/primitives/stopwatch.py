"""Who is told how long calls into C took: nobody, unless a server asks for it."""

from __future__ import annotations

from typing import Protocol


class Stopwatch(Protocol):
    """Takes times from any thread; it brings its own clock, since this floor reads none."""

    def now_ns(self) -> int:
        """Return nanoseconds that only grow, above 0."""

    def note(self, operation: str, rows: int, elapsed_ns: int) -> None:
        """Take one call of *operation* over *rows* rows."""


# One for the process, as the engine is.
_watch: Stopwatch | None = None


def watch_with(watch: Stopwatch | None) -> None:
    """Tell *watch* of every call from now on; None ends it."""
    global _watch  # noqa: PLW0603  # the one setting of this module
    _watch = watch


def begun() -> int:
    """Return when a call begins, 0 where nobody watches."""
    return 0 if _watch is None else _watch.now_ns()


def ended(operation: str, rows: int, begun_ns: int) -> None:
    """Say that the call that began at *begun_ns* is over."""
    if begun_ns and _watch is not None:
        _watch.note(operation, rows, _watch.now_ns() - begun_ns)
