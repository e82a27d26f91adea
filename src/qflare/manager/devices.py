"""The roster: devices, their states and keys (PROTOCOL E3-E5), and what handshakes need to know of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ConflictError,
    KeyCheckError,
    KeyNotFoundError,
    LengthError,
    QflareError,
    UsageError,
)
from qflare.manager.algorithm import KEM_STANDARD, SIGNATURE_STANDARD
from qflare.manager.deadline import Deadline
from qflare.manager.sealing import PSK_COLUMN, Place, seal, unseal
from qflare.model.call import TOLD_ONCE
from qflare.model.device import Device, KeyState, NewDevice
from qflare.model.event import EventSeverity, NewEvent, SecurityEventType
from qflare.primitives import kem
from qflare.primitives.kdf import expand
from qflare.primitives.random import random_secret
from qflare.primitives.sig import SIG44
from qflare.protocol.credential import DeviceCredential
from qflare.protocol.device_identity import DeviceIdentity
from qflare.protocol.entry import EntryVault, new_event
from qflare.protocol.identity import device_ref
from qflare.protocol.leaf import JsonValue
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qflare.clock import Clock
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.call import NotedCall
    from qflare.model.device_ports import DeviceStore
    from qflare.model.ids import CallId, DeviceId, DeviceRef, TenantId
    from qflare.protocol.device_keys import DeviceKeys

_log = logging.getLogger("qflare.manager")

PSK_BYTES: Final = 64
REASON_BYTES_MAX: Final = 1000
_NS: Final = 1_000_000_000
_PSK_PRINT: Final = "psk call"
"""Label of Expand for what nobody but this server computes: not one of the protocol's."""
_REVOKED: Final = frozenset({KeyState.DEACTIVATED, KeyState.COMPROMISED, KeyState.DESTROYED})
_SEVERITIES: Final = {KeyState.ACTIVE: EventSeverity.INFO, KeyState.COMPROMISED: EventSeverity.CRITICAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeypair:
    """Both key pairs of a device, made for it (E5); the private halves exist here alone: the holder wipes them."""

    tenant_id: TenantId
    device_id: DeviceId
    ref: DeviceRef
    server_id: bytes
    """The server that registered the public halves, 32 bytes."""
    key_version: int
    algorithm: str
    """The standard's name of the KEM."""
    signature_algorithm: str
    encapsulation_key: bytes
    """ML-KEM-1024, 1568 bytes; the registered public key."""
    verification_key: bytes
    """ML-DSA-44, 1312 bytes."""
    decapsulation_key: SecretBytes
    """ML-KEM-1024, 3168 bytes."""
    signing_key: SecretBytes
    """ML-DSA-44, 2560 bytes."""

    @property
    def public_key(self) -> bytes:
        """The encapsulation key: what `initiate_temporal_key_exchange` takes as `client_public_key`."""
        return self.encapsulation_key

    @property
    def private_key(self) -> SecretBytes:
        """The decapsulation key that belongs to `public_key`."""
        return self.decapsulation_key

    def identity(self, *, psk: SecretBytes | None = None) -> DeviceIdentity:
        """Return what the device's side of the protocol works with: copies, which their owner wipes."""
        return DeviceIdentity(
            server_id=self.server_id,
            tenant_id=self.tenant_id,
            device_id=self.device_id,
            ref=self.ref,
            key_version=self.key_version,
            signing_key=SecretBytes.copy_of(self.signing_key),
            decapsulation_key=SecretBytes.copy_of(self.decapsulation_key),
            verification_key=self.verification_key,
            encapsulation_key=self.encapsulation_key,
            psk=None if psk is None else SecretBytes.copy_of(psk),
        )

    def wipe(self) -> None:
        """Destroy the private halves."""
        self.decapsulation_key.wipe()
        self.signing_key.wipe()

    def __enter__(self) -> Self:
        """Lend the pair to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the private halves at the end of the block."""
        self.wipe()


def keypairs_of(
    made: Sequence[DeviceKeys],
    device_ids: Sequence[DeviceId],
    *,
    tenant_id: TenantId,
    server_id: bytes,
    key_version: int,
) -> list[DeviceKeypair]:
    """Name fresh keys after their devices; the secrets go over to the result."""
    return [
        DeviceKeypair(
            tenant_id=tenant_id,
            device_id=device_id,
            ref=device_ref(tenant_id, device_id),
            server_id=server_id,
            key_version=key_version,
            algorithm=KEM_STANDARD,
            signature_algorithm=SIGNATURE_STANDARD,
            encapsulation_key=keys.encapsulation_key,
            verification_key=keys.verification_key,
            decapsulation_key=keys.decapsulation_key,
            signing_key=keys.signing_key,
        )
        for keys, device_id in zip(made, device_ids, strict=True)
    ]


class Devices:
    """The roster of every tenant, as one worker sees it."""

    def __init__(
        self,
        *,
        store: DeviceStore,
        kek: SecretBytes,
        vault: EntryVault,
        offload: Offload,
        clock: Clock,
        settings: ManagerSettings,
    ) -> None:
        """
        Read and write *store*.

        Psks are sealed under *kek*, KEK_L, whose owner wipes it; what the log tells of devices by *vault*.
        """
        self._store = store
        self._kek = kek
        self._vault = vault
        self._offload = offload
        self._clock = clock
        self._deadline = Deadline(settings.store_timeout_s)
        self._capacity = settings.devices_cached_max
        self._age_ns = settings.device_cached_s * _NS
        self._cached: OrderedDict[tuple[TenantId, DeviceRef], tuple[Device, int]] = OrderedDict()
        self.listeners: list[Callable[[TenantId, DeviceRef], None]] = []
        """Called when a device's keys or state have changed here: whoever holds something made for them wipes it."""

    # --- what handshakes ask ----------------------------------------------------------------------

    async def credentials(
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
        devices = await self.find_many(
            [None if item is None else item[:2] for item in wanted], versions=None if is_fresh else wanted
        )
        return [None if device is None else self._credential(device) for device in devices]

    async def find_many(
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

    # --- the roster -------------------------------------------------------------------------------

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
        events = [
            self.event(
                tenant_id,
                SecurityEventType.KEY_GENERATION,
                {"what": "device registered", "ref": device.ref.hex(), "algorithm": device.kem_algorithm},
                device_id=device.device_id,
            )
            for device in unique
        ]
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
        self.forget(tenant_id, device.ref)
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
        if not 1 <= len(reason.encode()) <= REASON_BYTES_MAX:
            raise UsageError("reason must be text of 1 to 1000 bytes: say why the state changes")
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
        self.forget(tenant_id, ref)
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
        if len(reason.encode()) > REASON_BYTES_MAX:
            raise UsageError(f"reason must be text of at most {REASON_BYTES_MAX} bytes: say why the psk changes")
        if psk is not None:
            if len(psk) != PSK_BYTES:
                raise LengthError("psk", expected=PSK_BYTES, actual=len(psk))
            if psk.equals(bytes(PSK_BYTES)):
                raise UsageError("a psk of zeros means none: draw 64 random bytes, or pass None to remove it")
        device = await self.get(tenant_id, device_id)
        ref, version = device.ref, device.psk_version + 1
        outcome = 1
        if psk is not None:
            sealed = seal(self._kek, psk, psk_place(tenant_id, ref, version))
            outcome = self._psk_print(psk, tenant_id, ref)
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
        self.forget(tenant_id, ref)
        if stands != outcome:
            raise ConflictError(
                f"another psk of {device_id!r} was set under this call_id: draw 16 random bytes for each change"
            )

    async def page(self, tenant_id: TenantId, *, limit: int, after: DeviceId | None) -> tuple[Device, ...]:
        """Return up to *limit* devices in order of name."""
        return await self._deadline.of(self._store.list_devices(tenant_id, limit=limit, after=after))

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
        return new_event(
            event_type,
            severity,
            data,
            tenant_id=tenant_id,
            device_id=device_id,
            occurred_at_ms=self._clock.now_ms(),
            vault=self._vault,
        )

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

    def _psk_print(self, psk: SecretBytes, tenant_id: TenantId, ref: DeviceRef) -> int:
        """Return what tells this psk from another where a call is repeated; keyed, since it rests in the database."""
        place = psk_place(tenant_id, ref, 0).encode()
        with (
            expand(self._kek, _PSK_PRINT, place, 32) as key,
            expand(key, _PSK_PRINT, psk, 8) as made,
            made.view() as number,
        ):
            return int.from_bytes(number, "big") >> 1

    def _remember(self, device: Device, now_ns: int) -> None:
        if self._age_ns == 0:
            return
        key = (device.tenant_id, device.ref)
        self._cached[key] = (device, now_ns)
        self._cached.move_to_end(key)
        while len(self._cached) > self._capacity:
            self._cached.popitem(last=False)


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


def psk_place(tenant_id: TenantId, ref: DeviceRef, psk_version: int) -> Place:
    """Say where a psk rests: what the seal is bound to."""
    return Place(PSK_COLUMN, ref, psk_version, tenant_id)
