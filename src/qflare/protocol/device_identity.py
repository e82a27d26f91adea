"""A device as it knows itself: its names and its long-term keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from qflare.errors import UsageError
from qflare.primitives.kem import DK_BYTES, EK_BYTES
from qflare.primitives.sig import SIG44
from qflare.protocol import wire
from qflare.protocol.credential import require_psk, require_size

if TYPE_CHECKING:
    from qflare.secret import SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIdentity:
    """What a device needs to begin or answer a handshake; it owns the secrets in it."""

    server_id: bytes
    """The server it is pinned to, 32 bytes."""
    tenant_id: bytes
    device_id: str
    ref: bytes
    """`device_ref(tenant_id, device_id)`, 32 bytes."""
    key_version: int
    signing_key: SecretBytes
    """ML-DSA-44, 2560 bytes."""
    decapsulation_key: SecretBytes
    """ML-KEM-1024, 3168 bytes."""
    verification_key: bytes
    encapsulation_key: bytes
    psk: SecretBytes | None = None
    """64 bytes, never all zero, or None (H4)."""

    def __post_init__(self) -> None:
        """
        Refuse values that no message could carry.

        Raises:
            LengthError: a value has the wrong size.
            UsageError: the psk is all zero, or the key version does not fit 32 bits.
        """
        for name, value, size in (
            ("server_id", self.server_id, wire.SERVER_ID_BYTES),
            ("tenant_id", self.tenant_id, wire.TENANT_BYTES),
            ("ref", self.ref, wire.REF_BYTES),
            ("signing_key", self.signing_key, SIG44.SK_BYTES),
            ("decapsulation_key", self.decapsulation_key, DK_BYTES),
            ("verification_key", self.verification_key, SIG44.PK_BYTES),
            ("encapsulation_key", self.encapsulation_key, EK_BYTES),
        ):
            require_size(name, len(value), size)
        require_psk(self.psk)
        if not 0 <= self.key_version <= wire.U32_MAX:
            message = f"key_version must fit 32 bits, got {self.key_version}"
            raise UsageError(message)

    def psk_view(self) -> memoryview:
        """
        Return the psk, or the 64 zero bytes that stand for none.

        Raises:
            UsageError: the psk was wiped: it must not turn into none.
        """
        if self.psk is None:
            return memoryview(wire.NO_PSK)
        require_psk(self.psk)
        return self.psk.view()

    def wipe(self) -> None:
        """Destroy the secrets."""
        self.signing_key.wipe()
        self.decapsulation_key.wipe()
        if self.psk is not None:
            self.psk.wipe()

    def __enter__(self) -> Self:
        """Lend the identity to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secrets at the end of the block."""
        self.wipe()
