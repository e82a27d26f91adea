"""What handshakes need to know of devices: their credentials, read afresh or remembered for a while."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError
from qflare.manager.deadline import Deadline
from qflare.manager.psks import PSK_BYTES, psk_place
from qflare.manager.sealing import unseal
from qflare.model.device import Device, KeyState
from qflare.primitives.random import random_secret
from qflare.protocol.credential import DeviceCredential

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from qflare.clock import Clock
    from qflare.manager.settings import ManagerSettings
    from qflare.model.device_ports import DeviceStore
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.secret import SecretBytes

_log = logging.getLogger("qflare.manager")

_NS: Final = 1_000_000_000


class Credentials:
    """The credentials of every tenant's devices, as one worker sees them."""

    def __init__(self, *, store: DeviceStore, kek: SecretBytes, clock: Clock, settings: ManagerSettings) -> None:
        """Read *store*; psks open under *kek*, KEK_L, whose owner wipes it."""
        self._store = store
        self._kek = kek
        self._clock = clock
        self._deadline = Deadline(settings.store_timeout_s)
        self._capacity = settings.devices_cached_max
        self._age_ns = settings.device_cached_s * _NS
        self._cached: OrderedDict[tuple[TenantId, DeviceRef], tuple[Device, int]] = OrderedDict()
        self.listeners: list[Callable[[TenantId, DeviceRef], None]] = []
        """Called when a device's keys or state have changed here: whoever holds something made for them wipes it."""

    async def find_many(
        self, wanted: Sequence[tuple[TenantId, DeviceRef, int] | None], *, is_fresh: bool = False
    ) -> list[DeviceCredential | None]:
        """
        Return the credential of each (tenant, ref, key version), None where there is no such device.

        With *is_fresh* every row is read: whoever asks has proven nothing, and a row that is remembered would answer
        sooner than one that does not exist.  Else a remembered row is used if it is young, active and of that key
        version.  H8 reads the row once more under a lock: a stale one can cost a handshake, never admit one that is
        revoked or rotated; a psk that another worker changed is seen when the row is read again.

        The caller wipes psks.
        """
        devices = await self.find_devices(
            [None if item is None else item[:2] for item in wanted], versions=None if is_fresh else wanted
        )
        return [None if device is None else self._credential(device) for device in devices]

    async def find_devices(
        self,
        wanted: Sequence[tuple[TenantId, DeviceRef] | None],
        *,
        versions: Sequence[tuple[TenantId, DeviceRef, int] | None] | None = None,
    ) -> list[Device | None]:
        """Return each device's row or None; with *versions*, remembered rows may be used."""
        now_ns = self._clock.monotonic_ns()
        rows: list[Device | None] = [None] * len(wanted)
        lacking: dict[TenantId, list[int]] = {}
        for position, key in enumerate(wanted):
            if key is None:
                continue
            version = None if versions is None else versions[position]
            cached = None if version is None else self._cached.get(key)
            if cached is not None and version is not None:
                device, read_ns = cached
                if (
                    now_ns - read_ns < self._age_ns
                    and device.key_version == version[2]
                    and device.state is KeyState.ACTIVE
                ):
                    rows[position] = device
                    self._cached.move_to_end(key)
                    continue
            lacking.setdefault(key[0], []).append(position)
        for tenant_id, positions in lacking.items():
            refs = list({key[1] for position in positions if (key := wanted[position]) is not None})
            found = await self._deadline.of(self._store.find_devices(tenant_id, refs))
            for position in positions:
                key = wanted[position]
                device_row = None if key is None else found.get(key[1])
                rows[position] = device_row
                if device_row is not None:
                    self._remember(device_row, now_ns)
        return rows

    def has_proven_kem(self, tenant_id: TenantId, ref: DeviceRef, key_version: int) -> bool:
        """
        Say whether a remembered row says that a tag under that version's KEM key was shown (E3).

        However old the row is: a key that is active never becomes pre-active again.
        """
        cached = self._cached.get((tenant_id, ref))
        return cached is not None and cached[0].key_version == key_version and cached[0].kem_state is KeyState.ACTIVE

    def forget(self, tenant_id: TenantId, ref: DeviceRef) -> None:
        """Drop a remembered row: it changed here."""
        self._cached.pop((tenant_id, ref), None)
        for listener in self.listeners:
            listener(tenant_id, ref)

    def forget_all(self) -> None:
        """Drop every remembered row."""
        self._cached.clear()

    def _credential(self, device: Device) -> DeviceCredential:
        psk, is_whole = None, True
        if device.sealed_psk is not None:
            try:
                psk = unseal(self._kek, device.sealed_psk, psk_place(device.tenant_id, device.ref, device.psk_version))
            except AuthenticationError:
                # This device alone is refused, not the batch it came in. Without a psk its handshakes would go on as if
                # none had been set: nobody has this one.
                psk, is_whole = random_secret(PSK_BYTES), False
                _log.error("the stored psk of device %s was altered: set it again", device.ref.hex())
        return DeviceCredential(
            key_version=device.key_version,
            is_accepted=device.state is KeyState.ACTIVE and is_whole,
            verification_key=device.verification_key,
            encapsulation_key=device.encapsulation_key,
            psk=psk,
        )

    def _remember(self, device: Device, now_ns: int) -> None:
        if self._age_ns == 0:
            return
        key = (device.tenant_id, device.ref)
        self._cached[key] = (device, now_ns)
        self._cached.move_to_end(key)
        while len(self._cached) > self._capacity:
            self._cached.popitem(last=False)


def own_psks(stack: ExitStack, credentials: Sequence[DeviceCredential | None]) -> None:
    """Let *stack* wipe the psks of *credentials*."""
    for credential in credentials:
        if credential is not None and credential.psk is not None:
            stack.enter_context(credential.psk)
