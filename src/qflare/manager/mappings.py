"""
The server's side of mappings (PROTOCOL K): keys that follow from a device's KEM key and one signed descriptor.

Needs no database: what a mapping holds rests sealed under a key derived from the server's master key, in this process.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from qflare.clock import Clock, SystemClock, utc
from qflare.errors import (
    AlreadyExistsError,
    AuthenticationError,
    KeyCheckError,
    KeyNotFoundError,
    KeyStateError,
    LengthError,
    OverloadedError,
    QflareError,
    UsageError,
)
from qflare.model.ids import DEFAULT_TENANT, ID_BYTES, DeviceId, DeviceRef, MappingId, TenantId
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.kdf import BUCKET_WIDTH_S, bucket_of
from qflare.protocol.descriptor import read_descriptor
from qflare.protocol.identity import device_ref
from qflare.protocol.mapping import Mapping, MappingSigner, NewMapping, create_mappings
from qflare.protocol.mapping_state import MASTER_KEY_BYTES_MIN, restore_mapping, seal_mapping
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

VALID_S_DEFAULT: Final = 30 * 86_400
MAPPINGS_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ServerKeypair:
    """An ML-DSA-44 pair that signs descriptors; its holder wipes the private half, devices pin the public one."""

    public_key: bytes
    """1312 bytes."""
    private_key: SecretBytes
    """Expanded, 2560 bytes."""

    def wipe(self) -> None:
        """Destroy the private half."""
        self.private_key.wipe()

    def __enter__(self) -> Self:
        """Lend the pair to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the private half at the end of the block."""
        self.wipe()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMapping:
    """A mapping's public side: send `descriptor` to the device."""

    mapping_id: MappingId
    device_id: DeviceId
    ref: DeviceRef
    generation: int
    bucket: int
    """First bucket."""
    width_s: int
    descriptor: bytes
    """4126 bytes, signed by the server key."""
    server_public_key: bytes
    """What the device pins."""
    expires_at: datetime


@dataclass(slots=True)
class _Kept:
    """What this process keeps of a mapping."""

    public: KeyMapping
    client_public_key: bytes
    sealed: bytes = field(repr=False)
    expires_s: int


