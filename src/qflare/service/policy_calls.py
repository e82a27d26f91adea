"""The key manager's calls about rotation policies of device keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.service.arguments import require_name
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from qflare.manager.policies import RotationPlan
    from qflare.model.rotation import RotationMark, RotationPolicy, RotationProgress


class PolicyCalls(TenantView):
    """Mixed into `QuantumKeyManager`; everything here is about one tenant's devices."""

    async def rotation_policy(self) -> RotationPolicy | None:
        """Return the tenant's policy; None if it has none, and then no key becomes due by itself."""
        engine = await self._engine()
        return await engine.policies.get(self.tenant)

    async def set_rotation_policy(self, policy: RotationPolicy | None) -> None:
        """
        Make *policy* the tenant's, or remove it; it holds at once for the keys that exist.

        Keys that it makes due are marked by the maintenance of any worker, at most the policy's share a minute; a
        device rotates when it next asks (E4).  Marks that were made stand.

        Raises:
            KeyNotFoundError: there is none to remove.
        """
        engine = await self._engine()
        if policy is None:
            await engine.policies.drop(self.tenant)
        else:
            await engine.policies.set(self.tenant, policy)

    async def plan_rotations(self, policy: RotationPolicy | None = None) -> RotationPlan:
        """
        Say what a policy would make due now, the tenant's own if none is given, and change nothing.

        Raises:
            KeyNotFoundError: none is given and the tenant has none.
        """
        engine = await self._engine()
        return await engine.policies.plan(self.tenant, policy)

    async def request_device_rotation(
        self, device_id: str, *, reason: str = "asked for by the operator"
    ) -> RotationMark:
        """
        Mark a device's keys as due now, without a policy; the device rotates when it next asks (E4).

        Asked for again before the device has rotated, it changes nothing and returns the mark that stands.  For keys
        that the server made, `rotate_device_keys` rotates at once.

        Args:
            device_id: Its name.
            reason: Why, for the log; 1 to 1000 bytes.

        Raises:
            ConflictError: its keys or its state changed at the same moment.
            KeyNotFoundError: no such device.
            KeyRevokedError: the device is not active.
        """
        name = require_name(device_id)
        engine = await self._engine()
        device = (await engine.devices.get_many(self.tenant, [name]))[0]
        return await engine.policies.request(self.tenant, device, reason=reason)

    async def rotation_progress(self) -> RotationProgress:
        """Return how many devices wait for their rotation, and how many have rotated since they were marked."""
        engine = await self._engine()
        return await engine.policies.progress(self.tenant)
