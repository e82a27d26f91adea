"""What is remembered of one tenant's devices as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.signal import Signal
from qflare.monitor.parameters import ANNOUNCEMENT_RULE, FLEET_RULES
from qflare.monitor.rates import FleetRate

if TYPE_CHECKING:
    from qflare.monitor.opinion import Opinion


class Fleet:
    """What is remembered of one tenant as a whole."""

    def __init__(self, number: int) -> None:
        """Be the tenant with that number."""
        self.number = number
        self.rates: dict[Signal, FleetRate] = {}
        self.announcements = FleetRate()
        self.traffic = 0
        """Messages taken in the minute that is open."""
        self.traffic_minute = 0
        self.half_open = 0
        """Hellos of the minute that is open beyond the handshakes finished in it; below 0 where those of the minute
        before, or of another worker, were finished."""
        self.opinion: Opinion | None = None
        self.unusual: int | None = None
        """How unusual the last minute was, in percent, if there is an opinion about it."""
        self.unshared = [0, 0]
        """Messages taken, and hellos beyond handshakes finished, of which the other workers were not told yet."""

    def took(self, minute: int) -> None:
        """Count a message that was taken."""
        if minute != self.traffic_minute:
            self.close_minute(minute)
        self.traffic += 1
        self.unshared[0] += 1

    def close_minute(self, minute: int) -> None:
        """Close the minute with its traffic, before another is counted in."""
        if minute > self.traffic_minute:
            self.judge_half_open(self.traffic_minute * 60)
            if self.opinion is not None and self.traffic_minute:
                counts = {
                    signal: rate.count for signal, rate in self.rates.items() if rate.minute == self.traffic_minute
                }
                self.unusual = self.opinion.judge(counts, traffic=self.traffic)
            for signal, rate in self.rates.items():
                rate.pass_to(FLEET_RULES[signal], minute, traffic=self.traffic)
            self.announcements.pass_to(ANNOUNCEMENT_RULE, minute, traffic=self.traffic)
            self.traffic, self.traffic_minute, self.half_open = 0, minute, 0

    def judge_half_open(self, at_s: int) -> float:
        """Return the score of handshakes begun and not finished."""
        rate = self.rates.get(Signal.HALF_OPEN)
        if rate is None:
            if self.half_open <= 0:
                return 0.0
            rate = self.rates[Signal.HALF_OPEN] = FleetRate()
        rule = FLEET_RULES[Signal.HALF_OPEN]
        rate.pass_to(rule, at_s // 60, traffic=self.traffic)
        return rate.add(rule, at_s=at_s, traffic=self.traffic, count=self.half_open - rate.count)
