"""
Extract, Expand and the time-bucket KDF, one and many.

Time is whole seconds since the Unix epoch, a bucket is its index; both are integers, and a float is refused.
Sources: PROTOCOL N1 (Extract, Expand), A2 (buckets), R1, R2 and R5 (ratchet).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare._native import kdf
from qflare._native.border import require_count, require_integer
from qflare.errors import LengthError, UsageError
from qflare.primitives.hash import kmac256, kmac256_many
from qflare.primitives.rows import as_buffer, as_view, count_rows, lent_rows
from qflare.primitives.stopwatch import begun, ended
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.primitives.columns import Column
    from qflare.primitives.rows import Readable, RowsLike

EXTRACT_BYTES: Final = 64
CHAIN_KEY_BYTES: Final = kdf.CHAIN_KEY_BYTES
MESSAGE_KEY_BYTES: Final = kdf.MESSAGE_KEY_BYTES
SESSION_ID_BYTES: Final = kdf.SESSION_ID_BYTES
CHAIN_STEPS_MAX: Final = kdf.CHAIN_STEPS_MAX
"""Most buckets one chain key may go forward: a session's lifetime (R5)."""
BUCKET_WIDTH_S: Final = 300

CUSTOM_PREFIX: Final = b"QFX1 "
"""In front of every label (N1)."""
EXTRACT_LABEL: Final = "extract"
# The two labels that this floor itself uses. The table of all labels is above, in protocol/labels.py, where this floor
# cannot reach; a test holds the two together.
BUCKET_LABEL: Final = "bucket"
KEY_LABEL: Final = "key"

_EXTRACT_CUSTOM: Final = CUSTOM_PREFIX + EXTRACT_LABEL.encode()
_BUCKET_CUSTOM: Final = CUSTOM_PREFIX + BUCKET_LABEL.encode()
_KEY_CUSTOM: Final = CUSTOM_PREFIX + KEY_LABEL.encode()
_LABEL_MAX: Final = 64
_U64_MAX: Final = 2**64 - 1


def extract(salt: Readable, ikm: Readable) -> SecretBytes:
    """
    Compute ``Extract(salt, ikm)`` = KMAC256(K = salt, X = ikm, L = 512, S = "QFX1 extract").

    Returns:
        64 bytes, owned by the caller.

    Source: PROTOCOL N1.
    """
    return kmac256(salt, ikm, EXTRACT_BYTES, _EXTRACT_CUSTOM)


def extract_many(count: int, salt: Column, ikm: Column) -> SecretBytes:
    """
    Compute Extract for *count* rows.

    Returns:
        ``count x 64`` bytes, row-major, owned by the caller.

    Raises:
        BatchError: *count* is out of range, or a column holds another number of rows.

    Source: PROTOCOL N1.
    """
    began_ns = begun()
    keys = kmac256_many(count, salt, (ikm,), EXTRACT_BYTES, _EXTRACT_CUSTOM)
    ended("kdf-extract", count, began_ns)
    return keys


def expand(key: Readable, label: str, context: Readable, length: int) -> SecretBytes:
    """
    Compute ``Expand(key, label, ctx, n)`` = KMAC256(K = key, X = ctx, L = 8n, S = "QFX1 " ‖ label).

    Args:
        key: The secret to derive from.
        label: What the result is for: 1 to 64 printable ASCII characters, never "extract".
        context: What the result is bound to.
        length: Bytes of output, at least 1.

    Returns:
        *length* bytes, owned by the caller.

    Source: PROTOCOL N1.
    """
    return kmac256(key, context, length, _custom(label))


def expand_many(count: int, key: Column, label: str, context: Sequence[Column], length: int) -> SecretBytes:
    """
    Compute Expand for *count* rows; a row's context is its columns behind each other, with no lengths between.

    Returns:
        ``count x length`` bytes, row-major, owned by the caller.

    Raises:
        BatchError: *count* or the output is out of range, or a column holds another number of rows.
        UsageError: *label* or *length* is not allowed.

    Source: PROTOCOL N1.
    """
    began_ns = begun()
    keys = kmac256_many(count, key, context, length, _custom(label))
    ended("kdf-expand", count, began_ns)
    return keys


