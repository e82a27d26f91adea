r"""
The end of a backup file: how long it is and what its bytes hash to, so that one that was cut or altered is told.

``"QFLARE-BACKUP-1\n" ‖ size of what stands before (u64) ‖ SHA-256(all before)``, 56 bytes behind what pg_dump wrote;
pg_restore reads the entries that its table of contents names and never comes there.  It shows damage, not origin:
whoever may write the file writes this as well.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CHECKSUM_BYTES: Final = 56
_MAGIC: Final = b"QFLARE-BACKUP-1\n"
_SIZE: Final = struct.Struct(">Q")
_CHUNK_BYTES: Final = 2**20


def append_checksum(descriptor: int) -> None:
    """Write the end of a backup behind what the open file holds, which is read once, a mebibyte at a time."""
    size = os.fstat(descriptor).st_size
    head = _MAGIC + _SIZE.pack(size)
    digest = _digest(descriptor, size, head)
    os.lseek(descriptor, 0, os.SEEK_END)
    left = memoryview(head + digest)
    while left:
        left = left[os.write(descriptor, left) :]


def require_whole(path: Path, *, may_lack_checksum: bool = False) -> None:
    """
    Read a backup file to its end and compare it with its checksum.

    Args:
        path: The file.
        may_lack_checksum: Whether a file without one is taken: one of before, or of pg_dump's own.  One whose checksum
            does not hold is never taken.

    Raises:
        ConfigError: it was cut or altered, cannot be read, or has no checksum.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
    try:
        size = os.fstat(descriptor).st_size
        # What was cut by less than a checksum's size has its beginning there still.
        tail = os.pread(descriptor, 2 * CHECKSUM_BYTES, max(0, size - 2 * CHECKSUM_BYTES))
        place = tail.rfind(_MAGIC)
        if place < 0:
            if may_lack_checksum:
                return
            raise ConfigError(
                f"{path} has no checksum at its end: it was cut short, or written by pg_dump or by a qflare from "
                "before checksums; if you know that it is whole, restore it with  --unchecked"
            )
        head, digest = tail[place : place + len(_MAGIC) + _SIZE.size], tail[place + len(_MAGIC) + _SIZE.size :]
        if place + CHECKSUM_BYTES != len(tail) or head[len(_MAGIC) :] != _SIZE.pack(size - CHECKSUM_BYTES):
            raise ConfigError(f"{path} is damaged: it is not as long as it was written; take another copy of it")
        if _digest(descriptor, size - CHECKSUM_BYTES, head) != digest:
            raise ConfigError(f"{path} is damaged: it does not hold what was written; take another copy of it")
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
    finally:
        os.close(descriptor)


def _digest(descriptor: int, size: int, head: bytes) -> bytes:
    """Hash the first *size* bytes of a file, and *head* behind them."""
    hashed, place = hashlib.sha256(), 0
    while place < size:
        chunk = os.pread(descriptor, min(_CHUNK_BYTES, size - place), place)
        if not chunk:
            break
        hashed.update(chunk)
        place += len(chunk)
    hashed.update(head)
    return hashed.digest()
