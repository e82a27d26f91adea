"""Responses to incidents: planned, asked for, wanted by operators, carried out, undone (docs/operations.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import ConflictError, IllegalTransitionError, KeyNotFoundError, KeyStateError, UsageError
from qflare.manager.deadline import Deadline
from qflare.model import reason as reasons
from qflare.model.call import call_about
from qflare.model.device import KeyState
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, CallId
from qflare.model.response import (
    ABOUT_DEVICE,
    ABOUT_SERVER,
    LIMITS,
    NEEDS_TWO,
    PER_MINUTE_MAX,
    PER_MINUTE_MIN,
    REASON_BYTES_MAX,
    REVERSIBLE,
    RULE_PREFIX,
    SHUTS_OUT,
    STATES,
    NewResponse,
    Response,
    ResponseAction,
    ResponseBounds,
    ResponsePlan,
    ResponseState,
    ResponseTarget,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from qflare.clock import Clock
    from qflare.manager.buckets import Buckets
    from qflare.manager.certificates import Certificates
    from qflare.manager.credentials import Credentials
    from qflare.manager.devices import Devices
    from qflare.manager.limits import Limits
    from qflare.manager.maintenance import Maintenance
    from qflare.manager.sessions import Sessions
    from qflare.manager.settings import ManagerSettings
    from qflare.model.device import Device
    from qflare.model.event import NewEvent
    from qflare.model.ids import IncidentId, ResponseId, TenantId
    from qflare.model.ports import Store
    from qflare.model.response import ResponseUse
    from qflare.protocol.leaf import JsonValue

TWO_PERSONS: Final = "response_two_persons"
_SESSIONS_MAX: Final = 16
_FROM: Final = {
    ResponseAction.QUARANTINE: frozenset({KeyState.ACTIVE}),
    ResponseAction.LIFT: frozenset({KeyState.SUSPENDED}),
    ResponseAction.REVOKE: frozenset({KeyState.ACTIVE, KeyState.SUSPENDED}),
    ResponseAction.ROTATE_DEVICE: frozenset({KeyState.ACTIVE}),
    ResponseAction.REKEY: frozenset({KeyState.ACTIVE}),
    ResponseAction.LIMIT_DEVICE: frozenset({KeyState.ACTIVE, KeyState.SUSPENDED}),
}
"""In which states a device may be for each action."""


class Responses:
    """One worker's way to the responses of every tenant."""

    def __init__(
        self,
        *,
        store: Store,
        devices: Devices,
        credentials: Credentials,
        sessions: Sessions,
        buckets: Buckets,
        certificates: Certificates,
        maintenance: Maintenance,
        limits: Limits,
        clock: Clock,
        bounds: ResponseBounds,
        settings: ManagerSettings,
    ) -> None:
        """Do nothing by itself: rules are the service's, operators ask through it."""
        self._store = store
        self._devices = devices
        self._credentials = credentials
        self._sessions = sessions
        self._buckets = buckets
        self._certificates = certificates
        self._maintenance = maintenance
        self._limits = limits
        self._clock = clock
        self.bounds = bounds
        """How many devices may be shut out."""
        self._width_s = settings.bucket_width_s
        self._deadline = Deadline(settings.store_timeout_s)

    # --- looking ----------------------------------------------------------------------------------

    async def plan(
        self, tenant_id: TenantId, action: ResponseAction, target: ResponseTarget, *, per_minute: int | None = None
    ) -> ResponsePlan:
        """
        Say what a response would do now, and change nothing.

        Raises:
            KeyNotFoundError: there is no such device.
            UsageError: the target is not one for this action.
        """
        require_target(tenant_id, action, target, per_minute)
        needs_two = action in NEEDS_TWO
        obstacle: str | None = None
        if action in ABOUT_DEVICE:
            device = await self._device(tenant_id, target)
            before = device.state.value
            if device.state not in _FROM[action]:
                obstacle = f"the device is {before}"
            would, count = await self._would(tenant_id, action, device, per_minute)
            if action in SHUTS_OUT and not needs_two:
                use = await self.use(tenant_id)
                needs_two = use.single_last_hour >= self.bounds.single_hour_max
        elif action is ResponseAction.TURN:
            bucket = await self._buckets.refresh()
            before, count = str(bucket), 1
            would = f"turn to bucket {bucket + 1} now; the keys of bucket {bucket - 1} are destroyed, in flight or not"
            obstacle = self._turn_obstacle(bucket)
        elif action is ResponseAction.ROTATE_IDENTITY:
            report = await self._certificates.report()
            before, count = str(report.certificate.serial), 2
            would = "replace the server's announce and log key; those before stay good for two buckets"
            if report.is_root_offline:
                obstacle = "the root is kept offline: use  qflare identity request"
        else:
            before, count = "", 1
            whom = "all devices of the tenant together" if target.source is None else f"address {target.source}"
            would = f"take at most {per_minute} messages a minute, all workers together, of {whom}"
            if action is ResponseAction.NOTIFY:
                would = "send the incident to the webhook"
        return ResponsePlan(
            action=action,
            target=target,
            is_reversible=action in REVERSIBLE,
            needs_two=needs_two,
            would=would,
            count=count,
            before=before,
            obstacle=obstacle,
        )

    async def _would(
        self, tenant_id: TenantId, action: ResponseAction, device: Device, per_minute: int | None
    ) -> tuple[str, int]:
        name = device.device_id
        if action is ResponseAction.LIMIT_DEVICE:
            return f"take at most {per_minute} authentic messages a minute, all workers together, of {name!r}", 1
        if action is ResponseAction.ROTATE_DEVICE:
            return f"mark key version {device.key_version} of {name!r} as due; it rotates when it next asks", 1
        if action is ResponseAction.LIFT:
            return f"let {name!r} begin sessions again", 1
        live = await self._deadline.of(self._store.list_sessions(tenant_id, limit=_SESSIONS_MAX, ref=device.ref))
        if action is ResponseAction.REKEY:
            return f"end {len(live)} live sessions of {name!r}, which agrees on fresh keys at its next contact", len(
                live
            )
        for_good = " for good" if action is ResponseAction.REVOKE else " until that is undone"
        return f"shut {name!r} out{for_good}, and end its {len(live)} live sessions", 1

    async def use(self, tenant_id: TenantId) -> ResponseUse:
        """Return how much of the bounds is used."""
        return await self._deadline.of(self._store.count_response_use(tenant_id))

    async def get(self, tenant_id: TenantId, response_id: ResponseId) -> Response:
        """Return one response; `KeyNotFoundError` if there is none."""
        found = await self._deadline.of(self._store.find_response(tenant_id, response_id))
        if found is None:
            raise KeyNotFoundError("no such response in this tenant; list_responses() shows those there are")
        return found

    async def page(
        self,
        tenant_id: TenantId,
        *,
        incident_id: IncidentId | None,
        states: Collection[ResponseState] | None,
        limit: int,
        after: ResponseId | None,
    ) -> tuple[Response, ...]:
        """Return responses, the last asked for first."""
        return await self._deadline.of(
            self._store.list_responses(tenant_id, incident_id=incident_id, states=states, limit=limit, after=after)
        )

    # --- doing ------------------------------------------------------------------------------------

    async def ask(self, tenant_id: TenantId, asked: NewResponse) -> Response:
        """
        Keep what is asked for, once; nothing is done yet.

        Raises:
            ConflictError: another response has its id.
            KeyNotFoundError: no such device, incident or operator.
            UsageError: the target is not one for this action, or the reason is too long.
        """
        require_target(tenant_id, asked.action, asked.target, asked.per_minute)
        require_reason(asked.reason)
        if asked.action in ABOUT_DEVICE:
            await self._device(tenant_id, asked.target)
        event = self._event(tenant_id, "response proposed", asked, by=asked.asked_by, facts={"proven": asked.proven})
        needs_two = asked.action in NEEDS_TWO
        return await self._deadline.of(self._store.ask_response(tenant_id, asked, needs_two=needs_two, event=event))

    async def confirm(self, tenant_id: TenantId, response_id: ResponseId, *, by: str) -> Response:
        """
        Note that *by* wants it too, and carry it out if that is enough.

        Raises:
            UsageError: *by* is the one who asked, and another is needed.
        """
        found = await self.get(tenant_id, response_id)
        event = self._event(tenant_id, "response confirmed", found, by=by)
        try:
            found = await self._deadline.of(self._store.confirm_response(tenant_id, response_id, by=by, event=event))
        except ConflictError as refusal:
            if refusal.constraint != TWO_PERSONS:
                raise
            raise UsageError(f"{by!r} wants it already: another operator must confirm it") from None
        return found if found.lacks else await self.carry_out(tenant_id, found)

    async def carry_out(self, tenant_id: TenantId, found: Response, *, before: str = "") -> Response:
        """
        Do it, once, if as many operators want it as it needs; what is done elsewhere is begun, and notes *before*.

        Raises:
            ConflictError: `response_bounds`, rules may shut out no more devices now.
            IllegalTransitionError: it is over or expired, lacks operators, or cannot be done from where things stand.
        """
        if found.state is ResponseState.APPLIED:
            return found
        turn_to: int | None = None
        if found.action is ResponseAction.TURN and found.state is ResponseState.PROPOSED:
            bucket = await self._buckets.refresh()
            if (obstacle := self._turn_obstacle(bucket)) is not None:
                raise IllegalTransitionError(obstacle)
            turn_to = bucket + 1
        wanted = [name for name in (found.first_by, found.second_by) if name is not None]
        done = await self._deadline.of(
            self._store.carry_out_response(
                tenant_id,
                found.response_id,
                bounds=self.bounds,
                turn_to=turn_to,
                before=before,
                event=self._event(tenant_id, "response carried out", found, facts={"wanted_by": [*wanted]}),
                held=self._event(tenant_id, "response needs another operator", found),
            )
        )
        if done.action is ResponseAction.ROTATE_IDENTITY and done.state is ResponseState.BEGUN:
            done = await self._rotate_identity(tenant_id, done)
        await self._forget(tenant_id, done)
        return done

    async def _rotate_identity(self, tenant_id: TenantId, begun: Response) -> Response:
        call_id = call_about(CallId(begun.response_id), b"identity")
        try:
            # Once, however often it is begun: the rotation itself is known by this id.
            await self._certificates.rotate(reason=begun.reason[:_REASON_CHARS], call_id=call_id)
        except KeyStateError as failure:
            await self.end(tenant_id, begun, ResponseState.DISMISSED, because=type(failure).__name__)
            raise
        return await self.end(tenant_id, begun, ResponseState.APPLIED)

    async def end(
        self,
        tenant_id: TenantId,
        found: Response,
        state: ResponseState,
        *,
        by: str | None = None,
        because: str = "",
    ) -> Response:
        """Say what became of one that was begun, or dismiss one that was not."""
        event = self._event(tenant_id, f"response {state.value}", found, by=by, facts={"because": because})
        return await self._deadline.of(
            self._store.end_response(tenant_id, found.response_id, state, by=by, because=because, event=event)
        )

    async def undo(self, tenant_id: TenantId, response_id: ResponseId, *, by: str, because: str) -> Response:
        """
        Put back what was before.

        Raises:
            ConflictError: somebody has changed it since.
            IllegalTransitionError: it was not carried out, or nothing takes it back.
        """
        require_reason(because)
        found = await self.get(tenant_id, response_id)
        event = self._event(tenant_id, "response undone", found, by=by, facts={"because": because})
        undone = await self._deadline.of(
            self._store.undo_response(tenant_id, response_id, by=by, because=because, event=event)
        )
        await self._forget(tenant_id, undone)
        return undone

    async def _forget(self, tenant_id: TenantId, done: Response) -> None:
        """Drop what this worker remembers of what changed; the others hear of it by the commit itself."""
        ref = done.target.ref
        if ref is not None and (done.action in STATES or done.action is ResponseAction.REKEY):
            self._credentials.forget(tenant_id, ref)
            self._sessions.forget_device(tenant_id, ref)
        if done.action is ResponseAction.TURN:
            await self._maintenance.step()
        if done.action in LIMITS:
            await self._limits.reload()

    def _turn_obstacle(self, bucket: int) -> str | None:
        """Say why no early turn may be made now: two in a row would end what is in flight (A2)."""
        clock_s = self._clock.now_s()
        if bucket <= clock_s // self._width_s:
            return None
        return f"the bucket is ahead of the clock by a turn already; wait for {(bucket * self._width_s) - clock_s} s"

    async def _device(self, tenant_id: TenantId, target: ResponseTarget) -> Device:
        if target.device_id is None:
            raise UsageError("name the device")
        return await self._devices.get(tenant_id, target.device_id)

    def _event(
        self,
        tenant_id: TenantId,
        what: str,
        about: NewResponse | Response,
        *,
        by: str | None = None,
        facts: dict[str, JsonValue] | None = None,
    ) -> NewEvent:
        told: dict[str, JsonValue] = {
            "what": what,
            "response_id": about.response_id.hex(),
            "action": about.action.value,
            "reason": about.reason,
            "by": by if by is not None or about.rule is None else f"{RULE_PREFIX}{about.rule}",
            **(facts or {}),
        }
        if about.incident_id is not None:
            told["incident_id"] = about.incident_id.hex()
        if about.target.ref is not None:
            told["ref"] = about.target.ref.hex()
        if about.target.source is not None:
            told["source"] = about.target.source
        if about.per_minute is not None:
            told["per_minute"] = about.per_minute
        kind = SecurityEventType.OPERATOR_ACTION
        if what == "response carried out" and about.action is ResponseAction.REVOKE:
            kind = SecurityEventType.KEY_REVOCATION
        return self._devices.event(
            tenant_id, kind, told, device_id=about.target.device_id, severity=EventSeverity.WARNING
        )


