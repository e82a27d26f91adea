"""
Enrolment tokens (E1): what lets a device enrol once, carried out of band as 156 characters of base32.

The server keeps `H(secret)` only.  The text is a secret while the token is unused: it is shown once and not logged.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final, Self

from qflare.errors import DecodeError, LengthError
from qflare.model.ids import TenantId, TokenId
from qflare.primitives.hash import transcript
from qflare.primitives.random import random_bytes, random_secret
from qflare.protocol.wire import SERVER_ID_BYTES, TENANT_BYTES, TOKEN_ID_BYTES, TOKEN_SECRET_BYTES, VERSION
from qflare.secret import SecretBytes, zeroize

TOKEN_BYTES: Final = 1 + TENANT_BYTES + TOKEN_ID_BYTES + TOKEN_SECRET_BYTES + SERVER_ID_BYTES
TOKEN_CHARS: Final = 156
"""97 bytes are 155.2 groups of 5 bits; the last character carries 1 bit, the other 4 are zero."""
_PADDING: Final = "===="
_TOKEN_ID_AT: Final = 1 + TENANT_BYTES
_SECRET_AT: Final = _TOKEN_ID_AT + TOKEN_ID_BYTES
_SERVER_ID_AT: Final = _SECRET_AT + TOKEN_SECRET_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentToken:
    """A token taken apart; it owns the secret."""

    tenant_id: TenantId
    token_id: TokenId
    secret: SecretBytes
    """32 bytes."""
    server_id: bytes
    """The server that the device is to pin, 32 bytes."""

    def __post_init__(self) -> None:
        """
        Refuse fields that no token can carry.

        Raises:
            LengthError: a field has the wrong size.
        """
        for name, size, expected in (
            ("tenant_id", len(self.tenant_id), TENANT_BYTES),
            ("token_id", len(self.token_id), TOKEN_ID_BYTES),
            ("token secret", len(self.secret), TOKEN_SECRET_BYTES),
            ("server_id", len(self.server_id), SERVER_ID_BYTES),
        ):
            if size != expected:
                raise LengthError(name, expected=expected, actual=size)

    @property
    def secret_hash(self) -> bytes:
        """Return `H(secret)`, 64 bytes: what the database holds."""
        return token_secret_hash(self.secret)

    def encode(self) -> str:
        """Write the token as text: upper-case base32 without padding, 156 characters. The text is secret."""
        whole = bytearray((VERSION,)) + self.tenant_id + self.token_id
        with self.secret.view() as secret:
            whole += secret
        whole += self.server_id
        try:
            # SAFETY: a text cannot be wiped; this one exists to be handed to a person.
            return base64.b32encode(whole).decode().rstrip("=")
        finally:
            zeroize(whole)

    def wipe(self) -> None:
        """Destroy the secret."""
        self.secret.wipe()

    def __enter__(self) -> Self:
        """Lend the token to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secret at the end of the block."""
        self.wipe()


def new_token(*, tenant_id: TenantId, server_id: bytes, token_id: TokenId | None = None) -> EnrolmentToken:
    """
    Make a token with a random secret, and a random id unless *token_id* is given.

    Raises:
        LengthError: an id has the wrong size.
        EntropyError: the random source failed.
    """
    chosen = TokenId(random_bytes(TOKEN_ID_BYTES)) if token_id is None else token_id
    secret = random_secret(TOKEN_SECRET_BYTES)
    return EnrolmentToken(tenant_id=tenant_id, token_id=chosen, secret=secret, server_id=server_id)


def decode_token(text: str) -> EnrolmentToken:
    """
    Read a token; white space around it is passed over, nothing else is forgiven.

    Raises:
        DecodeError: it is no token; the message never repeats the text.
    """
    trimmed = text.strip()
    whole = bytearray()
    try:
        if len(trimmed) == TOKEN_CHARS:
            whole += base64.b32decode(trimmed + _PADDING)  # refuses lower case
    except (ValueError, binascii.Error):
        whole = bytearray()
    try:
        # Encoding it again refuses left-over bits, which would be a second text for the same token.
        is_canonical = len(whole) == TOKEN_BYTES and base64.b32encode(whole).decode().rstrip("=") == trimmed
        if not is_canonical or whole[0] != VERSION:
            # WHY: a token with one letter wrong is nearly the token, and error reporters show a frame's locals.
            del text, trimmed
            message = (
                f"this is no enrolment token of version {VERSION}: a token has {TOKEN_CHARS} characters A-Z and 2-7; "
                "copy it whole, or issue a new one"
            )
            raise DecodeError(message)
        return EnrolmentToken(
            tenant_id=TenantId(bytes(whole[1:_TOKEN_ID_AT])),
            token_id=TokenId(bytes(whole[_TOKEN_ID_AT:_SECRET_AT])),
            secret=SecretBytes(whole[_SECRET_AT:_SERVER_ID_AT]),
            server_id=bytes(whole[_SERVER_ID_AT:]),
        )
    finally:
        zeroize(whole)


def token_secret_hash(secret: SecretBytes | bytes | memoryview) -> bytes:
    """Return `H(secret)`, 64 bytes (E1)."""
    return transcript(secret)
