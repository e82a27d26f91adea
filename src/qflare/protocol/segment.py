"""
Segments: a message of any size as sealed pieces of 2^18 bytes under one stream key (R3).

Order, number and end of the segments are in the nonces, header and application data in the associated data of each, so
that none can be dropped, repeated, moved, added or taken over from another message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from qflare.errors import DecodeError, LengthError
from qflare.primitives.aead import TAG_BYTES, AeadKey
from qflare.primitives.hash import transcript
from qflare.primitives.kdf import expand
from qflare.protocol.labels import EXPAND_STREAM
from qflare.protocol.wire import AEAD_KEY_BYTES, RECORD_HEADER_BYTES, SECRET_BYTES
from qflare.secret import zeroize

if TYPE_CHECKING:
    from qflare.primitives.rows import Readable
    from qflare.secret import SecretBytes

SEGMENT_BYTES: Final = 1 << 18
"""Plaintext bytes of every segment but the last."""
SEALED_SEGMENT_BYTES: Final = SEGMENT_BYTES + TAG_BYTES
SEGMENTS_MAX: Final = 1 << 32
"""A stream ends there (R9)."""
PLAINTEXT_BYTES_MAX: Final = SEGMENT_BYTES * SEGMENTS_MAX


def segment_count(plaintext_size: int) -> int:
    """
    Return how many segments a message of *plaintext_size* bytes has; an empty one has one.

    Raises:
        LengthError: the message is longer than a stream can be (R9).
    """
    if not 0 <= plaintext_size <= PLAINTEXT_BYTES_MAX:
        name, expected = "message", f"0 to {PLAINTEXT_BYTES_MAX}"
        raise LengthError(name, expected=expected, actual=plaintext_size)
    return max(1, -(-plaintext_size // SEGMENT_BYTES))


def sealed_size(plaintext_size: int, *, header_size: int = RECORD_HEADER_BYTES) -> int:
    """Return the size of the whole record, header included, of a message of *plaintext_size* bytes."""
    return header_size + plaintext_size + TAG_BYTES * segment_count(plaintext_size)


def plaintext_size(record_size: int, *, header_size: int = RECORD_HEADER_BYTES) -> int:
    """
    Return the size of the message in a record of *record_size* bytes, header included.

    Args:
        record_size: Bytes of the whole record.
        header_size: 48, and 64 for a reply (R6).

    Raises:
        DecodeError: no record has that size.

    Source: docs/protocol.md, R3.
    """
    sealed = record_size - header_size
    count, rest = -(-sealed // SEALED_SEGMENT_BYTES), sealed % SEALED_SEGMENT_BYTES
    # An empty last segment (rest of one tag) stands only where the message itself is empty.
    has_bad_rest = 0 < rest < TAG_BYTES or (rest == TAG_BYTES and count > 1)
    if sealed < TAG_BYTES or has_bad_rest or count > SEGMENTS_MAX:
        message = f"a record of {record_size} bytes cannot be: its segments do not come out even"
        raise DecodeError(message)
    return sealed - TAG_BYTES * count


@final
class SegmentCipher:
    """The key schedule and associated data of one stream; it seals or opens segments by number."""

    __slots__ = ("_aad", "_key")

    def __init__(self, stream_key: Readable, aad: bytes) -> None:
        """Expand *stream_key* (32 bytes; the caller wipes it); *aad* is H(header, application's AAD)."""
        self._key = AeadKey(stream_key)
        self._aad = aad

    @classmethod
    def derive(cls, message_key: SecretBytes, header: bytes, *, stream_id: bytes, aad: Readable) -> SegmentCipher:
        """
        Derive the cipher of one record: ``k = Expand(MK, "stream", stream id, 32)``.

        Raises:
            LengthError: *message_key* is not 64 bytes.

        Source: docs/protocol.md, R3.
        """
        if len(message_key) != SECRET_BYTES:
            name = "message key"
            raise LengthError(name, expected=SECRET_BYTES, actual=len(message_key))
        with expand(message_key, EXPAND_STREAM, stream_id, AEAD_KEY_BYTES) as key:
            return cls(key, transcript(header, aad))

    def seal(self, number: int, plaintext: memoryview, *, is_last: bool) -> bytes:
        """Seal segment *number*."""
        return self._key.seal(_nonce(number, is_last=is_last), plaintext, self._aad)

    def seal_into(self, number: int, plaintext: memoryview, out: memoryview, *, is_last: bool) -> None:
        """Seal segment *number* into *out*, 16 bytes longer than *plaintext*."""
        self._key.seal_into(_nonce(number, is_last=is_last), plaintext, self._aad, out)

    def open(self, number: int, sealed: memoryview, *, is_last: bool) -> SecretBytes:
        """
        Open segment *number*; returns its plaintext, owned by the caller.

        Raises:
            AuthenticationError: it is not that segment of this stream.
        """
        return self._key.open(_nonce(number, is_last=is_last), sealed, self._aad)

    def open_into(self, number: int, sealed: memoryview, out: memoryview, *, is_last: bool) -> None:
        """
        Open segment *number* into *out*, 16 bytes shorter than *sealed*.

        Raises:
            AuthenticationError: it is not that segment of this stream; *out* is zero.
        """
        self._key.open_into(_nonce(number, is_last=is_last), sealed, self._aad, out)

    def seal_all(self, plaintext: memoryview, out: memoryview) -> None:
        """Seal a whole message into *out*, which has exactly the size of its segments."""
        count = segment_count(len(plaintext))
        for number in range(count):
            at = number * SEALED_SEGMENT_BYTES
            piece = plaintext[number * SEGMENT_BYTES : (number + 1) * SEGMENT_BYTES]
            self.seal_into(number, piece, out[at : at + len(piece) + TAG_BYTES], is_last=number == count - 1)

    def open_all(self, sealed: memoryview, out: memoryview) -> None:
        """
        Open a whole message into *out*, which has exactly its size.

        Raises:
            AuthenticationError: any segment is not authentic; all of *out* is zero.
        """
        count = segment_count(len(out))
        is_complete = False
        try:
            for number in range(count):
                piece = sealed[number * SEALED_SEGMENT_BYTES : (number + 1) * SEALED_SEGMENT_BYTES]
                at = number * SEGMENT_BYTES
                self.open_into(number, piece, out[at : at + len(piece) - TAG_BYTES], is_last=number == count - 1)
            is_complete = True
        finally:
            if not is_complete:
                zeroize(out)


def _nonce(number: int, *, is_last: bool) -> bytes:
    # R3: counter u64, three zero bytes, last u8.
    return number.to_bytes(8, "big") + (b"\0\0\0\1" if is_last else b"\0\0\0\0")
