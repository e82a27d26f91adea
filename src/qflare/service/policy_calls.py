"""The key manager's calls about rotation policies of device keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.rotation import RotationPolicy
from qflare.service.arguments import as_call_id, require_kind, require_name
from qflare.service.covered import covered
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from qflare.manager.policies import RotationPlan
    from qflare.model.rotation import RotationMark, RotationProgress


class PolicyCalls(TenantView):
    """Mixed into `QuantumKeyManager`; everything here is about one tenant's devices."""

    async def rotation_policy(self) -> RotationPolicy | None:
        """Return the tenant's policy; None if it has none, and then no key becomes due by itself."""
        engine = await self._engine()
        return await engine.policies.get(self.tenant)

    @covered
    async def set_rotation_policy(self, policy: RotationPolicy | None, *, call_id: bytes | None = None) -> None:
        """
        Make *policy* the tenant's, or remove it; it holds at once for the keys that exist.

        Keys that it makes due are marked by the maintenance of any worker, at most the policy's share a minute; a
        device rotates when it next asks (E4).  Marks that were made stand.

        *call_id* is 16 random bytes: the same change again, within a day, is done once, even if another policy was set
        in between.

        Raises:
            KeyNotFoundError: there is none to remove.
        """
        change = as_call_id(call_id)
        _require_policy(policy)
        engine = await self._engine()
        if policy is None:
            await engine.policies.drop(self.tenant, call_id=change)
        else:
            await engine.policies.set(self.tenant, policy, call_id=change)

    async def plan_rotations(self, policy: RotationPolicy | None = None) -> RotationPlan:
        """
        Say what a policy would make due now, the tenant's own if none is given, and change nothing.

        Raises:
            KeyNotFoundError: none is given and the tenant has none.
        """
        _require_policy(policy)
        engine = await self._engine()
        return await engine.policies.plan(self.tenant, policy)

    @covered
    async def request_device_rotation(
        self, device_id: str, *, reason: str = "asked for by the operator", call_id: bytes | None = None
    ) -> RotationMark:
        """
        Mark a device's keys as due now, without a policy; the device rotates when it next asks (E4).

        Asked for again before the device has rotated, it changes nothing and returns the mark that stands.  For keys
        that the server made, `rotate_device_keys` rotates at once.

        Args:
            device_id: Its name.
            reason: Why, for the log; 1 to 1000 bytes.
            call_id: 16 random bytes that name this request: repeated with them, within a day, it marks no later keys.

        Raises:
            AlreadyExistsError: the keys that were marked under *call_id* are rotated; nothing is left to do.
            ConflictError: its keys or its state changed at the same moment.
            KeyNotFoundError: no such device.
            KeyRevokedError: the device is not active.
        """
        name, change = require_name(device_id), as_call_id(call_id)
        engine = await self._engine()
        device = (await engine.devices.get_many(self.tenant, [name]))[0]
        return await engine.policies.request(self.tenant, device, reason=reason, call_id=change)

    async def rotation_progress(self) -> RotationProgress:
        """Return how many devices wait for their rotation, and how many have rotated since they were marked."""
        engine = await self._engine()
        return await engine.policies.progress(self.tenant)


def _require_policy(policy: RotationPolicy | None) -> None:
    if policy is not None:
        require_kind(policy, RotationPolicy, name="policy", remedy="pass a RotationPolicy, or None for none")
