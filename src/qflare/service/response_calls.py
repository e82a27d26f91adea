"""The key manager's calls about responses to incidents: dry runs, two persons, undoing."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from qflare.errors import UsageError
from qflare.model.call import fresh_call
from qflare.model.ids import IncidentId, ResponseId
from qflare.model.response import NewResponse, ResponseAction, ResponseState, ResponseTarget
from qflare.protocol.identity import device_ref
from qflare.service.arguments import as_call_id, as_identifier, as_list, require_kind, require_name
from qflare.service.covered import covered
from qflare.service.operator_calls import require_operator_name
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from collections.abc import Collection

    from qflare.model.response import Response, ResponseBounds, ResponsePlan, ResponseUse

PAGE_MAX: Final = 1000


class ResponseCalls(TenantView):
    """
    Mixed into `QuantumKeyManager`; everything here is about one tenant.

    Whoever calls names the operator who asks.  That it is them is for the caller to see to, with `check_operator`: the
    command line asks for their secret, the page for their login.  That it is an operator of the tenant who still has
    access, and that two are two, is the database's.
    """

    async def plan_response(
        self,
        action: ResponseAction | str,
        *,
        device_id: str | None = None,
        source: str | None = None,
        per_minute: int | None = None,
    ) -> ResponsePlan:
        """
        Say what a response would do, to whom, how many, and what is in the way; change nothing.

        Raises:
            KeyNotFoundError: no such device.
            UsageError: the target is not one for this action.
        """
        engine = await self._engine()
        target = self._target(device_id, source)
        return await engine.responses.plan(self.tenant, as_action(action), target, per_minute=per_minute)

    @covered
    async def respond(
        self,
        action: ResponseAction | str,
        *,
        by: str,
        reason: str,
        device_id: str | None = None,
        source: str | None = None,
        per_minute: int | None = None,
        lasts_s: int | None = None,
        incident_id: bytes | None = None,
        call_id: bytes | None = None,
    ) -> Response:
        """
        Ask for a response, and carry it out at once if one operator is enough.

        Args:
            action: What to do.
            by: The operator who asks.
            reason: Why, for the log and the device's state; 1 to 500 bytes.
            device_id: The device, where it is about one.
            source: The network address of `limit-source`.
            per_minute: Of a limit.
            lasts_s: Of a limit: seconds until it ends by itself, 60 at least; if not given, once it is undone.
            incident_id: Which incident it responds to.
            call_id: 16 random bytes that name this response: asked for again with them, it is the same one.

        Returns:
            The response: applied, or proposed if it `lacks` another operator.

        Raises:
            IllegalTransitionError: the device is in no state for it.
            KeyNotFoundError: no such device, incident or operator.
            UsageError: the target is not one for this action, or the reason is too long.
        """
        engine = await self._engine()
        chosen = as_action(action)
        if chosen is ResponseAction.NOTIFY:
            raise UsageError("notify is for the playbook's rules: it sends what an incident says")
        given = as_call_id(call_id)
        asked = NewResponse(
            response_id=ResponseId(fresh_call() if given is None else given),
            action=chosen,
            target=self._target(device_id, source),
            incident_id=None if incident_id is None else IncidentId(as_identifier(incident_id, name="incident_id")),
            rule=None,
            is_automatic=False,
            proven=0,
            asked_by=require_operator_name(by),
            reason=reason,
            per_minute=per_minute,
            lasts_s=lasts_s,
        )
        kept = await engine.responses.ask(self.tenant, asked)
        return kept if kept.lacks else await engine.responses.carry_out(self.tenant, kept)

    @covered
    async def confirm_response(self, response_id: bytes, *, by: str) -> Response:
        """
        Say that another operator wants it too; it is carried out as soon as enough do.

        Raises:
            IllegalTransitionError: it is over, or older than a day.
            KeyNotFoundError: no such response or operator.
            UsageError: *by* is the one who asked.
        """
        engine = await self._engine()
        return await engine.responses.confirm(self.tenant, as_response(response_id), by=require_operator_name(by))

    @covered
    async def undo_response(self, response_id: bytes, *, by: str, reason: str) -> Response:
        """
        Put back what was before a response; once, and only if what it did still stands.

        Raises:
            ConflictError: somebody has moved the device since.
            IllegalTransitionError: it was not carried out, or nothing takes it back.
            KeyNotFoundError: no such response or operator.
        """
        engine = await self._engine()
        named = require_operator_name(by)
        return await engine.responses.undo(self.tenant, as_response(response_id), by=named, because=reason)

    @covered
    async def dismiss_response(self, response_id: bytes, *, by: str, reason: str) -> Response:
        """Say that a proposal is not wanted. `IllegalTransitionError` if it was carried out: undo it."""
        engine = await self._engine()
        found = await engine.responses.get(self.tenant, as_response(response_id))
        if found.state is ResponseState.DISMISSED:
            return found
        named = require_operator_name(by)
        return await engine.responses.end(self.tenant, found, ResponseState.DISMISSED, by=named, because=reason)

    async def find_response(self, response_id: bytes) -> Response:
        """Return one response. `KeyNotFoundError` if there is none."""
        engine = await self._engine()
        return await engine.responses.get(self.tenant, as_response(response_id))

    async def list_responses(
        self,
        *,
        incident_id: bytes | None = None,
        states: Collection[ResponseState] | None = None,
        limit: int = 100,
        after: bytes | None = None,
    ) -> tuple[Response, ...]:
        """Return up to *limit* responses, the last asked for first, from the one after *after* on."""
        if type(limit) is not int or not 1 <= limit <= PAGE_MAX:
            raise UsageError(f"limit must be 1 to {PAGE_MAX}, got {limit!r}; read on page by page")
        for state in () if states is None else as_list(states, name="states"):
            require_kind(state, ResponseState, name="a state", remedy="pass a list of ResponseState")
        engine = await self._engine()
        return await engine.responses.page(
            self.tenant,
            incident_id=None if incident_id is None else IncidentId(as_identifier(incident_id, name="incident_id")),
            states=states,
            limit=limit,
            after=None if after is None else as_response(after),
        )

    async def response_use(self) -> tuple[ResponseBounds, ResponseUse]:
        """Return how many devices responses may shut out, and how much of that is used."""
        responses = (await self._engine()).responses
        return responses.bounds, await responses.use(self.tenant)

    async def start_responding(self) -> None:
        """
        Have this worker look at incidents every five seconds, and propose or do what the playbook's rules say.

        `qflare serve` does it in each worker; an application that mounts the Aggregator itself calls it once.

        Raises:
            ConfigError: the key or the certificates of the playbook's webhook cannot be used.
        """
        engine = await self._engine()
        await engine.responder.start(engine.foundation.background)

    def _target(self, device_id: str | None, source: str | None) -> ResponseTarget:
        if source is not None:
            try:
                source = str(ipaddress.ip_address(source))
            except ValueError:
                raise UsageError(f"source must be an IP address, got {source!r}") from None
        if device_id is None:
            return ResponseTarget(source=source)
        name = require_name(device_id)
        return ResponseTarget(ref=device_ref(self.tenant, name), device_id=name, source=source)


def as_action(action: ResponseAction | str) -> ResponseAction:
    """Return an action by its name, or raise `UsageError` that lists them."""
    try:
        return ResponseAction(action)
    except ValueError:
        known = ", ".join(ResponseAction)
        raise UsageError(f"no action {action!r}; there are {known}") from None


def as_response(response_id: bytes) -> ResponseId:
    """Return a response's id, 16 bytes; `UsageError` or `LengthError` if it is none."""
    return ResponseId(as_identifier(response_id, name="response_id"))
