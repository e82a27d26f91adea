"""What the server knows of a device when it checks a handshake: the database row, as far as the protocol needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qflare.model.refusal import Refusal

if TYPE_CHECKING:
    from qflare.secret import SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCredential:
    """A device's current keys and whether it may begin a session; the caller owns and wipes the psk."""

    key_version: int
    is_accepted: bool
    """Whether the device is active."""
    verification_key: bytes
    """ML-DSA-44, 1312 bytes."""
    encapsulation_key: bytes
    """ML-KEM-1024, 1568 bytes."""
    psk: SecretBytes | None = None
    """64 bytes, never all zero (H4)."""
    refusal: Refusal | None = None
    """Why the device is not accepted; `Refusal.DEVICE_STATE` where nothing is said."""

    def verdict(self, key_version: int) -> Refusal | None:
        """Return why a handshake of this device with *key_version* is refused, or None."""
        if self.refusal is not None:
            return self.refusal
        if not self.is_accepted:
            return Refusal.DEVICE_STATE
        if key_version != self.key_version:
            return Refusal.KEY_VERSION
        return None
