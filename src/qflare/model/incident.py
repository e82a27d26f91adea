"""Incidents: what the detector found, one record for all that is the same, until somebody closes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from qflare.errors import IllegalTransitionError
from qflare.model.event import EventSeverity
from qflare.model.ids import DeviceId, DeviceRef, IncidentId, TenantId
from qflare.model.signal import Signal

EVIDENCE_BYTES_MAX: Final = 4096
"""Most bytes of an incident's evidence, as canonical JSON."""
NOTE_BYTES_MAX: Final = 1000
"""Most bytes of what somebody says about a change of state."""

REVOKED: Final = "the operator who asks for this was revoked"

SEVERITIES: Final = (
    EventSeverity.DEBUG,
    EventSeverity.INFO,
    EventSeverity.WARNING,
    EventSeverity.ERROR,
    EventSeverity.CRITICAL,
)
"""From the least to the most."""


class IncidentState(StrEnum):
    """How far people are with it."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"
    """For good: the same again opens another incident."""


MOVES: Final[dict[IncidentState, frozenset[IncidentState]]] = {
    IncidentState.OPEN: frozenset({IncidentState.ACKNOWLEDGED, IncidentState.CLOSED}),
    IncidentState.ACKNOWLEDGED: frozenset({IncidentState.OPEN, IncidentState.CLOSED}),
    IncidentState.CLOSED: frozenset(),
}
"""Where each state may go."""


def require_move(found: IncidentState, state: IncidentState) -> None:
    """Raise `IllegalTransitionError` unless an incident may go from *found* to *state*."""
    if state not in MOVES[found]:
        raise IllegalTransitionError(f"an incident that is {found.value} cannot become {state.value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What the detector saw since it last told: on its way into an incident."""

    incident_id: IncidentId
    """16 random bytes: the incident's if none of its kind is open."""
    signal: Signal
    severity: EventSeverity
    ref: DeviceRef | None
    """The device, or None: the fleet of the tenant."""
    device_id: DeviceId | None
    """Its name where the roster has it."""
    first_seen_s: int
    last_seen_s: int
    count: int
    """How many observations, 1 or more."""
    evidence: bytes
    """Canonical JSON of public facts, at most `EVIDENCE_BYTES_MAX`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One row: the same signal about the same device of one tenant, until it is closed."""

    incident_id: IncidentId
    tenant_id: TenantId
    signal: Signal
    severity: EventSeverity
    """The highest that was seen."""
    ref: DeviceRef | None
    """The device, or None: the fleet of the tenant."""
    device_id: DeviceId | None
    first_seen_at: datetime
    last_seen_at: datetime
    count: int
    evidence: bytes
    """Canonical JSON, of the last sighting of the highest severity."""
    state: IncidentState
    changed_at: datetime
    """When its state was last changed; when it was opened if never."""
    note: str
    """What was said at the last change of state; empty if nothing was."""
    changed_by: str | None
    """The operator who last changed the state; None if nobody did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentChange:
    """What a report of sightings did to one incident."""

    incident_id: IncidentId
    is_opened: bool
    """None of its kind was open."""
    is_raised: bool
    """It stood, with a lower severity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorState:
    """What the detector knows of one tenant, as it was saved."""

    version: int
    """Counts the saves: whoever saves names the version that was read."""
    state: bytes
    saved_at: datetime
