"""A device as it knows itself: its names and its long-term keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from qflare.protocol import wire

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

    def psk_view(self) -> memoryview:
        """Return the psk, or the 64 zero bytes that stand for none."""
        return memoryview(wire.NO_PSK) if self.psk is None else self.psk.view()

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
