"""The roster: devices, their states and keys (PROTOCOL E3-E5)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import (
    AlreadyExistsError,
    ConflictError,
    KeyCheckError,
    KeyNotFoundError,
    LengthError,
    QflareError,
    UsageError,
)
from qflare.manager.algorithm import KEM_STANDARD, SIGNATURE_STANDARD
from qflare.manager.deadline import Deadline
from qflare.manager.psks import psk_place, psk_print, require_new_psk
from qflare.manager.sealing import seal
from qflare.model.call import TOLD_ONCE
from qflare.model.device import Device, KeyState, NewDevice
from qflare.model.event import EventSeverity, NewEvent, SecurityEventType
from qflare.model.reason import require_reason
from qflare.primitives import kem
from qflare.primitives.sig import SIG44
from qflare.protocol.entry import EntryVault
from qflare.protocol.identity import device_ref
from qflare.protocol.leaf import JsonValue
from qflare.protocol.new_event import Draft, new_events

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qflare.clock import Clock
    from qflare.manager.credentials import Credentials
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.call import NotedCall
    from qflare.model.device_ports import DeviceStore
    from qflare.model.ids import CallId, DeviceId, DeviceRef, TenantId
    from qflare.secret import SecretBytes

REASON_BYTES_MAX: Final = 1000
_REVOKED: Final = frozenset({KeyState.DEACTIVATED, KeyState.COMPROMISED, KeyState.DESTROYED})
_SEVERITIES: Final = {KeyState.ACTIVE: EventSeverity.INFO, KeyState.COMPROMISED: EventSeverity.CRITICAL}


class Devices:
    """The roster of every tenant, as one worker sees it."""

    def __init__(
        self,
        *,
        store: DeviceStore,
        credentials: Credentials,
        kek: SecretBytes,
        vault: EntryVault,
        offload: Offload,
        clock: Clock,
        settings: ManagerSettings,
    ) -> None:
        """
        Read and write *store*; *credentials* forget what changes here.

        Psks are sealed under *kek*, KEK_L, whose owner wipes it; what the log tells of devices by *vault*.
        """
        self._store = store
        self._credentials = credentials
        self._kek = kek
        self._vault = vault
        self._offload = offload
        self._clock = clock
        self._deadline = Deadline(settings.store_timeout_s)

    async def get(self, tenant_id: TenantId, device_id: DeviceId) -> Device:
        """Return a device's row. `KeyNotFoundError` if there is none."""
        return (await self.get_many(tenant_id, [device_id]))[0]

    async def get_many(self, tenant_id: TenantId, device_ids: Sequence[DeviceId]) -> list[Device]:
        """Return the devices' rows in order. `KeyNotFoundError` names the first that is missing."""
        refs = [device_ref(tenant_id, device_id) for device_id in device_ids]
        found = await self._deadline.of(self._store.find_devices(tenant_id, list(dict.fromkeys(refs))))
        devices = [found.get(ref) for ref in refs]
        for device_id, device in zip(device_ids, devices, strict=True):
            if device is None:
                raise KeyNotFoundError(
                    f"no device {device_id!r} in this tenant: enrol it with a token, or make its keys with "
                    "generate_device_keypair"
                )
        return [device for device in devices if device is not None]

    async def register(
        self, tenant_id: TenantId, devices: Sequence[NewDevice], calls: Sequence[NotedCall | None]
    ) -> list[QflareError | None]:
        """
        Add devices whose public keys are known; None where one was added, an error where its name or key is bad.

        `calls[i]` names the registration of device i, or is None: one that was carried out before is None as well.
        """
        verdicts = await self._offload.run(partial(_check_keys, devices))
        good = [device for device, verdict in zip(devices, verdicts, strict=True) if verdict is None]
        # One name twice in a call: the first stands, as it would if the calls had come one after the other.
        first: dict[DeviceRef, NewDevice] = {}
        for device in good:
            first.setdefault(device.ref, device)
        named = {id(device): call for device, call in zip(devices, calls, strict=True)}
        if not first:
            return verdicts
        unique = list(first.values())
        events = self.events(
            tenant_id,
            [
                Draft(
                    SecurityEventType.KEY_GENERATION,
                    EventSeverity.INFO,
                    {"what": "device registered", "ref": device.ref.hex(), "algorithm": device.kem_algorithm},
                    device.device_id,
                )
                for device in unique
            ],
        )
        added, _ = await self._deadline.of(
            self._store.add_devices(tenant_id, unique, events=events, calls=[named[id(device)] for device in unique])
        )
        is_new = {id(device): is_added for device, is_added in zip(unique, added, strict=True)}
        # Looked up only where a name was taken: by an earlier attempt of the same caller, or by somebody else.
        repeated = [
            call.call_id
            for device, call in zip(devices, calls, strict=True)
            if call is not None and not is_new.get(id(device), False)
        ]
        stand = await self._deadline.of(self._store.find_calls(tenant_id, repeated)) if repeated else {}
        return [
            verdict
            if verdict is not None or is_new.get(id(device), False)
            else _taken(device, None if call is None else stand.get(call.call_id), call)
            for device, verdict, call in zip(devices, verdicts, calls, strict=True)
        ]

    async def rotate(
        self, tenant_id: TenantId, device: NewDevice, *, key_version: int, by: str, call_id: CallId | None = None
    ) -> Device:
        """Make *device*'s keys current as *key_version*, which must be the next one."""
        verdict = (await self._offload.run(partial(_check_keys, [device])))[0]
        if verdict is not None:
            raise verdict
        event = self.event(
            tenant_id,
            SecurityEventType.KEY_ROTATION,
            {"ref": device.ref.hex(), "key_version": key_version, "by": by},
            device_id=device.device_id,
        )
        row = await self._deadline.of(
            self._store.rotate_device_keys(tenant_id, device, key_version=key_version, event=event, call_id=call_id)
        )
        self._credentials.forget(tenant_id, device.ref)
        return row

    async def set_state(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        state: KeyState,
        *,
        reason: str,
        call_id: CallId | None = None,
    ) -> Device:
        """Change a device's state; unless it becomes active, its sessions end in the same transaction."""
        require_reason(reason, bytes_max=REASON_BYTES_MAX, remedy="say why the state changes")
        ref = device_ref(tenant_id, device_id)
        event = self.event(
            tenant_id,
            SecurityEventType.KEY_REVOCATION if state in _REVOKED else SecurityEventType.DEVICE_STATE,
            {"ref": ref.hex(), "state": state.value, "reason": reason},
            device_id=device_id,
            severity=_SEVERITIES.get(state, EventSeverity.WARNING),
        )
        device = await self._deadline.of(
            self._store.set_device_state(tenant_id, ref, state, reason=reason, event=event, call_id=call_id)
        )
        self._credentials.forget(tenant_id, ref)
        return device

    async def set_psk(
        self,
        tenant_id: TenantId,
        device_id: DeviceId,
        psk: SecretBytes | None,
        *,
        reason: str = "",
        call_id: CallId | None = None,
    ) -> None:
        """
        Seal and store a device's pre-shared key (H4), or remove it; the caller keeps *psk*.

        The seal is bound to the version that the psk gets: one from before, put back into the row, does not open.

        Raises:
            ConflictError: *call_id* set another psk of this device before.
        """
        sealed: bytes | None = None
        require_reason(reason, bytes_min=0, bytes_max=REASON_BYTES_MAX, remedy="say why the psk changes")
        if psk is not None:
            require_new_psk(psk)
        device = await self.get(tenant_id, device_id)
        ref, version = device.ref, device.psk_version + 1
        outcome = 1
        if psk is not None:
            sealed = seal(self._kek, psk, psk_place(tenant_id, ref, version))
            outcome = psk_print(self._kek, psk, tenant_id, ref)
        event = self.event(
            tenant_id,
            SecurityEventType.DEVICE_STATE,
            {
                "what": "psk set" if psk is not None else "psk removed",
                "ref": ref.hex(),
                "psk_version": version,
                "reason": reason,
            },
            device_id=device_id,
        )
        stands = await self._deadline.of(
            self._store.set_device_psk(
                tenant_id,
                ref,
                sealed,
                psk_version=version,
                event=event,
                reason=reason,
                call_id=call_id,
                outcome=outcome,
            )
        )
        self._credentials.forget(tenant_id, ref)
        if stands != outcome:
            raise ConflictError(
                f"another psk of {device_id!r} was set under this call_id: draw 16 random bytes for each change"
            )

    async def page(
        self, tenant_id: TenantId, *, limit: int, after: DeviceId | None, prefix: str = ""
    ) -> tuple[Device, ...]:
        """Return up to *limit* devices whose names begin with *prefix*, in order of name."""
        return await self._deadline.of(self._store.list_devices(tenant_id, limit=limit, after=after, prefix=prefix))

    def event(
        self,
        tenant_id: TenantId,
        event_type: SecurityEventType,
        data: Mapping[str, JsonValue],
        *,
        device_id: DeviceId | None,
        severity: EventSeverity = EventSeverity.INFO,
    ) -> NewEvent:
        """Make an event of now."""
        (event,) = self.events(tenant_id, [Draft(event_type, severity, data, device_id)])
        return event

    def events(self, tenant_id: TenantId, drafts: Sequence[Draft]) -> list[NewEvent]:
        """Make events of now."""
        return new_events(drafts, tenant_id=tenant_id, occurred_at_ms=self._clock.now_ms(), vault=self._vault)


