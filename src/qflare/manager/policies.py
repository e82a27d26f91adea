"""
Rotation policies at work: due keys are marked, a bounded page at a time, and a plan says beforehand what would be.

The server does not make a device's keys, so it cannot rotate them: it marks them as due, durably, tells the device when
that asks, and the device rotates in its session (E4; decision 0051).  Every worker walks over the devices by itself;
what is marked, and how much of it a minute, is decided in the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import AlreadyExistsError, ConflictError, KeyNotFoundError, KeyRevokedError
from qflare.manager.deadline import Deadline
from qflare.manager.devices import REASON_BYTES_MAX
from qflare.manager.due import age_due_s, find_due
from qflare.model.call import call_about
from qflare.model.device import KeyState
from qflare.model.event import EventSeverity, NewEvent, SecurityEventType
from qflare.model.reason import require_reason
from qflare.model.rotation import PPM, DueKey, RotationMark, RotationPolicy, RotationProgress, RotationReason
from qflare.protocol.entry import EntryVault
from qflare.protocol.leaf import JsonValue
from qflare.protocol.new_event import new_event

if TYPE_CHECKING:
    from qflare.clock import Clock
    from qflare.manager.settings import ManagerSettings
    from qflare.model.device import Device
    from qflare.model.ids import CallId, DeviceId, DeviceRef, TenantId
    from qflare.model.rotation_ports import RotationStore

PAGE: Final = 1024
"""Devices one worker looks at in one step, all tenants together."""
PLAN_PAGE: Final = 4096
NAMED_MAX: Final = 100
"""Devices that a plan names."""
_FIRST: Final = b""
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationPlan:
    """What a policy would mark now, and how long that takes; nothing was changed."""

    policy: RotationPolicy
    devices: int
    """Active devices that were looked at."""
    due_by_age: int
    due_by_records: int
    due_by_bytes: int
    marked: int
    """Devices that are marked already and have not rotated yet."""
    due_within_a_day: int
    """Devices whose keys are not due yet and will be by their age within 86,400 s."""
    minute_max: int
    """Most marks a minute."""
    minutes: int
    """How long marking what is due takes at that rate."""
    first: tuple[DeviceId, ...]
    """The first 100 devices that are due, in order of ref."""

    @property
    def due(self) -> int:
        """How many devices' keys are due now."""
        return self.due_by_age + self.due_by_records + self.due_by_bytes


