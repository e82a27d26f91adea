"""
Records: one message, one stream, sealed under the session's key of its bucket (R3).

The header is not secret and not authentic before a segment has opened: it says which key to try, nothing more.  What
opens has the right session, bucket, epoch, direction, kind and stream id, because they are in every segment's
associated data.  Whether a stream was accepted before (R4) is its receiver's affair.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, BatchError, DecodeError, LengthError, UsageError
from qflare.model.ids import RequestId, SessionId, StreamId
from qflare.model.refusal import Refusal
from qflare.primitives.columns import rows
from qflare.primitives.hash import transcript_var_many
from qflare.primitives.kdf import expand_many
from qflare.primitives.random import random_bytes
from qflare.primitives.rows import as_view, lent_rows
from qflare.protocol.labels import EXPAND_STREAM, PURPOSE_CONTROL, PURPOSE_RECORD
from qflare.protocol.segment import SEALED_SEGMENT_BYTES, SEGMENT_BYTES, SegmentCipher, plaintext_size, sealed_size
from qflare.protocol.wire import (
    AEAD_KEY_BYTES,
    DIRECTION_TO_DEVICE,
    DIRECTION_TO_SERVER,
    HASH_BYTES,
    RECORD_HEADER_BYTES,
    REPLY_HEADER_BYTES,
    SECRET_BYTES,
    SID_BYTES,
    STREAM_ID_BYTES,
    TYPE_RECORD,
    U32_MAX,
    U64_MAX,
    VERSION,
    u32,
    u64,
)
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.session import StreamClaim
    from qflare.primitives.rows import Readable, RowsLike

KIND_DATA: Final = 0
KIND_CONTROL: Final = 1
KIND_REPLY: Final = 2
"""A reply that may come late, under the key of its request alone (R6)."""
KIND_REQUEST: Final = 3
"""A message whose reply may come late; its stream id is the request id (R6)."""

HEADER_BYTES: Final = RECORD_HEADER_BYTES
_PURPOSES: Final = {KIND_DATA: PURPOSE_RECORD, KIND_CONTROL: PURPOSE_CONTROL, KIND_REQUEST: PURPOSE_RECORD}
_KINDS: Final = frozenset((*_PURPOSES, KIND_REPLY))
_SID_AT: Final = 3
_BUCKET_AT: Final = _SID_AT + SID_BYTES
_EPOCH_AT: Final = _BUCKET_AT + 8
_DIRECTION_AT: Final = _EPOCH_AT + 4
_STREAM_ID_AT: Final = _DIRECTION_AT + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHeader:
    """The 48 bytes in front of a record, 64 of a reply; public, and unauthenticated until a segment opened."""

    kind: int
    sid: SessionId
    bucket: int
    epoch: int
    direction: int
    stream_id: StreamId
    request_id: RequestId | None = None
    """Of a reply alone: which request it answers; bucket and epoch are the request's (R6)."""

    def __post_init__(self) -> None:
        """
        Refuse what cannot be written.

        Raises:
            UsageError: a number is out of range, or the kind does not exist or fit.
            LengthError: an id is not 16 bytes.
        """
        if self.kind not in _KINDS or self.direction not in (DIRECTION_TO_SERVER, DIRECTION_TO_DEVICE):
            message = f"kind is 0 to 3 and direction 1 or 2, got {self.kind} and {self.direction}"
            raise UsageError(message)
        if not 0 <= self.bucket <= U64_MAX or not 0 <= self.epoch <= U32_MAX:
            message = f"bucket and epoch must fit 64 and 32 bits, got {self.bucket} and {self.epoch}"
            raise UsageError(message)
        if (self.request_id is not None) != (self.kind == KIND_REPLY):
            message = "a reply names its request, and no other record does"
            raise UsageError(message)
        request_id = self.stream_id if self.request_id is None else self.request_id
        for name, value, size in (
            ("sid", self.sid, SID_BYTES),
            ("stream id", self.stream_id, STREAM_ID_BYTES),
            ("request id", request_id, STREAM_ID_BYTES),
        ):
            if len(value) != size:
                raise LengthError(name, expected=size, actual=len(value))

    @property
    def purpose(self) -> bytes:
        """
        Return the purpose of the message key that seals this record (R2).

        Raises:
            UsageError: it is a reply, which no message key seals.
        """
        if self.kind == KIND_REPLY:
            message = "a reply is sealed under the key of its request (R6), not under a message key"
            raise UsageError(message)
        return _PURPOSES[self.kind]

    def claim(self) -> StreamClaim:
        """Return what its receiver accepts once, in the transaction that hands the message on (R4)."""
        # Here, because only a server claims: a device is spared the server's records of sessions.
        from qflare.model.session import StreamClaim

        return StreamClaim(
            sid=self.sid,
            direction=self.direction,
            stream_id=self.stream_id,
            bucket=self.bucket,
            epoch=self.epoch,
        )

    def encode(self) -> bytes:
        """Write the header, 48 bytes, 64 of a reply."""
        return b"".join(
            (
                bytes((TYPE_RECORD, VERSION, self.kind)),
                self.sid,
                u64(self.bucket),
                u32(self.epoch),
                bytes((self.direction,)),
                self.stream_id,
                b"" if self.request_id is None else self.request_id,
            )
        )


