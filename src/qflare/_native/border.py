"""
The passport office's desk: what every module of `_native` checks, borrows and reads back.

Inputs are borrowed for the length of one call; outputs are bytearrays made here, because CFFI would write into an
immutable `bytes` that is given to an output pointer.  Nothing is allocated before its size was checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qflare._native._qflare import ffi, lib
from qflare.errors import BatchError, EntropyError, KeyCheckError, LengthError, NativeError, UsageError
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Looked up once: naming the type in every call costs as much as the call.
_from_buffer: Final[Any] = ffi.from_buffer
_BYTES: Final[Any] = ffi.typeof("uint8_t[]")

BATCH_MAX: Final[int] = int(lib.QFL_BATCH_MAX)
"""Most rows one call takes (QFL_BATCH_MAX)."""

OUTPUT_BYTES_MAX: Final = 2**31 - 1
"""Most bytes one call returns; far above any honest use, far below what would end the process."""

_MEANINGS: Final = {
    1: "the count is out of range",
    2: "an argument is out of range",
    3: "liboqs reported a failure",
    4: "the system's random source failed",
    5: "a key failed its check",
    6: "a signature does not verify",
}


def require_integer(value: int, *, name: str, first: int, last: int) -> int:
    """
    Return *value* if it is an integer in ``first … last``.

    Raises:
        UsageError: it is no integer (a float or bool is none), or out of range.
    """
    if type(value) is not int:
        message = f"{name} must be an integer, got {type(value).__name__}"
        raise UsageError(message)
    if not first <= value <= last:
        message = f"{name} must be {first} to {last}, got {value}"
        raise UsageError(message)
    return value


def require_count(count: int, *, row_bytes: int = 1, name: str = "count") -> int:
    """
    Return *count* if a batch of that many rows of *row_bytes* output each can be made; 0 is an empty batch.

    Raises:
        BatchError: *count* is no integer, negative, above `BATCH_MAX`, or the output would be too large.
    """
    if type(count) is not int:
        message = f"{name} must be an integer number of rows, got {type(count).__name__}"
        raise BatchError(message)
    if not 0 <= count <= BATCH_MAX:
        message = f"{name} must be 0 to {BATCH_MAX} rows a call, got {count}; split the batch"
        raise BatchError(message)
    if count * row_bytes > OUTPUT_BYTES_MAX:
        message = f"{name} of {count} rows of {row_bytes} bytes is above {OUTPUT_BYTES_MAX} bytes; split the batch"
        raise BatchError(message)
    return count


def require_size(name: str, buffer: memoryview, size: int) -> None:
    """
    Return if *buffer* is exactly *size* bytes, which is what C is going to read.

    Raises:
        LengthError: it is not.
    """
    if buffer.nbytes != size:
        raise LengthError(name, expected=size, actual=buffer.nbytes)


def readable(buffer: Buffer | SecretBytes) -> Any:
    """
    Borrow *buffer* for a `const uint8_t *` argument: bytes as they are, for anything else as `borrowed`.

    CFFI lends the memory of `bytes` for the length of the call by itself, in a third of the time.

    Raises:
        UsageError: it is no buffer, or not C-contiguous.
    """
    # SAFETY: only for parameters that C declares const; `writable` is for the others.
    return buffer if type(buffer) is bytes else borrowed(buffer)


def borrowed(buffer: Buffer | SecretBytes) -> Any:
    """
    Borrow *buffer* for reading: a `uint8_t[]` that keeps it alive and, while it lives, from being resized.

    Raises:
        UsageError: it is no buffer, or not C-contiguous.
    """
    # The memory and not a view of it, which would cost as much again.
    source = buffer._buffer if type(buffer) is SecretBytes else buffer  # noqa: SLF001
    try:
        return _from_buffer(_BYTES, source)
    except (TypeError, ValueError, BufferError):
        pass
    # Outside the handler, so that no inner cause drags a caller's frame (and its secrets) along.
    message = f"expected a C-contiguous buffer of bytes, got {type(buffer).__name__}"
    raise UsageError(message)


def writable(buffer: bytearray | memoryview) -> Any:
    """Lend *buffer*, which this floor made, to C for writing."""
    return _from_buffer(_BYTES, buffer, True)


def check(status: int, operation: str) -> None:
    """
    Turn a `qfl_status` other than QFL_OK into its error.

    Raises:
        EntropyError: the random source failed.
        KeyCheckError: a key failed its check.
        NativeError: anything else; sizes were checked before the call, so this is a defect or a broken library.
    """
    if status == 0:
        return
    if status == lib.QFL_ERR_ENTROPY:
        message = f"{operation}: the system's random source failed; no key was made"
        raise EntropyError(message)
    if status == lib.QFL_ERR_KEY:
        message = f"{operation}: the key failed its check (FIPS 203, section 7.2 or 7.3)"
        raise KeyCheckError(message)
    raise NativeError(operation, int(status), _MEANINGS.get(int(status), "unknown status"))
