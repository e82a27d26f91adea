"""Incidents of the detector, and what it remembers, in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import BatchError, ConflictError, IllegalTransitionError, KeyNotFoundError
from qflare.model.event import EventSeverity
from qflare.model.ids import DeviceId, DeviceRef, IncidentId, TenantId
from qflare.model.incident import REVOKED, DetectorState, Incident, IncidentChange, IncidentState, require_move
from qflare.model.signal import Signal
from qflare.stores.postgres.calls import CALL_ONCE
from qflare.stores.postgres.columns import as_uuid, as_uuids
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import asyncpg

    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId
    from qflare.model.incident import Sighting

_REPORT = "incidents"


class Incidents(Connected):
    """Tables incident and detector_state."""

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
        try:
            return await self._report(tenant_id, sightings, opened, raised, call_id)
        except ConflictError as refusal:
            if refusal.constraint != CALL_ONCE:
                raise
            # This very report was committed before, and its caller did not see it.
            return ()

    async def _report(
        self,
        tenant_id: TenantId,
        sightings: Sequence[Sighting],
        opened: Sequence[NewEvent],
        raised: Sequence[NewEvent],
        call_id: CallId,
    ) -> tuple[IncidentChange, ...]:
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch(
                "report_incidents",
                transaction.tenant_id,
                as_uuids([each.incident_id for each in sightings]),
                [each.signal.value for each in sightings],
                [each.severity.value for each in sightings],
                [each.ref or b"" for each in sightings],
                [each.device_id for each in sightings],
                [each.first_seen_s for each in sightings],
                [each.last_seen_s for each in sightings],
                [each.count for each in sightings],
                [each.evidence for each in sightings],
            )
            by_subject = {(row["signal"], row["subject"]): row for row in rows}
            ordered = [by_subject[each.signal.value, each.ref or b""] for each in sightings]
            events = [
                first if row["is_opened"] else again
                for row, first, again in zip(ordered, opened, raised, strict=True)
                if row["is_opened"] or row["is_raised"]
            ]
            if events:
                await transaction.write_events(events)
            await transaction.note_call(call_id, _REPORT)
        return tuple(
            IncidentChange(
                incident_id=IncidentId(row["incident_id"].bytes),
                is_opened=row["is_opened"],
                is_raised=bool(row["is_raised"]),
            )
            for row in ordered
        )

    async def list_incidents(
        self,
        tenant_id: TenantId,
        *,
        states: Collection[IncidentState] | None = None,
        limit: int,
        after: IncidentId | None = None,
    ) -> tuple[Incident, ...]:
        """Return up to *limit* incidents of *states*, the last seen first, from the one after *after* on."""
        wanted = [state.value for state in (IncidentState if states is None else states)]
        start = None if after is None else as_uuid(after)
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("list_incidents", transaction.tenant_id, wanted, limit, start)
        return tuple(_incident(row) for row in rows)

    async def find_incident(self, tenant_id: TenantId, incident_id: IncidentId) -> Incident | None:
        """Return one incident of the tenant, or None."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("find_incident", transaction.tenant_id, as_uuid(incident_id))
        return None if row is None else _incident(row)

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
        async with self._connections.transaction(tenant_id) as transaction:
            key = (transaction.tenant_id, as_uuid(incident_id))
            row = await transaction.fetch_row("lock_incident", *key)
            if row is None:
                raise KeyNotFoundError("no such incident in this tenant; list_incidents() shows those there are")
            found = _incident(row)
            if found.state is state:
                return found
            require_move(found.state, state)
            moved = await transaction.fetch_row("move_incident", *key, state.value, note, by)
            revoked = await transaction.fetch_row("count_revoked_operators", transaction.tenant_id, [by])
            if revoked is not None and revoked["operators"]:
                raise IllegalTransitionError(REVOKED)
            await transaction.write_events([event])
        return found if moved is None else _incident(moved)

    async def count_incidents(self, tenant_id: TenantId) -> dict[tuple[str, str, str], int]:
        """Return how many incidents that are not closed there are by (signal, severity, state)."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("count_incidents", transaction.tenant_id)
        return {(row["signal"], row["severity"], row["state"]): row["incidents"] for row in rows}

    async def find_detector_state(self, tenant_id: TenantId) -> DetectorState | None:
        """Return what was saved last, or None."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("find_detector_state", transaction.tenant_id)
        if row is None:
            return None
        return DetectorState(version=row["state_version"], state=row["state"], saved_at=row["saved_at"])

    async def save_detector_state(self, tenant_id: TenantId, state: bytes, *, after: int) -> bool:
        """Save what is to be remembered if version *after* (0: none) stands still; False, and nothing, if not."""
        async with self._connections.transaction(tenant_id) as transaction:
            return await transaction.fetch_row("save_detector_state", transaction.tenant_id, state, after) is not None

    async def count_out_of_service(self, tenant_id: TenantId) -> int:
        """Return how many of the tenant's devices are suspended, deactivated, compromised or destroyed."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("count_out_of_service", transaction.tenant_id)
        devices: int = 0 if row is None else row["devices"]
        return devices

    async def database_time_ms(self) -> int:
        """Return the database's clock, which all workers share, in milliseconds since the Unix epoch."""
        row = await self._connections.get_row("database_time_ms")
        now_ms: int = row["now_ms"]
        return now_ms


def _incident(row: asyncpg.Record) -> Incident:
    device_id: str | None = row["device_id"]
    return Incident(
        incident_id=IncidentId(row["incident_id"].bytes),
        tenant_id=TenantId(row["tenant_id"].bytes),
        signal=Signal(row["signal"]),
        severity=EventSeverity(row["severity"]),
        ref=DeviceRef(row["subject"]) if row["subject"] else None,
        device_id=None if device_id is None else DeviceId(device_id),
        first_seen_at=row["first_seen_at"],
        last_seen_at=row["last_seen_at"],
        count=row["seen"],
        evidence=row["evidence"],
        state=IncidentState(row["state"]),
        changed_at=row["changed_at"],
        note=row["note"],
        changed_by=row["changed_by"],
    )
