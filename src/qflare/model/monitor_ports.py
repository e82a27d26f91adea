"""Ports of the monitor's detector: what it hears from the manager, and where incidents and its state are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from qflare.model.event import NewEvent
from qflare.model.ids import CallId, IncidentId, TenantId, WorkerId
from qflare.model.incident import DetectorState, Incident, IncidentChange, IncidentState, Sighting
from qflare.model.share import Share, WorkerClock


class IncidentStore(Protocol):
    """Incidents and what the detector remembers; every method is one transaction inside one tenant."""

    async def report_incidents(
        self,
        tenant_id: TenantId,
        sightings: Sequence[Sighting],
        *,
        opened: Sequence[NewEvent],
        raised: Sequence[NewEvent],
        call_id: CallId,
    ) -> tuple[IncidentChange, ...]:
        """
        Add each sighting to the incident of its signal and device that is not closed, or open one.

        Args:
            tenant_id: Whose incidents.
            sightings: No two of the same signal and device.
            opened: One event each, written where an incident is opened.
            raised: One event each, written where an incident's severity rises.
            call_id: Names this report: repeated, it changes nothing and returns nothing.

        Raises:
            BatchError: sightings and events are not as many.
        """

    async def list_incidents(
        self,
        tenant_id: TenantId,
        *,
        states: Collection[IncidentState] | None = None,
        limit: int,
        after: IncidentId | None = None,
    ) -> tuple[Incident, ...]:
        """Return up to *limit* incidents of *states*, the last seen first, from the one after *after* on."""

    async def find_incident(self, tenant_id: TenantId, incident_id: IncidentId) -> Incident | None:
        """Return one incident of the tenant, or None."""

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
        """
        Have an operator change an incident's state, and write *event*; return it as it stands.

        An incident that has that state already is returned as it is, and nothing is written.

        Raises:
            IllegalTransitionError: it is closed, no state may go there, or the operator was revoked.
            KeyNotFoundError: there is no such incident or operator in this tenant.
        """

    async def count_incidents(self, tenant_id: TenantId) -> dict[tuple[str, str, str], int]:
        """Return how many incidents that are not closed there are by (signal, severity, state)."""

    async def find_detector_state(self, tenant_id: TenantId) -> DetectorState | None:
        """Return what was saved last, or None."""

    async def save_detector_state(self, tenant_id: TenantId, state: bytes, *, after: int) -> bool:
        """Save what is to be remembered if version *after* (0: none) stands still; False, and nothing, if not."""

    async def count_out_of_service(self, tenant_id: TenantId) -> int:
        """Return how many of the tenant's devices are suspended, deactivated, compromised or destroyed."""

    async def database_time_ms(self) -> int:
        """Return the database's clock, which all workers share, in milliseconds since the Unix epoch."""


class ShareStore(Protocol):
    """What the workers' detectors tell each other; it belongs to the cluster, and is forgotten after minutes."""

    async def exchange_shares(
        self, worker_id: WorkerId, shares: Sequence[Share], *, after: Mapping[WorkerId, int], keep_s: int, limit: int
    ) -> tuple[Share, ...]:
        """
        Add a worker's *shares*, and return what others shared.

        Args:
            worker_id: Whose exchange it is; its own shares are not returned.
            shares: Its own, in order; one that stands already is not added again.
            after: The number of the last share that is known of each other worker; 0 of those that are not named.
            keep_s: Age at which a share is forgotten, whoever wrote it.
            limit: Most shares returned, the lowest numbers of each worker first.
        """

    async def exchange_clocks(self, worker_id: WorkerId, *, offset_ms: int, keep_s: int) -> tuple[WorkerClock, ...]:
        """Note how far a worker's clock is off, and return what others noted within *keep_s* seconds."""
