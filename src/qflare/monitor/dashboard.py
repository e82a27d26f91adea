"""Figures for people: what `get_security_dashboard_data` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from qflare.model.event import SignedCheckpoint
    from qflare.model.statistics import KeyStatistics


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
    statistics: KeyStatistics
    log_size: int
    checkpoint: SignedCheckpoint | None
    """The largest signed head of the log."""
    keeper_promise: str | None
    """None if destroyed keys are gone from the medium, else why that is not promised (PROTOCOL R8)."""
