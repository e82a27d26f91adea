"""Tenants and the roster in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.errors import AlreadyExistsError, BatchError, ConflictError, KeyNotFoundError, KeyRevokedError
from qflare.model.call import call_about
from qflare.model.device import Device, KeyState, NewDevice
from qflare.model.ids import NAME_BYTES_MAX, REF_BYTES, CallId, DeviceId, DeviceRef, TenantId
from qflare.model.key_record import KeyRecord
from qflare.model.response import ResponseAction
from qflare.testing.memory.constraints import REASON_BYTES_MAX, require, require_size, require_text
from qflare.testing.memory.entries import Logging
from qflare.testing.memory.rows import DeviceKeyRow, DeviceRow
from qflare.testing.memory.sessions import Sessions
from qflare.testing.memory.states import FINAL_STATES, moved, no_move, require_move
from qflare.testing.memory.two_person_control import require_two_hands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.call import NotedCall
    from qflare.model.event import LogAppend, NewEvent

KEM, SIGNATURE = "kem", "signature"
_PUBLIC_KEY_BYTES: Final = {"ML-KEM-1024": 1568, "ML-DSA-44": 1312}
_SEALED_PSK_BYTES: Final = (80, 128)
_OUT_FOR_GOOD: Final = frozenset({KeyState.DEACTIVATED, KeyState.COMPROMISED, KeyState.DESTROYED})
_UNDER_WAY: Final = frozenset({KeyState.PRE_ACTIVE, KeyState.ACTIVE, KeyState.SUSPENDED})


class Tenants(Logging):
    """Organisations."""

    async def save_tenant(self, tenant_id: TenantId, name: str, *, event: NewEvent) -> None:
        """Insert a tenant; `AlreadyExistsError` if the id or name is taken."""
        async with self._transaction(tenant_id) as tables:
            require_text(name, "tenant_name_size", 1, NAME_BYTES_MAX)
            if tenant_id in tables.tenants:
                raise AlreadyExistsError("a tenant of that id exists already")
            if name in tables.tenants.values():
                raise AlreadyExistsError("a tenant of that name exists already")
            tables.tenants.put(tenant_id, name)
            self._write_events(tenant_id, [event])

    async def list_tenants(self) -> tuple[tuple[TenantId, str], ...]:
        """Return every tenant's id and name."""
        async with self._transaction() as tables:
            return tuple(sorted(tables.tenants.items(), key=lambda tenant: tenant[1]))


