"""
The responder of one worker: walks over open incidents, and proposes or does what the playbook's rules say.

Every worker does it; a response has its incident's and rule's own id, so that it is asked for and done once however
many ask.  What cannot be done now is tried again at the next step.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import ConflictError, IllegalTransitionError, KeyNotFoundError, QflareError
from qflare.model.call import call_about
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.evidence import count_proven
from qflare.model.ids import DEFAULT_TENANT, CallId, IncidentId, ResponseId
from qflare.model.incident import IncidentState, Sighting
from qflare.model.response import ABOUT_DEVICE, ABOUT_SERVER, NewResponse, ResponseAction, ResponseState, ResponseTarget
from qflare.model.signal import Signal
from qflare.protocol.leaf import JsonValue, encode_event_data
from qflare.secret import SecretBytes
from qflare.service.responding.playbook import Mode
from qflare.service.responding.webhook import DEADLINE_S, Delivery, Webhook, read_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.background import Background
    from qflare.manager.devices import Devices
    from qflare.manager.responses import Responses
    from qflare.model.ids import TenantId
    from qflare.model.incident import Incident
    from qflare.model.response import Response
    from qflare.service.assembly import Foundation
    from qflare.service.responding.playbook import Playbook, Rule

_log = logging.getLogger("qflare.service.responding")

STEP_S: Final = 5.0
"""Time between two looks: short beside a person's reaction."""
INCIDENTS_MAX: Final = 200
"""Open incidents of a tenant that a step looks at, the last seen first."""
TENANTS_MAX: Final = 16
"""Tenants that a step looks at, in turn."""
WAITING_MAX: Final = 100
"""Proposals of a tenant that may wait for people; beyond them nothing is proposed: nobody reads a longer list."""
_HANDLED_MAX: Final = 16_384
_BOUNDS: Final = "response_bounds"
_DIFFERS: Final = "response_pkey"