def header_size(kind: int) -> int:
    """Return the bytes of the header of a record of this *kind*."""
    return REPLY_HEADER_BYTES if kind == KIND_REPLY else HEADER_BYTES


def new_header(*, sid: SessionId, bucket: int, direction: int, kind: int = KIND_DATA, epoch: int = 0) -> RecordHeader:
    """
    Make the header of a new record, with a random stream id (R3).

    Raises:
        UsageError: as `RecordHeader`.
        EntropyError: the random source failed.
    """
    stream_id = StreamId(random_bytes(STREAM_ID_BYTES))
    return RecordHeader(kind=kind, sid=sid, bucket=bucket, epoch=epoch, direction=direction, stream_id=stream_id)


def read_header(record: Readable) -> RecordHeader | Refusal:
    """
    Read the header of a record, or say why it is refused; checks run in the order of R5: length, type, version, kind.

    Epoch, direction, session and bucket are compared by the receiver, who knows what they should be.
    """
    view = as_view(record, name="record")
    header = _header_of(view)
    refusal = _refuse_header(header, len(view))
    if refusal is not None:
        return refusal
    return RecordHeader(
        kind=header[2],
        sid=SessionId(header[_SID_AT:_BUCKET_AT]),
        bucket=int.from_bytes(header[_BUCKET_AT:_EPOCH_AT], "big"),
        epoch=int.from_bytes(header[_EPOCH_AT:_DIRECTION_AT], "big"),
        direction=header[_DIRECTION_AT],
        stream_id=StreamId(header[_STREAM_ID_AT:HEADER_BYTES]),
        request_id=RequestId(header[HEADER_BYTES:]) if header[2] == KIND_REPLY else None,
    )


def claimed_sid(record: Readable) -> SessionId:
    """Return the session that a message would name if it were a record; nothing of it is checked."""
    return SessionId(bytes(as_view(record, name="record")[_SID_AT:_BUCKET_AT]))


def decode_header(record: Readable) -> RecordHeader:
    """
    Read the header of a record.

    Raises:
        DecodeError: it is no record; which check failed is in the message.
    """
    header = read_header(record)
    if isinstance(header, Refusal):
        message = f"the message is no record: {header.value}"
        raise DecodeError(message)
    return header


def seal_record(message_key: SecretBytes, header: RecordHeader, plaintext: Readable, *, aad: Readable = b"") -> bytes:
    """
    Seal a message as one record.

    Args:
        message_key: MK of the header's bucket, direction and purpose, 64 bytes; the caller wipes it.
        header: From `new_header`, used once.
        plaintext: Any size up to 2^50 bytes.
        aad: The application's associated data, which the receiver must know; not sent.

    Returns:
        ``sealed_size(len(plaintext))`` bytes.

    Raises:
        LengthError: the key has the wrong size.

    Source: docs/protocol.md, R3.
    """
    encoded = header.encode()
    cipher = SegmentCipher.derive(message_key, encoded, stream_id=header.stream_id, aad=aad)
    return _seal_one(cipher, encoded, as_view(plaintext, name="plaintext"))


