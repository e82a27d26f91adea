"""
Streams: sealing and opening one record piece by piece, in flat memory (R3).

Beyond the caller's buffers a sealer holds one segment and hands out one at a time, an opener holds one.  An opener
writes into the caller's buffer, which is the caller's private matter until `finish` has returned: whatever goes wrong
before, the buffer is wiped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, final

from qflare.errors import AuthenticationError, DecodeError, LengthError, UnexpectedMessageError, UsageError
from qflare.primitives.aead import TAG_BYTES
from qflare.primitives.rows import as_view
from qflare.protocol.segment import (
    SEALED_SEGMENT_BYTES,
    SEGMENT_BYTES,
    SEGMENTS_MAX,
    SegmentCipher,
    segment_count,
)
from qflare.secret import zeroize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qflare.primitives.rows import Readable
    from qflare.protocol.record import RecordHeader
    from qflare.secret import SecretBytes


@final
class StreamSealer:
    """Seals one message as one record; used once. The header is sent before the first segment."""

    __slots__ = ("_cipher", "_held", "_held_size", "_number", "header")

    def __init__(self, message_key: SecretBytes, header: RecordHeader, *, aad: Readable = b"") -> None:
        """
        Begin the record of *header*.

        Args:
            message_key: MK of the header's bucket, direction and purpose, 64 bytes; the caller may wipe it now.
            header: From `new_header`, used once.
            aad: The application's associated data.
        """
        self.header = header.encode()
        self._cipher: SegmentCipher | None = SegmentCipher.derive(
            message_key, self.header, stream_id=header.stream_id, aad=aad
        )
        self._held = bytearray()  # made when pieces come: a message in one buffer needs none
        self._held_size = 0
        self._number = 0

    def seal(self, source: Readable | Iterable[Readable]) -> Iterator[bytes]:
        """
        Yield the whole record: the header, then one sealed segment at a time.

        Args:
            source: The message as one buffer, which is not copied, or as pieces of any sizes.

        Raises:
            UnexpectedMessageError: the sealer was used before, at the first step.
            LengthError: the message is longer than a stream can be (R9).
        """
        if self._number or self._held_size:
            message = "the sealer holds pieces of a message already; go on with push() and finish()"
            raise UnexpectedMessageError(message)
        self._require_going()
        yield self.header
        try:
            view = as_view(source, name="message")  # type: ignore[arg-type]  # refused below if it is no buffer
        except UsageError:
            view = None
        if view is None:
            for piece in source:  # type: ignore[union-attr]  # no buffer, so pieces
                yield from self.push(piece)
            yield self.finish()
            return
        count = segment_count(len(view))
        for number in range(count):
            segment = view[number * SEGMENT_BYTES : (number + 1) * SEGMENT_BYTES]
            yield self._seal(segment, is_last=number == count - 1)
        self.wipe()

    def push(self, piece: Readable) -> list[bytes]:
        """
        Take the next *piece* of the message and return the segments that are complete with it, in order.

        Raises:
            UnexpectedMessageError: the stream is finished.
            LengthError: the message is longer than a stream can be (R9).
        """
        self._require_going()
        view = as_view(piece, name="piece")
        sealed: list[bytes] = []
        if not self._held:
            self._held = bytearray(SEGMENT_BYTES)
        # A full segment is sealed only when more follows, for the last one has another nonce.
        while self._held_size + len(view) > SEGMENT_BYTES:
            if self._held_size == 0:
                segment, view = view[:SEGMENT_BYTES], view[SEGMENT_BYTES:]
                sealed.append(self._seal(segment, is_last=False))
            else:
                room = SEGMENT_BYTES - self._held_size
                self._hold(view[:room])
                view = view[room:]
                sealed.append(self._seal(memoryview(self._held), is_last=False))
                self._held_size = 0
        self._hold(view)
        return sealed

    def finish(self) -> bytes:
        """
        Return the last segment and wipe what was held.

        Raises:
            UnexpectedMessageError: the stream is finished already.
        """
        last = self._seal(memoryview(self._held)[: self._held_size], is_last=True)
        self.wipe()
        return last

    def wipe(self) -> None:
        """Wipe what is held; the stream cannot go on. Safe to call twice."""
        self._cipher = None
        zeroize(self._held)
        self._held_size = 0

    def __enter__(self) -> Self:
        """Lend the sealer to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe at the end of the block, however it ends."""
        self.wipe()

    def __del__(self) -> None:
        """Wipe what its owner forgot."""
        zeroize(getattr(self, "_held", bytearray()))

    def _hold(self, piece: memoryview) -> None:
        # Through a view: assigning to a slice of the bytearray itself would first copy the piece.
        memoryview(self._held)[self._held_size : self._held_size + len(piece)] = piece
        self._held_size += len(piece)

    def _require_going(self) -> SegmentCipher:
        if self._cipher is None:
            message = "the stream is finished; a message is one stream, begin a new one"
            raise UnexpectedMessageError(message)
        return self._cipher

    def _seal(self, plaintext: memoryview, *, is_last: bool) -> bytes:
        cipher = self._require_going()
        if self._number >= SEGMENTS_MAX:  # R9
            name, expected = "message", f"at most {SEGMENTS_MAX} segments"
            raise LengthError(name, expected=expected, actual=self._number * SEGMENT_BYTES)
        sealed = cipher.seal(self._number, plaintext, is_last=is_last)
        self._number += 1
        return sealed


@final
class StreamOpener:
    """Opens one record into the caller's buffer; used once, best as a context manager."""

    __slots__ = ("_cipher", "_held", "_held_size", "_is_finished", "_kept", "_number", "_out", "_size")

    def __init__(
        self,
        message_key: SecretBytes,
        header: RecordHeader,
        out: bytearray | memoryview,
        *,
        aad: Readable = b"",
    ) -> None:
        """
        Begin to open the record of *header*, whose sealed segments are written after.

        Args:
            message_key: MK for what the header says, 64 bytes; the caller may wipe it now.
            header: The record's header, from `decode_header` or `read_header`.
            out: Where the message goes; at least its size. Wiped if the record turns out not to be authentic.
            aad: The application's associated data.
        """
        encoded = header.encode()
        self._cipher: SegmentCipher | None = SegmentCipher.derive(
            message_key, encoded, stream_id=header.stream_id, aad=aad
        )
        self._out = as_view(out, name="out")
        if self._out.readonly and len(self._out):
            message = "out must be writable"
            raise UsageError(message)
        self._held = bytearray()  # made when pieces come that are not whole segments
        self._held_size = 0
        self._kept: memoryview | None = None
        """A whole segment in the caller's own bytes, which nobody can change: held back without a copy."""
        self._number = 0
        self._size = 0
        self._is_finished = False

    @property
    def has_verified(self) -> bool:
        """Return whether a first segment has opened, so that the header is authentic (R5); it delivers nothing yet."""
        return self._number > 0

    def write(self, piece: Readable) -> None:
        """
        Take the next *piece*, of any size, of the sealed segments.

        Raises:
            AuthenticationError: a segment is not authentic; the buffer is wiped and the stream over.
            DecodeError: the message is longer than the buffer; likewise.
            UnexpectedMessageError: the stream is over.
        """
        view = as_view(piece, name="piece")
        # The last segment is known only by what does not follow it: one full segment is held back.
        if self._kept is not None and len(view):
            kept, self._kept = self._kept, None
            self._open(kept, is_last=False)
        while self._held_size + len(view) > SEALED_SEGMENT_BYTES:
            if self._held_size == 0:
                segment, view = view[:SEALED_SEGMENT_BYTES], view[SEALED_SEGMENT_BYTES:]
                self._open(segment, is_last=False)
            else:
                room = SEALED_SEGMENT_BYTES - self._held_size
                self._hold(view[:room])
                view = view[room:]
                self._open(memoryview(self._held), is_last=False)
                self._held_size = 0
        self._require_going()
        if type(piece) is bytes and len(view) == SEALED_SEGMENT_BYTES and self._held_size == 0:
            self._kept = view
        elif len(view):
            self._held = self._held or bytearray(SEALED_SEGMENT_BYTES)
            self._hold(view)

    def finish(self) -> int:
        """
        Open the last segment and return the size of the message, which now stands in the buffer.

        Raises:
            AuthenticationError: the record is truncated or not authentic; the buffer is wiped.
            DecodeError: the message is longer than the buffer; it is wiped.
            UnexpectedMessageError: the stream is over.
        """
        held = memoryview(self._held)[: self._held_size] if self._kept is None else self._kept
        self._kept = None
        # An empty last segment stands only where the message itself is empty (R3).
        if len(held) < TAG_BYTES or (len(held) == TAG_BYTES and self._number > 0):
            self._require_going()
            self.wipe()
            raise AuthenticationError
        self._open(held, is_last=True)
        self._is_finished = True
        self._cipher = None
        return self._size

    def wipe(self) -> None:
        """End the stream; wipe the buffer unless `finish` has delivered it. Safe to call twice."""
        self._cipher = None
        self._kept = None
        if not self._is_finished and self._size:
            zeroize(self._out[: self._size])
            self._size = 0

    def __enter__(self) -> Self:
        """Lend the opener to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe what was not finished, however the block ends."""
        self.wipe()

    def _hold(self, piece: memoryview) -> None:
        # Through a view: assigning to a slice of the bytearray itself would first copy the piece.
        memoryview(self._held)[self._held_size : self._held_size + len(piece)] = piece
        self._held_size += len(piece)

    def _require_going(self) -> SegmentCipher:
        if self._cipher is None:
            message = "the stream is over; a record is opened once, by a new opener"
            raise UnexpectedMessageError(message)
        return self._cipher

    def _open(self, sealed: memoryview, *, is_last: bool) -> None:
        cipher = self._require_going()
        size = len(sealed) - TAG_BYTES
        if self._size + size > len(self._out):
            self.wipe()
            message = f"the message is longer than the buffer of {len(self._out)} bytes"
            raise DecodeError(message)
        if self._number >= SEGMENTS_MAX:  # R9
            self.wipe()
            raise AuthenticationError
        try:
            cipher.open_into(self._number, sealed, self._out[self._size : self._size + size], is_last=is_last)
        except AuthenticationError:
            self.wipe()
            raise
        self._number += 1
        self._size += size
