"""The C border of KMAC256 and the time-bucket KDF; what is derived is secret and belongs to the caller."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final, NoReturn

from qflare._native._qflare import ffi, lib
from qflare._native.border import borrowed, check, readable, require_count, require_integer, writable
from qflare._native.hashes import ColumnLike, c_columns
from qflare.errors import BatchError, LengthError, UsageError
from qflare.secret import SecretBytes, SecretMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

CHAIN_KEY_BYTES: Final[int] = int(lib.QFL_CHAIN_KEY_BYTES)
MESSAGE_KEY_BYTES: Final[int] = int(lib.QFL_MESSAGE_KEY_BYTES)
SESSION_ID_BYTES: Final[int] = int(lib.QFL_SESSION_ID_BYTES)
CHAIN_STEPS_MAX: Final[int] = int(lib.QFL_CHAIN_STEPS_MAX)
PURPOSE_BYTES_MAX: Final[int] = int(lib.QFL_PURPOSE_MAX)
CUSTOM_BYTES_MAX: Final[int] = int(lib.QFL_KMAC_CUSTOM_MAX)
U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1
_TWO_COLUMNS: Final[Any] = ffi.typeof("qfl_column[2]")


def kmac256_batch(
    key: ColumnLike, columns: Sequence[ColumnLike], *, custom: bytes, out_size: int, count: int
) -> SecretBytes:
    """Compute KMAC256 of the concatenated *columns* for *count* rows; returns ``count x out_size`` secret bytes."""
    require_count(count, row_bytes=out_size)
    _require_custom(custom)
    key_array, key_held = c_columns((key,), count)
    array, held = c_columns(columns, count)
    out = SecretMemory(count * out_size)
    check(
        lib.qfl_kmac256_batch(
            writable(out), key_array, array, readable(custom), out_size, len(held), len(custom), count
        ),
        "KMAC256",
    )
    del key_held, held  # SAFETY: both kept what C read from being freed or resized until here
    return SecretBytes.owning(out)


def kmac256_one(key: Buffer | SecretBytes, data: Buffer | SecretBytes, *, custom: bytes, out_size: int) -> SecretBytes:
    """Compute KMAC256 of one message without columns; returns *out_size* secret bytes."""
    require_count(1, row_bytes=out_size)
    _require_custom(custom)
    key_memory, data_memory, out = borrowed(key), borrowed(data), SecretMemory(out_size)
    columns = ffi.new(_TWO_COLUMNS, ((key_memory, 0, len(key_memory)), (data_memory, 0, len(data_memory))))
    check(
        lib.qfl_kmac256_batch(writable(out), columns, columns + 1, readable(custom), out_size, 1, len(custom), 1),
        "KMAC256",
    )
    return SecretBytes.owning(out)


def bucket_of_batch(times_s: Buffer, buckets: bytearray, *, width_s: int, count: int) -> None:
    """Write the buckets of *count* times into *buckets*; both hold native u64."""
    require_integer(width_s, name="width_s", first=1, last=U32_MAX)
    source = borrowed(times_s)
    for name, size in (("times_s", len(source)), ("buckets", len(buckets))):
        if size != count * 8:
            raise LengthError(name, expected=count * 8, actual=size)
    check(
        lib.qfl_bucket_of_batch(
            ffi.cast("uint64_t *", writable(buckets)), ffi.cast("uint64_t *", source), width_s, require_count(count)
        ),
        "bucket arithmetic",
    )


def bucket_range(bucket: int, *, width_s: int) -> tuple[int, int]:
    """Return the first second of *bucket* and the first one after it."""
    require_integer(bucket, name="bucket", first=0, last=U64_MAX)
    require_integer(width_s, name="width_s", first=1, last=U32_MAX)
    edges = ffi.new("uint64_t[2]")
    if lib.qfl_bucket_range(edges, edges + 1, bucket, width_s) != lib.QFL_OK:
        message = f"bucket {bucket} of {width_s} s ends beyond 64 bits of seconds"
        raise UsageError(message)
    return int(edges[0]), int(edges[1])


def chain_advance_batch(
    chain_keys: Buffer | SecretBytes,
    sids: Buffer | SecretBytes,
    from_buckets: Sequence[int],
    *,
    to_bucket: int,
    custom: bytes,
) -> SecretBytes:
    """Ratchet ``n x 64`` bytes of chain keys from their own buckets to *to_bucket* (R1, R5); returns new ones."""
    count = require_count(len(from_buckets), row_bytes=CHAIN_KEY_BYTES)
    require_integer(to_bucket, name="to_bucket", first=0, last=U64_MAX)
    _require_custom(custom)
    keys, ids = readable(chain_keys), readable(sids)
    if len(keys) != count * CHAIN_KEY_BYTES:
        raise LengthError("chain_keys", expected=count * CHAIN_KEY_BYTES, actual=len(keys))
    if len(ids) != count * SESSION_ID_BYTES:
        raise LengthError("sids", expected=count * SESSION_ID_BYTES, actual=len(ids))
    starts = _as_u64(from_buckets)
    out = SecretMemory(count * CHAIN_KEY_BYTES)
    # C looks at every row's distance before it touches the output; only a refusal is looked at here, row by row.
    status = lib.QFL_ERR_ARGUMENT
    if starts is not None:
        status = lib.qfl_chain_advance_batch(
            writable(out),
            keys,
            ids,
            ffi.cast("uint64_t *", ffi.from_buffer(starts)),
            readable(custom),
            to_bucket,
            len(custom),
            count,
        )
    if status == lib.QFL_ERR_ARGUMENT:
        _refuse_first_bad(from_buckets, to_bucket)
    check(status, "the chain step")
    return SecretBytes.owning(out)


def message_key_batch(
    chain_keys: Buffer | SecretBytes, *, bucket: int, direction: int, purpose: bytes, custom: bytes, count: int
) -> SecretBytes:
    """Derive the message keys of ``count x 64`` bytes of chain keys (R2); returns ``count x 64`` bytes."""
    require_count(count, row_bytes=MESSAGE_KEY_BYTES)
    require_integer(bucket, name="bucket", first=0, last=U64_MAX)
    require_integer(direction, name="direction", first=1, last=2)
    _require_custom(custom)
    keys = readable(chain_keys)
    if len(keys) != count * CHAIN_KEY_BYTES:
        raise LengthError("chain_keys", expected=count * CHAIN_KEY_BYTES, actual=len(keys))
    if not 1 <= len(purpose) <= PURPOSE_BYTES_MAX:
        expected = f"1 to {PURPOSE_BYTES_MAX}"
        raise LengthError("purpose", expected=expected, actual=len(purpose))
    out = SecretMemory(count * MESSAGE_KEY_BYTES)
    check(
        lib.qfl_message_key_batch(
            writable(out),
            keys,
            readable(purpose),
            readable(custom),
            bucket,
            direction,
            len(purpose),
            len(custom),
            count,
        ),
        "message keys",
    )
    return SecretBytes.owning(out)


def _as_u64(values: Sequence[int]) -> array[int] | None:
    if isinstance(values, array) and values.typecode == "Q":
        return values
    if not set(map(type, values)) <= {int}:
        return None
    try:
        return array("Q", values)
    except OverflowError:
        return None


def _refuse_first_bad(from_buckets: Sequence[int], to_bucket: int) -> NoReturn:
    for index, first in enumerate(from_buckets):
        require_integer(first, name=f"from_buckets[{index}]", first=0, last=U64_MAX)
        if not 0 <= to_bucket - first <= CHAIN_STEPS_MAX:
            message = (
                f"from_buckets[{index}] is {first}: a chain key goes 0 to {CHAIN_STEPS_MAX} buckets forward, "
                f"not {to_bucket - first}; make a new handshake"
            )
            raise BatchError(message)
    message = "from_buckets changed while they were read"
    raise BatchError(message)


def _require_custom(custom: bytes) -> None:
    if len(custom) > CUSTOM_BYTES_MAX:
        expected = f"at most {CUSTOM_BYTES_MAX}"
        raise LengthError("the customization string", expected=expected, actual=len(custom))