def seal_record_into(
    message_key: SecretBytes,
    header: RecordHeader,
    plaintext: Readable,
    out: bytearray | memoryview,
    *,
    aad: Readable = b"",
) -> None:
    """
    Seal a message as one record into *out*, which has exactly ``sealed_size(len(plaintext))`` bytes.

    Nothing of the message's size is allocated. Errors as `seal_record`; also `LengthError` if *out* has another size.
    """
    view, target = as_view(plaintext, name="plaintext"), as_view(out, name="out")
    encoded = header.encode()
    size = sealed_size(len(view), header_size=len(encoded))
    if len(target) != size:
        name = "out"
        raise LengthError(name, expected=size, actual=len(target))
    cipher = SegmentCipher.derive(message_key, encoded, stream_id=header.stream_id, aad=aad)
    target[: len(encoded)] = encoded
    cipher.seal_all(view, target[len(encoded) :])


def open_record(message_key: SecretBytes, record: Readable, *, aad: Readable = b"") -> SecretBytes:
    """
    Open a record.

    Args:
        message_key: MK for what the record's header says, of a reply RK (R6), 64 bytes; the caller wipes it.
        record: The whole record, header included.
        aad: The application's associated data.

    Returns:
        The message, owned by the caller.

    Raises:
        AuthenticationError: anything about the record is wrong; nothing of it is returned.
        LengthError: the key has the wrong size.

    Source: docs/protocol.md, R3.
    """
    view = as_view(record, name="record")
    cipher = _cipher_of(message_key, view, aad)
    return _open_all(cipher, view)


def open_record_into(
    message_key: SecretBytes, record: Readable, out: bytearray | memoryview, *, aad: Readable = b""
) -> None:
    """
    Open a record into *out*, which has exactly ``plaintext_size(len(record))`` bytes.

    Nothing of the message's size is allocated.

    Raises:
        AuthenticationError: anything about the record is wrong; *out* is zero.
        LengthError: the key or *out* has the wrong size.
    """
    view, target = as_view(record, name="record"), as_view(out, name="out")
    cipher = _cipher_of(message_key, view, aad)
    its_header = header_size(view[2])
    size = plaintext_size(len(view), header_size=its_header)
    if len(target) != size:
        name = "out"
        raise LengthError(name, expected=size, actual=len(target))
    cipher.open_all(view[its_header:], target)


def _refuse_header(header: bytes, record_size: int) -> Refusal | None:
    """Check the header of a record of *record_size* bytes, in the order of R5."""
    try:
        plaintext_size(record_size, header_size=len(header))
    except DecodeError:
        return Refusal.LENGTH
    if header[0] != TYPE_RECORD:
        return Refusal.TYPE
    if header[1] != VERSION:
        return Refusal.VERSION
    if header[2] not in _KINDS or header[_DIRECTION_AT] not in (DIRECTION_TO_SERVER, DIRECTION_TO_DEVICE):
        return Refusal.UNEXPECTED
    return None


def _cipher_of(message_key: SecretBytes, record: memoryview, aad: Readable) -> SegmentCipher:
    header = _header_of(record)
    if _refuse_header(header, len(record)) is not None:
        raise AuthenticationError
    return SegmentCipher.derive(message_key, header, stream_id=header[_STREAM_ID_AT:HEADER_BYTES], aad=aad)


def _header_of(record: memoryview) -> bytes:
    """Return the header's bytes: as many as its kind has; zeros stand for what a record is too short for."""
    head = bytes(record[:HEADER_BYTES]).ljust(HEADER_BYTES, b"\0")
    return head if head[2] != KIND_REPLY else bytes(record[:REPLY_HEADER_BYTES]).ljust(REPLY_HEADER_BYTES, b"\0")


def seal_records_many(
    message_keys: RowsLike,
    headers: Sequence[RecordHeader],
    plaintexts: Sequence[Readable],
    *,
    aads: Sequence[Readable] | None = None,
) -> list[bytes]:
    """
    Seal many messages, each as its own record, with one call for all keys and one for all associated data.

    Args:
        message_keys: ``n × 64`` bytes; RK in the row of a reply (R6).
        headers: n headers.
        plaintexts: n messages of any sizes.
        aads: n associated data, or None for none.

    Returns:
        n records.

    Raises:
        BatchError: the arguments disagree about n; nothing was sealed.
    """
    _require_equal_counts(len(headers), plaintexts, aads)
    views = [as_view(plaintext, name="plaintext") for plaintext in plaintexts]
    encoded = [header.encode() for header in headers]
    with _stream_keys(message_keys, encoded) as keys:
        bound = _bound(encoded, aads)
        return [
            _seal_one(SegmentCipher(keys.row(index, AEAD_KEY_BYTES), bound[index]), encoded[index], view)
            for index, view in enumerate(views)
        ]


