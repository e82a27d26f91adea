"""The key manager's calls about two-person control: whether one person alone may do what nothing takes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.event import EventSeverity, SecurityEventType
from qflare.service.covered import covered
from qflare.service.operator_calls import require_operator_name
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from qflare.model.event import NewEvent
    from qflare.model.two_person_control import TwoPersonControl
    from qflare.service.assembly import Engine


class ControlCalls(TenantView):
    """
    Mixed into `QuantumKeyManager`; everything here is about one tenant, and off until one of its operators turns it on.

    On, the database refuses to revoke a device, or, in the default tenant, to rotate the server's identity, unless a
    response that two operators want does it: `revoke_device`, `compromise_device` and `rotate_identity` are
    `SecondPersonError` then.  Whoever calls names the operator, and sees to it that it is them, with `check_operator`.
    """

    async def get_two_person_control(self) -> TwoPersonControl:
        """Return whether it is on, by whom, and who asked that it be turned off."""
        foundation = (await self._engine()).foundation
        return await foundation.deadline.of(foundation.store.find_two_person_control(self.tenant))

    @covered
    async def require_two_persons(self, *, by: str) -> TwoPersonControl:
        """
        Turn it on, or withdraw somebody's wish to turn it off.

        Raises:
            IllegalTransitionError: the tenant has not two active operators, or *by* was revoked.
            KeyNotFoundError: no such operator.
        """
        require_operator_name(by)
        engine = await self._engine()
        event = self._control_event(engine, "two-person control on", by)
        return await engine.foundation.deadline.of(
            engine.foundation.store.require_two_persons(self.tenant, by=by, event=event)
        )

    @covered
    async def allow_one_person(self, *, by: str) -> TwoPersonControl:
        """
        Say that *by* wants it off; off it is once another operator says so too, within a day.

        Raises:
            ConflictError: who asked first was revoked since: have it withdrawn, with `require_two_persons`.
            IllegalTransitionError: *by* was revoked.
            KeyNotFoundError: no such operator.
        """
        require_operator_name(by)
        engine = await self._engine()
        asked = self._control_event(engine, "two-person control is to end", by)
        ended = self._control_event(engine, "two-person control off", by)
        return await engine.foundation.deadline.of(
            engine.foundation.store.allow_one_person(self.tenant, by=by, asked=asked, ended=ended)
        )

    def _control_event(self, engine: Engine, what: str, by: str) -> NewEvent:
        return engine.devices.event(
            self.tenant,
            SecurityEventType.OPERATOR_ACTION,
            {"what": what, "by": by},
            device_id=None,
            severity=EventSeverity.WARNING,
        )