_REASON_CHARS: Final = 50
"""Of what stands with the identity's keys, whose reasons are shorter: 200 bytes of UTF-8."""


def require_target(tenant_id: TenantId, action: ResponseAction, target: ResponseTarget, per_minute: int | None) -> None:
    """Raise `UsageError` unless *target* is one for *action*."""
    if (action in ABOUT_DEVICE) != (target.ref is not None):
        wants = "a device" if action in ABOUT_DEVICE else "no device"
        raise UsageError(f"{action.value} is about {wants}")
    if (action is ResponseAction.LIMIT_SOURCE) != (target.source is not None):
        raise UsageError(f"{action.value} is about {'an address' if target.source is None else 'no address'}")
    if (action in LIMITS) != (per_minute is not None):
        raise UsageError("per_minute belongs to limits, and they need it")
    if per_minute is not None and (type(per_minute) is not int or not PER_MINUTE_MIN <= per_minute <= PER_MINUTE_MAX):
        raise UsageError(
            f"per_minute must be a whole number from {PER_MINUTE_MIN} to {PER_MINUTE_MAX}, got {per_minute!r}"
        )
    if action in ABOUT_SERVER and tenant_id != DEFAULT_TENANT:
        raise UsageError(f"{action.value} is about the whole server: ask for it in the default tenant")


def require_reason(reason: str) -> None:
    """Raise `UsageError` unless *reason* is 1 to 500 bytes."""
    reasons.require_reason(reason, bytes_max=REASON_BYTES_MAX, remedy="say why, for the log")