def open_records_many(
    message_keys: RowsLike, records: Sequence[Readable], *, aads: Sequence[Readable] | None = None
) -> list[SecretBytes | Refusal]:
    """
    Open many records; one bad record fails alone.

    Args:
        message_keys: ``n × 64`` bytes, RK in the row of a reply (R6); the row of a record that is refused anyway may
            hold anything.
        records: n whole records.
        aads: n associated data, or None for none.

    Returns:
        n messages, owned by the caller, or why that record is refused.

    Raises:
        BatchError: the arguments disagree about n; nothing was opened.
    """
    _require_equal_counts(len(records), records, aads)
    views = [as_view(record, name="record") for record in records]
    # A record that is too short to have a header gets one of zeros: it keeps its row and is refused below.
    encoded = [_header_of(view) for view in views]
    with _stream_keys(message_keys, encoded) as keys:
        bound = _bound(encoded, aads)
        return [_open_one(keys.row(index, AEAD_KEY_BYTES), bound[index], view) for index, view in enumerate(views)]


def _seal_one(cipher: SegmentCipher, header: bytes, plaintext: memoryview) -> bytes:
    if len(plaintext) <= SEGMENT_BYTES:
        return header + cipher.seal(0, plaintext, is_last=True)
    # A BytesIO hands its memory out as bytes without a second copy, which a bytearray cannot.
    whole = io.BytesIO()
    whole.seek(sealed_size(len(plaintext), header_size=len(header)) - 1)
    whole.write(b"\0")
    with whole.getbuffer() as out:
        out[: len(header)] = header
        cipher.seal_all(plaintext, out[len(header) :])
    return whole.getvalue()


def _open_one(stream_key: memoryview, bound: bytes, record: memoryview) -> SecretBytes | Refusal:
    refusal = _refuse_header(_header_of(record), len(record))
    if refusal is not None:
        return refusal
    try:
        return _open_all(SegmentCipher(stream_key, bound), record)
    except AuthenticationError:
        return Refusal.TAG


def _open_all(cipher: SegmentCipher, record: memoryview) -> SecretBytes:
    its_header = header_size(record[2])
    if len(record) <= its_header + SEALED_SEGMENT_BYTES:
        return cipher.open(0, record[its_header:], is_last=True)
    plaintext = SecretBytes.zeros(plaintext_size(len(record), header_size=its_header))
    with plaintext.view() as out:
        cipher.open_all(record[its_header:], out)
    return plaintext


def _stream_keys(message_keys: RowsLike, encoded: Sequence[bytes]) -> SecretBytes:
    """Derive every row's stream key in one call; the caller wipes them."""
    count = len(encoded)
    stream_ids = rows(b"".join([header[_STREAM_ID_AT:HEADER_BYTES] for header in encoded]), STREAM_ID_BYTES)
    with lent_rows(message_keys, SECRET_BYTES, name="message_keys", count=count) as keys:
        return expand_many(count, rows(keys, SECRET_BYTES), EXPAND_STREAM, (stream_ids,), AEAD_KEY_BYTES)


def _bound(encoded: Sequence[bytes], aads: Sequence[Readable] | None) -> list[bytes]:
    """Hash every row's header and application data, in one call."""
    parts = [(header, b"" if aads is None else aads[index]) for index, header in enumerate(encoded)]
    hashes = transcript_var_many(parts)
    return [bytes(hashes[at : at + HASH_BYTES]) for at in range(0, len(hashes), HASH_BYTES)]


def _require_equal_counts(count: int, messages: Sequence[object], aads: Sequence[object] | None) -> None:
    if len(messages) != count or (aads is not None and len(aads) != count):
        found = "none" if aads is None else str(len(aads))
        message = f"a batch of {count} headers has {len(messages)} messages and {found} associated data"
        raise BatchError(message)
