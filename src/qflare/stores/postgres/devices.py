"""Tenants and the roster in PostgreSQL."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AlreadyExistsError, BatchError, ConflictError, KeyNotFoundError, KeyRevokedError
from qflare.model.call import call_about, fresh_call
from qflare.model.device import Device, KeyState, NewDevice
from qflare.model.ids import CallId, DeviceId, DeviceRef, TenantId
from qflare.stores.postgres.calls import carried_out, find_calls
from qflare.stores.postgres.columns import as_uuid, event_columns, hashed_append
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from qflare.model.call import NotedCall
    from qflare.model.event import LogAppend, NewEvent


# A dictionary answers four times as quickly as the enumeration itself.
_STATES: Final = {state.value: state for state in KeyState}


_ABOVE: Final = "\U0010ffff" * 64
"""Behind a prefix it is above all names that begin with it: names have 255 bytes at most."""


def kem_state_of(device: NewDevice) -> str:
    """Return the state in which a device's KEM key begins (PROTOCOL E3)."""
    return (KeyState.ACTIVE if device.is_kem_proven else KeyState.PRE_ACTIVE).value


class Tenants(Connected):
    """Table tenant."""

    async def save_tenant(self, tenant_id: TenantId, name: str, *, event: NewEvent) -> None:
        """Insert a tenant; `AlreadyExistsError` if the id or name is taken."""
        change = fresh_call()

        async def save() -> int:
            async with self._connections.transaction(tenant_id) as transaction:
                await transaction.execute("insert_tenant", transaction.tenant_id, name)
                await transaction.write_events([event])
                await transaction.note_call(change, "tenant")
            return 1

        await carried_out(self._connections, tenant_id, change, save, is_given=False)

    async def list_tenants(self) -> tuple[tuple[TenantId, str], ...]:
        """Return every tenant's id and name."""
        rows = await self._connections.fetch("list_tenants")
        return tuple((TenantId(row["tenant_id"].bytes), row["name"]) for row in rows)


