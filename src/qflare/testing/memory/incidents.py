"""Incidents of the detector, and what it remembers, in memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.errors import BatchError, IllegalTransitionError, KeyNotFoundError
from qflare.model.device import KeyState
from qflare.model.incident import (
    EVIDENCE_BYTES_MAX,
    NOTE_BYTES_MAX,
    REVOKED,
    SEVERITIES,
    DetectorState,
    Incident,
    IncidentChange,
    IncidentState,
    require_move,
)
from qflare.model.operator import OperatorState
from qflare.testing.memory.constraints import require, require_ids, require_numbers, require_size, require_text
from qflare.testing.memory.entries import Logging

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId, IncidentId, TenantId
    from qflare.model.incident import Sighting

_STATE_BYTES_MAX: Final = 2**20
_NAME_BYTES_MAX: Final = 255


class Incidents(Logging):
    """Incidents and the detector's state."""

    async def report_incidents(
        self,
        tenant_id: TenantId,
        sightings: Sequence[Sighting],
        *,
        opened: Sequence[NewEvent],
        raised: Sequence[NewEvent],
        call_id: CallId,
    ) -> tuple[IncidentChange, ...]:
        """Add each sighting to the incident of its signal and device that is not closed, or open one."""
        if len(opened) != len(sightings) or len(raised) != len(sightings):
            raise BatchError(f"{len(sightings)} sightings need as many events of each kind")
        if not sightings:
            return ()
        async with self._transaction(tenant_id, call_id) as tables:
            if tenant_id not in tables.tenants:
                raise KeyNotFoundError("no such tenant; create it first")
            if self._carried_out(tenant_id, call_id) is not None:
                return ()
            changes = [self._add(tenant_id, sighting) for sighting in sightings]
            self._write_events(
                tenant_id,
                [
                    first if change.is_opened else again
                    for change, first, again in zip(changes, opened, raised, strict=True)
                    if change.is_opened or change.is_raised
                ],
            )
            self._note_call(tenant_id, call_id)
            return tuple(changes)

    def _add(self, tenant_id: TenantId, sighting: Sighting) -> IncidentChange:
        tables = self._tables
        require_ids(sighting.incident_id)
        require_size(sighting.ref, "incident_subject_size", 32)
        require_text(sighting.device_id, "incident_device_id_size", 1, _NAME_BYTES_MAX)
        require(sighting.first_seen_s <= sighting.last_seen_s, "incident_seen_in_order")
        require(sighting.count >= 1, "incident_seen_range")
        require_size(sighting.evidence, "incident_evidence_size", 2, EVIDENCE_BYTES_MAX)
        first, last = utc(sighting.first_seen_s), utc(sighting.last_seen_s)
        old = next(
            (
                row
                for row in tables.incidents.values()
                if (row.tenant_id, row.signal, row.ref) == (tenant_id, sighting.signal, sighting.ref)
                and row.state is not IncidentState.CLOSED
            ),
            None,
        )
        if old is None:
            row = Incident(
                incident_id=sighting.incident_id,
                tenant_id=tenant_id,
                signal=sighting.signal,
                severity=sighting.severity,
                ref=sighting.ref,
                device_id=sighting.device_id,
                first_seen_at=first,
                last_seen_at=last,
                count=sighting.count,
                evidence=sighting.evidence,
                state=IncidentState.OPEN,
                changed_at=self._now,
                note="",
                changed_by=None,
            )
            require(tables.incidents.put_new((tenant_id, row.incident_id), row), "incident_pkey")
            return IncidentChange(incident_id=row.incident_id, is_opened=True, is_raised=False)
        new, was = SEVERITIES.index(sighting.severity), SEVERITIES.index(old.severity)
        row = replace(
            old,
            severity=sighting.severity if new > was else old.severity,
            evidence=sighting.evidence if new >= was else old.evidence,
            device_id=old.device_id if old.device_id is not None else sighting.device_id,
            first_seen_at=min(old.first_seen_at, first),
            last_seen_at=max(old.last_seen_at, last),
            count=old.count + sighting.count,
        )
        tables.incidents.put((tenant_id, row.incident_id), row)
        return IncidentChange(incident_id=row.incident_id, is_opened=False, is_raised=new > was)

    async def list_incidents(
        self,
        tenant_id: TenantId,
        *,
        states: Collection[IncidentState] | None = None,
        limit: int,
        after: IncidentId | None = None,
    ) -> tuple[Incident, ...]:
        """Return up to *limit* incidents of *states*, the last seen first, from the one after *after* on."""
        require_numbers(limit)
        async with self._transaction(tenant_id, *([] if after is None else [after])) as tables:
            wanted = set(IncidentState) if states is None else set(states)
            mine = [row for row in tables.incidents.values() if row.tenant_id == tenant_id]
            rows = sorted(mine, key=_order, reverse=True)
            if after is not None:
                start = tables.incidents.get((tenant_id, after))
                rows = [] if start is None else [row for row in rows if _order(row) < _order(start)]
            return tuple([row for row in rows if row.state in wanted][:limit])

    async def find_incident(self, tenant_id: TenantId, incident_id: IncidentId) -> Incident | None:
        """Return one incident of the tenant, or None."""
        async with self._transaction(tenant_id, incident_id) as tables:
            return tables.incidents.get((tenant_id, incident_id))

    async def move_incident(
        self,
        tenant_id: TenantId,
        incident_id: IncidentId,
        state: IncidentState,
        *,
        by: str,
        note: str,
        event: NewEvent,
    ) -> Incident:
        """Have an operator change an incident's state, and write *event*; return it as it stands."""
        async with self._transaction(tenant_id, incident_id) as tables:
            found = tables.incidents.get((tenant_id, incident_id))
            if found is None:
                raise KeyNotFoundError("no such incident in this tenant; list_incidents() shows those there are")
            if found.state is state:
                return found
            require_move(found.state, state)
            require_text(note, "incident_note_size", 0, NOTE_BYTES_MAX)
            operator = tables.operators.get((tenant_id, by))
            if operator is None:
                raise KeyNotFoundError("no such operator in this tenant: add one with  qflare operator add")
            if operator.state is not OperatorState.ACTIVE:
                raise IllegalTransitionError(REVOKED)
            moved = replace(found, state=state, note=note, changed_by=by, changed_at=self._now)
            tables.incidents.put((tenant_id, incident_id), moved)
            self._write_events(tenant_id, [event])
            return moved

    async def count_incidents(self, tenant_id: TenantId) -> dict[tuple[str, str, str], int]:
        """Return how many incidents that are not closed there are by (signal, severity, state)."""
        async with self._transaction(tenant_id) as tables:
            return dict(
                Counter(
                    (row.signal.value, row.severity.value, row.state.value)
                    for row in tables.incidents.values()
                    if row.tenant_id == tenant_id and row.state is not IncidentState.CLOSED
                )
            )

    async def find_detector_state(self, tenant_id: TenantId) -> DetectorState | None:
        """Return what was saved last, or None."""
        async with self._transaction(tenant_id) as tables:
            return tables.detector_states.get(tenant_id)

    async def save_detector_state(self, tenant_id: TenantId, state: bytes, *, after: int) -> bool:
        """Save what is to be remembered if version *after* (0: none) stands still; False, and nothing, if not."""
        async with self._transaction(tenant_id) as tables:
            if tenant_id not in tables.tenants:
                raise KeyNotFoundError("no such tenant; create it first")
            require_size(state, "detector_state_size", 1, _STATE_BYTES_MAX)
            found = tables.detector_states.get(tenant_id)
            if found is not None and found.version != after:
                return False
            version = 1 if found is None else found.version + 1
            tables.detector_states.put(tenant_id, DetectorState(version=version, state=state, saved_at=self._now))
            return True

    async def count_out_of_service(self, tenant_id: TenantId) -> int:
        """Return how many of the tenant's devices are suspended, deactivated, compromised or destroyed."""
        async with self._transaction(tenant_id) as tables:
            rows = [row for row in tables.devices.values() if row.tenant_id == tenant_id]
            return sum(row.state not in (KeyState.ACTIVE, KeyState.PRE_ACTIVE) for row in rows)

    async def database_time_ms(self) -> int:
        """Return the store's clock, in milliseconds since the Unix epoch."""
        async with self._transaction() as tables:
            return tables.clock.now_ms()


def _order(row: Incident) -> tuple[object, bytes]:
    return row.last_seen_at, row.incident_id
