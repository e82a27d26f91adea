"""How often somebody may guess: few times a name, more over all names, and one is forgiven after the other."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qflare.clock import Clock

NAMES_MAX: Final = 1024
"""Names remembered; beyond it the one that was tried longest ago is forgotten, and the bound over all names holds."""
NAME_FORGIVEN_S: Final = 60.0
ALL_FORGIVEN_S: Final = 2.0
_NS: Final = 10**9


class _Bucket:
    """Fills by one with each guess and leaks at a constant rate."""

    __slots__ = ("_at_ns", "_forgiven_s", "_level", "_most")

    def __init__(self, most: int, forgiven_s: float, now_ns: int) -> None:
        self._most = most
        self._forgiven_s = forgiven_s
        self._level = 0.0
        self._at_ns = now_ns

    def wait_s(self, now_ns: int) -> float:
        """Return for how long no guess is free; 0 if one is."""
        self._leak(now_ns)
        return max(0.0, (self._level + 1 - self._most) * self._forgiven_s)

    def add(self, now_ns: int) -> None:
        self._leak(now_ns)
        self._level += 1

    def take_back(self, now_ns: int) -> None:
        self._leak(now_ns)
        self._level = max(0.0, self._level - 1)

    def _leak(self, now_ns: int) -> None:
        passed_s = max(0, now_ns - self._at_ns) / _NS
        self._level = max(0.0, self._level - passed_s / self._forgiven_s)
        self._at_ns = now_ns


class Guesses:
    """
    Counts guesses before they are looked at, so that many at once do not slip through; a right one is taken back.

    Who floods the page with guesses keeps others from logging in meanwhile; who is logged in stays so.
    """

    def __init__(self, clock: Clock, *, name_max: int, all_max: int) -> None:
        """Start with nothing guessed."""
        self._clock = clock
        self._name_max = name_max
        self._all = _Bucket(all_max, ALL_FORGIVEN_S, clock.monotonic_ns())
        self._names: OrderedDict[str, _Bucket] = OrderedDict()

    def begin(self, name: str) -> int:
        """Count a guess for *name* and return 0, or return after how many seconds one may be made."""
        now_ns = self._clock.monotonic_ns()
        bucket = self._names.get(name) or _Bucket(self._name_max, NAME_FORGIVEN_S, now_ns)
        wait_s = max(bucket.wait_s(now_ns), self._all.wait_s(now_ns))
        if wait_s > 0:
            return math.ceil(wait_s)
        bucket.add(now_ns)
        self._all.add(now_ns)
        self._names[name] = bucket
        self._names.move_to_end(name)
        while len(self._names) > NAMES_MAX:
            self._names.popitem(last=False)
        return 0

    def was_right(self, name: str) -> None:
        """Take the guess back: it was none, and nothing before it counts against the name."""
        self._names.pop(name, None)
        self._all.take_back(self._clock.monotonic_ns())
