"""Rotation policies, their marks, and what sessions have carried, in memory."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.errors import BatchError, KeyNotFoundError
from qflare.model.call import call_about
from qflare.model.device import KeyState
from qflare.model.rotation import (
    MIN_INTERVAL_S,
    PPM,
    DueKey,
    RotatableKey,
    RotatableKeys,
    RotationMark,
    RotationPolicy,
    RotationProgress,
    RotationReason,
    SessionUse,
    SessionUseTotal,
    TenantPolicy,
)
from qflare.testing.memory.devices import SIGNATURE
from qflare.testing.memory.entries import Logging
from qflare.testing.memory.rows import DeviceRow, MarkRow, Use

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId, DeviceRef, SessionId, TenantId

_MINUTE: Final = timedelta(minutes=1)


class Rotations(Logging):
    """Policies, marks and use."""

    async def find_rotation_policy(self, tenant_id: TenantId) -> RotationPolicy | None:
        """Return the tenant's policy, None if it has none."""
        async with self._transaction(tenant_id) as tables:
            return tables.policies.get(tenant_id)

    async def save_rotation_policy(
        self, tenant_id: TenantId, policy: RotationPolicy, *, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Make *policy* the tenant's, in place of any before it."""
        change = call_about(call_id, b"rotation-policy", repr(policy).encode())
        async with self._transaction(tenant_id) as tables:
            if self._carried_out(tenant_id, change) is not None:
                return
            if tenant_id not in tables.tenants:
                raise KeyNotFoundError("no such tenant; create it first")
            tables.policies.put(tenant_id, policy)
            self._write_events(tenant_id, [event])
            self._note_call(tenant_id, change)

    async def drop_rotation_policy(
        self, tenant_id: TenantId, *, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Remove the tenant's policy; `KeyNotFoundError` if it has none. Marks that were made stand."""
        change = call_about(call_id, b"rotation-policy", b"removed")
        async with self._transaction(tenant_id) as tables:
            if self._carried_out(tenant_id, change) is not None:
                return
            if tenant_id not in tables.policies:
                raise KeyNotFoundError("the tenant has no rotation policy; set one first")
            tables.policies.drop(tenant_id)
            self._write_events(tenant_id, [event])
            self._note_call(tenant_id, change)

    async def list_rotation_policies(self) -> tuple[TenantPolicy, ...]:
        """Return every tenant's policy."""
        async with self._transaction() as tables:
            found = sorted(tables.policies.items(), key=lambda item: item[0])
            return tuple(TenantPolicy(tenant_id=tenant_id, policy=policy) for tenant_id, policy in found)

    async def list_rotatable_keys(self, tenant_id: TenantId, *, after: bytes, limit: int) -> RotatableKeys:
        """Return up to *limit* active devices' current keys in order of ref, from the one after *after* on."""
        async with self._transaction(tenant_id) as tables:
            rows = sorted((row for row in self._active(tenant_id) if row.ref > after), key=lambda row: row.ref)
            keys = tuple(self._rotatable(row) for row in rows[:limit])
            return RotatableKeys(keys=keys, now_s=tables.clock.now_s() if keys else 0)

    async def mark_rotations(
        self, tenant_id: TenantId, due: Sequence[DueKey], *, events: Sequence[NewEvent]
    ) -> tuple[bool, ...]:
        """Mark keys as due within the policy's share a minute; True where one was. `events[i]` is written if so."""
        if len(events) != len(due):
            raise BatchError(f"{len(due)} due keys need as many events, got {len(events)}")
        if not due:
            return ()
        async with self._transaction(tenant_id) as tables:
            policy = tables.policies.get(tenant_id)
            if policy is None:
                return (False,) * len(due)
            now = self._now
            room = self._minute_max(tenant_id, policy) - self._marked_since(tenant_id, now - _MINUTE)
            marked = []
            for item in due:
                is_marked = room > 0 and self._mark(tenant_id, item, now)
                room -= is_marked
                marked.append(is_marked)
            self._write_events(tenant_id, [event for event, done in zip(events, marked, strict=True) if done])
            return tuple(marked)

    async def request_rotation(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        *,
        key_version: int,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> bool:
        """Mark a device's current keys as due and write *event*; False, and nothing is written, if that cannot be."""
        change = call_about(call_id, b"rotation-request", ref)
        async with self._transaction(tenant_id):
            if self._carried_out(tenant_id, change) is not None:
                return True
            now = self._now
            if not self._put_mark(tenant_id, ref, key_version, reason=RotationReason.OPERATOR, due_at=now, now=now):
                return False
            self._write_events(tenant_id, [event])
            self._note_call(tenant_id, change, outcome=key_version)
            return True

    async def find_rotation_marks(
        self, tenant_id: TenantId, refs: Sequence[DeviceRef]
    ) -> dict[DeviceRef, RotationMark]:
        """Return the marks on the current keys of *refs*."""
        async with self._transaction(tenant_id):
            found = {ref: self._mark_of(tenant_id, ref) for ref in refs}
            return {ref: self._told_mark(tenant_id, ref, mark) for ref, mark in found.items() if mark is not None}

    async def count_rotations(self, tenant_id: TenantId) -> RotationProgress:
        """Return how far the tenant's rotation is."""
        async with self._transaction(tenant_id) as tables:
            active = list(self._active(tenant_id))
            waiting = [mark for row in active if (mark := self._mark_of(tenant_id, row.ref)) is not None]
            policy = tables.policies.get(tenant_id)
            return RotationProgress(
                devices_active=len(active),
                waiting=len(waiting),
                overdue=sum(self._is_overdue(tenant_id, mark) for mark in waiting),
                rotated=sum(
                    tables.devices[key].key_version > mark.key_version
                    for key, mark in tables.marks.items()
                    if key[0] == tenant_id
                ),
                marked_last_minute=self._marked_since(tenant_id, self._now - _MINUTE),
                minute_max=0 if policy is None else self._minute_max(tenant_id, policy),
            )

    async def count_use(self, tenant_id: TenantId, uses: Sequence[SessionUse]) -> tuple[SessionUseTotal, ...]:
        """Add what sessions have carried, and return their sums; sessions that are not the tenant's are left out."""
        async with self._transaction(tenant_id, *(use.sid for use in uses)) as tables:
            carried: defaultdict[SessionId, Use] = defaultdict(Use)
            for use in uses:
                carried[use.sid] = _sum(carried[use.sid], use.records, use.bytes)
            totals = []
            for sid in sorted(carried):
                row = tables.sessions.get(sid)
                if row is None or row.tenant_id != tenant_id:
                    continue
                more = carried[sid]
                row = replace(row, records=row.records + more.records, bytes=row.bytes + more.bytes)
                tables.sessions.put(sid, row)
                key = (tenant_id, row.ref, row.key_version)
                tables.uses.put(key, _sum(tables.uses.get(key, Use()), more.records, more.bytes))
                mark = self._mark_of(tenant_id, row.ref)
                totals.append(
                    SessionUseTotal(
                        sid=sid,
                        ref=row.ref,
                        records=row.records,
                        bytes=row.bytes,
                        is_overdue=mark is not None and self._is_overdue(tenant_id, mark),
                    )
                )
            return tuple(totals)

    def _active(self, tenant_id: TenantId) -> list[DeviceRow]:
        rows = self._tables.devices.values()
        return [row for row in rows if row.tenant_id == tenant_id and row.state is KeyState.ACTIVE]

    def _created(self, row: DeviceRow) -> datetime:
        return self._tables.device_keys[row.tenant_id, row.ref, row.key_version, SIGNATURE].record.created_at

    def _rotatable(self, row: DeviceRow) -> RotatableKey:
        use = self._tables.uses.get((row.tenant_id, row.ref, row.key_version), Use())
        mark = self._mark_of(row.tenant_id, row.ref)
        return RotatableKey(
            ref=row.ref,
            device_id=row.device_id,
            key_version=row.key_version,
            created_s=int(self._created(row).timestamp()),
            records=use.records,
            bytes=use.bytes,
            marked_s=None if mark is None else int(mark.marked_at.timestamp()),
            mark_reason=None if mark is None else mark.reason,
        )

    def _mark(self, tenant_id: TenantId, item: DueKey, now: datetime) -> bool:
        """Mark one key version that a policy makes due: none that is younger than an hour."""
        row = self._tables.devices.get((tenant_id, item.key.ref))
        if row is not None and self._created(row) > now - timedelta(seconds=MIN_INTERVAL_S):
            return False
        return self._put_mark(
            tenant_id, item.key.ref, item.key.key_version, reason=item.reason, due_at=utc(item.due_s), now=now
        )

    def _put_mark(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        key_version: int,
        *,
        reason: RotationReason,
        due_at: datetime,
        now: datetime,
    ) -> bool:
        """Mark one key version: the current one of an active device, and not twice."""
        tables, key = self._tables, (tenant_id, ref)
        row, known = tables.devices.get(key), tables.marks.get(key)
        if row is None or row.state is not KeyState.ACTIVE or row.key_version != key_version:
            return False
        if known is not None and known.key_version >= key_version:
            return False
        tables.marks.put(key, MarkRow(key_version=key_version, reason=reason, due_at=due_at, marked_at=now))
        return True

    def _mark_of(self, tenant_id: TenantId, ref: DeviceRef) -> MarkRow | None:
        """Return the mark on a device's current keys; one of an earlier version is void."""
        row, mark = self._tables.devices.get((tenant_id, ref)), self._tables.marks.get((tenant_id, ref))
        return mark if row is not None and mark is not None and mark.key_version == row.key_version else None

    def _told_mark(self, tenant_id: TenantId, ref: DeviceRef, mark: MarkRow) -> RotationMark:
        return RotationMark(
            ref=ref,
            key_version=mark.key_version,
            reason=mark.reason,
            due_at=mark.due_at,
            marked_at=mark.marked_at,
            is_overdue=self._is_overdue(tenant_id, mark),
        )

    def _is_overdue(self, tenant_id: TenantId, mark: MarkRow) -> bool:
        policy = self._tables.policies.get(tenant_id)
        if policy is None or policy.grace_s is None:
            return False
        return mark.marked_at + timedelta(seconds=policy.grace_s) < self._now

    def _marked_since(self, tenant_id: TenantId, since: datetime) -> int:
        return sum(key[0] == tenant_id and mark.marked_at > since for key, mark in self._tables.marks.items())

    def _minute_max(self, tenant_id: TenantId, policy: RotationPolicy) -> int:
        # A share below one device is one device: else a small fleet would never be done.
        return max(1, len(self._active(tenant_id)) * policy.minute_ppm // PPM)


def _sum(use: Use, records: int, size: int) -> Use:
    return Use(records=use.records + records, bytes=use.bytes + size)
