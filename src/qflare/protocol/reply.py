"""
Replies that may come late (R6): a key for one reply, derived when its request is made, that outlives its bucket.

    RK = Expand(CK_b, "reply", request id, 64)

Both sides derive RK from the chain key of the request's epoch and bucket and keep it until the reply is taken or its
time is over.  A reply's record has RK in the place of a message key, its request's bucket and epoch in the header, and
the request id behind it.  Whoever holds an RK opens that reply, and no other record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import LengthError, UsageError
from qflare.model.ids import RequestId, StreamId
from qflare.primitives.columns import rows
from qflare.primitives.kdf import expand_many
from qflare.primitives.random import random_bytes
from qflare.primitives.rows import lent_rows
from qflare.protocol.labels import EXPAND_REPLY
from qflare.protocol.record import KIND_REPLY, KIND_REQUEST, RecordHeader, new_header
from qflare.protocol.wire import (
    DIRECTION_TO_DEVICE,
    DIRECTION_TO_SERVER,
    LIFETIME_MAX,
    SECRET_BYTES,
    STREAM_ID_BYTES,
    U64_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import SessionId
    from qflare.primitives.rows import RowsLike
    from qflare.secret import SecretBytes


def derive_reply_keys_many(chain_keys: RowsLike, request_ids: Sequence[RequestId]) -> SecretBytes:
    """
    Derive ``RK = Expand(CK_b, "reply", request id, 64)`` for many requests in one call.

    Args:
        chain_keys: ``n × 64`` bytes, each of its request's epoch and bucket.
        request_ids: One a row, 16 bytes.

    Returns:
        ``n × 64`` bytes, row-major, owned by the caller.

    Raises:
        BatchError: the arguments disagree about n.
        LengthError: a request id is not 16 bytes.

    Source: docs/protocol.md, R6.
    """
    count = len(request_ids)
    for request_id in request_ids:
        if len(request_id) != STREAM_ID_BYTES:
            name = "request id"
            raise LengthError(name, expected=STREAM_ID_BYTES, actual=len(request_id))
    with lent_rows(chain_keys, SECRET_BYTES, name="chain_keys", count=count) as keys:
        ids = rows(b"".join(request_ids), STREAM_ID_BYTES)
        return expand_many(count, rows(keys, SECRET_BYTES), EXPAND_REPLY, (ids,), SECRET_BYTES)


def derive_reply_key(chain_key: SecretBytes, request_id: RequestId) -> SecretBytes:
    """Derive one RK, 64 bytes; as `derive_reply_keys_many`. The caller wipes it."""
    return derive_reply_keys_many(chain_key, [request_id])


def new_request_header(*, sid: SessionId, bucket: int, direction: int, epoch: int) -> RecordHeader:
    """
    Make the header of a new request, whose random stream id is the request id (R6).

    Raises:
        UsageError: as `RecordHeader`.
        EntropyError: the random source failed.
    """
    return new_header(sid=sid, bucket=bucket, direction=direction, kind=KIND_REQUEST, epoch=epoch)


def request_id_of(header: RecordHeader) -> RequestId | None:
    """Return the id of the request that a record is, or that it answers; None for any other record."""
    if header.kind == KIND_REQUEST:
        return RequestId(header.stream_id)
    return header.request_id


def new_reply_header(
    *, sid: SessionId, request_id: RequestId, request_bucket: int, request_epoch: int, direction: int
) -> RecordHeader:
    """
    Make the header of a new reply: the request's bucket and epoch, a random stream id, and the request id behind (R6).

    Args:
        sid: The session of the request.
        request_id: 16 bytes.
        request_bucket: The request's.
        request_epoch: The request's.
        direction: The reply's own: 1 device to server, 2 back.

    Raises:
        UsageError: as `RecordHeader`.
        EntropyError: the random source failed.
    """
    return RecordHeader(
        kind=KIND_REPLY,
        sid=sid,
        bucket=request_bucket,
        epoch=request_epoch,
        direction=direction,
        stream_id=StreamId(random_bytes(STREAM_ID_BYTES)),
        request_id=request_id,
    )


def opposite(direction: int) -> int:
    """Return the other direction: a reply's, from its request's."""
    return DIRECTION_TO_DEVICE if direction == DIRECTION_TO_SERVER else DIRECTION_TO_SERVER


def last_reply_bucket(request_bucket: int, *, lifetime: int, last_bucket: int) -> int:
    """
    Return the last bucket in which a reply is taken: *lifetime* buckets from the request's on, in the session's life.

    Raises:
        UsageError: *lifetime* is not 1 to 288.
    """
    if not 1 <= lifetime <= LIFETIME_MAX or not 0 <= request_bucket <= U64_MAX:
        message = f"a reply is waited for during 1 to {LIFETIME_MAX} buckets, got {lifetime}"
        raise UsageError(message)
    return min(request_bucket + lifetime - 1, last_bucket)
