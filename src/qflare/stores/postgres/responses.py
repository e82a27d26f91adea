"""Responses to incidents in PostgreSQL: asked for, wanted by operators, carried out, undone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qflare.errors import ConflictError, IllegalTransitionError, KeyNotFoundError, UsageError
from qflare.model.device import KeyState
from qflare.model.ids import DeviceId, DeviceRef, IncidentId, ResponseId, TenantId, WorkerId
from qflare.model.response import (
    ELSEWHERE,
    LIMITS,
    SHUTS_OUT,
    STATES,
    Limit,
    Response,
    ResponseAction,
    ResponseFigures,
    ResponseState,
    ResponseTarget,
    ResponseUse,
    require_response_move,
    require_reversible,
    require_wanted,
)
from qflare.stores.postgres.columns import as_uuid, event_columns
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Collection

    import asyncpg

    from qflare.model.event import NewEvent
    from qflare.model.response import NewResponse, ResponseBounds
    from qflare.stores.postgres.connections import Transaction

BOUNDS = "response_bounds"
STANDS = "response_stands"


class Responses(Connected):
    """Table response."""

    async def ask_response(
        self, tenant_id: TenantId, response: NewResponse, *, needs_two: bool, event: NewEvent
    ) -> Response:
        """Keep a response as proposed; what stands under its id is returned if it is the same."""

        async def ask() -> Response:
            async with self._connections.transaction(tenant_id) as transaction:
                row = await transaction.fetch_row(
                    "ask_response",
                    *(transaction.tenant_id, as_uuid(response.response_id)),
                    None if response.incident_id is None else as_uuid(response.incident_id),
                    response.action.value,
                    response.target.ref,
                    response.target.device_id,
                    response.target.source,
                    response.rule,
                    response.is_automatic,
                    response.proven,
                    needs_two,
                    response.asked_by,
                    response.reason,
                    response.per_minute,
                    response.lasts_s,
                )
                if row is not None:
                    await transaction.write_events([event])
                    return _response(row)
                found = await transaction.fetch_row(
                    "find_response", transaction.tenant_id, as_uuid(response.response_id)
                )
            if found is None or not (stands := _response(found)).is_of(response):
                raise ConflictError("another response has this id: draw 16 random bytes", constraint="response_pkey")
            return stands

        return await self._connections.repeat(ask)

    async def confirm_response(
        self, tenant_id: TenantId, response_id: ResponseId, *, by: str, event: NewEvent
    ) -> Response:
        """Note that an operator wants it too; nothing is done yet."""

        async def confirm() -> Response:
            async with self._connections.transaction(tenant_id) as transaction:
                row = await _lock(transaction, response_id)
                found = _response(row)
                if by in {found.first_by, found.second_by} and not found.lacks:
                    return found
                _require_open(row)
                wanted = await transaction.fetch_row(
                    "confirm_response", transaction.tenant_id, as_uuid(response_id), by
                )
                await transaction.write_events([event])
            return found if wanted is None else _response(wanted)

        return await self._connections.repeat(confirm)

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
        """Do what is proposed, with its event; what is done elsewhere is only begun, and notes *before*."""

        async def carry_out() -> Response:
            async with self._connections.transaction(tenant_id) as transaction:
                # What is counted must stay true until this is committed.
                await transaction.execute("hold_responses", transaction.tenant_id)
                row = await _lock(transaction, response_id)
                found = _response(row)
                if found.state in {ResponseState.BEGUN, ResponseState.APPLIED}:
                    return found
                _require_open(row)
                require_wanted(found)
                await _require_operators(transaction, found)
                if found.action in SHUTS_OUT and await _needs_another(transaction, found, bounds):
                    kept = await transaction.fetch_row("require_second", transaction.tenant_id, as_uuid(response_id))
                    await transaction.write_events([held])
                    return found if kept is None else _response(kept)
                if found.action in ELSEWHERE:
                    await transaction.write_events([event])
                    return await _move(transaction, found, ResponseState.BEGUN, before=before)
                was, changed = await _do(transaction, found, event, turn_to)
                return await _move(transaction, found, ResponseState.APPLIED, before=was, changed=changed)

        return await self._connections.repeat(carry_out)

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
        """Say what became of a response that was begun, or dismiss one that was not."""

        async def end() -> Response:
            async with self._connections.transaction(tenant_id) as transaction:
                found = _response(await _lock(transaction, response_id))
                if found.state is state:
                    return found
                require_response_move(found.state, state)
                await transaction.write_events([event])
                changed = 1 if state is ResponseState.APPLIED else None
                return await _move(transaction, found, state, changed=changed, by=by, because=because)

        return await self._connections.repeat(end)

    async def undo_response(
        self, tenant_id: TenantId, response_id: ResponseId, *, by: str, because: str, event: NewEvent
    ) -> Response:
        """Put back what was before, if what it did still stands."""

        async def undo() -> Response:
            async with self._connections.transaction(tenant_id) as transaction:
                found = _response(await _lock(transaction, response_id))
                if found.state is ResponseState.UNDONE:
                    return found
                require_response_move(found.state, ResponseState.UNDONE)
                require_reversible(found)
                if found.action in STATES:
                    await _put_back(transaction, found, because, event)
                else:
                    await transaction.write_events([event])
                return await _move(transaction, found, ResponseState.UNDONE, by=by, because=because)

        return await self._connections.repeat(undo)

    async def find_response(self, tenant_id: TenantId, response_id: ResponseId) -> Response | None:
        """Return one response of the tenant, or None."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("find_response", transaction.tenant_id, as_uuid(response_id))
        return None if row is None else _response(row)

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
        wanted = [state.value for state in (ResponseState if states is None else states)]
        incident = None if incident_id is None else as_uuid(incident_id)
        start = None if after is None else as_uuid(after)
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("list_responses", transaction.tenant_id, wanted, incident, limit, start)
        return tuple(_response(row) for row in rows)

    async def count_response_use(self, tenant_id: TenantId) -> ResponseUse:
        """Return how many devices are shut out by responses."""
        async with self._connections.transaction(tenant_id) as transaction:
            return await _count_use(transaction)

    async def count_responses(self) -> ResponseFigures:
        """Return figures of every tenant's incidents and responses."""
        rows = await self._connections.fetch("count_responses")
        waiting = [row for row in rows if row["what"] == "waiting"]
        return ResponseFigures(
            incidents={(row["name"], row["state"]): row["found"] for row in rows if row["what"] == "incident"},
            responses={(row["name"], row["state"]): row["found"] for row in rows if row["what"] == "response"},
            waiting={row["name"]: row["found"] for row in waiting},
            waiting_since=min((row["oldest_at"] for row in waiting), default=None),
        )

    async def beat_worker(self, worker_id: WorkerId, *, lately_s: int) -> None:
        """Say that a worker serves devices, and forget those that have not said so within *lately_s* seconds."""
        async with self._connections.transaction() as transaction:
            await transaction.execute("beat_worker", as_uuid(worker_id))
            await transaction.execute("drop_beats", None, lately_s)

    async def forget_worker(self, worker_id: WorkerId, *, lately_s: int) -> None:
        """Say that it does so no more."""
        async with self._connections.transaction() as transaction:
            await transaction.execute("drop_beats", as_uuid(worker_id), lately_s)

    async def count_workers(self, worker_id: WorkerId, *, lately_s: int) -> int:
        """Return how many other workers said within *lately_s* seconds that they serve."""
        async with self._connections.transaction() as transaction:
            row = await transaction.fetch_row("count_workers", as_uuid(worker_id), lately_s)
        return 0 if row is None else int(row["workers"])

    async def count_mentions(self, tenant_id: TenantId, device_id: DeviceId) -> int:
        """Return how many incidents and responses name a device, as the one they are about or in their text."""
        async with self._connections.transaction(tenant_id) as transaction:
            return await _erase(transaction, device_id, None)

    async def erase_mentions(self, tenant_id: TenantId, device_id: DeviceId, *, alias: str, event: NewEvent) -> int:
        """Put *alias* where incidents and responses name a device, and take out what was said about it there."""

        async def erase() -> int:
            async with self._connections.transaction(tenant_id) as transaction:
                mentions = await _erase(transaction, device_id, alias)
                if mentions:
                    await transaction.execute("erase_device_reason", transaction.tenant_id)
                    await transaction.write_events([event])
            return mentions

        return await self._connections.repeat(erase)

    async def drop_finished(self, *, keep_s: int, limit: int, event: NewEvent) -> int:
        """Remove up to *limit* finished responses and as many closed incidents, of every tenant."""
        async with self._connections.transaction() as transaction:
            row = await transaction.fetch_row("drop_finished", keep_s, limit)
            dropped = 0 if row is None else int(row["dropped"])
            if dropped:
                await transaction.write_events([event])
        return dropped

    async def list_limits(self) -> tuple[Limit, ...]:
        """Return the limits of every tenant that stand and have not ended."""
        return tuple(
            Limit(
                tenant_id=TenantId(row["tenant_id"].bytes),
                response_id=ResponseId(row["response_id"].bytes),
                action=ResponseAction(row["action"]),
                ref=None if row["ref"] is None else DeviceRef(row["ref"]),
                source=row["source"],
                per_minute=row["per_minute"],
            )
            for row in await self._connections.fetch("list_limits")
        )


