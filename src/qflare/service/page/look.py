"""One look at all that an operator's page shows: one tenant's own, and what belongs to the whole cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.errors import KeyNotFoundError, UsageError
from qflare.model.event import EventSeverity
from qflare.model.incident import IncidentState
from qflare.model.response import ResponseState
from qflare.protocol.log import (
    consistency_path,
    inclusion_path,
    nodes_for_consistency,
    nodes_for_path,
)
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from datetime import datetime

    from qflare.model.device import Device
    from qflare.model.event import AuditEntry, SignedCheckpoint
    from qflare.model.ids import TenantId
    from qflare.model.incident import Incident
    from qflare.model.key_record import KeyRecord
    from qflare.model.response import Response
    from qflare.model.statistics import KeyStatistics
    from qflare.service.assembly import Engine
    from qflare.service.exchange import Readiness
    from qflare.service.key_manager import QuantumKeyManager

DEVICES: Final = 20
BUCKETS: Final = 6
INCIDENTS: Final = 20
RESPONSES: Final = 6
EVENTS: Final = 10
WARNINGS: Final = 12
AMONG: Final = 5000
"""Entries looked back for events: behind so many handshakes an event is no news any more."""
FORGET_S: Final = 60
"""Longest time for which an entry is shown as it was read."""
BARS: Final = 48
READY_S: Final = 2.0
_GRAVE: Final = frozenset({EventSeverity.WARNING, EventSeverity.ERROR, EventSeverity.CRITICAL})
_ALL: Final = frozenset(EventSeverity)
_PROPOSED: Final = frozenset({ResponseState.PROPOSED})
_NOT_CLOSED: Final = frozenset({IncidentState.OPEN, IncidentState.ACKNOWLEDGED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look saw."""

    at: datetime
    readiness: Readiness
    statistics: KeyStatistics
    devices: tuple[Device, ...]
    """The first ones in order of name."""
    width_s: int
    buckets: tuple[KeyRecord, ...]
    """Keys of the newest buckets, destroyed ones too, newest first."""
    is_destruction_promised: bool
    """Whether the keeper's medium forgets what is destroyed (PROTOCOL R8)."""
    begun: dict[int, int]
    """Sessions that began in each of the last buckets; the last is the present one."""
    incidents: tuple[Incident, ...]
    """Those not closed, the last seen first."""
    incident_count: int
    """How many there are that are not closed."""
    responses: tuple[Response, ...]
    """Those that wait for people first, then the others, each the last asked for first."""
    warnings: tuple[AuditEntry, ...]
    """The newest events that are warnings or worse, newest first."""
    events: tuple[AuditEntry, ...]
    """The newest events of any severity, newest first; entries of sessions are none."""
    log_size: int
    head: SignedCheckpoint | None
    """The largest signed head."""
    origin: str
    """The log's name in its heads."""


