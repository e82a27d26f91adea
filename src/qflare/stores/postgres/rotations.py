"""Rotation policies, their marks, and what sessions have carried, in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import BatchError, KeyNotFoundError, SchemaMismatchError
from qflare.model.call import call_about
from qflare.model.ids import DeviceId, DeviceRef, SessionId, TenantId
from qflare.model.rotation import (
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
from qflare.stores.postgres.calls import carried_out
from qflare.stores.postgres.columns import as_uuid, as_uuids, event_columns
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId


class Rotations(Connected):
    """Tables rotation_policy, rotation_mark and device_use."""

    async def find_rotation_policy(self, tenant_id: TenantId) -> RotationPolicy | None:
        """Return the tenant's policy, None if it has none."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("find_rotation_policy", transaction.tenant_id)
        return None if row is None else _policy(row)

    async def save_rotation_policy(
        self, tenant_id: TenantId, policy: RotationPolicy, *, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Make *policy* the tenant's, in place of any before it; once for one change."""
        change = call_about(call_id, b"rotation-policy", repr(policy).encode())

        async def save() -> int:
            async with self._connections.transaction(tenant_id) as transaction:
                await transaction.execute(
                    "save_rotation_policy",
                    transaction.tenant_id,
                    policy.max_age_s,
                    policy.max_records,
                    policy.max_bytes,
                    policy.jitter_percent,
                    policy.minute_ppm,
                    policy.grace_s,
                )
                await transaction.write_events([event])
                await transaction.note_call(change, "rotation-policy")
            return 1

        await carried_out(self._connections, tenant_id, change, save, is_given=call_id is not None)

    async def drop_rotation_policy(
        self, tenant_id: TenantId, *, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Remove the tenant's policy; `KeyNotFoundError` if it has none. Marks that were made stand."""
        change = call_about(call_id, b"rotation-policy", b"removed")

        async def drop() -> int:
            async with self._connections.transaction(tenant_id) as transaction:
                if await transaction.fetch_row("drop_rotation_policy", transaction.tenant_id) is None:
                    raise KeyNotFoundError("the tenant has no rotation policy; set one first")
                await transaction.write_events([event])
                await transaction.note_call(change, "rotation-policy")
            return 1

        await carried_out(self._connections, tenant_id, change, drop, is_given=call_id is not None)

    async def list_rotation_policies(self) -> tuple[TenantPolicy, ...]:
        """Return every tenant's policy."""
        rows = await self._connections.fetch("list_rotation_policies")
        return tuple(TenantPolicy(tenant_id=TenantId(row["tenant_id"].bytes), policy=_policy(row)) for row in rows)

    async def list_rotatable_keys(self, tenant_id: TenantId, *, after: bytes, limit: int) -> RotatableKeys:
        """Return up to *limit* active devices' current keys in order of ref, from the one after *after* on."""
        rows = await self._connections.fetch("list_rotatable_keys", as_uuid(tenant_id), after, limit)
        return RotatableKeys(keys=tuple(_key(row) for row in rows), now_s=rows[0]["now_s"] if rows else 0)

    async def mark_rotations(
        self, tenant_id: TenantId, due: Sequence[DueKey], *, events: Sequence[NewEvent]
    ) -> tuple[bool, ...]:
        """Mark keys as due within the policy's share a minute; True where one was. `events[i]` is written if so."""
        if len(events) != len(due):
            raise BatchError(f"{len(due)} due keys need as many events, got {len(events)}")
        if not due:
            return ()
        row = await self._connections.get_row(
            "mark_rotations",
            as_uuid(tenant_id),
            [item.key.ref for item in due],
            [item.key.key_version for item in due],
            [item.reason.value for item in due],
            [item.due_s for item in due],
            *event_columns(events),
        )
        return tuple(row["marked"])

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

        async def mark() -> int:
            async with self._connections.transaction(tenant_id) as transaction:
                if await transaction.fetch_row("request_rotation", transaction.tenant_id, ref, key_version) is None:
                    return 0
                await transaction.write_events([event])
                await transaction.note_call(change, "rotation-request", outcome=key_version)
            return key_version

        return bool(await carried_out(self._connections, tenant_id, change, mark, is_given=call_id is not None))

    async def find_rotation_marks(
        self, tenant_id: TenantId, refs: Sequence[DeviceRef]
    ) -> dict[DeviceRef, RotationMark]:
        """Return the marks on the current keys of *refs*."""
        rows = await self._connections.fetch("find_rotation_marks", as_uuid(tenant_id), list(refs))
        return {
            DeviceRef(row["ref"]): RotationMark(
                ref=DeviceRef(row["ref"]),
                key_version=row["key_version"],
                reason=RotationReason(row["reason"]),
                due_at=row["due_at"],
                marked_at=row["marked_at"],
                is_overdue=row["is_overdue"],
            )
            for row in rows
        }

    async def count_rotations(self, tenant_id: TenantId) -> RotationProgress:
        """Return how far the tenant's rotation is."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("count_rotations", transaction.tenant_id)
        if row is None:  # pragma: no cover - an aggregate always has a row
            raise SchemaMismatchError("the rotation tables are missing; apply database/migrations in order")
        return RotationProgress(**dict(row.items()))

    async def count_use(self, tenant_id: TenantId, uses: Sequence[SessionUse]) -> tuple[SessionUseTotal, ...]:
        """Add what sessions have carried, and return their sums; sessions that are not the tenant's are left out."""
        if not uses:
            return ()
        # Once: a second attempt would count again what the first one counted.
        rows = await self._connections.attempt(
            "count_use",
            as_uuid(tenant_id),
            as_uuids([use.sid for use in uses]),
            [use.records for use in uses],
            [use.bytes for use in uses],
        )
        return tuple(
            SessionUseTotal(
                sid=SessionId(row["sid"].bytes),
                ref=DeviceRef(row["ref"]),
                records=row["records"],
                bytes=row["bytes"],
                is_overdue=row["is_overdue"],
            )
            for row in rows
        )


def _policy(row: asyncpg.Record) -> RotationPolicy:
    return RotationPolicy(
        max_age_s=row["max_age_s"],
        max_records=row["max_records"],
        max_bytes=row["max_bytes"],
        jitter_percent=row["jitter_percent"],
        minute_ppm=row["minute_ppm"],
        grace_s=row["grace_s"],
    )


def _key(row: asyncpg.Record) -> RotatableKey:
    reason: str | None = row["mark_reason"]
    return RotatableKey(
        ref=DeviceRef(row["ref"]),
        device_id=DeviceId(row["device_id"]),
        key_version=row["key_version"],
        created_s=row["created_s"],
        records=row["records"],
        bytes=row["bytes"],
        marked_s=row["marked_s"],
        mark_reason=None if reason is None else RotationReason(reason),
    )