class BucketRange(NamedTuple):
    """The seconds of one bucket: *first_s* inclusive to *end_s* exclusive, since the Unix epoch."""

    first_s: int
    end_s: int


def bucket_of(unix_seconds: int, width_s: int = BUCKET_WIDTH_S) -> int:
    """
    Name the bucket in which a point in time lies: ``floor(time / width)``.

    Raises:
        UsageError: no integer, negative, or beyond 64 bits; the width not 1 to 2^32 - 1 s.

    Source: PROTOCOL A2.
    """
    require_integer(unix_seconds, name="unix_seconds", first=0, last=_U64_MAX)
    return bucket_of_many((unix_seconds,), width_s)[0]


def bucket_of_many(unix_seconds: Sequence[int], width_s: int = BUCKET_WIDTH_S) -> array[int]:
    """
    Name the buckets of many points in time.

    Args:
        unix_seconds: Whole seconds; an ``array('Q')`` is read as it lies.
        width_s: Seconds a bucket.

    Returns:
        An ``array('Q')`` of as many buckets.

    Raises:
        UsageError: as `bucket_of`.
        BatchError: more times than one call takes.

    Source: PROTOCOL A2.
    """
    count = require_count(len(unix_seconds), name="the number of times")
    if isinstance(unix_seconds, array) and unix_seconds.typecode == "Q":
        times = unix_seconds
    else:
        for value in unix_seconds:
            require_integer(value, name="unix_seconds", first=0, last=_U64_MAX)
        times = array("Q", unix_seconds)
    buckets = bytearray(count * 8)
    kdf.bucket_of_batch(times, buckets, width_s=width_s, count=count)
    return array("Q", bytes(buckets))


def bucket_range(bucket: int, width_s: int = BUCKET_WIDTH_S) -> BucketRange:
    """
    Say which seconds belong to *bucket*.

    Raises:
        UsageError: no integer, negative, or the bucket ends beyond 64 bits of seconds.

    Source: PROTOCOL A2.
    """
    first_s, end_s = kdf.bucket_range(bucket, width_s=width_s)
    return BucketRange(first_s=first_s, end_s=end_s)


def chain_step_many(chain_keys: RowsLike, sids: RowsLike, bucket: int) -> SecretBytes:
    """
    Ratchet chain keys one bucket forward: ``CK_{b+1} = Expand(CK_b, "bucket", b+1 ‖ sid, 64)``.

    Args:
        chain_keys: ``n x 64`` bytes, all of bucket ``bucket - 1``; not changed.
        sids: ``n x 16`` bytes.
        bucket: The new bucket, b+1.

    Returns:
        ``n x 64`` bytes, row-major, owned by the caller, who wipes the old ones (R1).

    Source: PROTOCOL R1.
    """
    require_integer(bucket, name="bucket", first=1, last=_U64_MAX)
    count = require_count(count_rows(chain_keys, CHAIN_KEY_BYTES, name="chain_keys"))
    return chain_advance_many(chain_keys, sids, array("Q", (bucket - 1,)) * count, bucket)


def chain_step(chain_key: Readable, sid: Readable, bucket: int) -> SecretBytes:
    """Ratchet one chain key into *bucket*; as `chain_step_many`. Source: PROTOCOL R1."""
    require_integer(bucket, name="bucket", first=1, last=_U64_MAX)
    return chain_advance(chain_key, sid, bucket - 1, bucket)


