"""The C core's randomness: the system's source, or bytes that this thread was given to draw."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from qflare._native._qflare import ffi, lib
from qflare._native.border import borrowed, check, require_integer, writable
from qflare.errors import UsageError
from qflare.secret import SecretBytes, SecretMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

RANDOM_MAX: Final[int] = int(lib.QFL_RANDOM_MAX)
"""Most bytes one call gives."""
_BYTES: Final[Any] = ffi.typeof("uint8_t[]")


def random_bytes(size: int) -> bytes:
    """
    Return *size* fresh random bytes.

    Raises:
        UsageError: *size* is no integer from 0 to `RANDOM_MAX`.
        EntropyError: the source failed.
    """
    require_integer(size, name="size", first=0, last=RANDOM_MAX)
    out = ffi.new(_BYTES, size)
    check(lib.qfl_random_bytes(out, size), "drawing random bytes")
    return bytes(ffi.buffer(out))


def random_secret(size: int) -> SecretBytes:
    """As `random_bytes`, in secret memory."""
    require_integer(size, name="size", first=0, last=RANDOM_MAX)
    out = SecretMemory(size)
    check(lib.qfl_random_bytes(writable(out), size), "drawing random bytes")
    return SecretBytes.owning(out)


@contextmanager
def input_of_thread(buffer: Buffer | SecretBytes) -> Iterator[None]:
    """
    Let this thread draw the bytes of *buffer*, in order, inside the block.

    Raises:
        UsageError: an input is in place on this thread already.
    """
    held = borrowed(buffer)  # keeps the memory alive and fixed until the block ends
    if lib.qfl_random_input_begin(held, len(held)) != 0:
        message = "this thread draws from a given buffer already; end that block first"
        raise UsageError(message)
    try:
        yield
    finally:
        lib.qfl_random_input_end()
        del held


@contextmanager
def failing_source_of_thread() -> Iterator[None]:
    """Let the system's source fail on this thread inside the block: for tests of the failure path."""
    lib.qfl_random_fail_for_test(1)
    try:
        yield
    finally:
        lib.qfl_random_fail_for_test(0)
