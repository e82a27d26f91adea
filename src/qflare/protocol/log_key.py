"""What heads of the log are checked with: the log's origin and its verification key, from CERT or from a C2SP vkey."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import AuthenticationError, DecodeError, OtherLogError, UsageError
from qflare.primitives.sig import SIG44
from qflare.protocol.checkpoint import decode_note, encode_verifier_key, key_id, verify_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import SignedCheckpoint
    from qflare.protocol.identity import Certificate

_KEY_TYPE: Final = b"\x06"
"""ML-DSA-44 (C2SP tlog-cosignature)."""
_PARTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKey:
    """The name and the key of who signs heads: the log, or a witness. Public."""

    origin: str
    key: bytes
    """ML-DSA-44, 1312 bytes."""

    @classmethod
    def of(cls, certificate: Certificate) -> Self:
        """Return the log key that CERT vouches for."""
        return cls(origin=certificate.log_origin, key=certificate.log_key)

    @classmethod
    def decode(cls, vkey: str) -> Self:
        """
        Read a verifier key, ``name+hex key id+base64(0x06 ‖ public key)``.

        Raises:
            DecodeError: it is none of an ML-DSA-44 key, or its key id is not that of name and key.

        Source: C2SP signed-note, "Verifier keys".
        """
        # The name has no plus sign, base64 may have some.
        parts = vkey.strip().split("+", _PARTS - 1)
        try:
            material = base64.b64decode(parts[2].encode("ascii"), validate=True) if len(parts) == _PARTS else b""
        except (UnicodeEncodeError, binascii.Error):
            material = b""
        if material[:1] != _KEY_TYPE or len(material) != 1 + SIG44.PK_BYTES:
            message = "a verifier key is name+hex key id+base64 of 0x06 and an ML-DSA-44 key, in one line"
            raise DecodeError(message)
        key = cls(origin=parts[0], key=material[1:])
        try:
            wanted = key_id(key.origin, key.key).hex()
        except UsageError:
            wanted = ""
        if parts[1] != wanted:
            message = "the verifier key's id is not that of its name and key: it is mistyped or cut"
            raise DecodeError(message)
        return key

    def encode(self) -> str:
        """Return it as a verifier key."""
        return encode_verifier_key(self.origin, self.key)

    def verify(self, checkpoint: SignedCheckpoint) -> None:
        """
        Verify a signed head.

        Raises:
            AuthenticationError: the signature does not hold.
        """
        verify_checkpoint(self.key, self.origin, checkpoint)


def verify_under(keys: Sequence[LogKey], checkpoint: SignedCheckpoint) -> LogKey:
    """
    Return the first of *keys* under which a signed head holds.

    Raises:
        AuthenticationError: it holds under none.
    """
    for key in keys:
        try:
            key.verify(checkpoint)
        except AuthenticationError:
            continue
        return key
    raise AuthenticationError


def open_note(note: str, keys: Sequence[LogKey]) -> SignedCheckpoint:
    """
    Read a signed note under the one of *keys* that signed it.

    Raises:
        OtherLogError: it is of another log, or none of the keys signed it.
        DecodeError: it is no checkpoint.
        AuthenticationError: the signature does not hold.
    """
    return _open(note, keys)[1]


def signer_of(note: str, keys: Sequence[LogKey]) -> LogKey:
    """Return the one of *keys* under which a signed note holds; errors as `open_note`."""
    return _open(note, keys)[0]


def _open(note: str, keys: Sequence[LogKey]) -> tuple[LogKey, SignedCheckpoint]:
    other: OtherLogError | None = None
    for key in keys:
        try:
            return key, decode_note(note, origin=key.origin, log_key=key.key)
        except OtherLogError as failure:
            other = failure
    raise other or OtherLogError("there is no key of a log to check the note with")