class Responder:
    """Proposes and does by rule."""

    def __init__(
        self,
        foundation: Foundation,
        responses: Responses,
        devices: Devices,
        playbook: Playbook,
    ) -> None:
        """Do nothing yet; `run` is the loop, `step` one look at one tenant."""
        self._tasks: list[asyncio.Task[None]] = []
        self._key: SecretBytes | None = None
        self._webhook: Webhook | None = None
        self._foundation = foundation
        self._responses = responses
        self._devices = devices
        self._playbook = playbook
        self.refused: Counter[ResponseAction] = Counter()
        """Responses that rules wanted to carry out and may not: the bounds leave them to people."""
        self._next_tenant = 0
        self._is_started = False
        self._handled: OrderedDict[ResponseId, None] = OrderedDict()
        """What needs no second look, by the response's id; forgetting one costs a look."""

    async def start(self, background: Background) -> None:
        """
        Run in the background until the manager closes; once.

        Raises:
            ConfigError: the webhook's key or certificates cannot be used.
        """
        if self._is_started:
            return
        self._is_started = True
        foundation, target = self._foundation, self._playbook.webhook
        if target is not None:
            self._key = await foundation.offload.run(partial(read_key, target.key_file), wipe=SecretBytes.wipe)
            self._webhook = Webhook(target, self._key, clock=foundation.clock, ended=self.delivered)
            self._tasks.append(background.start(self._webhook.run(background), name="webhook"))
        self._tasks.append(background.start(self.run(background), name="responder"))

    async def close(self) -> None:
        """End what runs, and erase the webhook's key."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._key is not None:
            self._key.wipe()

    async def run(self, background: Background) -> None:
        """Step until the manager closes."""
        while not background.stop.is_set():
            try:
                for tenant_id in await self._tenants():
                    await self._try_step(tenant_id)
            except Exception as failure:  # noqa: BLE001 - whatever fails in one step, the next one is tried
                _log.warning("responding failed (%s) and will be tried again", type(failure).__name__)
            await background.pause(STEP_S)

    async def _try_step(self, tenant_id: TenantId) -> None:
        """Step; what fails with one tenant keeps no other from its turn."""
        try:
            await self.step(tenant_id)
        except QflareError as failure:
            _log.warning(
                "responding failed in tenant %s (%s) and will be tried again", tenant_id.hex(), type(failure).__name__
            )

    async def step(self, tenant_id: TenantId) -> int:
        """Look at a tenant's open incidents and return how many responses were asked for."""
        foundation = self._foundation
        incidents = await foundation.deadline.of(
            foundation.store.list_incidents(tenant_id, states=[IncidentState.OPEN], limit=INCIDENTS_MAX)
        )
        due = [
            (incident, rule, response_id)
            for incident in incidents
            for rule in self._playbook.rules
            if rule.fits(incident)
            and (response_id := response_of(incident, rule)) not in self._handled
            # Told about itself it would never end.
            and not (incident.signal is Signal.RESPONSE_BOUND and rule.action in ABOUT_DEVICE)
            and (tenant_id == DEFAULT_TENANT or rule.action not in ABOUT_SERVER)
        ]
        return sum([await self._respond(tenant_id, *each) for each in due])

    async def _respond(self, tenant_id: TenantId, incident: Incident, rule: Rule, response_id: ResponseId) -> bool:
        respond = self._notify if rule.action is ResponseAction.NOTIFY else self._propose
        try:
            return await respond(tenant_id, incident, rule, response_id)
        except (KeyNotFoundError, IllegalTransitionError) as failure:
            # The device is gone, or was moved meanwhile.
            _log.info("rule %s did not respond: %s", rule.name, type(failure).__name__)
        except ConflictError as failure:
            if failure.constraint != _DIFFERS:
                raise
            # It did respond, in other words: the playbook was changed since, or a name was erased from the response.
            _log.info("rule %s has responded already, as it was then", rule.name)
        self._handle(response_id)
        return False

    async def _propose(self, tenant_id: TenantId, incident: Incident, rule: Rule, response_id: ResponseId) -> bool:
        """Ask for a response by rule, and carry it out where the rule says so and the bounds let it."""
        target = ResponseTarget(ref=incident.ref, device_id=incident.device_id)
        if rule.action not in ABOUT_DEVICE:
            target = ResponseTarget()
        plan = await self._responses.plan(tenant_id, rule.action, target, per_minute=rule.per_minute)
        if plan.obstacle is not None:
            self._handle(response_id)
            return False
        if rule.mode is Mode.PROPOSE and await self._is_full(tenant_id):
            return False
        kept = await self._responses.ask(tenant_id, _asked(incident, rule, response_id, target))
        if rule.mode is Mode.AUTOMATIC and kept.state is ResponseState.PROPOSED:
            await self._carry_out(tenant_id, incident, kept)
        self._handle(response_id)
        return True

    async def _notify(self, tenant_id: TenantId, incident: Incident, rule: Rule, response_id: ResponseId) -> bool:
        """Have the webhook send an incident, if this worker is the one that begins it."""
        if self._webhook is None:
            return False
        kept = await self._responses.ask(tenant_id, _asked(incident, rule, response_id, ResponseTarget()))
        if kept.state is ResponseState.PROPOSED:
            mine = secrets.token_hex(8)
            kept = await self._responses.carry_out(tenant_id, kept, before=mine)
            is_mine = kept.before == mine
        else:
            # A worker that began it may have ended before it was sent.
            age_s = self._foundation.clock.now_s() - kept.changed_at.timestamp()
            is_mine = kept.state is ResponseState.BEGUN and age_s > 2 * DEADLINE_S
        if kept.state is not ResponseState.BEGUN:
            self._handle(response_id)
            return False
        if not is_mine:
            return False
        self._handle(response_id)
        delivery = Delivery(tenant_id, response_id, rule.name, incident)
        if not self._webhook.send(delivery):
            await self.delivered(delivery, "too many waited")
        return True

    async def delivered(self, delivery: Delivery, problem: str | None) -> None:
        """Note what became of a delivery."""
        found = await self._responses.get(delivery.tenant_id, delivery.response_id)
        state = ResponseState.APPLIED if problem is None else ResponseState.DISMISSED
        await self._responses.end(delivery.tenant_id, found, state, because=problem or "")

    async def _carry_out(self, tenant_id: TenantId, incident: Incident, kept: Response) -> None:
        try:
            await self._responses.carry_out(tenant_id, kept)
        except ConflictError as refusal:
            if refusal.constraint != _BOUNDS:
                raise
            # It stays proposed, for a person, and that it is so is an incident.
            self.refused[kept.action] += 1
            await self._report_bound(tenant_id, incident, kept)

    async def _report_bound(self, tenant_id: TenantId, incident: Incident, kept: Response) -> None:
        foundation = self._foundation
        now_s = foundation.clock.now_s()
        facts: dict[str, JsonValue] = {
            "seen": {f"{kept.action.value} beyond the bounds": 1},
            "rule": kept.rule,
            "incident_id": incident.incident_id.hex(),
        }
        sighting = Sighting(
            incident_id=IncidentId(call_about(CallId(kept.response_id), b"bound")),
            signal=Signal.RESPONSE_BOUND,
            severity=EventSeverity.CRITICAL,
            ref=None,
            device_id=None,
            first_seen_s=now_s,
            last_seen_s=now_s,
            count=1,
            evidence=encode_event_data(facts),
        )
        told: dict[str, JsonValue] = {**facts, "signal": Signal.RESPONSE_BOUND.value}
        opened, raised = (
            self._devices.event(
                tenant_id,
                SecurityEventType.POLICY_VIOLATION,
                told | {"what": what},
                device_id=None,
                severity=EventSeverity.CRITICAL,
            )
            for what in ("incident opened", "incident raised")
        )
        await foundation.deadline.of(
            foundation.store.report_incidents(
                tenant_id,
                [sighting],
                opened=[opened],
                raised=[raised],
                call_id=call_about(CallId(kept.response_id), b"bound report"),
            )
        )

    async def _is_full(self, tenant_id: TenantId) -> bool:
        waiting = await self._responses.page(
            tenant_id, incident_id=None, states=[ResponseState.PROPOSED], limit=WAITING_MAX, after=None
        )
        return len(waiting) >= WAITING_MAX

    async def _tenants(self) -> Sequence[TenantId]:
        """Return the tenants whose turn it is: the default one, and some of the others."""
        found = await self._foundation.deadline.of(self._foundation.store.list_tenants())
        others = [tenant_id for tenant_id, _ in found if tenant_id != DEFAULT_TENANT]
        first = self._next_tenant if self._next_tenant < len(others) else 0
        self._next_tenant = first + TENANTS_MAX
        return [DEFAULT_TENANT, *others[first : first + TENANTS_MAX]]

    def _handle(self, response_id: ResponseId) -> None:
        self._handled[response_id] = None
        while len(self._handled) > _HANDLED_MAX:
            self._handled.popitem(last=False)


def response_of(incident: Incident, rule: Rule) -> ResponseId:
    """Return the id of the response that *rule* has to *incident*: one, whoever asks for it."""
    return ResponseId(call_about(CallId(incident.incident_id), b"rule", rule.name.encode()))


def _asked(incident: Incident, rule: Rule, response_id: ResponseId, target: ResponseTarget) -> NewResponse:
    return NewResponse(
        response_id=response_id,
        action=rule.action,
        target=target,
        incident_id=incident.incident_id,
        rule=rule.name,
        is_automatic=rule.mode is Mode.AUTOMATIC,
        proven=count_proven(incident.evidence),
        asked_by=None,
        reason=rule.why,
        per_minute=rule.per_minute,
        lasts_s=rule.lasts_s,
    )