class SecureKeyMapper:
    """
    Makes mappings and derives their keys; `DeviceKeyMapping` is the device's side.

    Args:
        server_master_key: 32 bytes or more; copied, and the copy wiped by `close`. It seals what rests here and enters
            nothing that a device must repeat.
        tenant: Whose devices; stands in each ref.
        width_s: Seconds a bucket.
        valid_s: Life of a mapping; `cleanup_expired_mappings` removes older ones.
        clock: What tells the time.

    Raises:
        LengthError: the master key is too short.

    Source: PROTOCOL K1-K4, also for what a mapping does not give: it is not forward secret, sessions are.
    """

    def __init__(
        self,
        server_master_key: SecretBytes | bytes,
        *,
        tenant: TenantId = DEFAULT_TENANT,
        width_s: int = BUCKET_WIDTH_S,
        valid_s: int = VALID_S_DEFAULT,
        clock: Clock | None = None,
    ) -> None:
        if len(server_master_key) < MASTER_KEY_BYTES_MIN:
            name, expected = "server_master_key", f"at least {MASTER_KEY_BYTES_MIN}"
            raise LengthError(name, expected=expected, actual=len(server_master_key))
        if len(tenant) != ID_BYTES:
            raise LengthError("tenant", expected=ID_BYTES, actual=len(tenant))
        if valid_s < 1:
            raise UsageError(f"valid_s must be 1 or more seconds, got {valid_s}")
        self._master_key = SecretBytes.copy_of(server_master_key)
        self._tenant = tenant
        self._width_s = width_s
        self._valid_s = valid_s
        self._clock = clock or SystemClock()
        self._signers: dict[bytes, MappingSigner] = {}
        self._kept: dict[MappingId, _Kept] = {}
        self._is_closed = False

    async def generate_server_keypair(self) -> ServerKeypair:
        """
        Make the pair that signs descriptors.

        Raises:
            EntropyError: the random source failed.
        """
        self._require_open()
        signer = await asyncio.to_thread(MappingSigner.generate)
        self._signers[signer.verification_key] = signer
        return ServerKeypair(signer.verification_key, SecretBytes.copy_of(signer.signing_key))

    async def create_key_mapping(
        self,
        device_id: str,
        client_public_key: bytes,
        server_private_key: ServerKeypair | SecretBytes | bytes,
    ) -> KeyMapping:
        """
        Make a mapping with a device (K1).

        Args:
            device_id: The device's name, 1 to 255 bytes of UTF-8.
            client_public_key: Its ML-KEM-1024 encapsulation key, 1568 bytes.
            server_private_key: From `generate_server_keypair`: the pair or its private half; or a 32-byte seed.

        Raises:
            KeyCheckError: the device's key is none (FIPS 203, section 7.2).
            UsageError: the server key cannot sign, such as a KEM private key; the message says what to pass.
        """
        result = (await self.create_key_mappings_many([(device_id, client_public_key)], server_private_key))[0]
        if isinstance(result, QflareError):
            raise result
        return result

    async def create_key_mappings_many(
        self, devices: Sequence[tuple[str, bytes]], server_private_key: ServerKeypair | SecretBytes | bytes
    ) -> tuple[KeyMapping | QflareError, ...]:
        """Make a mapping with each (device_id, client_public_key), all in one batch; one result or error each."""
        self._require_open()
        if len(self._kept) + len(devices) > MAPPINGS_MAX:
            raise OverloadedError(f"a mapper keeps at most {MAPPINGS_MAX} mappings: call cleanup_expired_mappings()")
        for _, key in devices:
            _require_encapsulation_key(key)
        refs = [device_ref(self._tenant, device_id) for device_id, _ in devices]
        signer = self._signer(server_private_key)
        made = await asyncio.to_thread(
            partial(
                create_mappings,
                signer,
                [bytes(key) for _, key in devices],
                refs=refs,
                bucket=self._bucket(),
                width_s=self._width_s,
            )
        )
        return tuple(
            self._keep(new, DeviceId(device_id), bytes(key), signer.verification_key)
            if isinstance(new, NewMapping)
            else _refused(new, device_id)
            for new, (device_id, key) in zip(made, devices, strict=True)
        )

    async def derive_communication_key(
        self, mapping_id: MappingId, purpose: str, *, bucket: int | None = None
    ) -> SecretBytes:
        """
        Derive the key of *purpose* in *bucket* (the present one if not given), 64 bytes; the caller wipes it (K2).

        Raises:
            KeyNotFoundError: no such mapping here.
            StaleBucketError: the bucket is before the mapping's first, or too far ahead.
            UsageError: the purpose cannot be used.
        """
        kept = self._get(mapping_id)
        with self._restore(kept) as mapping:
            return mapping.derive_key(purpose, bucket=self._bucket() if bucket is None else bucket)

    async def rotate_mapping_keys(
        self, mapping_id: MappingId, *, server_private_key: ServerKeypair | SecretBytes | bytes | None = None
    ) -> KeyMapping:
        """
        Make the next generation of a mapping, with a fresh encapsulation and a new descriptor (K3).

        Args:
            mapping_id: Of the mapping, which keeps its id.
            server_private_key: Another signing key; the one it was made with if not given.
        """
        kept = self._get(mapping_id)
        key = kept.public.server_public_key
        signer = self._signers[key] if server_private_key is None else self._signer(server_private_key)
        with self._restore(kept) as held:
            made = await asyncio.to_thread(
                partial(
                    create_mappings,
                    signer,
                    [kept.client_public_key],
                    refs=[kept.public.ref],
                    bucket=self._bucket(),
                    width_s=self._width_s,
                    held=[held],
                )
            )
        new = made[0]
        if isinstance(new, Refusal):
            raise _refused(new, kept.public.device_id)
        now = self._kept.get(mapping_id)
        if now is not kept:
            new.mapping.wipe()
            raise AlreadyExistsError("the mapping was rotated or removed meanwhile: look at it again")
        return self._keep(new, kept.public.device_id, kept.client_public_key, signer.verification_key)

    async def verify_key_mapping(self, mapping_id: MappingId, descriptor: bytes | None = None) -> KeyMapping:
        """
        Check that a mapping's sealed state opens and that its descriptor is signed, and return it.

        Args:
            mapping_id: Of the mapping.
            descriptor: As the device has it, to be compared; the one kept here if not given.

        Raises:
            AuthenticationError: one of them does not hold.
            KeyNotFoundError: no such mapping here.
        """
        kept = self._get(mapping_id)
        with self._restore(kept):
            pass
        shown = kept.public.descriptor if descriptor is None else descriptor
        read_descriptor(shown, server_key=kept.public.server_public_key)
        if shown != kept.public.descriptor:
            raise AuthenticationError
        return kept.public

    async def cleanup_expired_mappings(self) -> int:
        """Remove mappings whose life is over; return how many."""
        self._require_open()
        now_s = self._clock.now_s()
        over = [mapping_id for mapping_id, kept in self._kept.items() if now_s >= kept.expires_s]
        for mapping_id in over:
            del self._kept[mapping_id]
        return len(over)

    def close(self) -> None:
        """Destroy the master key's copy, the signing keys and every mapping."""
        self._is_closed = True
        self._master_key.wipe()
        for signer in self._signers.values():
            signer.wipe()
        self._signers.clear()
        self._kept.clear()

    def __enter__(self) -> Self:
        """Lend the mapper to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close at the end of the block."""
        self.close()

    async def __aenter__(self) -> Self:
        """Lend the mapper to a block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close at the end of the block."""
        self.close()

    def __repr__(self) -> str:
        """Say how many mappings there are, and nothing of the keys."""
        return f"<SecureKeyMapper of {len(self._kept)} mappings>"

    # --- inside -----------------------------------------------------------------------------------

    def _signer(self, key: ServerKeypair | SecretBytes | bytes) -> MappingSigner:
        if isinstance(key, ServerKeypair):
            return self._adopt(MappingSigner.restore(key.private_key, verification_key=key.public_key))
        if not isinstance(key, SecretBytes | bytes | bytearray | memoryview):
            raise UsageError("server_private_key is what generate_server_keypair() returned, or its private half")
        secret = key if isinstance(key, SecretBytes) else SecretBytes.copy_of(key)
        for signer in self._signers.values():
            # CT: private keys are compared; only their length shows in the time.
            if signer.signing_key.equals(secret):
                return signer
        return self._adopt(MappingSigner.restore(secret))

    def _adopt(self, signer: MappingSigner) -> MappingSigner:
        known = self._signers.setdefault(signer.verification_key, signer)
        if known is not signer:
            signer.wipe()
        return known

    def _keep(
        self, new: NewMapping, device_id: DeviceId, client_public_key: bytes, server_public_key: bytes
    ) -> KeyMapping:
        expires_s = self._clock.now_s() + self._valid_s
        with new.mapping as mapping:
            public = KeyMapping(
                mapping_id=mapping.mapping_id,
                device_id=device_id,
                ref=mapping.ref,
                generation=mapping.generation,
                bucket=mapping.first_bucket,
                width_s=mapping.width_s,
                descriptor=new.descriptor,
                server_public_key=server_public_key,
                expires_at=utc(expires_s),
            )
            sealed = seal_mapping(mapping, self._master_key)
        self._kept[public.mapping_id] = _Kept(public, client_public_key, sealed, expires_s)
        return public

    def _restore(self, kept: _Kept) -> Mapping:
        public = kept.public
        return restore_mapping(
            kept.sealed, self._master_key, mapping_id=public.mapping_id, generation=public.generation
        )

    def _get(self, mapping_id: MappingId) -> _Kept:
        self._require_open()
        kept = self._kept.get(mapping_id)
        if kept is None or self._clock.now_s() >= kept.expires_s:
            raise KeyNotFoundError("no such mapping, or it has expired: create it with create_key_mapping()")
        return kept

    def _bucket(self) -> int:
        return bucket_of(self._clock.now_s(), self._width_s)

    def _require_open(self) -> None:
        if self._is_closed:
            raise KeyStateError("this SecureKeyMapper is closed: make a new one")


def _require_encapsulation_key(key: bytes) -> None:
    if not isinstance(key, bytes | bytearray | memoryview):
        raise UsageError(f"client_public_key must be bytes, got {type(key).__name__}")
    if len(key) != kem.EK_BYTES:
        raise LengthError("client_public_key", expected=kem.EK_BYTES, actual=len(key))


def _refused(reason: Refusal, device_id: str) -> QflareError:
    if reason is Refusal.ENCAPSULATION_KEY:
        return KeyCheckError(f"the public key of {device_id!r} is no ML-KEM-1024 key (FIPS 203, section 7.2)")
    return KeyStateError(f"no mapping with {device_id!r} was made: {reason.value}")