class Policies:
    """Keeps the tenants' policies and marks what they make due."""

    def __init__(self, *, store: RotationStore, vault: EntryVault, clock: Clock, settings: ManagerSettings) -> None:
        """Look at nothing yet; `step` is called by the maintenance loop."""
        self._vault = vault
        self._store = store
        self._clock = clock
        self._deadline = Deadline(settings.store_timeout_s)
        self._after: dict[TenantId, bytes] = {}
        """Up to which ref this worker has looked at each tenant's devices."""

    # --- the policy -------------------------------------------------------------------------------

    async def get(self, tenant_id: TenantId) -> RotationPolicy | None:
        """Return the tenant's policy, None if it has none."""
        return await self._deadline.of(self._store.find_rotation_policy(tenant_id))

    async def set(self, tenant_id: TenantId, policy: RotationPolicy, *, call_id: CallId | None = None) -> None:
        """Make *policy* the tenant's; it holds for the keys that exist as for those to come."""
        facts: dict[str, JsonValue] = {
            "what": "rotation policy set",
            "max_age_s": policy.max_age_s,
            "max_records": policy.max_records,
            "max_bytes": policy.max_bytes,
            "jitter_percent": policy.jitter_percent,
            "minute_ppm": policy.minute_ppm,
            "grace_s": policy.grace_s,
        }
        event = self._event(tenant_id, SecurityEventType.OPERATOR_ACTION, facts)
        await self._deadline.of(self._store.save_rotation_policy(tenant_id, policy, event=event, call_id=call_id))
        self._after[tenant_id] = _FIRST

    async def drop(self, tenant_id: TenantId, *, call_id: CallId | None = None) -> None:
        """Remove the tenant's policy; devices that are marked stay so. `KeyNotFoundError` if it has none."""
        event = self._event(tenant_id, SecurityEventType.OPERATOR_ACTION, {"what": "rotation policy removed"})
        await self._deadline.of(self._store.drop_rotation_policy(tenant_id, event=event, call_id=call_id))

    async def progress(self, tenant_id: TenantId) -> RotationProgress:
        """Return how far the tenant's rotation is."""
        return await self._deadline.of(self._store.count_rotations(tenant_id))

    async def find_mark(self, tenant_id: TenantId, ref: DeviceRef) -> RotationMark | None:
        """Return the mark on a device's current keys, None if they are not due."""
        return (await self._deadline.of(self._store.find_rotation_marks(tenant_id, [ref]))).get(ref)

    async def request(
        self, tenant_id: TenantId, device: Device, *, reason: str, call_id: CallId | None = None
    ) -> RotationMark:
        """
        Mark a device's current keys as due, whatever a policy says; return the mark that holds, an earlier one too.

        Raises:
            AlreadyExistsError: what *call_id* marked before is rotated since.
            ConflictError: its keys or its state changed at the same moment.
            KeyRevokedError: the device is not active.
            UsageError: *reason* is not 1 to 1000 bytes.
        """
        require_reason(reason, bytes_max=REASON_BYTES_MAX, remedy="say why the keys are to be rotated")
        if call_id is not None:
            await self._require_not_rotated(tenant_id, device, call_about(call_id, b"rotation-request", device.ref))
        if device.state is not KeyState.ACTIVE:
            raise KeyRevokedError(f"device {device.device_id!r} is {device.state.value}: only active devices rotate")
        facts: dict[str, JsonValue] = {
            "what": "rotation requested",
            "ref": device.ref.hex(),
            "key_version": device.key_version,
            "reason": reason,
        }
        event = self._event(tenant_id, SecurityEventType.OPERATOR_ACTION, facts, device_id=device.device_id)
        await self._deadline.of(
            self._store.request_rotation(
                tenant_id, device.ref, key_version=device.key_version, event=event, call_id=call_id
            )
        )
        mark = await self.find_mark(tenant_id, device.ref)
        if mark is None or mark.key_version != device.key_version:
            raise ConflictError(f"the keys or the state of {device.device_id!r} changed at this moment: look again")
        return mark

    async def _require_not_rotated(self, tenant_id: TenantId, device: Device, change: CallId) -> None:
        marked = (await self._deadline.of(self._store.find_calls(tenant_id, [change]))).get(change)
        if marked is not None and marked < device.key_version:
            raise AlreadyExistsError(
                f"the keys of version {marked} of {device.device_id!r} were marked under this call_id, and are rotated "
                "since: nothing is left to do"
            )

    # --- marking ----------------------------------------------------------------------------------

    async def step(self) -> int:
        """Look at the next page of each tenant that has a policy, mark what is due, and return how many were."""
        policies = await self._deadline.of(self._store.list_rotation_policies())
        held = {item.tenant_id for item in policies}
        self._after = {tenant_id: after for tenant_id, after in self._after.items() if tenant_id in held}
        if not policies:
            return 0
        limit = max(1, PAGE // len(policies))
        return sum([await self._step_of(item.tenant_id, item.policy, limit=limit) for item in policies])

    async def _step_of(self, tenant_id: TenantId, policy: RotationPolicy, *, limit: int) -> int:
        after = self._after.get(tenant_id, _FIRST)
        page = await self._deadline.of(self._store.list_rotatable_keys(tenant_id, after=after, limit=limit))
        due = [found for key in page.keys if (found := find_due(policy, key, page.now_s)) is not None]
        events = [self._marked(tenant_id, item) for item in due]
        marked = await self._deadline.of(self._store.mark_rotations(tenant_id, due, events=events))
        if all(marked):
            self._after[tenant_id] = page.keys[-1].ref if len(page.keys) == limit else _FIRST
        # Else the minute's share is used up: the same page again, later.
        return sum(marked)

    async def plan(self, tenant_id: TenantId, policy: RotationPolicy | None = None) -> RotationPlan:
        """
        Say what a policy would mark now, and change nothing.

        Args:
            tenant_id: Whose devices.
            policy: The policy to try; None takes the tenant's own.

        Raises:
            KeyNotFoundError: none is given and the tenant has none.
        """
        its = policy or await self.get(tenant_id)
        if its is None:
            raise KeyNotFoundError("the tenant has no rotation policy: set one, or give one to try")
        after = _FIRST
        devices = marked = soon = 0
        due: dict[RotationReason, int] = dict.fromkeys(RotationReason, 0)
        first: list[DueKey] = []
        while True:
            page = await self._deadline.of(self._store.list_rotatable_keys(tenant_id, after=after, limit=PLAN_PAGE))
            devices += len(page.keys)
            for key in page.keys:
                found = find_due(its, key, page.now_s)
                if found is not None:
                    due[found.reason] += 1
                    if len(first) < NAMED_MAX:
                        first.append(found)
                elif key.marked_s is not None:
                    marked += 1
                elif (due_s := age_due_s(its, key.ref, key.created_s)) is not None and due_s < page.now_s + _DAY_S:
                    soon += 1
            if len(page.keys) < PLAN_PAGE:
                break
            after = page.keys[-1].ref
        minute_max = max(1, devices * its.minute_ppm // PPM)
        return RotationPlan(
            policy=its,
            devices=devices,
            due_by_age=due[RotationReason.AGE],
            due_by_records=due[RotationReason.RECORDS],
            due_by_bytes=due[RotationReason.BYTES],
            marked=marked,
            due_within_a_day=soon,
            minute_max=minute_max,
            minutes=-(-sum(due.values()) // minute_max),
            first=tuple(item.key.device_id for item in first),
        )

    def _marked(self, tenant_id: TenantId, due: DueKey) -> NewEvent:
        facts: dict[str, JsonValue] = {
            "what": "keys due",
            "ref": due.key.ref.hex(),
            "key_version": due.key.key_version,
            "reason": due.reason.value,
            "due_s": due.due_s,
            "records": due.key.records,
            "bytes": due.key.bytes,
        }
        return self._event(tenant_id, SecurityEventType.KEY_ROTATION, facts, device_id=due.key.device_id)

    def _event(
        self,
        tenant_id: TenantId,
        event_type: SecurityEventType,
        facts: dict[str, JsonValue],
        *,
        device_id: DeviceId | None = None,
    ) -> NewEvent:
        return new_event(
            event_type,
            EventSeverity.INFO,
            facts,
            tenant_id=tenant_id,
            device_id=device_id,
            occurred_at_ms=self._clock.now_ms(),
            vault=self._vault,
        )
