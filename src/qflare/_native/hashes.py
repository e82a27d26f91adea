"""
The C border of the hashes: SHA3-512, SHAKE256 and the transcript hash over batches.

Sizes and counts are checked here once more, whatever the callers checked: these lines are all that stands between a
wrong number in Python and memory that is not ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from qflare._native._qflare import ffi, lib
from qflare._native.border import borrowed, check, readable, require_count, require_integer, writable
from qflare.errors import BatchError, LengthError
from qflare.secret import SecretBytes, zeroize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

SHA3_512_BYTES: Final[int] = int(lib.QFL_SHA3_512_BYTES)
COLUMNS_MAX: Final[int] = int(lib.QFL_COLUMNS_MAX)
PART_BYTES_MAX: Final = 2**32 - 1
"""Largest part of a transcript: its length travels as u32 (PROTOCOL N1)."""

_DIGEST: Final[Any] = ffi.typeof(f"uint8_t[{SHA3_512_BYTES}]")
_BYTES: Final[Any] = ffi.typeof("uint8_t[]")
_ONE_SIZE: Final[Any] = ffi.typeof("uint64_t[1]")


class ColumnLike(Protocol):
    """One field of every row: *width* bytes at ``offset + row x stride`` of *buffer*; a stride of 0 is shared."""

    @property
    def buffer(self) -> Buffer | SecretBytes:
        """Where the values lie."""

    @property
    def width(self) -> int:
        """Bytes a value."""

    @property
    def stride(self) -> int:
        """Bytes from one row's value to the next; 0 if all rows share one."""

    @property
    def offset(self) -> int:
        """Where the first value begins, in bytes."""


def c_columns(columns: Sequence[ColumnLike], count: int) -> tuple[Any, list[Any]]:
    """
    Lay *columns* out for C; the second result keeps the buffers borrowed and must live until the call is over.

    Raises:
        BatchError: too many columns.
        LengthError: a column does not hold *count* rows.
    """
    if len(columns) > COLUMNS_MAX:
        message = f"at most {COLUMNS_MAX} columns a call, got {len(columns)}"
        raise BatchError(message)
    array = ffi.new("qfl_column[]", max(1, len(columns)))
    held = []
    for index, column in enumerate(columns):
        memory = borrowed(column.buffer)
        name = f"column {index}"
        width = require_integer(column.width, name=f"{name} width", first=0, last=PART_BYTES_MAX)
        stride = require_integer(column.stride, name=f"{name} stride", first=0, last=PART_BYTES_MAX)
        offset = require_integer(column.offset, name=f"{name} offset", first=0, last=2**62)
        end = offset + max(0, count - 1) * stride + width
        if end > len(memory):
            expected = f"at least {end}"
            raise LengthError(name, expected=expected, actual=len(memory))
        if 0 < stride < width:
            expected = f"a stride of at least {width}"
            raise LengthError(name, expected=expected, actual=stride)
        array[index].data = memory + offset
        array[index].stride = stride
        array[index].width = width
        held.append(memory)
    return array, held


def sha3_512_batch(data: Buffer, sizes: Sequence[int]) -> bytearray:
    """Hash messages that lie behind each other in *data*; returns ``n x 64`` bytes."""
    count = require_count(len(sizes), row_bytes=SHA3_512_BYTES)
    out, memory = bytearray(count * SHA3_512_BYTES), readable(data)
    _require_sum(sizes, len(memory), "the message sizes")
    check(
        lib.qfl_sha3_512_batch(writable(out), memory, ffi.new("uint64_t[]", sizes), len(memory), count),
        "SHA3-512",
    )
    return out


def shake256_batch(data: Buffer, sizes: Sequence[int], *, out_size: int) -> bytearray:
    """Hash messages that lie behind each other in *data* to *out_size* bytes each."""
    count = require_count(len(sizes), row_bytes=out_size)
    out, memory = bytearray(count * out_size), readable(data)
    _require_sum(sizes, len(memory), "the message sizes")
    check(
        lib.qfl_shake256_batch(writable(out), out_size, memory, ffi.new("uint64_t[]", sizes), len(memory), count),
        "SHAKE256",
    )
    return out


def sha3_512_one(data: Buffer | SecretBytes) -> bytes:
    """Hash *data*; returns 64 bytes."""
    memory = readable(data)
    return _digest_of(memory)


def shake256_one(data: Buffer | SecretBytes, *, out_size: int) -> bytes:
    """Hash *data* to *out_size* bytes."""
    require_count(1, row_bytes=out_size)
    memory, out = readable(data), ffi.new(_BYTES, out_size)
    size = len(memory)
    check(lib.qfl_shake256_batch(out, out_size, memory, ffi.new(_ONE_SIZE, (size,)), size, 1), "SHAKE256")
    return bytes(ffi.buffer(out))


def transcript_one(parts: Sequence[bytes | memoryview]) -> bytes:
    """Compute H of PROTOCOL N1 over *parts*; returns 64 bytes."""
    # One message of the parts with their sizes: for a single row that is less work than telling C of each part.
    pieces: list[bytes | memoryview] = []
    for part in parts:
        size = len(part)
        if size > PART_BYTES_MAX:
            name, expected = "a part of a transcript", f"at most {PART_BYTES_MAX}"
            raise LengthError(name, expected=expected, actual=size)
        pieces += (size.to_bytes(4, "big"), part)
    joined = bytearray().join(pieces)
    try:
        return _digest_of(borrowed(joined))
    finally:
        zeroize(joined)  # a part may be secret, and this copy is ours


def _digest_of(memory: Any) -> bytes:
    size, out = len(memory), ffi.new(_DIGEST)
    check(lib.qfl_sha3_512_batch(out, memory, ffi.new(_ONE_SIZE, (size,)), size, 1), "SHA3-512")
    return bytes(ffi.buffer(out))


def transcript_batch(columns: Sequence[ColumnLike], *, count: int) -> bytearray:
    """Compute H of PROTOCOL N1 over *columns* for *count* rows; returns ``count x 64`` bytes."""
    require_count(count, row_bytes=SHA3_512_BYTES)
    out = bytearray(count * SHA3_512_BYTES)
    array, held = c_columns(columns, count)
    check(lib.qfl_transcript_batch(writable(out), array, len(held), count), "the transcript hash")
    return out


def transcript_var_batch(data: Buffer, sizes: Sequence[int], part_counts: Sequence[int]) -> bytearray:
    """Compute H of PROTOCOL N1 for rows of different shapes; all parts lie behind each other in *data*."""
    count = require_count(len(part_counts), row_bytes=SHA3_512_BYTES)
    out, memory = bytearray(count * SHA3_512_BYTES), readable(data)
    _require_sum(sizes, len(memory), "the part sizes")
    _require_sum(part_counts, len(sizes), "the part counts")
    if sizes and max(sizes) > PART_BYTES_MAX:
        name = "a part of a transcript"
        expected = f"at most {PART_BYTES_MAX}"
        raise LengthError(name, expected=expected, actual=max(sizes))
    check(
        lib.qfl_transcript_var_batch(
            writable(out),
            memory,
            ffi.new("uint64_t[]", sizes),
            ffi.new("uint64_t[]", part_counts),
            len(memory),
            len(sizes),
            count,
        ),
        "the transcript hash",
    )
    return out


def _require_sum(sizes: Sequence[int], total: int, name: str) -> None:
    if sum(sizes) != total:
        raise LengthError(name, expected=f"{total} in sum", actual=sum(sizes))
