"""
Fresh random bytes from the C core, which asks the kernel each time and keeps no state: safe over forks and threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare._native import random as native

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from qflare.primitives.rows import Readable
    from qflare.secret import SecretBytes

RANDOM_MAX: Final = native.RANDOM_MAX
"""Most bytes one call gives: 16 MiB."""


def random_bytes(size: int) -> bytes:
    """
    Return *size* random bytes that need not stay secret, such as identifiers and nonces.

    Raises:
        UsageError: *size* is not 0 to `RANDOM_MAX`; nothing was allocated.
        EntropyError: the system's random source failed.
    """
    return native.random_bytes(size)


def random_secret(size: int) -> SecretBytes:
    """
    Return *size* random bytes that stay secret; the caller wipes them.

    Raises:
        UsageError: *size* is not 0 to `RANDOM_MAX`; nothing was allocated.
        EntropyError: the system's random source failed.
    """
    return native.random_secret(size)


def drawing_from(buffer: Readable) -> AbstractContextManager[None]:
    """
    Let this thread draw the bytes of *buffer* instead of random ones inside the block: for vectors.

    Every draw takes the next bytes, in C (keys, encapsulation, the hedge of a signature) and in `random_bytes` alike.
    When they run out, drawing fails with EntropyError.  Other threads are not touched.

    Raises:
        UsageError: *buffer* is no buffer, or this thread is inside such a block already.
    """
    return native.input_of_thread(buffer)