# --- steps of a transaction ---------------------------------------------------------------------------


async def _erase(transaction: Transaction, device_id: DeviceId, alias: str | None) -> int:
    escaped = json.dumps(device_id)[1:-1]
    row = await transaction.fetch_row("erase_mentions", transaction.tenant_id, device_id, escaped, alias)
    return 0 if row is None else int(row["mentions"])


async def _lock(transaction: Transaction, response_id: ResponseId) -> asyncpg.Record:
    row = await transaction.fetch_row("lock_response", transaction.tenant_id, as_uuid(response_id))
    if row is None:
        raise KeyNotFoundError("no such response in this tenant; list_responses() shows those there are")
    return row


def _require_open(row: asyncpg.Record) -> None:
    require_response_move(ResponseState(row["state"]), ResponseState.APPLIED)
    if row["is_expired"]:
        raise IllegalTransitionError("this proposal is older than a day: look again, and ask for it anew")


async def _require_operators(transaction: Transaction, found: Response) -> None:
    """Refuse where somebody who wanted it has lost their access since."""
    names = [name for name in (found.first_by, found.second_by) if name is not None]
    if not names:
        return
    row = await transaction.fetch_row("count_revoked_operators", transaction.tenant_id, names)
    if row is not None and row["operators"]:
        raise IllegalTransitionError("an operator who wanted this response was revoked since: dismiss it")


