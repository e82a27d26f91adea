"""Copies of the log that an auditor kept, to compare the log with: exports and archives; each checked by itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from qflare.errors import AuthenticationError, ConfigError, EvidenceError, UsageError
from qflare.monitor.export_check import ExportCheck
from qflare.monitor.known import Reference
from qflare.service import archive_file
from qflare.service.archive_file import open_archive
from qflare.service.exports import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qflare.protocol.log_key import LogKey
    from qflare.secret import SecretBytes


def is_archive(path: Path) -> bool:
    """
    Return whether a copy is sealed, and asks for a passphrase.

    Raises:
        ConfigError: it cannot be read.
    """
    if path.is_dir():
        return False
    with _opened(path) as file:
        return file.read(len(archive_file.MAGIC)) == archive_file.MAGIC


def read_reference(
    path: Path, *, server_id: bytes | None = None, key: LogKey | None = None, passphrase: SecretBytes | None = None
) -> Reference:
    """
    Return the leaf hashes of a copy, 32 bytes an entry, once it is shown to lead to a signed head; blocking.

    Args:
        path: An export, a folder of its parts, or an archive; it may begin anywhere in the log.
        server_id: The pinned one, or
        key: the log's pinned key.
        passphrase: The archive's.

    Raises:
        ConfigError: it cannot be read.
        OtherLogError: it is of another log than the pinned one.
        UsageError: it does not hold itself: nothing can be compared with it.
    """
    hashes = bytearray()
    check = ExportCheck(server_id=server_id, key=key, note_leaf=hashes.extend, is_reference=True)
    parts = parts_of(path)
    if not parts:
        raise ConfigError(f"there is no export in {path}")
    try:
        for part in parts:
            with _opened(part) as file:
                check.read(file if passphrase is None else open_archive(file, passphrase))
        found = check.finish()
    except EvidenceError as failure:
        raise UsageError(f"the copy in {path} does not hold itself, nothing was compared with it: {failure}") from None
    except AuthenticationError:
        raise UsageError(f"the archive {path} does not open: another passphrase, or it was altered") from None
    return Reference(name=str(path), first=found.first, start=check.start.hashes, hashes=bytes(hashes))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
