"""Two-person control: whether what nothing takes back needs two operators also where it is done by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from qflare.model.event import NewEvent
from qflare.model.ids import TenantId

OFF_ASKED_S: Final = 86_400
"""How long somebody's wish to turn it off waits for another's."""
TOO_FEW: Final = "two-person control needs two active operators: add another with  qflare operator add"
NEEDED: Final = (
    "two operators must want this (two-person control is on): propose it with  "
    "qflare incident apply - {action} --yes , and have another operator confirm it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoPersonControl:
    """How it stands in one tenant."""

    is_on: bool
    changed_by: str | None
    """The operator who turned it on, or the second of those who turned it off; None: nobody ever did."""
    changed_at: datetime | None
    off_by: str | None
    """The operator who asked that it be turned off."""
    off_at: datetime | None


NEVER_ON: Final = TwoPersonControl(is_on=False, changed_by=None, changed_at=None, off_by=None, off_at=None)


class TwoPersonControlStore(Protocol):
    """Whether a tenant has two-person control; every method is one transaction inside one tenant, with its event."""

    async def find_two_person_control(self, tenant_id: TenantId) -> TwoPersonControl:
        """Return how it stands."""

    async def require_two_persons(self, tenant_id: TenantId, *, by: str, event: NewEvent) -> TwoPersonControl:
        """
        Turn it on, or forget that somebody asked for its end; as it stands, and no event, if neither is needed.

        Raises:
            IllegalTransitionError: the tenant has not two active operators, or *by* was revoked.
            KeyNotFoundError: there is no such tenant or operator.
        """

    async def allow_one_person(
        self, tenant_id: TenantId, *, by: str, asked: NewEvent, ended: NewEvent
    ) -> TwoPersonControl:
        """
        Note that *by* wants it off, or turn it off if another operator wanted that within a day.

        Raises:
            IllegalTransitionError: *by* was revoked.
            KeyNotFoundError: there is no such operator.
        """
