"""Two-person control in memory, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from qflare.errors import ConflictError, IllegalTransitionError, KeyNotFoundError, SecondPersonError
from qflare.model.incident import REVOKED
from qflare.model.operator import OperatorState
from qflare.model.response import ResponseAction, ResponseState
from qflare.model.two_person_control import NEEDED, NEVER_ON, OFF_ASKED_S, TOO_FEW, TwoPersonControl
from qflare.testing.memory.entries import Logging

if TYPE_CHECKING:
    from datetime import datetime

    from qflare.model.event import NewEvent
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.testing.memory.tables import Tables


class TwoPersonControls(Logging):
    """Whether two operators must want what nothing takes back."""

    async def find_two_person_control(self, tenant_id: TenantId) -> TwoPersonControl:
        """Return how it stands."""
        async with self._transaction(tenant_id) as tables:
            return tables.two_person_controls.get(tenant_id) or NEVER_ON

    async def require_two_persons(self, tenant_id: TenantId, *, by: str, event: NewEvent) -> TwoPersonControl:
        """Turn it on, or forget that somebody asked for its end."""
        async with self._transaction(tenant_id) as tables:
            found = tables.two_person_controls.get(tenant_id)
            if found is not None and found.is_on and found.off_by is None:
                return found
            mine = [row for row in tables.operators.values() if row.tenant_id == tenant_id]
            if sum(row.state is OperatorState.ACTIVE for row in mine) < 2:  # noqa: PLR2004 - two persons
                raise IllegalTransitionError(TOO_FEW)
            self._require_active(tenant_id, by)
            made = TwoPersonControl(is_on=True, changed_by=by, changed_at=self._now, off_by=None, off_at=None)
            tables.two_person_controls.put(tenant_id, made)
            self._write_events(tenant_id, [event])
            return made

    async def allow_one_person(
        self, tenant_id: TenantId, *, by: str, asked: NewEvent, ended: NewEvent
    ) -> TwoPersonControl:
        """Note that *by* wants it off, or turn it off if another operator wanted that within a day."""
        async with self._transaction(tenant_id) as tables:
            found = tables.two_person_controls.get(tenant_id)
            if found is None or not found.is_on:
                return found or NEVER_ON
            is_asked = found.off_at is not None and found.off_at > self._now - timedelta(seconds=OFF_ASKED_S)
            if is_asked and found.off_by == by:
                return found
            self._require_active(tenant_id, by)
            if not is_asked:
                made = replace(found, off_by=by, off_at=self._now)
            elif tables.operators[tenant_id, found.off_by or ""].state is OperatorState.ACTIVE:
                made = replace(found, is_on=False, changed_by=by, changed_at=self._now)
            else:
                raise ConflictError(
                    "the database refused the change (two_person_control_asked_before)",
                    constraint="two_person_control_asked_before",
                )
            tables.two_person_controls.put(tenant_id, made)
            self._write_events(tenant_id, [ended if is_asked else asked])
            return made

    def _require_active(self, tenant_id: TenantId, by: str) -> None:
        operator = self._tables.operators.get((tenant_id, by))
        if operator is None:
            raise KeyNotFoundError("no such operator in this tenant: add one with  qflare operator add")
        if operator.state is not OperatorState.ACTIVE:
            raise IllegalTransitionError(REVOKED)


def require_two_hands(
    tables: Tables, tenant_id: TenantId, action: ResponseAction, *, ref: DeviceRef | None, now: datetime
) -> None:
    """Raise `SecondPersonError` where control is on and no response that two operators want does it."""
    control = tables.two_person_controls.get(tenant_id)
    if control is None or not control.is_on:
        return
    state = ResponseState.PROPOSED if action is ResponseAction.REVOKE else ResponseState.BEGUN
    for row in tables.responses.values():
        its = row.response
        names = (its.first_by, its.second_by)
        if (
            (its.tenant_id, its.action, its.target.ref, its.state) == (tenant_id, action, ref, state)
            and its.needs_two
            and its.expires_at > now
            and all(
                name is not None and tables.operators[tenant_id, name].state is OperatorState.ACTIVE for name in names
            )
        ):
            return
    raise SecondPersonError(NEEDED.format(action=action.value))
