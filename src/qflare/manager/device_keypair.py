"""Both key pairs of a device, made for it (PROTOCOL E5): the private halves are told once and kept nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from qflare.manager.algorithm import KEM_STANDARD, SIGNATURE_STANDARD
from qflare.protocol.device_identity import DeviceIdentity
from qflare.protocol.identity import device_ref
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import DeviceId, DeviceRef, TenantId
    from qflare.protocol.device_keys import DeviceKeys


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