async def _needs_another(transaction: Transaction, found: Response, bounds: ResponseBounds) -> bool:
    """Return whether a single operator's response must wait for another's; raise where a rule's must not be done."""
    use = await _count_use(transaction)
    if found.is_by_rule and (obstacle := use.obstacle(bounds)) is not None:
        raise ConflictError(f"{obstacle}: a person must decide", constraint=BOUNDS)
    return not found.is_by_rule and not found.needs_two and use.single_last_hour >= bounds.single_hour_max


async def _count_use(transaction: Transaction) -> ResponseUse:
    row = await transaction.fetch_row("count_response_use", transaction.tenant_id)
    if row is None:  # pragma: no cover - an aggregate always has a row
        raise KeyNotFoundError("no such tenant; create it first")
    return ResponseUse(**dict(row.items()))


async def _do(transaction: Transaction, found: Response, event: NewEvent, turn_to: int | None) -> tuple[str, int]:
    """Carry *found* out with its event; return what was before and how much changed."""
    if found.action in LIMITS:
        await transaction.write_events([event])
        return "", 1
    if found.action is ResponseAction.TURN:
        if turn_to is None:
            raise UsageError("an early turn needs the bucket to turn to")
        await transaction.execute("hold_rekeys")
        row = await transaction.fetch_row("bucket_mark")
        mark = 0 if row is None else int(row["bucket"])
        await transaction.execute("raise_bucket_mark", turn_to)
        await transaction.execute("tell_turn", transaction.tenant_id, turn_to)
        await transaction.write_events([event])
        return str(mark), int(mark < turn_to)
    device = await _lock_device(transaction, found)
    if found.action in STATES:
        await _move_device(transaction, found, STATES[found.action], found.device_reason, event)
        return str(device["state"]), 1
    if found.action is ResponseAction.REKEY:
        row = await transaction.fetch_row(
            "end_device_sessions",
            *(transaction.tenant_id, found.target.ref),
            *event_columns([event]),
            found.device_reason,
        )
        ended = 0 if row is None else int(row["ended"])
    else:
        row = await transaction.fetch_row(
            "request_rotation", transaction.tenant_id, found.target.ref, device["key_version"]
        )
        ended = 0
        if row is not None:
            await transaction.write_events([event])
            return str(device["key_version"]), 1
    if not ended:
        await transaction.write_events([event])
    return str(device["key_version"]), ended


