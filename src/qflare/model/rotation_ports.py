"""The port to rotation policies of device keys, their marks, and what sessions have carried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qflare.model.call_ports import CallStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId, DeviceRef, TenantId
    from qflare.model.rotation import (
        DueKey,
        RotatableKeys,
        RotationMark,
        RotationPolicy,
        RotationProgress,
        SessionUse,
        SessionUseTotal,
        TenantPolicy,
    )


class RotationStore(CallStore, Protocol):
    """Rotation policies of device keys, the marks they make, and what sessions have carried."""

    async def find_rotation_policy(self, tenant_id: TenantId) -> RotationPolicy | None:
        """Return the tenant's policy, None if it has none: then no key becomes due."""

    async def save_rotation_policy(
        self, tenant_id: TenantId, policy: RotationPolicy, *, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Make *policy* the tenant's, in place of any before it."""

    async def drop_rotation_policy(
        self, tenant_id: TenantId, *, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Remove the tenant's policy; `KeyNotFoundError` if it has none. Marks that were made stand."""

    async def list_rotation_policies(self) -> tuple[TenantPolicy, ...]:
        """Return every tenant's policy."""

    async def list_rotatable_keys(self, tenant_id: TenantId, *, after: bytes, limit: int) -> RotatableKeys:
        """Return up to *limit* active devices' current keys in order of ref, from the one after *after* on."""

    async def mark_rotations(
        self, tenant_id: TenantId, due: Sequence[DueKey], *, events: Sequence[NewEvent]
    ) -> tuple[bool, ...]:
        """
        Mark keys as due, and write `events[i]` for each that was marked; True where one was.

        Over all workers no more than the policy's share of devices a minute; never without a policy, twice for one key
        version, or within `MIN_INTERVAL_S` of the version's beginning.
        """

    async def request_rotation(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        *,
        key_version: int,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> bool:
        """
        Mark a device's keys as due because an operator asked for it, with *event* in the same transaction.

        No policy is needed, and the keys may be of any age.  False, and no event, if this version is marked already, or
        is not the current one of an active device.  What is remembered of *call_id* is the key version.
        """

    async def find_rotation_marks(
        self, tenant_id: TenantId, refs: Sequence[DeviceRef]
    ) -> dict[DeviceRef, RotationMark]:
        """Return the marks on the current keys of *refs*; a mark ends with its key version."""

    async def count_rotations(self, tenant_id: TenantId) -> RotationProgress:
        """Return how far the tenant's rotation is."""

    async def count_use(self, tenant_id: TenantId, uses: Sequence[SessionUse]) -> tuple[SessionUseTotal, ...]:
        """Add what sessions have carried, and return their sums; sessions that are not the tenant's are left out."""
