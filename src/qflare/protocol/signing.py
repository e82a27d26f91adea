"""
Messages between a worker and the signer of the log's heads: requests and answers of bounded size (docs/audit.md).

    length (u32) ‖ version (u8) ‖ kind (u8) ‖ body

Nothing in them is secret: what a worker may ask for is a signature over a head that follows the last one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError
from qflare.model.event import SignedCheckpoint
from qflare.primitives.sig import SIG44
from qflare.protocol.log import EMPTY_ROOT, HASH_BYTES, SIZE_MAX
from qflare.protocol.wire import u32, u64

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = 1
LENGTH_BYTES: Final = 4
_HEADER_BYTES: Final = 2
MESSAGE_BYTES_MAX: Final = 8192
"""Longest message after its length: above a proof between any two sizes, and a signed head."""
PATH_MAX: Final = 126
"""Most hashes of a proof: two for each level of a tree of 2^63 leaves."""
KEY_HASH_BYTES: Final = 32
NO_KEY: Final = bytes(KEY_HASH_BYTES)
_HEAD_BYTES: Final = KEY_HASH_BYTES + 8 + HASH_BYTES + 8 + SIG44.SIG_BYTES


class RequestKind(IntEnum):
    """What a worker asks for."""

    KEY = 1
    """The public key that the signer made last; it makes its first one."""
    NEW_KEY = 2
    """A fresh key."""
    LAST = 3
    """The head that was signed last."""
    SIGN = 4
    """A signature over a head."""


class AnswerKind(IntEnum):
    """What the signer answers."""

    KEY = 1
    """A public key."""
    SIGNED = 2
    """The head that was asked for, signed."""
    LAST = 3
    """The last head, which is not the one that the request went on from."""
    REFUSED = 4
    """A sentence why nothing was signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastHead:
    """The head that a signer signed last, and with which key; size 0 before the first one."""

    key_hash: bytes
    checkpoint: SignedCheckpoint

    @classmethod
    def none(cls) -> LastHead:
        """Return what stands before the first signature."""
        return cls(
            key_hash=NO_KEY,
            checkpoint=SignedCheckpoint(size=0, root=EMPTY_ROOT, time_s=0, signature=bytes(SIG44.SIG_BYTES)),
        )

    def encode(self) -> bytes:
        """Return its fixed bytes."""
        head = self.checkpoint
        return b"".join((self.key_hash, u64(head.size), head.root, u64(head.time_s), head.signature))

    @classmethod
    def decode(cls, body: bytes) -> LastHead:
        """
        Read them; nothing is verified.

        Raises:
            DecodeError: they are none.
        """
        at = KEY_HASH_BYTES
        if len(body) != _HEAD_BYTES:
            raise _bad("head")
        size, time_s = (int.from_bytes(body[place : place + 8], "big") for place in (at, at + 8 + HASH_BYTES))
        if size > SIZE_MAX or time_s > SIZE_MAX:
            raise _bad("head")
        return cls(
            key_hash=body[:at],
            checkpoint=SignedCheckpoint(
                size=size,
                root=body[at + 8 : at + 8 + HASH_BYTES],
                time_s=time_s,
                signature=body[-SIG44.SIG_BYTES :],
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignRequest:
    """A head to sign, and the proof that it goes on from the one that was signed last."""

    key_hash: bytes
    """Which key signs: `hash_key` of its public half."""
    origin: str
    old_size: int
    size: int
    root: bytes
    path: Sequence[bytes]
    """Consistency proof from *old_size* to *size*; empty from 0, and to the same size."""

    def encode(self) -> bytes:
        """Return the body of SIGN."""
        name = self.origin.encode()
        head = (self.key_hash, bytes((len(name),)), name, u64(self.old_size), u64(self.size), self.root)
        return b"".join((*head, bytes((len(self.path),)), *self.path))

    @classmethod
    def decode(cls, body: bytes) -> SignRequest:
        """
        Read the body of SIGN; nothing is verified.

        Raises:
            DecodeError: it is none.
        """
        named = body[KEY_HASH_BYTES] if len(body) > KEY_HASH_BYTES else 0
        at = KEY_HASH_BYTES + 1 + named
        path_at = at + 16 + HASH_BYTES + 1
        count = body[path_at - 1] if len(body) >= path_at else PATH_MAX + 1
        if count > PATH_MAX or len(body) != path_at + count * HASH_BYTES:
            raise _bad("request")
        name, rest = body[KEY_HASH_BYTES + 1 : at], body[path_at:]
        try:
            origin = name.decode()
        except UnicodeDecodeError:
            raise _bad("request") from None
        return cls(
            key_hash=body[:KEY_HASH_BYTES],
            origin=origin,
            old_size=int.from_bytes(body[at : at + 8], "big"),
            size=int.from_bytes(body[at + 8 : at + 16], "big"),
            root=body[at + 16 : at + 16 + HASH_BYTES],
            path=tuple(rest[place : place + HASH_BYTES] for place in range(0, len(rest), HASH_BYTES)),
        )


def hash_key(public_key: bytes) -> bytes:
    """Return under which name a signer knows a key: SHA-256 of the public half."""
    return hashlib.sha256(public_key).digest()


def encode_message(kind: RequestKind | AnswerKind, body: bytes = b"") -> bytes:
    """Return one message with its length in front."""
    return u32(_HEADER_BYTES + len(body)) + bytes((VERSION, kind)) + body


def decode_length(head: bytes) -> int:
    """
    Return how many bytes follow the four that say so.

    Raises:
        DecodeError: more than any message has, or too few.
    """
    size = int.from_bytes(head, "big")
    if not _HEADER_BYTES <= size <= MESSAGE_BYTES_MAX:
        raise _bad("length")
    return size


def decode_message(message: bytes) -> tuple[int, bytes]:
    """
    Return kind and body of a message without its length.

    Raises:
        DecodeError: it is of another version.
    """
    if len(message) < _HEADER_BYTES or message[0] != VERSION:
        raise _bad("version")
    return message[1], message[_HEADER_BYTES:]


def _bad(what: str) -> DecodeError:
    message = f"a message of the signer's protocol has a {what} that cannot be"
    return DecodeError(message)