class Look(TenantView):
    """One tenant, seen through the manager of the worker that serves the page."""

    def __init__(self, manager: QuantumKeyManager, tenant_id: TenantId) -> None:
        """Look at *tenant_id* alone."""
        self.manager = manager.for_tenant(tenant_id)
        self._entries: dict[frozenset[EventSeverity], dict[int, AuditEntry]] = {}
        """What was read before, of each list."""
        self._read_ns = 0

    @property
    def tenant(self) -> TenantId:
        """Whose page it is, 16 bytes."""
        return self.manager.tenant

    async def _engine(self) -> Engine:
        return await self.manager._engine()  # noqa: SLF001 - a view of it, as those that are mixed into it

    async def name(self) -> str:
        """Return the tenant's name; `KeyNotFoundError` if it is gone."""
        for tenant_id, name in await self.manager.list_tenants():
            if tenant_id == self.tenant:
                return name
        raise KeyNotFoundError("there is no such tenant any more")

    async def see(self) -> Seen:
        """Look once; every wait is bounded by the manager's `store_timeout_s`."""
        engine = await self._engine()
        foundation = engine.foundation
        store, wait, settings = foundation.store, foundation.deadline.of, foundation.settings
        readiness = await self.manager.readiness(timeout_s=READY_S)
        statistics = await self.manager.get_key_statistics()
        bars = min(BARS, settings.lifetime)
        last = statistics.bucket + settings.lifetime - 1
        ended = await wait(store.count_sessions(self.tenant, first=last - bars + 1, last=last))
        counts = await wait(store.count_incidents(self.tenant))
        return Seen(
            at=utc(foundation.clock.now_s()),
            readiness=readiness,
            statistics=statistics,
            devices=await wait(store.list_devices(self.tenant, limit=DEVICES)),
            width_s=settings.bucket_width_s,
            buckets=await wait(store.list_bucket_records(limit=BUCKETS)),
            is_destruction_promised=await foundation.offload.run(foundation.keeper.promise) is None,
            begun={
                bucket: ended.get(bucket + settings.lifetime - 1, 0)
                for bucket in range(statistics.bucket - bars + 1, statistics.bucket + 1)
            },
            incidents=await wait(store.list_incidents(self.tenant, states=_NOT_CLOSED, limit=INCIDENTS)),
            incident_count=sum(counts.values()),
            responses=await self._responses(),
            warnings=await self._latest(_GRAVE, WARNINGS),
            events=await self._latest(_ALL, EVENTS),
            log_size=statistics.log_size,
            head=await wait(store.latest_checkpoint()),
            origin=foundation.identity.certificate.log_origin,
        )

    async def _responses(self) -> tuple[Response, ...]:
        """Return what waits for people, which must not be pushed out by what does not, and the newest others."""
        foundation = (await self._engine()).foundation
        store, wait = foundation.store, foundation.deadline.of
        now = utc(foundation.clock.now_s())
        proposed = await wait(store.list_responses(self.tenant, states=_PROPOSED, limit=RESPONSES))
        waiting = tuple(each for each in proposed if each.expires_at > now)
        newest = await wait(store.list_responses(self.tenant, limit=RESPONSES))
        shown = {each.response_id for each in waiting}
        others = tuple(each for each in newest if each.response_id not in shown)
        return (*waiting, *others)[:RESPONSES]

    async def _latest(self, severities: frozenset[EventSeverity], limit: int) -> tuple[AuditEntry, ...]:
        """Return the newest events; entries never change, so that only new ones are read, and now and then all."""
        foundation = (await self._engine()).foundation
        now_ns = foundation.clock.monotonic_ns()
        if now_ns - self._read_ns > FORGET_S * 10**9:
            # A subject may have been erased meanwhile: then its entries open no more, and are not shown from memory.
            self._entries, self._read_ns = {}, now_ns
        indexes = await foundation.deadline.of(
            foundation.store.latest_events(self.tenant, severities=severities, limit=limit, among=AMONG)
        )
        known, found = self._entries.get(severities, {}), {}
        for index in indexes:
            if index in known:
                found[index] = known[index]
            else:
                (found[index],) = await self.manager.monitor.list_events(first=index, limit=1)
        self._entries[severities] = found
        return tuple(found.values())

    # --- proofs -----------------------------------------------------------------------------------

    async def head(self) -> tuple[str, SignedCheckpoint | None]:
        """Return the log's name and its largest signed head."""
        foundation = (await self._engine()).foundation
        head = await foundation.deadline.of(foundation.store.latest_checkpoint())
        return foundation.identity.certificate.log_origin, head

    async def prove_events(self, size: int) -> tuple[tuple[AuditEntry, tuple[bytes, ...]], ...]:
        """Return the entries of both lists that stand below *size*, each with its inclusion path in that tree."""
        foundation = (await self._engine()).foundation
        await self._require_size(size)
        shown = {
            entry.index: entry
            for entry in (*await self._latest(_GRAVE, WARNINGS), *await self._latest(_ALL, EVENTS))
            if entry.index < size
        }
        events = [shown[index] for index in sorted(shown)]
        wanted = list({node for entry in events for node in nodes_for_path(entry.index, size)})
        nodes = await foundation.deadline.of(foundation.store.find_nodes(wanted)) if wanted else {}
        return tuple((entry, inclusion_path(entry.index, size, nodes)) for entry in events)

    async def prove_consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """
        Return the proof that the log of *new_size* entries begins with that of *old_size*.

        Raises:
            UsageError: there are no such sizes.
        """
        foundation = (await self._engine()).foundation
        await self._require_size(new_size)
        if not 0 <= old_size <= new_size:
            raise UsageError("the older log is no larger than the newer one")
        wanted = nodes_for_consistency(old_size, new_size)
        nodes = await foundation.deadline.of(foundation.store.find_nodes(wanted)) if wanted else {}
        return consistency_path(old_size, new_size, nodes)

    async def _require_size(self, size: int) -> None:
        foundation = (await self._engine()).foundation
        present = (await foundation.deadline.of(foundation.store.log_head())).size
        if not 1 <= size <= present:
            raise UsageError(f"the log has {present} entries")