class Devices(Connected):
    """Tables device and device_key."""

    async def add_devices(
        self,
        tenant_id: TenantId,
        devices: Sequence[NewDevice],
        *,
        events: Sequence[NewEvent],
        calls: Sequence[NotedCall | None] | None = None,
    ) -> tuple[tuple[bool, ...], LogAppend | None]:
        """
        Register devices; True where one was added, False where the name exists. One event per added device.

        `calls[i]` is remembered if device i was added.  After a lost connection a device that stands with these very
        keys was added by the attempt before; then the append is not told, since somebody's registration may have come
        between.
        """
        if len(events) != len(devices):
            raise BatchError(f"{len(devices)} devices need as many events, got {len(events)}")
        if calls is not None and len(calls) != len(devices):
            raise BatchError(f"{len(devices)} devices need as many calls or None, got {len(calls)}")
        if not devices:
            return (), None
        columns: tuple[object, ...] = (
            as_uuid(tenant_id),
            [device.ref for device in devices],
            [device.device_id for device in devices],
            [device.sig_algorithm for device in devices],
            [device.verification_key for device in devices],
            [device.kem_algorithm for device in devices],
            [device.encapsulation_key for device in devices],
            [kem_state_of(device) for device in devices],
            *event_columns(events),
        )
        query = "add_devices"
        if calls is not None and any(calls):
            # Another statement: looking at what most registrations do not have would cost them all.
            query = "add_devices_of_calls"
            columns += (
                [None if call is None else as_uuid(call.call_id) for call in calls],
                [None if call is None else call.outcome for call in calls],
            )
        is_first = True

        async def add() -> tuple[asyncpg.Record, dict[DeviceRef, Device]]:
            nonlocal is_first
            is_repeated, is_first = not is_first, False
            row = (await self._connections.attempt(query, *columns))[0]
            old = [device.ref for device, is_new in zip(devices, row["added"], strict=True) if not is_new]
            return row, await self.find_devices(tenant_id, old) if is_repeated else {}

        row, standing = await self._connections.repeat(add)
        if any(_is_as_registered(standing.get(device.ref), device) for device in devices):
            return tuple(
                is_new or _is_as_registered(standing.get(device.ref), device)
                for device, is_new in zip(devices, row["added"], strict=True)
            ), None
        added = tuple(row["added"])
        hashes = [event.leaf_hash for event, is_added in zip(events, added, strict=True) if is_added]
        return added, hashed_append(row, hashes)

    async def find_devices(self, tenant_id: TenantId, refs: Sequence[DeviceRef]) -> dict[DeviceRef, Device]:
        """Return the rows found among *refs*."""
        if not refs:
            return {}
        rows = await self._connections.fetch("find_devices", as_uuid(tenant_id), list(refs))
        return {DeviceRef(row["ref"]): _device(row, tenant_id) for row in rows}

    async def list_devices(
        self, tenant_id: TenantId, *, limit: int, after: DeviceId | None = None, prefix: str = ""
    ) -> tuple[Device, ...]:
        """Return up to *limit* devices whose names begin with *prefix*, in order of name."""
        async with self._connections.transaction(tenant_id) as transaction:
            if prefix:
                # WHY: nothing is below the empty name, and a condition without OR is one that the index can begin at.
                bounds = after or "", limit, prefix, prefix + _ABOVE
                page = await transaction.fetch("list_named_device_refs", transaction.tenant_id, *bounds)
            else:
                page = await transaction.fetch("list_device_refs", transaction.tenant_id, after, limit)
            rows = await transaction.fetch("find_devices", transaction.tenant_id, [row["ref"] for row in page])
        return tuple(sorted((_device(row, tenant_id) for row in rows), key=lambda device: device.device_id.encode()))

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

        async def move() -> int:
            rows = await self._connections.attempt(
                "set_device_state",
                *(as_uuid(tenant_id), ref, state.value, reason),
                *event_columns([event]),
                as_uuid(change),
            )
            if not rows[0]["is_known"]:
                raise KeyNotFoundError("no such device; register it first")
            return 1

        await carried_out(self._connections, tenant_id, change, move, is_given=call_id is not None)
        return await self._get_device(tenant_id, ref)

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
        if call_id is not None:
            await self._require_not_rotated(tenant_id, change)
        try:
            return await self._rotate_device_keys(
                tenant_id, device, key_version=key_version, event=event, change=change
            )
        except ConflictError:
            # The same call twice at a time: the other one was quicker. An attempt of this one is told by its keys.
            if call_id is not None:
                await self._require_not_rotated(tenant_id, change)
            raise

    async def _require_not_rotated(self, tenant_id: TenantId, change: CallId) -> None:
        found = await self._connections.repeat(partial(find_calls, self._connections, tenant_id, [change]))
        if found:
            raise AlreadyExistsError(
                f"the keys of version {found[change]} were made under this call_id, and private keys are told once: "
                "rotate again under a new call_id"
            ) from None

    async def _rotate_device_keys(
        self, tenant_id: TenantId, device: NewDevice, *, key_version: int, event: NewEvent, change: CallId
    ) -> Device:
        row = await self._connections.get_row(
            "rotate_device_keys",
            as_uuid(tenant_id),
            device.ref,
            key_version,
            device.sig_algorithm,
            device.verification_key,
            device.kem_algorithm,
            device.encapsulation_key,
            kem_state_of(device),
            *event_columns([event]),
            as_uuid(change),
        )
        match row["result"]:
            case "rotated":
                return await self._get_device(tenant_id, device.ref)
            case "unknown-device":
                raise KeyNotFoundError("no such device; register it first")
            case "device-state":
                raise KeyRevokedError("the device is not active; its keys cannot be rotated")
            case _:
                found = (await self.find_devices(tenant_id, [device.ref])).get(device.ref)
                if found is not None and _has_keys_of(found, device) and found.key_version == key_version:
                    # These very keys are current already: an earlier attempt made them so.
                    return found
                raise ConflictError(f"key version {key_version} does not follow the device's current one; read it anew")

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
        """
        Store or remove a device's sealed pre-shared key as *psk_version*, the next one; once for one change.

        Returns the outcome of the call that did: *outcome*, or an earlier one's with the same id.
        """
        change = call_about(call_id, b"psk", ref, b"removed" if sealed_psk is None else b"set")

        async def put() -> int:
            async with self._connections.transaction(tenant_id) as transaction:
                await transaction.execute("set_reason", reason)
                arguments = (transaction.tenant_id, ref, sealed_psk, psk_version)
                if await transaction.fetch_row("set_device_psk", *arguments) is None:
                    if not await transaction.fetch("find_devices", transaction.tenant_id, [ref]):
                        raise KeyNotFoundError("no such device; register it first")
                    raise ConflictError("the device's psk was set or removed at the same time elsewhere; set it again")
                await transaction.write_events([event])
                await transaction.note_call(change, "psk", outcome=outcome)
            return outcome

        return await carried_out(self._connections, tenant_id, change, put, is_given=call_id is not None)

    async def _get_device(self, tenant_id: TenantId, ref: DeviceRef) -> Device:
        found = await self.find_devices(tenant_id, [ref])
        if ref not in found:
            raise KeyNotFoundError("no such device; register it first")
        return found[ref]


def _is_as_registered(device: Device | None, keys: NewDevice) -> bool:
    return device is not None and device.key_version == 1 and _has_keys_of(device, keys)


def _has_keys_of(device: Device, keys: NewDevice) -> bool:
    return (device.verification_key, device.encapsulation_key) == (keys.verification_key, keys.encapsulation_key)


def _device(row: asyncpg.Record, tenant_id: TenantId) -> Device:
    return Device(
        tenant_id=tenant_id,
        device_id=DeviceId(row["device_id"]),
        ref=DeviceRef(row["ref"]),
        state=_STATES[row["state"]],
        key_version=row["key_version"],
        verification_key=row["verification_key"],
        encapsulation_key=row["encapsulation_key"],
        kem_state=_STATES[row["kem_state"]],
        registered_at=row["registered_at"],
        sealed_psk=row["sealed_psk"],
        psk_version=row["psk_version"],
    )
