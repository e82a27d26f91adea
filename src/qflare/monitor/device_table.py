"""What is remembered of each device: a few numbers in a table of a fixed size, at a constant cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.model.signal import Signal
from qflare.monitor.columns import zero_floats, zero_integers
from qflare.monitor.parameters import (
    DEVICE_RULES,
    DEVICES_MAX,
    SOFT_ALPHA,
    SOFT_SLACK,
    SOFT_USUAL_MAX,
)
from qflare.monitor.rates import fallen

if TYPE_CHECKING:
    from qflare.model.ids import DeviceRef

SCORED: Final = (
    Signal.FORGED_MESSAGES,
    Signal.REPLAYS,
    Signal.DEAD_BUCKETS,
    Signal.USE_AFTER_REVOCATION,
    Signal.CLONE,
    Signal.HALF_OPEN,
    Signal.BROKEN_RANDOMNESS,
)
"""Signals with a score of their own, in the order of their columns."""
_SOFT: Final = frozenset({Signal.REPLAYS, Signal.DEAD_BUCKETS})
"""What bad links and long sleep do too: judged against the device's own usual rate."""
_WAYS: Final = 4
_HOUR_S: Final = 3600.0


def device_key(ref: DeviceRef) -> int:
    """Return 64 bits of a device's name, which is a hash; never 0."""
    return int.from_bytes(ref[:8], "little") or 1


class DeviceTable:
    """
    Rows of numbers, found by the device's key among four places.

    Args:
        places: Rows, a power of two and at least four.
    """

    def __init__(self, places: int = DEVICES_MAX) -> None:
        self._mask = places // _WAYS - 1
        self.keys = zero_integers("Q", places)
        self.tenants = zero_integers("H", places)
        """Number of the tenant, as the detector counts them."""
        self.seen_s = zero_integers("I", places)
        """When the device was last heard of, Unix seconds."""
        self.fallen_s = zero_integers("I", places)
        """Up to when the scores have fallen."""
        self.sessions = zero_integers("Q", places)
        """1 + log index of the newest session that carried a record."""
        self.scores = tuple(zero_floats(places) for _ in SCORED)
        self.usual = zero_floats(places)
        """Repetitions and stale messages an hour that are usual for this device (EWMA)."""
        self.norm_mean = zero_floats(places)
        self.norm_variance = zero_floats(places)
        self.norms = zero_floats(places)
        """Updates that the two before are of."""
        self.places = places
        self.evicted = 0
        """Devices that made room for others."""
        self._columns = {signal: number for number, signal in enumerate(SCORED)}
        self._half_open = self.scores[SCORED.index(Signal.HALF_OPEN)]
        self._rules = tuple(DEVICE_RULES[signal] for signal in SCORED)

    def row_of(self, key: int, *, tenant: int, at_s: int) -> int:
        """Return the device's row, a new one if it has none, and note that it was heard of."""
        keys = self.keys
        first = (key & self._mask) * _WAYS
        for row in (first, first + 1, first + 2, first + 3):
            if keys[row] == key:
                self.seen_s[row] = at_s
                return row
        row = min(range(first, first + _WAYS), key=self.seen_s.__getitem__)
        if keys[row]:
            self.evicted += 1
            self._clear(row)
        keys[row], self.tenants[row] = key, tenant
        self.seen_s[row] = self.fallen_s[row] = at_s
        return row

    def find(self, key: int) -> int | None:
        """Return the device's row, None if it has none."""
        first = (key & self._mask) * _WAYS
        return next((row for row in range(first, first + _WAYS) if self.keys[row] == key), None)

    def add(self, row: int, signal: Signal, *, at_s: int, weight: float = 1.0) -> float:
        """Let all scores of a row fall to *at_s*, add *weight* to that of *signal*, and return it."""
        self.fall(row, at_s)
        column = self.scores[self._columns[signal]]
        score = max(0.0, column[row] + weight)
        column[row] = score
        if signal in _SOFT:
            self.usual[row] = min(SOFT_USUAL_MAX, self.usual[row] + SOFT_ALPHA * weight)
        return score

    def begin(self, row: int, *, at_s: int) -> float:
        """Count a handshake begun, and return the score of those without an end."""
        if self._half_open[row] == 0.0:
            # What every honest handshake does; the score is lower by one at most for not falling here.
            self._half_open[row] = 1.0
            return 1.0
        return self.add(row, Signal.HALF_OPEN, at_s=at_s)

    def end(self, row: int, *, at_s: int) -> bool:
        """Take back a handshake begun: it has ended; False if none was begun that is known of."""
        score = self._half_open[row]
        if score <= 1.0:
            self._half_open[row] = 0.0
        else:
            self.add(row, Signal.HALF_OPEN, at_s=at_s, weight=-1.0)
        return score > 0.0

    def fall(self, row: int, at_s: int) -> None:
        """Let the scores of a row fall to *at_s*; a clock that fell back lets none fall."""
        elapsed_s = at_s - self.fallen_s[row]
        if elapsed_s <= 0:
            return
        usual = self.usual[row]
        for number, column in enumerate(self.scores):
            if column[row]:
                allowed = self._rules[number].allowed
                if SCORED[number] in _SOFT:
                    allowed += SOFT_SLACK * usual
                column[row] = fallen(column[row], allowed=allowed, elapsed_s=elapsed_s)
        if usual:
            self.usual[row] = usual * (1.0 - SOFT_ALPHA) ** (elapsed_s / _HOUR_S)
        self.fallen_s[row] = at_s

    def score(self, row: int, signal: Signal) -> float:
        """Return a score as it stands."""
        return float(self.scores[self._columns[signal]][row])

    def _clear(self, row: int) -> None:
        for column in (*self.scores, self.usual, self.norm_mean, self.norm_variance, self.norms):
            column[row] = 0.0
        self.keys[row] = self.sessions[row] = self.tenants[row] = 0
