"""The port of responses: where they are kept, and carried out in the transaction that notes it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from qflare.model.event import NewEvent
from qflare.model.ids import IncidentId, ResponseId, TenantId, WorkerId
from qflare.model.response import (
    Limit,
    NewResponse,
    Response,
    ResponseBounds,
    ResponseFigures,
    ResponseState,
    ResponseUse,
)


class ResponseStore(Protocol):
    """
    Responses to incidents; every method is one transaction inside one tenant, with its event.

    All are safe to repeat: what was done already is returned as it stands, and nothing is written a second time.
    """

    async def ask_response(
        self, tenant_id: TenantId, response: NewResponse, *, needs_two: bool, event: NewEvent
    ) -> Response:
        """
        Keep a response as proposed; `ConflictError` if another one has its id.

        Raises:
            KeyNotFoundError: there is no such tenant, incident or operator.
        """

    async def confirm_response(
        self, tenant_id: TenantId, response_id: ResponseId, *, by: str, event: NewEvent
    ) -> Response:
        """
        Note that an operator wants it too; nothing is done yet.

        Raises:
            ConflictError: `response_two_persons`, it lacks another operator and *by* is the one who asked.
            IllegalTransitionError: it is proposed no more, or expired.
            KeyNotFoundError: there is no such response or operator.
        """

    async def carry_out_response(
        self,
        tenant_id: TenantId,
        response_id: ResponseId,
        *,
        bounds: ResponseBounds,
        turn_to: int | None = None,
        before: str = "",
        event: NewEvent,
        held: NewEvent,
    ) -> Response:
        """
        Do what is proposed, with its event; what is done elsewhere is only begun, and notes *before*.

        A response of a single operator beyond the bounds is not done: it needs a second one from then on.

        Args:
            tenant_id: Whose response.
            response_id: Which one.
            bounds: How many devices may be shut out.
            turn_to: Of an early turn: the bucket.
            before: Of what is done elsewhere: what is there before.
            event: Written if it is done or begun.
            held: Written if it is not, since it needs a second operator from then on.

        Raises:
            ConflictError: `response_bounds`, rules have shut out as many devices as they may.
            IllegalTransitionError: it is over or expired, lacks operators, or the device's state allows it not.
            KeyNotFoundError: there is no such response, or no such device any more.
        """

    async def end_response(
        self,
        tenant_id: TenantId,
        response_id: ResponseId,
        state: ResponseState,
        *,
        by: str | None,
        because: str,
        event: NewEvent,
    ) -> Response:
        """
        Say what became of a response that was begun, or dismiss one that was not.

        Raises:
            IllegalTransitionError: it cannot become *state*.
            KeyNotFoundError: there is no such response or operator.
        """

    async def undo_response(
        self, tenant_id: TenantId, response_id: ResponseId, *, by: str, because: str, event: NewEvent
    ) -> Response:
        """
        Put back what was before, if what it did still stands.

        Raises:
            ConflictError: `response_stands`, somebody has changed it since.
            IllegalTransitionError: it was not applied, or nothing takes it back.
            KeyNotFoundError: there is no such response, operator or device.
        """

    async def find_response(self, tenant_id: TenantId, response_id: ResponseId) -> Response | None:
        """Return one response of the tenant, or None."""

    async def list_responses(
        self,
        tenant_id: TenantId,
        *,
        incident_id: IncidentId | None = None,
        states: Collection[ResponseState] | None = None,
        limit: int,
        after: ResponseId | None = None,
    ) -> tuple[Response, ...]:
        """Return up to *limit* responses, the last asked for first, from the one after *after* on."""

    async def count_response_use(self, tenant_id: TenantId) -> ResponseUse:
        """Return how many devices are shut out by responses."""

    async def count_responses(self) -> ResponseFigures:
        """Return figures of every tenant's incidents and responses."""

    async def beat_worker(self, worker_id: WorkerId, *, lately_s: int) -> None:
        """Say that a worker serves devices, and forget those that have not said so within *lately_s* seconds."""

    async def forget_worker(self, worker_id: WorkerId, *, lately_s: int) -> None:
        """Say that it does so no more."""

    async def count_workers(self, worker_id: WorkerId, *, lately_s: int) -> int:
        """Return how many other workers said within *lately_s* seconds that they serve."""

    async def drop_finished(self, *, keep_s: int, limit: int, event: NewEvent) -> int:
        """
        Remove up to *limit* finished responses and as many closed incidents, of every tenant.

        Nothing that was changed within *keep_s* seconds goes, nor what can still be undone, confirmed or looked at.
        Returns how many; *event* is written if there were any.
        """

    async def list_limits(self) -> tuple[Limit, ...]:
        """Return the limits of every tenant that stand and have not ended; 10,000 at most."""
