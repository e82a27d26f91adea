"""
Rates: a CUSUM in continuous time for one device, and EWMA and CUSUM by the minute for a fleet; constant memory each.

Source: E. S. Page, Continuous inspection schemes, 1954 (CUSUM); S. W. Roberts, Control chart tests based on geometric
moving averages, 1959 (EWMA).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.monitor.parameters import FLEET_ALPHA, FLEET_SLACK, FLEET_USUAL_MAX

if TYPE_CHECKING:
    from qflare.model.event import EventSeverity
    from qflare.monitor.parameters import FleetRule, Ladder

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600.0


def fallen(score: float, *, allowed: float, elapsed_s: float) -> float:
    """Return a CUSUM's score after *elapsed_s* without an observation; *allowed* is an hour's."""
    return max(0.0, score - allowed * max(0.0, elapsed_s) / _HOUR_S)


def severity_of(ladder: Ladder, score: float) -> EventSeverity | None:
    """Return the severity of the highest rung that *score* reaches, None below the first."""
    reached = None
    for rung, severity in ladder:
        if score >= rung:
            reached = severity
    return reached


@dataclass(slots=True)
class FleetRate:
    """One signal of one tenant."""

    minute: int = 0
    """The one that is counted in, since the Unix epoch."""
    count: float = 0.0
    usual: float = 0.0
    """EWMA of a minute's count."""
    score: float = 0.0
    """CUSUM over the minutes before this one."""

    def add(self, rule: FleetRule, *, at_s: int, traffic: int, count: float = 1.0) -> float:
        """
        Count *count* observations and return the score.

        Args:
            rule: How the rate is judged.
            at_s: When, Unix seconds; a clock that falls back counts in the minute that is open.
            traffic: Messages taken in this minute.
            count: May be below 0, where something counted before has turned out to be nothing.
        """
        self.pass_to(rule, at_s // _MINUTE_S, traffic=traffic)
        self.count = max(0.0, self.count + count)
        return self.score + max(0.0, self.count - self._allowed(rule, traffic))

    def pass_to(self, rule: FleetRule, minute: int, *, traffic: int) -> None:
        """Close the minutes before *minute*; *traffic* is that of the one that is open."""
        if minute <= self.minute:
            return
        if self.minute:
            is_usual = self.score < rule.ladder[0][0] / 2
            self.score = max(0.0, self.score + self.count - self._allowed(rule, traffic))
            if is_usual:
                # What comes while something is wrong must not become usual.
                most = FLEET_USUAL_MAX * rule.allowed
                self.usual = min(most, self.usual + FLEET_ALPHA * (self.count - self.usual))
            quiet = minute - self.minute - 1
            if quiet > 0:
                self.score = max(0.0, self.score - quiet * rule.allowed)
                self.usual *= (1.0 - FLEET_ALPHA) ** min(quiet, 10_000)
        self.minute, self.count = minute, 0.0

    def _allowed(self, rule: FleetRule, traffic: int) -> float:
        return rule.allowed + rule.share * traffic + FLEET_SLACK * self.usual
