"""`SecurityMonitor`: the signed log of security events, its proofs, and figures for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qflare.clock import Clock, utc
from qflare.errors import QflareError, UsageError
from qflare.manager.settings import ManagerSettings
from qflare.model.event import AuditEntry, EventSeverity, LoggedEvent, SecurityEventType, SignedCheckpoint
from qflare.model.ids import DEFAULT_TENANT, DeviceId, IncidentId, TenantId
from qflare.model.incident import NOTE_BYTES_MAX, Incident, IncidentState
from qflare.model.observation import UPDATE, Observation
from qflare.monitor.audit import LogReport, verify_log
from qflare.monitor.audit_state import AuditState
from qflare.monitor.dashboard import DetectorFigures, SecurityDashboard
from qflare.monitor.disclosing import disclose
from qflare.monitor.erasure import ErasurePlan, erase_device, plan_erasure
from qflare.monitor.events import draft_of, each_event, security_event
from qflare.monitor.held import HeldReceipt
from qflare.monitor.known import Reference
from qflare.monitor.norms import is_norm
from qflare.monitor.proof import EventProof, prove_event
from qflare.protocol.entry import open_entry
from qflare.protocol.identity import device_ref
from qflare.protocol.log_key import LogKey
from qflare.protocol.new_event import Draft
from qflare.service.archived_entries import ArchivedEntry, open_archived
from qflare.service.arguments import (
    as_call_id,
    as_identifier,
    as_list,
    as_tenant,
    require_kind,
    require_name,
    require_text,
    require_whole,
)
from qflare.service.assembly import Engine, Foundation, Place, open_foundation
from qflare.service.covered import covered
from qflare.service.opening import Opening
from qflare.service.operator_calls import require_operator_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    import asyncpg

    from qflare.manager.log import Log
    from qflare.model.keeper_ports import Keeper
    from qflare.protocol.disclosure import Disclosure
    from qflare.protocol.leaf import JsonValue

LIST_MAX = 10_000
WINDOW_S_MAX = 366 * 86_400
_INCIDENTS_SHOWN = 20
_STANDING = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)


class SecurityMonitor:
    """
    Logs security events and proves them, by itself or beside a key manager (`QuantumKeyManager.monitor`).

    Use it as ``async with``, or as it stands: the first await opens it, and forgetting to close it is a
    ResourceWarning.

    Args:
        dsn_or_pool: As for `QuantumKeyManager`.
        data_dir: As for `QuantumKeyManager`.
        tenant: In whose log the events stand.
        config: Bounds and widths.
        clock: What tells the time.
        keeper: Where sealing keys are kept, if not in files.
    """

    def __init__(
        self,
        dsn_or_pool: str | asyncpg.Pool | None = None,
        *,
        data_dir: str | Path | None = None,
        tenant: TenantId = DEFAULT_TENANT,
        config: ManagerSettings | None = None,
        clock: Clock | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        chosen = as_tenant(tenant)
        settings = config or ManagerSettings()
        place = Place(database=dsn_or_pool, data_dir=None if data_dir is None else Path(data_dir), keeper=keeper)

        @asynccontextmanager
        async def opener() -> AsyncIterator[Foundation]:
            async with open_foundation(place, settings=settings, clock=clock) as foundation:
                yield foundation

        self._tenant = chosen
        self._opening: Opening[Foundation] | None = Opening("SecurityMonitor", opener)
        self._engine: Callable[[], Awaitable[Engine]] | None = None
        self._engine_log: Callable[[], Awaitable[Log]] | None = None

    @classmethod
    def beside(
        cls, engine: Callable[[], Awaitable[Engine]], log: Callable[[], Awaitable[Log]], *, tenant: TenantId
    ) -> SecurityMonitor:
        """Return a monitor on a key manager's own parts; closing it does nothing."""
        monitor = object.__new__(cls)
        monitor._tenant = tenant
        monitor._opening = None
        monitor._engine = engine
        monitor._engine_log = log
        return monitor

    async def open(self) -> None:
        """Open it now rather than at the first call."""
        await self._foundation()

    async def close(self) -> None:
        """Close what was opened; safe to call twice."""
        if self._opening is not None:
            await self._opening.close()

    async def __aenter__(self) -> Self:
        """Open it."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    def __del__(self) -> None:
        """Warn if it was forgotten."""
        opening = getattr(self, "_opening", None)
        if opening is not None:
            opening.warn_if_forgotten(self)

    def __repr__(self) -> str:
        """Say the tenant."""
        return f"<SecurityMonitor of tenant {self._tenant.hex()}>"

    # --- events -----------------------------------------------------------------------------------

    async def log_security_event(
        self,
        event_type: SecurityEventType,
        severity: EventSeverity,
        data: Mapping[str, JsonValue],
        *,
        device_id: str | None = None,
        call_id: bytes | None = None,
    ) -> LoggedEvent:
        """
        Append an event to the audit log and return where it stands, with its receipt.

        Args:
            event_type: What it is about.
            severity: How much an operator should care.
            data: A dict of text, integers, booleans, None, lists and dicts, at most 16 KiB as JSON; no secrets: the log
                is kept for ever.
            device_id: The device it is about.
            call_id: 16 random bytes that name this change: repeated with them, within a day, it returns the entry
                of the first time.

        Raises:
            ConflictError: *call_id* was used for another event.
            StoreUnavailableError: the database did not answer; `outcome_unknown` says whether the entry may stand.
            UsageError: *data* cannot stand in the log; the message names the key.
        """
        change = as_call_id(call_id)
        name = None if device_id is None else require_name(device_id)
        foundation = await self._foundation()
        draft = Draft(event_type, severity, data, name)
        (event,) = each_event([draft], clock=foundation.clock)
        # WHY: what is refused may be a secret, and error reporters show a frame's locals.
        del data, draft
        if isinstance(event, UsageError):
            raise event
        return await foundation.log.log_event(self._tenant, event, call_id=change)

    async def log_security_events_many(
        self,
        events: Sequence[tuple[SecurityEventType, EventSeverity, Mapping[str, JsonValue], str | None]],
        *,
        call_id: bytes | None = None,
    ) -> tuple[LoggedEvent | QflareError, ...]:
        """
        Append many (event type, severity, data, device_id or None), with one signature a batch; one result each.

        An event that cannot stand in the log is a `UsageError` in its place, and the others are logged.
        With *call_id* the same events in the same order again are the entries of the first time.

        Raises:
            UsageError: *events* is no sequence.
        """
        change = as_call_id(call_id)
        given: object = events
        if not isinstance(given, Sequence) or isinstance(given, str | bytes):
            raise UsageError("events must be a sequence of (event type, severity, data, device_id or None)")
        foundation = await self._foundation()
        made = each_event([draft_of(item) for item in events], clock=foundation.clock)
        del events, given  # as above
        good = [event for event in made if not isinstance(event, UsageError)]
        logged = await foundation.log.log_events(self._tenant, good, call_id=change)
        if len(good) == len(made):
            return tuple(logged)
        left = iter(logged)
        return tuple(event if isinstance(event, UsageError) else next(left) for event in made)

    async def list_events(self, *, first: int = 0, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Return the tenant's entries from index *first* on, sessions among them."""
        require_whole(first, name="first", is_needed=True)
        require_whole(limit, name="limit", is_needed=True)
        if not 1 <= limit <= LIST_MAX or first < 0:
            raise UsageError(f"first must be 0 or more and limit 1 to {LIST_MAX}, got {first} and {limit}")
        foundation = await self._foundation()
        entries = await foundation.deadline.of(foundation.store.list_entries(self._tenant, first=first, limit=limit))
        return tuple(open_entry(entry, foundation.entry_keys) for entry in entries)

    async def open_archived(self, entries: Sequence[ArchivedEntry]) -> tuple[ArchivedEntry, ...]:
        """
        Open the tenant's entries in archives that are about devices, with the keys that the database still has.

        Raises:
            EvidenceError: a key does not open its entry.
            UsageError: something else than such entries was passed.
        """
        archived = as_list(entries, name="entries")
        for each in archived:
            require_kind(each, ArchivedEntry, name="an entry", remedy="pass what read_archived() returned")
        foundation = await self._foundation()
        sealed = [each.entry.index for each in archived if each.is_sealed]
        keys = await foundation.deadline.of(foundation.store.find_entry_keys(self._tenant, sealed))
        return tuple(open_archived(archived, keys, foundation.entry_keys))

    async def log_size(self) -> int:
        """Return how many entries the log has, of all tenants."""
        foundation = await self._foundation()
        return (await foundation.deadline.of(foundation.store.log_head())).size

    async def identity(self) -> bytes:
        """Return the server's ``root vk ‖ CERT`` as it is served (A1): what names the log and its key."""
        return (await self._foundation()).identity.public.served

    async def identities(self) -> tuple[bytes, ...]:
        """Return every ``root vk ‖ CERT`` that was in force, newest first; evidence holds under that of its time."""
        identity = (await self._foundation()).identity
        return tuple(identity.public.root_key + each.encoded for each in identity.certificates)

    # --- proofs -----------------------------------------------------------------------------------

    async def verify_event_integrity(self, event: int | LoggedEvent) -> EventProof:
        """
        Prove that an entry stands in the log, unaltered, under a signed head.

        Args:
            event: Its index, or what `log_security_event` returned: then its receipt is checked too.

        Raises:
            EvidenceError: it does not; `index` is the entry's.
            KeyNotFoundError: there is no such entry in this tenant, and nothing says that there was.
        """
        if type(event) is not int and not isinstance(event, LoggedEvent):
            raise UsageError("pass the entry's index, or the LoggedEvent that log_security_event() returned")
        foundation = await self._foundation()
        return await foundation.deadline.of(
            prove_event(
                event,
                tenant_id=self._tenant,
                store=foundation.store,
                log=foundation.log,
                vault=foundation.entry_keys,
                certificate=foundation.identity.certificate,
                earlier=foundation.identity.certificates[1:],
            )
        )

    async def disclose_event(
        self, index: int, *, fields: Sequence[str] = (), device: bool = False, tenant: bool = False
    ) -> Disclosure:
        """
        Prove chosen fields of an entry to a third party, and hide the others.

        Args:
            index: The entry's.
            fields: Keys of its data that are shown; time, type and severity always are.
            device: Whether the device is shown, or that there is none.
            tenant: Whether the tenant is shown.

        Raises:
            EvidenceError: the entry does not stand in the log, unaltered.
            KeyNotFoundError: there is no such entry in this tenant.
            KeyStateError: the entry is erased.
            UsageError: it is a session's or older than committed fields, or has not one of *fields*.
        """
        if type(index) is not int or isinstance(fields, str):
            raise UsageError("pass the entry's index, and fields as a list of names")
        proof = await self.verify_event_integrity(index)
        foundation = await self._foundation()
        return disclose(
            proof,
            vault=foundation.entry_keys,
            identity=foundation.identity.public,
            names=fields,
            shows_device=device,
            shows_tenant=tenant,
        )

    # --- erasure ----------------------------------------------------------------------------------

    async def plan_device_erasure(self, device_id: str) -> ErasurePlan:
        """Say how many of the log's entries about a device erasing it would erase, and change nothing."""
        name = require_name(device_id)
        foundation = await self._foundation()
        return await foundation.deadline.of(
            plan_erasure(self._tenant, name, store=foundation.store, vault=foundation.entry_keys)
        )

    @covered
    async def erase_device_entries(self, device_id: str) -> ErasurePlan:
        """
        Destroy what opens the log's entries about a device, for good; the tree and every proof stay valid.

        Device, roster and sessions stay as they are, and what is logged about the device from now on is a new entry.
        Called again it goes on where it was interrupted, and does nothing where nothing is left.

        Raises:
            ConflictError: somebody else erases the same entries just now.
            StoreUnavailableError: the database did not answer; call again.
        """
        name = require_name(device_id)
        foundation = await self._foundation()
        return await erase_device(
            self._tenant,
            name,
            store=foundation.store,
            vault=foundation.entry_keys,
            clock=foundation.clock,
        )

    async def checkpoint(self) -> SignedCheckpoint:
        """Sign the log as it stands and return the signed head."""
        return await (await self._foundation()).log.checkpoint()

    async def verify_log(
        self,
        *,
        deep: bool = True,
        receipts: Sequence[HeldReceipt] = (),
        references: Sequence[Reference] = (),
        since: SignedCheckpoint | None = None,
        resume: AuditState | None = None,
        note_state: Callable[[AuditState], None] | None = None,
        now_s: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> LogReport:
        """
        Check the whole log of all tenants; needs a login that may become the auditor.

        Args:
            deep: Also compare every stored node of the tree and the hashes of dropped entries, and check every head.
            receipts: What devices hold; each must lead to the log as it is now.
            references: Leaf hashes of copies that were kept, with which the first bad entry is exact.
            since: A signed head that was kept: the log must go on from it, and only what came since is read.
            resume: Where an earlier check was interrupted.
            note_state: Told after each page how far the check has come.
            now_s: When this check began, for what is noted.
            progress: Told (entries done, entries in all).

        Raises:
            EvidenceError: the log does not hold; `index` is the first bad entry where one is known.
            LogForkError: the log does not go on from *since*.
        """
        held = as_list(receipts, name="receipts")
        for receipt in held:
            require_kind(receipt, HeldReceipt, name="a receipt", remedy="pass a list of HeldReceipt")
        kept = as_list(references, name="references")
        for reference in kept:
            require_kind(reference, Reference, name="a reference", remedy="pass a list of Reference")
        if since is not None:
            require_kind(since, SignedCheckpoint, name="since", remedy="pass what checkpoint() returned")
        if resume is not None:
            require_kind(resume, AuditState, name="resume", remedy="pass what note_state was told")
        for name, told in (("note_state", note_state), ("progress", progress)):
            if told is not None and not callable(told):
                raise UsageError(f"{name} must be a function, got {type(told).__name__}")
        require_whole(now_s, name="now_s", is_needed=True)
        foundation = await self._foundation()
        return await verify_log(
            store=foundation.store,
            keys=[LogKey.of(each) for each in foundation.identity.certificates],
            vault=foundation.entry_keys,
            runner=foundation.offload,
            receipts=held,
            references=kept,
            is_deep=deep,
            since=since,
            resume=resume,
            note_state=note_state,
            now_s=now_s,
            progress=progress,
        )

    # --- incidents --------------------------------------------------------------------------------

    async def list_incidents(
        self, *, states: Collection[IncidentState] | None = None, limit: int = 100, after: bytes | None = None
    ) -> tuple[Incident, ...]:
        """
        Return the tenant's incidents, the last seen first.

        Args:
            states: Those wanted; all if not given.
            limit: Most of them, 1 to 10,000.
            after: Go on after the incident with this id.
        """
        if type(limit) is not int or not 1 <= limit <= LIST_MAX:
            raise UsageError(f"limit must be 1 to {LIST_MAX}, got {limit!r}")
        for state in () if states is None else as_list(states, name="states"):
            require_kind(state, IncidentState, name="a state", remedy="pass a list of IncidentState")
        last = None if after is None else IncidentId(as_identifier(after, name="after"))
        foundation = await self._foundation()
        return await foundation.deadline.of(
            foundation.store.list_incidents(self._tenant, states=states, limit=limit, after=last)
        )

    async def find_incident(self, incident_id: bytes) -> Incident | None:
        """Return one incident of the tenant by its 16 bytes, or None."""
        wanted = IncidentId(as_identifier(incident_id, name="incident_id"))
        foundation = await self._foundation()
        return await foundation.deadline.of(foundation.store.find_incident(self._tenant, wanted))

    @covered
    async def move_incident(self, incident_id: bytes, state: IncidentState, *, by: str, note: str = "") -> Incident:
        """
        Acknowledge, open again or close an incident, with an event in the log; return it as it stands.

        Args:
            incident_id: Its 16 bytes.
            state: What it becomes; an incident that is closed stays so, and the same again opens another.
            by: The operator who does it; that it is them is for the caller to see to, with `check_operator`.
            note: What is to be said about it, at most 1000 bytes; no secrets: the log is kept for ever.

        Raises:
            IllegalTransitionError: it is closed, or the operator was revoked.
            KeyNotFoundError: there is no such incident or operator in this tenant.
            UsageError: *note* is too long, or *by* no name.
        """
        if not isinstance(state, IncidentState):
            raise UsageError("state is an IncidentState")
        wanted = IncidentId(as_identifier(incident_id, name="incident_id"))
        require_operator_name(by)
        require_text(note, name="note")
        if len(note.encode()) > NOTE_BYTES_MAX:
            raise UsageError(f"the note has {len(note.encode())} bytes, at most {NOTE_BYTES_MAX}: log an event instead")
        foundation = await self._foundation()
        found = await foundation.deadline.of(foundation.store.find_incident(self._tenant, wanted))
        event = security_event(
            SecurityEventType.OPERATOR_ACTION,
            EventSeverity.INFO,
            {"what": f"incident {state.value}", "incident_id": wanted.hex(), "by": by, "note": note},
            tenant_id=self._tenant,
            # What is said of a device goes with it when it is erased.
            device_id=None if found is None else found.device_id,
            clock=foundation.clock,
            vault=foundation.entry_keys,
        )
        return await foundation.deadline.of(
            foundation.store.move_incident(self._tenant, wanted, state, by=by, note=note, event=event)
        )

    async def note_update_norms(self, norms: Mapping[str, float]) -> None:
        """
        Tell the detector the norms of devices' updates, which it compares with each device's own history.

        What it finds is a hint of poisoning and no proof: docs/detection.md says what it misses.

        Args:
            norms: By device_id, each a finite number above 0, such as the L2 norm of an update before it is averaged.

        Raises:
            UsageError: a norm is no such number; the message names the device. Nothing was noted.
        """
        require_kind(norms, Mapping, name="norms", remedy="pass a dict of norms by device_id")
        for device_id, norm in norms.items():
            require_name(device_id)
            if not is_norm(norm):
                raise UsageError(f"the norm of {device_id!r} must be a finite number above 0, got {norm!r}")
        foundation = await self._foundation()
        foundation.refusals.observations.note(
            [
                Observation(UPDATE, None, self._tenant, device_ref(self._tenant, DeviceId(device_id)), value=norm)
                for device_id, norm in norms.items()
            ]
        )

    # --- figures ----------------------------------------------------------------------------------

    async def get_security_dashboard_data(self, *, window_s: int = 86_400) -> SecurityDashboard:
        """Return the tenant's figures; events of the last *window_s* seconds."""
        if type(window_s) is not int or not 1 <= window_s <= WINDOW_S_MAX:
            raise UsageError(f"window_s must be 1 to {WINDOW_S_MAX} seconds, got {window_s!r}")
        foundation = await self._foundation()
        store, now_s = foundation.store, foundation.clock.now_s()
        wait = foundation.deadline.of
        bucket = await wait(store.bucket_mark())
        return SecurityDashboard(
            generated_at=utc(now_s),
            window_s=window_s,
            events=await wait(store.count_events(self._tenant, since_s=now_s - window_s)),
            refusals={(step, reason.value): count for (step, reason), count in foundation.refusals.counts.items()},
            events_left_out=foundation.refusals.events_left_out,
            incidents=await wait(store.count_incidents(self._tenant)),
            incidents_latest=await wait(store.list_incidents(self._tenant, states=_STANDING, limit=_INCIDENTS_SHOWN)),
            detector=await self._detector_figures(),
            statistics=await wait(store.count_keys(self._tenant, bucket=bucket)),
            log_size=(await wait(store.log_head())).size,
            checkpoint=await wait(store.latest_checkpoint()),
            keeper_promise=await foundation.offload.run(foundation.keeper.promise),
        )

    async def _detector_figures(self) -> DetectorFigures | None:
        if self._engine is None:
            return None
        detection = (await self._engine()).detection
        return None if detection is None else detection.figures

    async def _log(self) -> Log:
        """Return the log under which changes are answered (`covered`)."""
        if self._engine_log is not None:
            return await self._engine_log()
        foundation = await self._foundation() if self._opening is None else self._opening.held()
        foundation.marks.require_same()
        return foundation.log

    async def _foundation(self) -> Foundation:
        if self._engine is not None:
            return (await self._engine()).foundation
        if self._opening is None:
            raise UsageError("this SecurityMonitor was not made by its constructor or by a key manager")
        foundation = await self._opening.get()
        foundation.marks.require_same()
        return foundation
