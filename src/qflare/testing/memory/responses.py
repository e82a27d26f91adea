"""Responses to incidents in memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from qflare.errors import ConflictError, IllegalTransitionError, KeyNotFoundError, UsageError
from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT, DeviceId
from qflare.model.incident import Incident, IncidentState
from qflare.model.operator import OperatorState
from qflare.model.response import (
    ABOUT_DEVICE,
    DESTRUCTIVE,
    ELSEWHERE,
    EXPIRES_S,
    LIMITS,
    PER_MINUTE_MAX,
    REASON_BYTES_MAX,
    REVERSIBLE,
    SHUTS_OUT,
    SOURCE_BYTES_MAX,
    STATES,
    Limit,
    NewResponse,
    Response,
    ResponseAction,
    ResponseBounds,
    ResponseFigures,
    ResponseState,
    ResponseUse,
    require_response_move,
    require_reversible,
    require_wanted,
)
from qflare.model.rotation import RotationReason
from qflare.model.session import SessionState
from qflare.testing.memory.buckets import Buckets
from qflare.testing.memory.constraints import require, require_numbers, require_size, require_text
from qflare.testing.memory.devices import Devices
from qflare.testing.memory.rotations import Rotations
from qflare.testing.memory.rows import ResponseRow

if TYPE_CHECKING:
    from collections.abc import Collection

    from qflare.model.event import NewEvent
    from qflare.model.ids import IncidentId, ResponseId, TenantId, WorkerId
    from qflare.testing.memory.rows import DeviceRow

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_LASTS: Final = range(60, 31_622_401)
_LIMITS_MAX: Final = 10_000
_ERASED: Final = "erased"


class Responses(Rotations, Buckets, Devices):
    """Responses, asked for, wanted by operators, carried out and undone."""

    async def ask_response(
        self, tenant_id: TenantId, response: NewResponse, *, needs_two: bool, event: NewEvent
    ) -> Response:
        """Keep a response as proposed; what stands under its id is returned if it is the same."""
        async with self._transaction(tenant_id, response.response_id) as tables:
            found = tables.responses.get((tenant_id, response.response_id))
            if found is not None:
                if not found.response.is_of(response):
                    raise ConflictError(
                        "another response has this id: draw 16 random bytes", constraint="response_pkey"
                    )
                return found.response
            self._require_new(tenant_id, response, needs_two=needs_two)
            now = self._now
            row = Response(
                response_id=response.response_id,
                tenant_id=tenant_id,
                action=response.action,
                target=response.target,
                incident_id=response.incident_id,
                rule=response.rule,
                is_automatic=response.is_automatic,
                proven=response.proven,
                needs_two=needs_two,
                first_by=response.asked_by,
                second_by=None,
                reason=response.reason,
                state=ResponseState.PROPOSED,
                before="",
                changed=0,
                per_minute=response.per_minute,
                until_at=None,
                asked_at=now,
                changed_at=now,
                expires_at=now + timedelta(seconds=EXPIRES_S),
                ended_by=None,
                ended_because="",
            )
            tables.responses.put((tenant_id, row.response_id), ResponseRow(response=row, lasts_s=response.lasts_s))
            self._write_events(tenant_id, [event])
            return row

    async def confirm_response(
        self, tenant_id: TenantId, response_id: ResponseId, *, by: str, event: NewEvent
    ) -> Response:
        """Note that an operator wants it too; nothing is done yet."""
        async with self._transaction(tenant_id, response_id):
            row = self._get_response(tenant_id, response_id)
            found = row.response
            if by in {found.first_by, found.second_by} and not found.lacks:
                return found
            self._require_open(found)
            self._require_known(tenant_id, by)
            require(found.first_by != by, "response_two_persons")
            wanted = replace(found, first_by=by) if found.first_by is None else replace(found, second_by=by)
            self._put_response(replace(row, response=wanted))
            self._write_events(tenant_id, [event])
            return wanted

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
        async with self._transaction(tenant_id, response_id):
            row = self._get_response(tenant_id, response_id)
            found = row.response
            if found.state in {ResponseState.BEGUN, ResponseState.APPLIED}:
                return found
            self._require_open(found)
            require_wanted(found)
            self._require_operators(found)
            if found.action in SHUTS_OUT and self._needs_another(found, bounds):
                kept = replace(found, needs_two=True, changed_at=self._now)
                self._put_response(replace(row, response=kept))
                self._write_events(tenant_id, [held])
                return kept
            if found.action in ELSEWHERE:
                self._write_events(tenant_id, [event])
                return self._move_response(row, ResponseState.BEGUN, before=before)
            was, changed = self._do(found, turn_to)
            self._write_events(tenant_id, [event])
            return self._move_response(row, ResponseState.APPLIED, before=was, changed=changed)

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
        async with self._transaction(tenant_id, response_id):
            row = self._get_response(tenant_id, response_id)
            if row.response.state is state:
                return row.response
            require_response_move(row.response.state, state)
            self._write_events(tenant_id, [event])
            changed = 1 if state is ResponseState.APPLIED else None
            return self._move_response(row, state, changed=changed, by=by, because=because)

    async def undo_response(
        self, tenant_id: TenantId, response_id: ResponseId, *, by: str, because: str, event: NewEvent
    ) -> Response:
        """Put back what was before, if what it did still stands."""
        async with self._transaction(tenant_id, response_id):
            row = self._get_response(tenant_id, response_id)
            found = row.response
            if found.state is ResponseState.UNDONE:
                return found
            require_response_move(found.state, ResponseState.UNDONE)
            require_reversible(found)
            if found.action in STATES:
                device = self._device_of(found)
                if (device.state, device.state_reason) != (STATES[found.action], found.device_reason):
                    raise ConflictError(
                        f"device {found.target.device_id!r} was moved by somebody else since: nothing was undone; "
                        "look at it first",
                        constraint="response_stands",
                    )
                reason = f"undone, response {response_id.hex()}: {because}"
                self._move_device(device, KeyState(found.before), reason)
            self._write_events(tenant_id, [event])
            return self._move_response(row, ResponseState.UNDONE, by=by, because=because)

    async def find_response(self, tenant_id: TenantId, response_id: ResponseId) -> Response | None:
        """Return one response of the tenant, or None."""
        async with self._transaction(tenant_id, response_id) as tables:
            row = tables.responses.get((tenant_id, response_id))
            return None if row is None else row.response

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
        require_numbers(limit)
        wanted = set(ResponseState) if states is None else set(states)
        async with self._transaction(tenant_id, *([] if after is None else [after])) as tables:
            mine = [row.response for row in tables.responses.values() if row.response.tenant_id == tenant_id]
            rows = sorted(mine, key=_order, reverse=True)
            if after is not None:
                start = tables.responses.get((tenant_id, after))
                rows = [] if start is None else [row for row in rows if _order(row) < _order(start.response)]
            if incident_id is not None:
                rows = [row for row in rows if row.incident_id == incident_id]
            return tuple([row for row in rows if row.state in wanted][:limit])

    async def count_response_use(self, tenant_id: TenantId) -> ResponseUse:
        """Return how many devices are shut out by responses."""
        async with self._transaction(tenant_id):
            return self._count_use(tenant_id)

    async def count_responses(self) -> ResponseFigures:
        """Return figures of every tenant's incidents and responses."""
        async with self._transaction() as tables:
            rows = [row.response for row in tables.responses.values()]
            waiting = [
                row
                for row in rows
                if row.state is ResponseState.PROPOSED
                and row.expires_at > self._now
                and (row.first_by is None or row.lacks)
            ]
            not_closed = [row for row in tables.incidents.values() if row.state is not IncidentState.CLOSED]
            recent = [row for row in rows if row.changed_at > self._now - _DAY]
            return ResponseFigures(
                incidents=Counter((row.severity.value, row.state.value) for row in not_closed),
                responses=Counter((row.action.value, row.state.value) for row in recent),
                waiting=Counter("first" if row.first_by is None else "second" for row in waiting),
                waiting_since=min((row.asked_at for row in waiting), default=None),
            )

    async def beat_worker(self, worker_id: WorkerId, *, lately_s: int) -> None:
        """Say that a worker serves devices, and forget those that have not said so within *lately_s* seconds."""
        async with self._transaction(worker_id) as tables:
            tables.beats.put(worker_id, self._now)
            self._drop_beats(lately_s)

    async def forget_worker(self, worker_id: WorkerId, *, lately_s: int) -> None:
        """Say that it does so no more."""
        async with self._transaction(worker_id) as tables:
            tables.beats.drop_all(where=lambda other: other == worker_id)
            self._drop_beats(lately_s)

    async def count_workers(self, worker_id: WorkerId, *, lately_s: int) -> int:
        """Return how many other workers said within *lately_s* seconds that they serve."""
        async with self._transaction(worker_id) as tables:
            since = self._now - timedelta(seconds=lately_s)
            return sum(other != worker_id and at > since for other, at in tables.beats.items())

    def _drop_beats(self, lately_s: int) -> None:
        beats, since = self._tables.beats, self._now - timedelta(seconds=lately_s)
        old = {worker_id for worker_id, at in beats.items() if at <= since}
        beats.drop_all(where=lambda other: other in old)

    async def count_mentions(self, tenant_id: TenantId, device_id: DeviceId) -> int:
        """Return how many incidents and responses name a device, as the one they are about or in their text."""
        async with self._transaction(tenant_id):
            incidents, responses = self._mentions(tenant_id, device_id)
            return len(incidents) + len(responses)

    async def erase_mentions(self, tenant_id: TenantId, device_id: DeviceId, *, alias: str, event: NewEvent) -> int:
        """Put *alias* where incidents and responses name a device, and take out what was said about it there."""
        async with self._transaction(tenant_id) as tables:
            incidents, responses = self._mentions(tenant_id, device_id)
            word = _word(device_id)
            for row in responses:
                its = row.response
                is_about = its.target.device_id == device_id
                target = replace(its.target, device_id=DeviceId(alias)) if is_about else its.target
                ended = its.ended_because and (is_about or word.search(its.ended_because))
                erased = replace(
                    its,
                    target=target,
                    reason=_ERASED if is_about or word.search(its.reason) else its.reason,
                    ended_because=_ERASED if ended else its.ended_because,
                )
                tables.responses.put((tenant_id, its.response_id), replace(row, response=erased))
                device = tables.devices.get((tenant_id, its.target.ref)) if its.target.ref is not None else None
                if device is not None and device.state_reason == its.device_reason:
                    tables.devices.put((tenant_id, device.ref), replace(device, state_reason=erased.device_reason))
            for found in incidents:
                is_about = found.device_id == device_id
                noted = found.note and (is_about or word.search(found.note))
                in_evidence = is_about or word.search(found.evidence.decode())
                made = replace(
                    found,
                    device_id=DeviceId(alias) if is_about else found.device_id,
                    note=_ERASED if noted else found.note,
                    evidence=b'{"erased":true}' if in_evidence else found.evidence,
                )
                tables.incidents.put((tenant_id, found.incident_id), made)
            if incidents or responses:
                self._write_events(tenant_id, [event])
            return len(incidents) + len(responses)

    def _mentions(self, tenant_id: TenantId, device_id: DeviceId) -> tuple[list[Incident], list[ResponseRow]]:
        word = _word(device_id)
        incidents = [
            row
            for row in self._tables.incidents.values()
            if row.tenant_id == tenant_id
            and (row.device_id == device_id or word.search(row.note) or word.search(row.evidence.decode()))
        ]
        responses = [
            row
            for row in self._tables.responses.values()
            if (its := row.response).tenant_id == tenant_id
            and (its.target.device_id == device_id or word.search(its.reason) or word.search(its.ended_because))
        ]
        return incidents, responses

    async def drop_finished(self, *, keep_s: int, limit: int, event: NewEvent) -> int:
        """Remove up to *limit* finished responses and as many closed incidents, of every tenant."""
        async with self._transaction() as tables:
            before = self._now - timedelta(seconds=keep_s)
            # What answers an incident that is not closed stays: it is the one mark that its rule has responded.
            old = {
                key
                for key, row in tables.responses.items()
                if _is_over(row.response, before)
                and (
                    row.response.incident_id is None
                    or tables.incidents[row.response.tenant_id, row.response.incident_id].state is IncidentState.CLOSED
                )
            }
            responses = set(sorted(old, key=lambda key: tables.responses[key].response.changed_at)[:limit])
            tables.responses.drop_all(where=lambda key: key in responses)
            needed = {(row.response.tenant_id, row.response.incident_id) for row in tables.responses.values()}
            closed = [
                (row.changed_at, key)
                for key, row in tables.incidents.items()
                if row.state is IncidentState.CLOSED and row.changed_at < before and key not in needed
            ]
            incidents = {key for _, key in sorted(closed)[:limit]}
            tables.incidents.drop_all(where=lambda key: key in incidents)
            dropped = len(responses) + len(incidents)
            if dropped:
                self._write_events(DEFAULT_TENANT, [event])
            return dropped

    async def list_limits(self) -> tuple[Limit, ...]:
        """Return the limits of every tenant that stand and have not ended."""
        async with self._transaction() as tables:
            standing = [row for row in tables.responses.values() if row.response.state is ResponseState.APPLIED]
            standing.sort(key=lambda row: row.applied_at or row.response.asked_at, reverse=True)
            return tuple(
                Limit(
                    tenant_id=its.tenant_id,
                    response_id=its.response_id,
                    action=its.action,
                    ref=its.target.ref,
                    source=its.target.source,
                    per_minute=its.per_minute,
                )
                for row in standing
                if (its := row.response).per_minute is not None and (its.until_at is None or its.until_at > self._now)
            )[:_LIMITS_MAX]

    # --- steps of a transaction -------------------------------------------------------------------

    def _require_new(self, tenant_id: TenantId, response: NewResponse, *, needs_two: bool) -> None:
        tables, target, action = self._tables, response.target, response.action
        if tenant_id not in tables.tenants:
            raise KeyNotFoundError("no such tenant; create it first")
        if response.incident_id is not None and (tenant_id, response.incident_id) not in tables.incidents:
            raise KeyNotFoundError("no such incident in this tenant")
        if response.asked_by is not None:
            self._require_known(tenant_id, response.asked_by)
        is_fit = (action in ABOUT_DEVICE) == (target.ref is not None and target.device_id is not None)
        require(is_fit and (target.ref is None) == (target.device_id is None), "response_target_of_action")
        require((action is ResponseAction.LIMIT_SOURCE) == (target.source is not None), "response_target_of_action")
        require_text(target.source, "response_source_size", 1, SOURCE_BYTES_MAX)
        require_text(response.rule, "response_rule_size", 1, 64)
        require_text(response.reason, "response_reason_size", 1, REASON_BYTES_MAX)
        require_size(target.ref, "response_ref_size", 32)
        require((action in LIMITS) == (response.per_minute is not None), "response_limit_of_action")
        require(response.per_minute is None or 0 <= response.per_minute <= PER_MINUTE_MAX, "response_per_minute_range")
        require(response.lasts_s is None or response.lasts_s in _LASTS, "response_lasts_range")
        require(needs_two or action not in DESTRUCTIVE, "response_destructive_needs_two")
        require(not response.is_automatic or response.rule is not None, "response_automatic_of_rule")
        is_proven = not response.is_automatic or target.ref is None or response.proven >= 1
        require(is_proven, "response_automatic_proven")
        require(response.proven >= 0, "response_proven_range")

    def _require_known(self, tenant_id: TenantId, name: str) -> None:
        if (tenant_id, name) not in self._tables.operators:
            raise KeyNotFoundError("no such operator in this tenant: add one with  qflare operator add")

    def _get_response(self, tenant_id: TenantId, response_id: ResponseId) -> ResponseRow:
        row = self._tables.responses.get((tenant_id, response_id))
        if row is None:
            raise KeyNotFoundError("no such response in this tenant; list_responses() shows those there are")
        return row

    def _require_open(self, found: Response) -> None:
        require_response_move(found.state, ResponseState.APPLIED)
        if found.expires_at <= self._now:
            raise IllegalTransitionError("this proposal is older than a day: look again, and ask for it anew")

    def _require_operators(self, found: Response) -> None:
        names = [name for name in (found.first_by, found.second_by) if name is not None]
        if any(self._tables.operators[found.tenant_id, name].state is not OperatorState.ACTIVE for name in names):
            raise IllegalTransitionError("an operator who wanted this response was revoked since: dismiss it")

    def _needs_another(self, found: Response, bounds: ResponseBounds) -> bool:
        use = self._count_use(found.tenant_id)
        if found.is_by_rule and (obstacle := use.obstacle(bounds)) is not None:
            raise ConflictError(f"{obstacle}: a person must decide", constraint="response_bounds")
        return not found.is_by_rule and not found.needs_two and use.single_last_hour >= bounds.single_hour_max

    def _count_use(self, tenant_id: TenantId) -> ResponseUse:
        tables, since = self._tables, self._now - _HOUR
        done = [
            row
            for row in tables.responses.values()
            if row.response.tenant_id == tenant_id and row.response.action in SHUTS_OUT and row.applied_at is not None
        ]
        late = [row.response for row in done if row.applied_at is not None and row.applied_at > since]
        counted = (KeyState.ACTIVE, KeyState.SUSPENDED)
        return ResponseUse(
            devices=sum(row.tenant_id == tenant_id and row.state in counted for row in tables.devices.values()),
            automatic_last_hour=sum(row.first_by is None for row in late),
            automatic_standing=sum(
                row.response.first_by is None and row.response.state is ResponseState.APPLIED for row in done
            ),
            single_last_hour=sum(row.first_by is not None and not row.needs_two for row in late),
        )

    def _do(self, found: Response, turn_to: int | None) -> tuple[str, int]:
        """Carry *found* out; return what was before and how much changed."""
        if found.action in LIMITS:
            return "", 1
        if found.action is ResponseAction.TURN:
            if turn_to is None:
                raise UsageError("an early turn needs the bucket to turn to")
            mark = self._tables.bucket_mark.value
            self._raise_mark(turn_to)
            return str(mark), int(mark < turn_to)
        device = self._device_of(found)
        if found.action in STATES:
            self._move_device(device, STATES[found.action], found.device_reason)
            return device.state.value, 1
        if found.action is ResponseAction.REKEY:
            live = [
                row
                for row in self._tables.sessions.values()
                if (row.tenant_id, row.ref, row.state) == (device.tenant_id, device.ref, SessionState.LIVE)
            ]
            for row in live:
                self._end(row, SessionState.ENDED, found.device_reason)
            return str(device.key_version), len(live)
        now = self._now
        is_marked = self._put_mark(
            device.tenant_id, device.ref, device.key_version, reason=RotationReason.OPERATOR, due_at=now, now=now
        )
        return str(device.key_version), int(is_marked)

    def _device_of(self, found: Response) -> DeviceRow:
        ref = found.target.ref
        row = None if ref is None else self._tables.devices.get((found.tenant_id, ref))
        if row is None:
            raise KeyNotFoundError("no such device; register it first")
        return row

    def _move_response(
        self,
        row: ResponseRow,
        state: ResponseState,
        *,
        before: str | None = None,
        changed: int | None = None,
        by: str | None = None,
        because: str | None = None,
    ) -> Response:
        found, now = row.response, self._now
        require_response_move(found.state, state)
        if by is not None:
            self._require_known(found.tenant_id, by)
        require_text(because, "response_ended_because_size", 0, REASON_BYTES_MAX)
        is_applied = state is ResponseState.APPLIED
        moved = replace(
            found,
            state=state,
            before=found.before if before is None else before,
            changed=found.changed if changed is None else changed,
            ended_by=found.ended_by if by is None else by,
            ended_because=found.ended_because if because is None else because,
            changed_at=now,
            until_at=now + timedelta(seconds=row.lasts_s) if is_applied and row.lasts_s is not None else found.until_at,
        )
        self._put_response(replace(row, response=moved, applied_at=now if is_applied else row.applied_at))
        return moved

    def _put_response(self, row: ResponseRow) -> None:
        self._tables.responses.put((row.response.tenant_id, row.response.response_id), row)


def _order(row: Response) -> tuple[datetime, bytes]:
    return row.asked_at, row.response_id


def _is_over(found: Response, before: datetime) -> bool:
    """Whether nothing is to be done about it any more, and nothing was since *before*."""
    if found.changed_at >= before:
        return False
    match found.state:
        case ResponseState.UNDONE | ResponseState.DISMISSED:
            return True
        case ResponseState.PROPOSED:
            return found.expires_at < before
        case ResponseState.APPLIED:
            return found.action not in REVERSIBLE or (found.until_at is not None and found.until_at < before)
        case ResponseState.BEGUN:
            return False


def _word(device_id: DeviceId) -> re.Pattern[str]:
    """Find a name where it stands by itself, as it is or as JSON of ASCII text has it."""
    names = "|".join(re.escape(name) for name in (device_id, json.dumps(device_id)[1:-1]))
    return re.compile(rf"(?<!\w)(?:{names})(?!\w|\\u)")