class Devices(Sessions):
    """Devices and their keys."""

    async def add_devices(
        self,
        tenant_id: TenantId,
        devices: Sequence[NewDevice],
        *,
        events: Sequence[NewEvent],
        calls: Sequence[NotedCall | None] | None = None,
    ) -> tuple[tuple[bool, ...], LogAppend | None]:
        """Register devices; True where one was added, False where the name exists. One event per added device."""
        if len(events) != len(devices):
            raise BatchError(f"{len(devices)} devices need as many events, got {len(events)}")
        if calls is not None and len(calls) != len(devices):
            raise BatchError(f"{len(devices)} devices need as many calls or None, got {len(calls)}")
        if not devices:
            return (), None
        async with self._transaction(tenant_id):
            added = tuple(self._register(tenant_id, device) for device in devices)
            new = [event for event, is_added in zip(events, added, strict=True) if is_added]
            append = self._write_events(tenant_id, new)
            for call, is_added in zip(calls or (), added, strict=False):
                if call is not None and is_added:
                    self._note_call(tenant_id, call.call_id, outcome=call.outcome)
            return added, append

    async def find_devices(self, tenant_id: TenantId, refs: Sequence[DeviceRef]) -> dict[DeviceRef, Device]:
        """Return the rows found among *refs*."""
        async with self._transaction(tenant_id) as tables:
            return {
                ref: self._device(tables.devices[tenant_id, ref]) for ref in refs if (tenant_id, ref) in tables.devices
            }

    async def list_devices(
        self, tenant_id: TenantId, *, limit: int, after: DeviceId | None = None, prefix: str = ""
    ) -> tuple[Device, ...]:
        """Return up to *limit* devices whose names begin with *prefix*, in order of name."""
        first = b"" if after is None else after.encode()
        async with self._transaction(tenant_id) as tables:
            mine = [
                row
                for row in tables.devices.values()
                if row.tenant_id == tenant_id and row.device_id.startswith(prefix)
            ]
            rows = sorted(
                (row for row in mine if row.device_id.encode() > first), key=lambda row: row.device_id.encode()
            )
            return tuple(self._device(row) for row in rows[:limit])

    async def set_device_state(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        state: KeyState,
        *,
        reason: str,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> Device:
        """Change a device's state and end its sessions unless it becomes active; once for one change."""
        change = call_about(call_id, b"device-state", ref, state.value.encode())
        async with self._transaction(tenant_id):
            row = self._get(tenant_id, ref)
            if self._carried_out(tenant_id, change) is not None:
                return self._device(row)
            if row.state in _UNDER_WAY and state in _OUT_FOR_GOOD:
                require_two_hands(self._tables, tenant_id, ResponseAction.REVOKE, ref=ref, now=self._now)
            row = self._move_device(row, state, reason)
            self._write_events(tenant_id, [event])
            self._note_call(tenant_id, change)
            return self._device(row)

    async def rotate_device_keys(
        self,
        tenant_id: TenantId,
        device: NewDevice,
        *,
        key_version: int,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> Device:
        """Make *device*'s keys current as *key_version*; the old become deactivated (E4)."""
        change = call_about(call_id, b"rotation", device.ref)
        async with self._transaction(tenant_id) as tables:
            stands = self._carried_out(tenant_id, change)
            if stands is not None:
                raise AlreadyExistsError(
                    f"the keys of version {stands} were made under this call_id, and private keys are told once: "
                    "rotate again under a new call_id"
                )
            row = self._get(tenant_id, device.ref)
            if row.state is not KeyState.ACTIVE:
                raise KeyRevokedError("the device is not active; its keys cannot be rotated")
            if row.key_version + 1 != key_version:
                found = self._device(row)
                if found.key_version == key_version and _has_keys_of(found, device):
                    # These very keys are current already.
                    return found
                raise ConflictError(f"key version {key_version} does not follow the device's current one; read it anew")
            reason = f"followed by key version {key_version}"
            for kind in (SIGNATURE, KEM):
                key = (tenant_id, device.ref, row.key_version, kind)
                old = tables.device_keys[key]
                if old.record.state in _UNDER_WAY:
                    self._move_key(key, KeyState.DEACTIVATED, reason)
            row = replace(row, key_version=key_version)
            tables.devices.put((tenant_id, device.ref), row)
            self._put_keys(tenant_id, device, key_version)
            self._note_change(tenant_id, ref=device.ref)
            self._write_events(tenant_id, [event])
            self._note_call(tenant_id, change, outcome=key_version)
            return self._device(row)

    async def set_device_psk(
        self,
        tenant_id: TenantId,
        ref: DeviceRef,
        sealed_psk: bytes | None,
        *,
        psk_version: int,
        event: NewEvent,
        reason: str = "",
        call_id: CallId | None = None,
        outcome: int = 1,
    ) -> int:
        """Store or remove a device's sealed pre-shared key as *psk_version*, the next one; once for one change."""
        change = call_about(call_id, b"psk", ref, b"removed" if sealed_psk is None else b"set")
        async with self._transaction(tenant_id) as tables:
            stands = self._carried_out(tenant_id, change)
            if stands is not None:
                return stands
            row = self._get(tenant_id, ref)
            require_size(sealed_psk, "device_sealed_psk_size", *_SEALED_PSK_BYTES)
            is_changed = sealed_psk != row.sealed_psk
            if row.psk_version + 1 != psk_version:
                raise ConflictError("the device's psk was set or removed at the same time elsewhere; set it again")
            row = replace(row, sealed_psk=sealed_psk, psk_version=psk_version)
            tables.devices.put((tenant_id, ref), row)
            self._keep_psk(row, reason)
            if is_changed:
                self._note_change(tenant_id, ref=ref)
            self._write_events(tenant_id, [event])
            self._note_call(tenant_id, change, outcome=outcome)
            return outcome

    def _get(self, tenant_id: TenantId, ref: DeviceRef) -> DeviceRow:
        row = self._tables.devices.get((tenant_id, ref))
        if row is None:
            raise KeyNotFoundError("no such device; register it first")
        return row

    def _device(self, row: DeviceRow) -> Device:
        keys = self._tables.device_keys
        kem = keys[row.tenant_id, row.ref, row.key_version, KEM]
        return Device(
            tenant_id=row.tenant_id,
            device_id=row.device_id,
            ref=row.ref,
            state=row.state,
            key_version=row.key_version,
            verification_key=keys[row.tenant_id, row.ref, row.key_version, SIGNATURE].public_key,
            encapsulation_key=kem.public_key,
            kem_state=kem.record.state,
            registered_at=row.registered_at,
            sealed_psk=row.sealed_psk,
            psk_version=row.psk_version,
        )

    def _register(self, tenant_id: TenantId, device: NewDevice) -> bool:
        """Insert a device with its first keys; False where its name or ref exists."""
        tables = self._tables
        require_size(device.ref, "device_ref_size", REF_BYTES)
        require_text(device.device_id, "device_id_size", 1, NAME_BYTES_MAX)
        names = (row.device_id for row in tables.devices.values() if row.tenant_id == tenant_id)
        if (tenant_id, device.ref) in tables.devices or device.device_id in names:
            return False
        if tenant_id not in tables.tenants:
            raise KeyNotFoundError("no such tenant; create it first")
        row = DeviceRow(
            tenant_id=tenant_id,
            ref=device.ref,
            device_id=device.device_id,
            state=KeyState.ACTIVE,
            key_version=1,
            registered_at=self._now,
        )
        tables.devices.put((tenant_id, device.ref), row)
        self._put_keys(tenant_id, device, 1)
        return True

    def _put_keys(self, tenant_id: TenantId, device: NewDevice, key_version: int) -> None:
        kem_state = KeyState.ACTIVE if device.is_kem_proven else KeyState.PRE_ACTIVE
        for kind, algorithm, public_key, state in (
            (SIGNATURE, device.sig_algorithm, device.verification_key, KeyState.ACTIVE),
            (KEM, device.kem_algorithm, device.encapsulation_key, kem_state),
        ):
            require(algorithm in _PUBLIC_KEY_BYTES, "device_key_algorithm_known")
            require((kind == KEM) == (algorithm == "ML-KEM-1024"), "device_key_algorithm_of_kind")
            require_size(public_key, "device_key_public_key_size", _PUBLIC_KEY_BYTES[algorithm])
            record = KeyRecord(
                kind=kind, number=key_version, algorithm=algorithm, state=state, created_at=self._now, moves=()
            )
            row = DeviceKeyRow(public_key=public_key, record=record)
            self._tables.device_keys.put((tenant_id, device.ref, key_version, kind), row)

    def _move_device(self, row: DeviceRow, state: KeyState, reason: str) -> DeviceRow:
        """Move a device in the caller's transaction, and end its sessions unless it becomes active."""
        if row.state is state:
            raise no_move("device", state.value, state.value)
        require_move("device", row.state, state)
        require_text(reason, "device_state_reason_size", 0, REASON_BYTES_MAX)
        row = replace(row, state=state, state_reason=reason)
        self._tables.devices.put((row.tenant_id, row.ref), row)
        self._move_keys(row, reason)
        self._move_psks(row, reason)
        if state is not KeyState.ACTIVE:
            self._stop_sessions_of(row.tenant_id, row.ref, reason)
        self._note_change(row.tenant_id, ref=row.ref)
        return row

    def _move_keys(self, device: DeviceRow, reason: str) -> None:
        """Have a device's keys follow it: into the states that are final, and proven ones into suspension and back."""
        for key, row in list(self._tables.device_keys.items()):
            if key[:2] == (device.tenant_id, device.ref) and _follows(row.record.state, device.state):
                self._move_key(key, device.state, reason)

    def _keep_psk(self, device: DeviceRow, reason: str) -> None:
        """End the life of the psk before, and begin that of the new one, in its device's state."""
        told = reason or (f"followed by psk version {device.psk_version}" if device.sealed_psk else "removed")
        for key, record in self._psks_of(device):
            if record.state in _UNDER_WAY:
                self._move_psk(key, record, KeyState.DEACTIVATED, told)
        if device.sealed_psk is None:
            return
        record = KeyRecord(
            kind="psk",
            number=device.psk_version,
            algorithm="KMAC256",
            state=KeyState.ACTIVE,
            created_at=self._now,
            moves=(),
        )
        key = (device.tenant_id, device.ref, device.psk_version)
        self._tables.psks.put(key, record)
        if device.state in {KeyState.SUSPENDED, KeyState.DEACTIVATED, KeyState.COMPROMISED}:
            self._move_psk(key, record, device.state, f"its device is {device.state.value}")

    def _move_psks(self, device: DeviceRow, reason: str) -> None:
        for key, record in self._psks_of(device):
            if _follows(record.state, device.state):
                self._move_psk(key, record, device.state, reason)

    def _psks_of(self, device: DeviceRow) -> list[tuple[tuple[TenantId, DeviceRef, int], KeyRecord]]:
        return [item for item in self._tables.psks.items() if item[0][:2] == (device.tenant_id, device.ref)]

    def _move_psk(self, key: tuple[TenantId, DeviceRef, int], record: KeyRecord, state: KeyState, reason: str) -> None:
        require_text(reason, "device_psk_move_reason_size", 0, REASON_BYTES_MAX)
        self._tables.psks.put(key, moved(record, state, what="device psk", reason=reason, at=self._now))

    def _move_key(self, key: tuple[TenantId, DeviceRef, int, str], state: KeyState, reason: str) -> None:
        row = self._tables.device_keys[key]
        record = moved(row.record, state, what="device key", reason=reason, at=self._now)
        self._tables.device_keys.put(key, replace(row, record=record))


def _follows(key: KeyState, device: KeyState) -> bool:
    """Whether a key in a state follows its device into another."""
    if device not in FINAL_STATES:
        # One that is not proven yet stays so: resuming its device must not prove it.
        return (key, device) in {(KeyState.ACTIVE, KeyState.SUSPENDED), (KeyState.SUSPENDED, KeyState.ACTIVE)}
    if key in {device, KeyState.DESTROYED}:
        return False
    if key is KeyState.COMPROMISED:
        return device is KeyState.DESTROYED
    return key is not KeyState.ACTIVE or device is not KeyState.DESTROYED


def _has_keys_of(device: Device, keys: NewDevice) -> bool:
    return (device.verification_key, device.encapsulation_key) == (keys.verification_key, keys.encapsulation_key)
