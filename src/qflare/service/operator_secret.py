"""
What lets an operator log in: 77 characters of base32, shown once; the database has a scrypt hash of its secret half.

    tenant id(16) ‖ secret(32)

The tenant stands in it, so that nobody has to know or type it, and a look-up goes into one tenant from its first
statement on.  The secret is random, not chosen: 256 bits that no list has, so the hash need not be slow to hold; it is
slow all the same, since who reads the table should have nothing at all.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from qflare.errors import DecodeError
from qflare.model.ids import ID_BYTES, TenantId
from qflare.model.operator import SALT_BYTES, VERIFIER_BYTES, Verifier
from qflare.primitives.random import random_bytes, random_secret
from qflare.secret import SecretBytes, zeroize

SECRET_BYTES: Final = 32
SECRET_CHARS: Final = 77
"""48 bytes are 76.8 groups of 5 bits; the last character carries 4 bits."""
_PADDING: Final = "==="
_LOG2_N: Final = 15
_R: Final = 8
_P: Final = 1
"""32 MiB and about 0.1 s a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSecret:
    """The text taken apart; it owns the secret."""

    tenant_id: TenantId
    secret: SecretBytes
    """32 bytes."""

    def encode(self) -> str:
        """Write it as text: upper-case base32 without padding. The text is secret."""
        whole = bytearray(self.tenant_id)
        with self.secret.view() as secret:
            whole += secret
        try:
            # SAFETY: a text cannot be wiped; this one exists to be handed to a person.
            return base64.b32encode(whole).decode().rstrip("=")
        finally:
            zeroize(whole)


def new_secret(tenant_id: TenantId) -> OperatorSecret:
    """Draw a secret; the caller wipes it."""
    return OperatorSecret(tenant_id=tenant_id, secret=random_secret(SECRET_BYTES))


def decode_secret(text: str) -> OperatorSecret:
    """
    Read an operator's secret; white space around it and small letters are forgiven, nothing else.

    Raises:
        DecodeError: it is none; the message never repeats the text.
    """
    whole = bytearray()
    try:
        if len(text.strip()) == SECRET_CHARS:
            whole += base64.b32decode(text.strip().upper() + _PADDING)
    except (ValueError, binascii.Error):
        whole = bytearray()
    try:
        if len(whole) != ID_BYTES + SECRET_BYTES:
            # WHY: a secret with one letter wrong is nearly the secret, and error reporters show a frame's locals.
            del text
            raise DecodeError(f"this is no operator's secret: it has {SECRET_CHARS} characters A-Z and 2-7")
        return OperatorSecret(tenant_id=TenantId(bytes(whole[:ID_BYTES])), secret=SecretBytes(whole[ID_BYTES:]))
    finally:
        zeroize(whole)


def make_verifier(secret: SecretBytes) -> Verifier:
    """Return what the database keeps of *secret*: some 0.1 s and 32 MiB; call it in a thread."""
    salt = random_bytes(SALT_BYTES)
    return Verifier(salt=salt, log2_n=_LOG2_N, r=_R, p=_P, secret_hash=_derive(secret, salt, _LOG2_N, _R, _P))


def is_secret_of(secret: SecretBytes, verifier: Verifier | None) -> bool:
    """
    Tell whether *secret* is the one that *verifier* was made of; as slow for None, which it never is.

    CT: whether the name exists must not show in the time; the hashes are compared in constant time.
    """
    if verifier is None:
        _derive(secret, bytes(SALT_BYTES), _LOG2_N, _R, _P)
        return False
    derived = _derive(secret, verifier.salt, verifier.log2_n, verifier.r, verifier.p)
    return hmac.compare_digest(derived, verifier.secret_hash)


def _derive(secret: SecretBytes, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    scrypt = Scrypt(salt=salt, length=VERIFIER_BYTES, n=2**log2_n, r=r, p=p)
    with secret.view() as view:
        return scrypt.derive(view)
