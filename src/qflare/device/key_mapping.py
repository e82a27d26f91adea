"""The device's side of a mapping (PROTOCOL K): the same keys as the server's, from the descriptor it sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, final

from qflare.clock import Clock, SystemClock
from qflare.errors import LengthError, UsageError
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.primitives import kem
from qflare.primitives.kdf import bucket_of
from qflare.primitives.sig import SIG44
from qflare.protocol.identity import device_ref
from qflare.protocol.mapping import Mapping, accept_mapping
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from qflare.model.ids import MappingId


@final
class DeviceKeyMapping:
    """
    Derives what `SecureKeyMapper.derive_communication_key` derives on the server.

    Args:
        descriptor: From the server, 4126 bytes.
        device_id: The device's own name.
        encapsulation_key: Its public key, 1568 bytes.
        decapsulation_key: Its private key, 3168 bytes; stays the caller's.
        server_public_key: The server's ML-DSA-44 key, 1312 bytes, pinned out of band.
        tenant: The tenant in the device's ref; the default one unless the server says another.
        clock: What tells the time.

    Raises:
        AuthenticationError: the descriptor is not this server key's for this device and key.
        LengthError: a key has the wrong size.

    Source: docs/protocol.md, K1 and K2.
    """

    __slots__ = ("_clock", "_decapsulation_key", "_encapsulation_key", "_mapping", "_ref", "_server_public_key")

    def __init__(
        self,
        descriptor: bytes,
        *,
        device_id: str,
        encapsulation_key: bytes,
        decapsulation_key: SecretBytes,
        server_public_key: bytes,
        tenant: TenantId = DEFAULT_TENANT,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(decapsulation_key, SecretBytes):
            # A caller without a type checker, whose copy nobody would wipe.
            message = "decapsulation_key is a SecretBytes, as the key pair holds it"  # type: ignore[unreachable]
            raise UsageError(message)
        for name, size, expected in (
            ("encapsulation_key", len(encapsulation_key), kem.EK_BYTES),
            ("decapsulation_key", len(decapsulation_key), kem.DK_BYTES),
            ("server_public_key", len(server_public_key), SIG44.PK_BYTES),
        ):
            if size != expected:
                raise LengthError(name, expected=expected, actual=size)
        self._ref = device_ref(tenant, device_id)
        self._encapsulation_key = bytes(encapsulation_key)
        self._server_public_key = bytes(server_public_key)
        self._clock = clock or SystemClock()
        self._decapsulation_key = SecretBytes.copy_of(decapsulation_key)
        try:
            self._mapping = self._accept(descriptor, held=None)
        except BaseException:
            self._decapsulation_key.wipe()
            raise

    @property
    def mapping_id(self) -> MappingId:
        """Return the mapping's id, the same on both sides."""
        return self._mapping.mapping_id

    @property
    def generation(self) -> int:
        """Return which generation's keys are derived, from 1."""
        return self._mapping.generation

    def derive_communication_key(self, purpose: str, *, bucket: int | None = None) -> SecretBytes:
        """
        Derive the key of *purpose* in *bucket* (the present one if not given), 64 bytes; the caller wipes it.

        Raises:
            StaleBucketError: the bucket is before the mapping's first, or too far ahead.
            UsageError: the purpose cannot be used.
        """
        chosen = bucket_of(self._clock.now_s(), self._mapping.width_s) if bucket is None else bucket
        return self._mapping.derive_key(purpose, bucket=chosen)

    def rotate(self, descriptor: bytes, *, server_public_key: bytes | None = None) -> None:
        """
        Take over the next generation's descriptor; the old keys are erased.

        Args:
            descriptor: From the server, 4126 bytes.
            server_public_key: Another key that the device pins from now on, out of band as the first one; it stays the
                one that is pinned if not given, or if the descriptor is refused.

        Raises:
            AuthenticationError: it is not this server key's for this device, or another mapping's.
            RefusedError: it is of an older generation.
        """
        before = self._server_public_key
        if server_public_key is not None:
            if len(server_public_key) != SIG44.PK_BYTES:
                name = "server_public_key"
                raise LengthError(name, expected=SIG44.PK_BYTES, actual=len(server_public_key))
            self._server_public_key = bytes(server_public_key)
        try:
            fresh = self._accept(descriptor, held=self._mapping)
        except BaseException:
            self._server_public_key = before
            raise
        if fresh.mapping_id != self._mapping.mapping_id:
            fresh.wipe()
            self._server_public_key = before
            message = "the descriptor is of another mapping; make another DeviceKeyMapping of it"
            raise UsageError(message)
        self._mapping.wipe()
        self._mapping = fresh

    def wipe(self) -> None:
        """Destroy the keys."""
        self._mapping.wipe()
        self._decapsulation_key.wipe()

    def __enter__(self) -> Self:
        """Lend the mapping to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the keys at the end of the block."""
        self.wipe()

    def __repr__(self) -> str:
        """Name the mapping, no key."""
        return f"<DeviceKeyMapping {self._mapping.mapping_id.hex()} generation {self._mapping.generation}>"

    def _accept(self, descriptor: bytes, *, held: Mapping | None) -> Mapping:
        return accept_mapping(
            descriptor,
            ref=self._ref,
            encapsulation_key=self._encapsulation_key,
            decapsulation_key=self._decapsulation_key,
            server_key=self._server_public_key,
            held=held,
        )