def chain_advance_many(
    chain_keys: RowsLike, sids: RowsLike, from_buckets: Sequence[int], to_bucket: int
) -> SecretBytes:
    """
    Ratchet chain keys forward, each from its own bucket to *to_bucket*.

    Args:
        chain_keys: ``n x 64`` bytes; not changed.
        sids: ``n x 16`` bytes.
        from_buckets: The bucket of each key, n integers, at most `CHAIN_STEPS_MAX` behind; equal is a copy.
        to_bucket: The bucket of all results.

    Returns:
        ``n x 64`` bytes, row-major, owned by the caller, who wipes the old ones (R1, R5).

    Raises:
        BatchError: the columns disagree, or a key would go back or more than `CHAIN_STEPS_MAX` forward.
        LengthError: the keys or sids have a wrong size.
        UsageError: a bucket is no integer of 64 bits.

    Source: PROTOCOL R5.
    """
    count = require_count(len(from_buckets), name="the number of from_buckets")
    with (
        lent_rows(chain_keys, CHAIN_KEY_BYTES, name="chain_keys", count=count) as keys,
        lent_rows(sids, SESSION_ID_BYTES, name="sids", count=count) as ids,
    ):
        began_ns = begun()
        advanced = kdf.chain_advance_batch(keys, ids, from_buckets, to_bucket=to_bucket, custom=_BUCKET_CUSTOM)
        ended("kdf-chain", count, began_ns)
        return advanced


def chain_advance(chain_key: Readable, sid: Readable, from_bucket: int, to_bucket: int) -> SecretBytes:
    """Ratchet one chain key forward; as `chain_advance_many`. Source: PROTOCOL R5."""
    return kdf.chain_advance_batch(
        _sized(chain_key, CHAIN_KEY_BYTES, "chain_key"),
        _sized(sid, SESSION_ID_BYTES, "sid"),
        (from_bucket,),
        to_bucket=to_bucket,
        custom=_BUCKET_CUSTOM,
    )


def message_keys_many(chain_keys: RowsLike, bucket: int, direction: int, purpose: Readable) -> SecretBytes:
    """
    Derive message keys: ``MK(b, direction, purpose) = Expand(CK_b, "key", b ‖ direction ‖ purpose, 64)``.

    Args:
        chain_keys: ``n x 64`` bytes of bucket *bucket*.
        bucket: b.
        direction: 1 device to server, 2 back.
        purpose: 1 to 64 bytes; which characters are allowed is the protocol's affair (N2).

    Returns:
        ``n x 64`` bytes, row-major, owned by the caller.

    Raises:
        LengthError: the keys or the purpose have a wrong size.
        UsageError: *bucket* or *direction* is out of range.
        BatchError: more rows than one call takes.

    Source: PROTOCOL R2.
    """
    with lent_rows(chain_keys, CHAIN_KEY_BYTES, name="chain_keys") as keys:
        return kdf.message_key_batch(
            keys,
            bucket=bucket,
            direction=direction,
            purpose=bytes(as_view(purpose, name="purpose")),
            custom=_KEY_CUSTOM,
            count=len(keys) // CHAIN_KEY_BYTES,
        )


def message_key(chain_key: Readable, bucket: int, direction: int, purpose: Readable) -> SecretBytes:
    """Derive one message key; as `message_keys_many`. Source: PROTOCOL R2."""
    return kdf.message_key_batch(
        _sized(chain_key, CHAIN_KEY_BYTES, "chain_key"),
        bucket=bucket,
        direction=direction,
        purpose=purpose if type(purpose) is bytes else bytes(as_view(purpose, name="purpose")),
        custom=_KEY_CUSTOM,
        count=1,
    )


def _sized(buffer: Readable, size: int, name: str) -> bytes | SecretBytes | memoryview:
    given = as_buffer(buffer, name=name)
    if len(given) != size:
        raise LengthError(name, expected=size, actual=len(given))
    return given


def _custom(label: object) -> bytes:
    # "extract" is Extract's own: a label of that name would make Expand compute the same function (N1).
    if not isinstance(label, str) or label == EXTRACT_LABEL or not 1 <= len(label) <= _LABEL_MAX:
        message = f"a label is 1 to {_LABEL_MAX} characters and never {EXTRACT_LABEL!r}, got {label!r}"
        raise UsageError(message)
    if not label.isascii() or not label.isprintable():
        message = f"a label is printable ASCII, got {label!r}"
        raise UsageError(message)
    return CUSTOM_PREFIX + label.encode()
