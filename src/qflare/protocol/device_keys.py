"""A device's fresh long-term key pairs, before the server has given them a version (E2, E4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from qflare.errors import EntropyError
from qflare.primitives import kem
from qflare.primitives.hash import transcript
from qflare.primitives.sig import SIG44
from qflare.protocol.device_identity import DeviceIdentity
from qflare.protocol.identity import device_ref
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from qflare.model.ids import DeviceId, TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeys:
    """Both pairs of a device; it owns the private halves. Wipe it, or use it as a context manager."""

    verification_key: bytes
    """`vk_D`, ML-DSA-44, 1312 bytes."""
    signing_key: SecretBytes
    """ML-DSA-44, 2560 bytes."""
    encapsulation_key: bytes
    """`ek_D`, ML-KEM-1024, 1568 bytes."""
    decapsulation_key: SecretBytes
    """`dk_D`, ML-KEM-1024, 3168 bytes."""

    @classmethod
    def generate(cls) -> Self:
        """
        Generate both pairs.

        Raises:
            EntropyError: the random source failed; nothing was kept.
        """
        signing = SIG44.generate()
        try:
            pair = kem.generate()
        except BaseException:
            signing.signing_key.wipe()
            raise
        return cls(
            verification_key=signing.verification_key,
            signing_key=signing.signing_key,
            encapsulation_key=pair.encapsulation_key,
            decapsulation_key=pair.decapsulation_key,
        )

    @classmethod
    def generate_many(cls, count: int) -> list[Self]:
        """
        Generate the pairs of *count* devices in two calls.

        Raises:
            BatchError: *count* is out of range; nothing was made.
            EntropyError: the random source failed; nothing was kept.
        """
        pairs = kem.generate_many(count)
        signing = SIG44.generate_many(count)
        with pairs.decapsulation_keys as dks, signing.signing_keys as sks:
            if any(pairs.status) or any(signing.status):
                message = "the system's random source failed; no key was kept"
                raise EntropyError(message)
            return [
                cls(
                    verification_key=_row(signing.verification_keys, index, SIG44.PK_BYTES),
                    signing_key=sks.take_row(index, SIG44.SK_BYTES),
                    encapsulation_key=_row(pairs.encapsulation_keys, index, kem.EK_BYTES),
                    decapsulation_key=dks.take_row(index, kem.DK_BYTES),
                )
                for index in range(count)
            ]

    @property
    def key_hash(self) -> bytes:
        """Return `H(vk_D, ek_D)`, 64 bytes: by it the server knows the same enrolment again (E3)."""
        return key_hash_of(self.verification_key, self.encapsulation_key)

    def identity(
        self, *, server_id: bytes, tenant_id: TenantId, device_id: DeviceId, key_version: int, psk: SecretBytes | None
    ) -> DeviceIdentity:
        """Return the device with copies of these keys, which the identity owns; the keys here stay the caller's."""
        return DeviceIdentity(
            server_id=server_id,
            tenant_id=tenant_id,
            device_id=device_id,
            ref=device_ref(tenant_id, device_id),
            key_version=key_version,
            signing_key=SecretBytes.copy_of(self.signing_key),
            decapsulation_key=SecretBytes.copy_of(self.decapsulation_key),
            verification_key=self.verification_key,
            encapsulation_key=self.encapsulation_key,
            psk=None if psk is None else SecretBytes.copy_of(psk),
        )

    def wipe(self) -> None:
        """Destroy both private halves."""
        self.signing_key.wipe()
        self.decapsulation_key.wipe()

    def __enter__(self) -> Self:
        """Lend the keys to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the private halves at the end of the block."""
        self.wipe()


def key_hash_of(verification_key: bytes, encapsulation_key: bytes) -> bytes:
    """Return `H(vk_D, ek_D)`, 64 bytes."""
    return transcript(verification_key, encapsulation_key)


def _row(rows: bytearray, index: int, size: int) -> bytes:
    return bytes(rows[index * size : (index + 1) * size])
