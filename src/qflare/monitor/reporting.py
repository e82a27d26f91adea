"""From suspicions to incidents: sightings with their events, ready for the store."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Final

from qflare.model.event import SecurityEventType
from qflare.model.ids import ID_BYTES, IncidentId
from qflare.model.incident import Sighting
from qflare.model.signal import Signal
from qflare.protocol.new_event import new_event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qflare.model.event import NewEvent
    from qflare.model.ids import DeviceId, DeviceRef
    from qflare.monitor.suspicions import Suspicion
    from qflare.protocol.entry import EntryVault
    from qflare.protocol.leaf import JsonValue

_TYPES: Final = {
    Signal.FORGED_MESSAGES: SecurityEventType.AUTHENTICATION_FAILURE,
    Signal.BROKEN_MESSAGES: SecurityEventType.TAMPER_DETECTED,
    Signal.BAD_TICKETS: SecurityEventType.TAMPER_DETECTED,
    Signal.REPLAYS: SecurityEventType.REPLAY_DETECTED,
    Signal.DEAD_BUCKETS: SecurityEventType.REPLAY_DETECTED,
    Signal.LOG_ALTERED: SecurityEventType.TAMPER_DETECTED,
    Signal.AUDIT_LAG: SecurityEventType.SYSTEM,
    Signal.CLOCK_SKEW: SecurityEventType.SYSTEM,
    Signal.KEY_NOT_DESTROYED: SecurityEventType.SYSTEM,
    Signal.OPERATOR_ACTS: SecurityEventType.OPERATOR_ACTION,
}
"""Event type of an incident's opening; any other signal's is a policy violation."""


def make_sightings(
    suspicions: Sequence[Suspicion], names: Mapping[DeviceRef, DeviceId], *, vault: EntryVault
) -> tuple[list[Sighting], list[NewEvent], list[NewEvent]]:
    """
    Return sightings, the events of incidents opened by them, and those of incidents raised.

    Args:
        suspicions: All of one tenant.
        names: Names of devices, as far as the roster has them.
        vault: Seals what the events tell of devices.
    """
    sightings: list[Sighting] = []
    opened: list[NewEvent] = []
    raised: list[NewEvent] = []
    for each in suspicions:
        device_id = None if each.ref is None else names.get(each.ref)
        sighting = Sighting(
            incident_id=IncidentId(secrets.token_bytes(ID_BYTES)),
            signal=each.signal,
            severity=each.severity,
            ref=each.ref,
            device_id=device_id,
            first_seen_s=each.first_s,
            last_seen_s=each.last_s,
            count=each.count,
            evidence=each.evidence(),
        )
        sightings.append(sighting)
        facts: dict[str, JsonValue] = {
            "signal": each.signal.value,
            "severity": each.severity.value,
            "count": each.count,
            "evidence": json.loads(sighting.evidence),
        }
        if each.ref is not None:
            facts["ref"] = each.ref.hex()
        for events, what in (
            (opened, {"what": "incident opened", "incident_id": sighting.incident_id.hex()}),
            (raised, {"what": "incident raised"}),
        ):
            events.append(
                new_event(
                    _TYPES.get(each.signal, SecurityEventType.POLICY_VIOLATION),
                    each.severity,
                    {**facts, **what},
                    tenant_id=each.tenant_id,
                    occurred_at_ms=each.last_s * 1000,
                    device_id=device_id,
                    vault=vault,
                )
            )
    return sightings, opened, raised
