"""Figures for people: what `get_security_dashboard_data` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from qflare.model.event import SignedCheckpoint
    from qflare.model.incident import Incident
    from qflare.model.statistics import KeyStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorFigures:
    """The state of one worker's detector."""

    taken: int
    """Observations looked at since the worker opened."""
    waiting: int
    dropped: int
    """Observations that were dropped because too many waited; exact."""
    devices_evicted: int
    """Devices forgotten because more were active than are remembered."""
    folded: int
    """Observations of devices that went into their fleet's incident: too many would have had one of their own."""
    reported: int
    """Sightings that stand in incidents."""
    unreported: int
    """Sightings that wait for the database."""
    left_out: int
    """Observations of devices that the other workers were not told of: there were too many at once; and of others,
    what could not be read."""
    looks: int
    """Looks at clocks, keys and the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityDashboard:
    """The state of one tenant's security at one moment."""

    generated_at: datetime
    window_s: int
    """How far back `events` reaches."""
    events: dict[tuple[str, str], int]
    """Logged events by (event type, severity)."""
    refusals: dict[tuple[str, str], int]
    """Refused messages by (step, reason), of this worker since it started, all tenants."""
    events_left_out: int
    """Refusals whose event was left out of the log to bound it."""
    incidents: dict[tuple[str, str, str], int]
    """Incidents that are not closed, by (signal, severity, state)."""
    incidents_latest: tuple[Incident, ...]
    """Those of them that were seen last, at most 20."""
    detector: DetectorFigures | None
    """Of this worker; None where detection is off, or where no manager runs beside this monitor."""
    statistics: KeyStatistics
    log_size: int
    checkpoint: SignedCheckpoint | None
    """The largest signed head of the log."""
    keeper_promise: str | None
    """None if destroyed keys are gone from the medium, else why that is not promised (PROTOCOL R8)."""
