"""The key manager's calls about tenants, devices, tokens and their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import AlreadyExistsError, IllegalTransitionError, QflareError, UsageError
from qflare.manager.algorithm import require_kem
from qflare.manager.device_keypair import DeviceKeypair, keypairs_of
from qflare.manager.devices import new_device
from qflare.manager.enrolments import require_validity
from qflare.manager.registrations import Registration
from qflare.model.call import TOLD_ONCE, NotedCall, call_about, print_of
from qflare.model.device import Device, KeyState
from qflare.model.event import SecurityEventType
from qflare.model.ids import ID_BYTES, CallId, DeviceId, TenantId
from qflare.primitives.random import random_bytes
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.identity import device_ref, encode_name
from qflare.secret import SecretBytes
from qflare.service.arguments import (
    as_call_id,
    as_list,
    as_rows,
    as_tenant,
    raised,
    require_kind,
    require_name,
    require_text,
)
from qflare.service.covered import covered, covered_many, leave, told_once
from qflare.service.exchange import DevicePublicKey
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.service.assembly import Engine

LIST_MAX: Final = 10_000
MANY_MAX: Final = 4096
"""Most items of one `…_many` call about keys."""
_REISSUED: Final = "revoke the token (list_enrolment_tokens() shows it) and issue another under a new call id"


class Roster(TenantView):
    """Mixed into `QuantumKeyManager`; everything here is about one tenant's devices."""

    # --- making and registering keys --------------------------------------------------------------

    async def generate_device_keypair(
        self, device_id: str, algorithm: str = "Kyber1024", *, call_id: bytes | None = None
    ) -> DeviceKeypair:
        """
        Make both key pairs of a new device, register the public halves and return the private ones, once (E5).

        For provisioning and simulation: a device that can make its own keys enrols with a token instead.

        Args:
            device_id: 1 to 255 bytes of UTF-8.
            algorithm: Name of the KEM: "Kyber1024" or "ML-KEM-1024"; signatures are ML-DSA-44 always.
            call_id: 16 random bytes that name this change: repeated with them, within a day, the error tells whether
                it was this call that registered the device.

        Returns:
            The pair; the caller wipes it.

        Raises:
            AlreadyExistsError: a device of that name is registered, or its keys were made under *call_id* before;
                nothing holds the private halves: `rotate_device_keys` makes others.
            UnsupportedAlgorithmError: *algorithm* is not offered; the error lists what is.
        """
        return raised((await self.generate_device_keypairs_many([device_id], algorithm, call_id=call_id))[0])

    @told_once(DeviceKeypair.wipe, remedy="rotate the device's keys", is_many=True)
    async def generate_device_keypairs_many(
        self, device_ids: Sequence[str], algorithm: str = "Kyber1024", *, call_id: bytes | None = None
    ) -> tuple[DeviceKeypair | QflareError, ...]:
        """Make and register the keys of many devices in one batch; one pair or error each, as for a single one."""
        require_kem(algorithm)
        names = _names(device_ids)
        change = as_call_id(call_id)
        engine = await self._engine()
        foundation = engine.foundation
        await foundation.log.require_signer()
        made = await engine.reserve.take(len(names))
        try:
            registered = await engine.registrations.queue.submit_many(
                [
                    Registration(
                        self.tenant,
                        new_device(
                            self.tenant,
                            name,
                            verification_key=keys.verification_key,
                            encapsulation_key=keys.encapsulation_key,
                        ),
                        None
                        if change is None
                        else NotedCall(call_about(change, b"generation", device_ref(self.tenant, name)), TOLD_ONCE),
                    )
                    for name, keys in zip(names, made, strict=True)
                ],
                tenant_id=self.tenant,
            )
        except BaseException:
            _wipe_keys(made)
            raise
        pairs = keypairs_of(made, names, tenant_id=self.tenant, server_id=foundation.identity.server_id, key_version=1)
        results: list[DeviceKeypair | QflareError] = []
        for pair, row in zip(pairs, registered, strict=True):
            if isinstance(row, QflareError):
                pair.wipe()
                results.append(row)
            else:
                results.append(pair)
        return tuple(results)

    async def register_device(
        self, device_id: str, *, verification_key: bytes, encapsulation_key: bytes, call_id: bytes | None = None
    ) -> Device:
        """
        Register a device whose public keys came by a trusted way.

        With *call_id*, 16 random bytes, the same call again, within a day, gets the device as it stands then.

        Raises:
            AlreadyExistsError: a device of that name is registered.
            ConflictError: it was registered under *call_id* with other keys.
            KeyCheckError: the encapsulation key is none (FIPS 203, section 7.2).
            LengthError: a key has the wrong size.
        """
        keys = (device_id, verification_key, encapsulation_key)
        return raised((await self.register_devices_many([keys], call_id=call_id))[0])

    @covered_many
    async def register_devices_many(
        self, devices: Sequence[tuple[str, bytes, bytes]], *, call_id: bytes | None = None
    ) -> tuple[Device | QflareError, ...]:
        """Register many (device_id, verification_key, encapsulation_key); one row or error each."""
        rows = as_rows(devices, name="devices", columns=("device_id", "verification_key", "encapsulation_key"))
        names = _names([device[0] for device in rows])
        change = as_call_id(call_id)
        engine = await self._engine()
        fresh = [
            new_device(self.tenant, name, verification_key=device[1], encapsulation_key=device[2])
            for name, device in zip(names, rows, strict=True)
        ]
        wanted = [
            Registration(
                self.tenant,
                device,
                None
                if change is None
                else NotedCall(
                    call_about(change, b"registration", device.ref),
                    print_of(device.verification_key, device.encapsulation_key),
                ),
            )
            for device in fresh
        ]
        return tuple(await engine.registrations.queue.submit_many(wanted, tenant_id=self.tenant))

    async def rotate_device_keys(self, device_id: str, *, call_id: bytes | None = None) -> DeviceKeypair:
        """
        Make new keys for a device, make them current as the next version, and return the private halves, once.

        A device that makes its own keys rotates them inside a session instead (E4, `answer_control`).

        Args:
            device_id: Its name.
            call_id: 16 random bytes that name this rotation: repeated with them, within a day, nothing is rotated.

        Raises:
            AlreadyExistsError: the keys were rotated under *call_id* before; nothing holds the private halves.
            KeyNotFoundError: no such device.
            KeyRevokedError: the device is not active.
            ConflictError: its keys were rotated at the same time elsewhere.
        """
        return raised((await self.rotate_device_keys_many([device_id], call_id=call_id))[0])

    @told_once(DeviceKeypair.wipe, remedy="rotate the device's keys again", is_many=True)
    async def rotate_device_keys_many(
        self, device_ids: Sequence[str], *, call_id: bytes | None = None
    ) -> tuple[DeviceKeypair | QflareError, ...]:
        """Rotate the keys of many devices; one pair or error each, an error where *call_id* rotated before."""
        names = _names(device_ids)
        change = as_call_id(call_id)
        engine = await self._engine()
        devices = await engine.devices.get_many(self.tenant, names)
        await engine.foundation.log.require_signer()
        made = await engine.reserve.take(len(names))
        results: list[DeviceKeypair | QflareError] = []
        try:
            for device, keys in zip(devices, made, strict=True):
                results.append(await self._rotate(engine, device, keys, change))
        except BaseException:
            _wipe_keys(made)
            raise
        return tuple(results)

    async def _rotate(
        self, engine: Engine, device: Device, keys: DeviceKeys, change: CallId | None
    ) -> DeviceKeypair | QflareError:
        fresh = new_device(
            self.tenant,
            device.device_id,
            verification_key=keys.verification_key,
            encapsulation_key=keys.encapsulation_key,
        )
        try:
            row = await engine.devices.rotate(
                self.tenant, fresh, key_version=device.key_version + 1, by="operator", call_id=change
            )
        except QflareError as failure:
            keys.wipe()
            return failure
        server_id = engine.foundation.identity.server_id
        return keypairs_of(
            [keys], [device.device_id], tenant_id=self.tenant, server_id=server_id, key_version=row.key_version
        )[0]

    # --- looking ----------------------------------------------------------------------------------

    async def get_device_public_key(self, device_id: str) -> DevicePublicKey:
        """Return a device's registered public keys. `KeyNotFoundError` if it is not registered."""
        return (await self.get_device_public_keys_many([device_id]))[0]

    async def get_device_public_keys_many(self, device_ids: Sequence[str]) -> tuple[DevicePublicKey, ...]:
        """Return the public keys of many devices. `KeyNotFoundError` names the first that is not registered."""
        engine = await self._engine()
        devices = await engine.devices.get_many(self.tenant, _names(device_ids))
        return tuple(
            DevicePublicKey(
                device_id=device.device_id,
                public_key=device.encapsulation_key,
                verification_key=device.verification_key,
                algorithm="ML-KEM-1024",
                key_version=device.key_version,
                state=device.kem_state,
            )
            for device in devices
        )

    async def find_device(self, device_id: str) -> Device:
        """Return a device's row. `KeyNotFoundError` if it is not registered."""
        engine = await self._engine()
        return await engine.devices.get(self.tenant, require_name(device_id))

    async def list_devices(self, *, limit: int = 100, after: str | None = None, prefix: str = "") -> tuple[Device, ...]:
        """Return up to *limit* devices whose names begin with *prefix*, by name, from the one after *after* on."""
        if type(limit) is not int or not 1 <= limit <= LIST_MAX:
            raise UsageError(f"limit must be 1 to {LIST_MAX}, got {limit!r}; page on with after=")
        last = None if after is None else require_name(after)
        require_text(prefix, name="prefix")
        begins = require_name(prefix) if prefix else ""
        engine = await self._engine()
        return await engine.devices.page(self.tenant, limit=limit, after=last, prefix=begins)

    # --- states -----------------------------------------------------------------------------------

    @covered
    async def revoke_device(self, device_id: str, *, reason: str, call_id: bytes | None = None) -> Device:
        """
        Revoke a device for good: its sessions end in the same transaction, here and on every other worker.

        Args:
            device_id: Its name.
            reason: Why, for the log; 1 to 1000 bytes.
            call_id: 16 random bytes that name this change: repeated with them, within a day, it is done once.

        Raises:
            IllegalTransitionError: it is revoked already.
            KeyNotFoundError: no such device.
            StoreUnavailableError: the database did not answer; `outcome_unknown` says whether it may be done.
        """
        return await self._set_state(device_id, KeyState.DEACTIVATED, reason=reason, call_id=call_id)

    @covered
    async def compromise_device(self, device_id: str, *, reason: str, call_id: bytes | None = None) -> Device:
        """
        Say that a device's private keys are known to others: as `revoke_device`, and an alarm in the log.

        All its keys become compromised, those that were rotated out too.  It may be revoked already.
        """
        return await self._set_state(device_id, KeyState.COMPROMISED, reason=reason, call_id=call_id)

    @covered
    async def suspend_device(self, device_id: str, *, reason: str, call_id: bytes | None = None) -> Device:
        """Suspend a device until `resume_device`; its sessions end. Errors as `revoke_device`."""
        return await self._set_state(device_id, KeyState.SUSPENDED, reason=reason, call_id=call_id)

    @covered
    async def resume_device(
        self, device_id: str, *, reason: str = "resumed by the operator", call_id: bytes | None = None
    ) -> Device:
        """Let a suspended device begin sessions again. `IllegalTransitionError` if it was revoked."""
        return await self._set_state(device_id, KeyState.ACTIVE, reason=reason, call_id=call_id)

    async def _set_state(self, device_id: str, state: KeyState, *, reason: str, call_id: bytes | None) -> Device:
        name = require_name(device_id)
        change = as_call_id(call_id)
        engine = await self._engine()
        ref = device_ref(self.tenant, name)
        try:
            device = await engine.devices.set_state(self.tenant, name, state, reason=reason, call_id=change)
        except IllegalTransitionError:
            raise IllegalTransitionError(
                f"device {device_id!r} cannot become {state.value} from the state it is in: look at find_device()"
            ) from None
        if state is not KeyState.ACTIVE:
            engine.sessions.forget_device(self.tenant, ref)
        return device

    @covered
    async def set_device_psk(
        self, device_id: str, psk: SecretBytes | bytes | None, *, reason: str = "", call_id: bytes | None = None
    ) -> None:
        """
        Set or remove the key that device and server share beforehand (H4), 64 bytes; later handshakes need it.

        *reason* says why, for the log and for the life of the psk before, which ends.

        Raises:
            ConflictError: another psk of this device was set under *call_id*, which stands.
            KeyNotFoundError: no such device.
            LengthError: *psk* is not 64 bytes.
            UsageError: *psk* is all zeros.
        """
        name = require_name(device_id)
        change = as_call_id(call_id)
        if psk is not None:
            kinds = (SecretBytes, bytes, bytearray, memoryview)
            require_kind(psk, kinds, name="psk", remedy="pass its 64 bytes or a SecretBytes, or None to remove it")
        engine = await self._engine()
        if psk is None:
            await engine.devices.set_psk(self.tenant, name, None, reason=reason, call_id=change)
            return
        with SecretBytes.copy_of(psk) as copy:
            await engine.devices.set_psk(self.tenant, name, copy, reason=reason, call_id=change)

    # --- tokens and tenants -----------------------------------------------------------------------

    @told_once(leave, remedy=_REISSUED)
    async def issue_enrolment_token(
        self, device_id: str, *, valid_s: int = 86_400, call_id: bytes | None = None
    ) -> str:
        """
        Make a token that lets one device enrol once (E1); hand it over by a way that others cannot read.

        Args:
            device_id: The name that the device will have.
            valid_s: Seconds until it expires.
            call_id: 16 random bytes that name this token: one token is issued under them, for one name.

        Returns:
            156 characters; shown once, the database keeps a hash.

        Raises:
            AlreadyExistsError: a token was issued under *call_id*; the error names it, so that it can be revoked.
        """
        name = require_name(device_id)
        change = as_call_id(call_id)
        engine = await self._engine()
        await engine.foundation.log.require_signer()
        return await engine.enrolments.issue(self.tenant, name, valid_s=valid_s, call_id=change)

    @told_once(leave, remedy=_REISSUED, is_many=True)
    async def issue_enrolment_tokens_many(
        self, device_ids: Sequence[str], *, valid_s: int = 86_400, call_id: bytes | None = None
    ) -> tuple[str | QflareError, ...]:
        """Make a token for each of many devices; one text or error each, an error where *call_id* issued one before."""
        names = _names(device_ids)
        change = as_call_id(call_id)
        require_validity(valid_s)
        engine = await self._engine()
        await engine.foundation.log.require_signer()
        issued: list[str | QflareError] = []
        for name in names:
            # Each by itself: what fails for one must not lose the texts of those before it.
            own = None if change is None else call_about(change, b"tokens", device_ref(self.tenant, name))
            try:
                issued.append(await engine.enrolments.issue(self.tenant, name, valid_s=valid_s, call_id=own))
            except QflareError as failure:
                issued.append(failure)
        return tuple(issued)

    @covered
    async def create_tenant(
        self, name: str, *, tenant_id: TenantId | None = None, call_id: bytes | None = None
    ) -> TenantId:
        """
        Add a tenant and return its id, 16 bytes, random unless given; `for_tenant` works inside it.

        Args:
            name: 1 to 255 bytes of UTF-8, of this tenant alone.
            tenant_id: Its id, if it is to have a certain one.
            call_id: 16 random bytes that name this tenant: repeated with them and the same name it is the same tenant.

        Raises:
            AlreadyExistsError: the name or id is taken, or *call_id* made a tenant of another name.
        """
        encode_name(name)
        change = as_call_id(call_id)
        if tenant_id is not None:
            chosen = as_tenant(tenant_id, name="tenant_id")
        else:
            chosen = TenantId(random_bytes(ID_BYTES) if change is None else call_about(change, b"tenant"))
        engine = await self._engine()
        event = engine.devices.event(
            chosen, SecurityEventType.TENANT_CREATED, {"tenant_id": chosen.hex(), "name": name}, device_id=None
        )
        foundation = engine.foundation
        try:
            await foundation.deadline.of(foundation.store.save_tenant(chosen, name, event=event))
        except AlreadyExistsError:
            if change is None or (chosen, name) not in await self.list_tenants():
                raise
        return chosen

    async def list_tenants(self) -> tuple[tuple[TenantId, str], ...]:
        """Return every tenant's id and name."""
        engine = await self._engine()
        foundation = engine.foundation
        return await foundation.deadline.of(foundation.store.list_tenants())


def _names(device_ids: Sequence[str]) -> list[DeviceId]:
    wanted = as_list(device_ids, name="device_ids")
    if len(wanted) > MANY_MAX:
        raise UsageError(f"at most {MANY_MAX} devices a call, got {len(wanted)}")
    return [require_name(device_id) for device_id in wanted]


def _wipe_keys(made: Sequence[DeviceKeys]) -> None:
    for keys in made:
        keys.wipe()
