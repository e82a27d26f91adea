"""A key from a passphrase: scrypt (RFC 7914), with parameters that stand in the file that it seals."""

from __future__ import annotations

import hashlib
from typing import Final

from qflare.errors import ConfigError, DecodeError
from qflare.secret import SecretBytes

SALT_BYTES: Final = 16
PARAMETERS: Final = bytes((17, 8, 1))
"""log2 N, r and p: 128 MiB and some 0.4 s a guess, of which a taken file costs one for each passphrase tried."""
PASSPHRASE_CHARS_MIN: Final = 12
PASSPHRASE_BYTES_MAX: Final = 1024
_LOG2_N_MAX: Final = 20
_R_MAX: Final = 8
_P_MAX: Final = 4


def require_passphrase(passphrase: SecretBytes) -> None:
    """
    Refuse a passphrase that somebody who takes the file would guess.

    Raises:
        ConfigError: it is too short or too long.
    """
    if not PASSPHRASE_CHARS_MIN <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise ConfigError(
            f"the passphrase must have {PASSPHRASE_CHARS_MIN} to {PASSPHRASE_BYTES_MAX} bytes: take six words or more "
            "that no one else chose"
        )


def derive_key(passphrase: SecretBytes, parameters: bytes, salt: bytes) -> SecretBytes:
    """
    Return the 32-byte key; the caller wipes it.

    Raises:
        DecodeError: the parameters ask for more than any that were written.
    """
    log2_n, r, p = parameters
    if not (1 <= log2_n <= _LOG2_N_MAX and 1 <= r <= _R_MAX and 1 <= p <= _P_MAX):
        # Not authenticated before the key is there: an altered file must not take all of the machine's memory.
        raise DecodeError("the file asks for more work than any that was written: it was altered")
    with passphrase.view() as view:
        # SAFETY: hashlib takes and returns plain bytes; the passphrase's buffer is borrowed, the key copied at once.
        derived = hashlib.scrypt(
            view, salt=salt, n=1 << log2_n, r=r, p=p, maxmem=(128 * r << log2_n) + (1 << 20), dklen=32
        )
    return SecretBytes.copy_of(derived)
