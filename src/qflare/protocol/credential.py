"""What the server knows of a device when it checks a handshake: the database row, as far as the protocol needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qflare.errors import LengthError, UsageError
from qflare.model.quick import quick
from qflare.model.refusal import Refusal
from qflare.primitives.kem import EK_BYTES
from qflare.primitives.sig import SIG44
from qflare.protocol import wire

if TYPE_CHECKING:
    from qflare.secret import SecretBytes


@quick
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

    def __post_init__(self) -> None:
        """
        Refuse keys of the wrong size here, so that one bad row cannot fail a batch.

        Raises:
            LengthError: a key or the psk has the wrong size.
            UsageError: the psk is all zero.
        """
        require_size("verification_key", len(self.verification_key), SIG44.PK_BYTES)
        require_size("encapsulation_key", len(self.encapsulation_key), EK_BYTES)
        require_psk(self.psk)

    def verdict(self, key_version: int) -> Refusal | None:
        """Return why a handshake of this device with *key_version* is refused, or None."""
        if self.refusal is not None:
            return self.refusal
        if not self.is_accepted:
            return Refusal.DEVICE_STATE
        if key_version != self.key_version:
            return Refusal.KEY_VERSION
        return None


def require_psk(psk: SecretBytes | None) -> None:
    """
    Check a pre-shared key.

    Raises:
        LengthError: it is not 64 bytes.
        UsageError: it is all zero, which means none.
    """
    if psk is None:
        return
    require_size("psk", len(psk), wire.PSK_BYTES)
    if psk.equals(wire.NO_PSK):
        message = "a psk of 64 zero bytes means none; draw a random one, or give None"
        raise UsageError(message)


def require_size(name: str, actual: int, expected: int) -> None:
    """
    Check the size of a value in bytes.

    Raises:
        LengthError: it is another.
    """
    if actual != expected:
        raise LengthError(name, expected=expected, actual=actual)