async def _lock_device(transaction: Transaction, found: Response) -> asyncpg.Record:
    device = await transaction.fetch_row("lock_device", transaction.tenant_id, found.target.ref)
    if device is None:
        raise KeyNotFoundError("no such device; register it first")
    return device


async def _move_device(
    transaction: Transaction, found: Response, state: KeyState, reason: str, event: NewEvent
) -> None:
    await transaction.fetch_row(
        "move_device", transaction.tenant_id, found.target.ref, state.value, reason, *event_columns([event])
    )


async def _put_back(transaction: Transaction, found: Response, because: str, event: NewEvent) -> None:
    device = await _lock_device(transaction, found)
    if (device["state"], device["state_reason"]) != (STATES[found.action].value, found.device_reason):
        raise ConflictError(
            f"device {found.target.device_id!r} was moved by somebody else since: nothing was undone; look at it first",
            constraint=STANDS,
        )
    reason = f"undone, response {found.response_id.hex()}: {because}"
    await _move_device(transaction, found, KeyState(found.before), reason, event)


async def _move(
    transaction: Transaction,
    found: Response,
    state: ResponseState,
    *,
    before: str | None = None,
    changed: int | None = None,
    by: str | None = None,
    because: str | None = None,
) -> Response:
    row = await transaction.fetch_row(
        "move_response",
        *(transaction.tenant_id, as_uuid(found.response_id), state.value),
        *(before, changed, by, because),
    )
    return found if row is None else _response(row)


def _response(row: asyncpg.Record) -> Response:
    ref, device_id, incident_id = row["ref"], row["device_id"], row["incident_id"]
    return Response(
        response_id=ResponseId(row["response_id"].bytes),
        tenant_id=TenantId(row["tenant_id"].bytes),
        action=ResponseAction(row["action"]),
        target=ResponseTarget(
            ref=None if ref is None else DeviceRef(ref),
            device_id=None if device_id is None else DeviceId(device_id),
            source=row["source"],
        ),
        incident_id=None if incident_id is None else IncidentId(incident_id.bytes),
        rule=row["rule"],
        is_automatic=row["is_automatic"],
        proven=row["proven"],
        needs_two=row["needs_two"],
        first_by=row["first_by"],
        second_by=row["second_by"],
        reason=row["reason"],
        state=ResponseState(row["state"]),
        before=row["before"],
        changed=row["changed"],
        per_minute=row["per_minute"],
        until_at=row["until_at"],
        asked_at=row["asked_at"],
        changed_at=row["changed_at"],
        expires_at=row["expires_at"],
        ended_by=row["ended_by"],
        ended_because=row["ended_because"],
    )