def new_device(
    tenant_id: TenantId, device_id: DeviceId, *, verification_key: bytes, encapsulation_key: bytes
) -> NewDevice:
    """Return the roster's record of a device; sizes and names are checked before anything else happens."""
    for name, value, size in (
        ("verification_key", verification_key, SIG44.PK_BYTES),
        ("encapsulation_key", encapsulation_key, kem.EK_BYTES),
    ):
        if not isinstance(value, bytes | bytearray | memoryview):
            raise UsageError(f"{name} must be bytes, got {type(value).__name__}")
        if len(value) != size:
            raise LengthError(name, expected=size, actual=len(value))
    return NewDevice(
        device_id=device_id,
        ref=device_ref(tenant_id, device_id),
        verification_key=bytes(verification_key),
        encapsulation_key=bytes(encapsulation_key),
        kem_algorithm=KEM_STANDARD,
        sig_algorithm=SIGNATURE_STANDARD,
    )


def _taken(device: NewDevice, stands: int | None, call: NotedCall | None) -> QflareError | None:
    """Say why a device was not added; None if the very call that asks again had added it with these keys."""
    if stands is None or call is None:
        return AlreadyExistsError(
            f"a device {device.device_id!r} exists already: rotate its keys, or choose another name"
        )
    if stands == TOLD_ONCE:
        return AlreadyExistsError(
            f"the keys of {device.device_id!r} were made under this call_id, and private keys are told once: "
            "rotate them under a new call_id"
        )
    if stands == call.outcome:
        return None
    return ConflictError(
        f"device {device.device_id!r} was registered under this call_id with other keys: look at them "
        "(find_device), or rotate them under a new call_id"
    )


def _check_keys(devices: Sequence[NewDevice]) -> list[QflareError | None]:
    """Check every encapsulation key (FIPS 203, section 7.2), all in one call."""
    if not devices:
        return []
    status = kem.check_encapsulation_keys_many([device.encapsulation_key for device in devices])
    return [
        None
        if good == 0
        else KeyCheckError(f"the encapsulation key of {device.device_id!r} is no ML-KEM-1024 key (FIPS 203, 7.2)")
        for device, good in zip(devices, status, strict=True)
    ]
