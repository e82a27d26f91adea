"""Registrations of devices, many callers in one transaction (DESIGN, decision 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qflare.errors import QflareError, StoreUnavailableError
from qflare.manager.batcher import Batcher
from qflare.manager.tenancy import by_tenant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.devices import Devices
    from qflare.manager.settings import ManagerSettings
    from qflare.model.call import NotedCall
    from qflare.model.device import Device, NewDevice
    from qflare.model.ids import TenantId


@dataclass(frozen=True, slots=True)
class Registration:
    """A device on its way into the roster of one tenant."""

    tenant_id: TenantId
    device: NewDevice
    call: NotedCall | None = None
    """Names the registration, if its caller gave an id; its outcome tells the keys."""


class Registrations:
    """Adds devices whose public keys are known."""

    def __init__(self, *, devices: Devices, settings: ManagerSettings) -> None:
        """Keep one queue; the roster itself is *devices*'."""
        self._devices = devices
        self.queue: Batcher[Registration, Device] = Batcher(
            "device registration", self._add_batch, items_max=settings.batch_max, waiting_max=settings.waiting_max
        )

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        await self.queue.close(timeout_s)

    async def _add_batch(self, batch: Sequence[Registration]) -> list[Device | QflareError]:
        results: list[Device | QflareError] = [StoreUnavailableError("the device was not registered")] * len(batch)
        places = by_tenant(range(len(batch)), lambda place: batch[place].tenant_id)
        for tenant_id, positions in places.items():
            try:
                ended = await self._add(tenant_id, [batch[position] for position in positions])
            except QflareError as failure:
                ended = [failure] * len(positions)
            for position, end in zip(positions, ended, strict=True):
                results[position] = end
        return results

    async def _add(self, tenant_id: TenantId, wanted: list[Registration]) -> list[Device | QflareError]:
        devices = [item.device for item in wanted]
        verdicts = await self._devices.register(tenant_id, devices, [item.call for item in wanted])
        added = [device.device_id for device, verdict in zip(devices, verdicts, strict=True) if verdict is None]
        rows = iter(await self._devices.get_many(tenant_id, added))
        return [next(rows) if verdict is None else verdict for verdict in verdicts]
