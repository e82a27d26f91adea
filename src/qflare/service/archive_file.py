r"""
Archives of the log as files: an export with what the rows held, sealed under a passphrase (docs/audit.md, "Archives").

    "QFLARE-ARCHIVE\x01" ‖ log2 N (u8) ‖ r (u8) ‖ p (u8) ‖ salt(16) ‖ segments

The segments are those of R3 under the key of `passphrase_key`, with everything before them as associated data: 2^18
bytes each, numbered, the last one marked, so that none can be left out, moved, or cut off.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Final

from qflare.errors import AuthenticationError, DecodeError
from qflare.primitives.random import random_bytes
from qflare.protocol.segment import SEALED_SEGMENT_BYTES, SEGMENT_BYTES, SegmentCipher
from qflare.service.passphrase_key import PARAMETERS, SALT_BYTES, derive_key, require_passphrase

if TYPE_CHECKING:
    from qflare.secret import SecretBytes

MAGIC: Final = b"QFLARE-ARCHIVE\x01"
_HEAD_BYTES: Final = len(MAGIC) + len(PARAMETERS) + SALT_BYTES


class ArchiveWriter:
    """Seals what is written into a file, a segment at a time; `finish` writes the last one."""

    def __init__(self, file: BinaryIO, passphrase: SecretBytes) -> None:
        """
        Write the head.

        Raises:
            ConfigError: the passphrase is too short or too long.
        """
        require_passphrase(passphrase)
        salt = random_bytes(SALT_BYTES)
        head = MAGIC + PARAMETERS + salt
        with derive_key(passphrase, PARAMETERS, salt) as key:
            self._cipher = SegmentCipher(key, head)
        self._file = file
        self._waiting = bytearray()
        self._number = 0
        file.write(head)

    def write(self, content: bytes) -> None:
        """Take the next bytes."""
        self._waiting += content
        # One is kept back: only the end tells which is the last.
        while len(self._waiting) > SEGMENT_BYTES:
            self._seal(SEGMENT_BYTES, is_last=False)

    def finish(self) -> None:
        """Seal what waits as the last segment."""
        self._seal(len(self._waiting), is_last=True)

    def _seal(self, size: int, *, is_last: bool) -> None:
        # Copied: a bytearray that is lent does not shrink.
        piece = bytes(self._waiting[:size])
        self._file.write(self._cipher.seal(self._number, memoryview(piece), is_last=is_last))
        del self._waiting[:size]
        self._number += 1


class ArchiveReader(io.RawIOBase):
    """The content of an archive as a file; nothing is handed on before its segment was authentic."""

    def __init__(self, file: BinaryIO, passphrase: SecretBytes) -> None:
        """
        Read the head.

        Raises:
            DecodeError: it is no archive.
        """
        super().__init__()
        head = file.read(_HEAD_BYTES)
        if len(head) != _HEAD_BYTES or not head.startswith(MAGIC):
            raise DecodeError("this is no archive of an audit log: name what  qflare audit archive  wrote")
        at = len(MAGIC)
        with derive_key(passphrase, head[at : at + len(PARAMETERS)], head[-SALT_BYTES:]) as key:
            self._cipher = SegmentCipher(key, head)
        self._file = file
        self._sealed = file.read(SEALED_SEGMENT_BYTES)
        self._number = 0
        self._opened = b""
        self._is_over = False

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the buffer protocol is later than 3.11
        """
        Give the next bytes, none at the end.

        Raises:
            AuthenticationError: another passphrase, or the archive was altered or cut.
        """
        while not self._opened and not self._is_over:
            ahead = self._file.read(SEALED_SEGMENT_BYTES)
            self._is_over = not ahead
            with self._cipher.open(self._number, memoryview(self._sealed), is_last=self._is_over) as plain:
                self._opened = bytes(plain.view())
            self._sealed = ahead
            self._number += 1
        count = min(len(buffer), len(self._opened))
        buffer[:count] = self._opened[:count]
        self._opened = self._opened[count:]
        return count


def open_archive(file: BinaryIO, passphrase: SecretBytes) -> BinaryIO:
    """
    Return the export in an archive, to be read from its beginning.

    Raises:
        AuthenticationError: another passphrase, or the archive was altered.
        DecodeError: it is no archive.
    """
    reader = io.BufferedReader(ArchiveReader(file, passphrase), SEGMENT_BYTES)
    try:
        reader.peek(1)
    except AuthenticationError:
        raise AuthenticationError from None
    return reader
