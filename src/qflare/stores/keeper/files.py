"""
Small files of secrets: whole or absent, this user's alone, and overwritten before they go.

Nothing here follows a link, and nothing is taken from a file that somebody else owns or may read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from qflare.errors import ConfigError, KeeperError
from qflare.primitives.random import random_bytes, random_secret
from qflare.secret import SecretBytes

KEY_BYTES: Final = 32
FILE_BYTES_MAX: Final = 4096
"""No file here is longer: keys, wrapped keys and marks."""
_FOLDER_MODE: Final = 0o700
_OTHERS: Final = 0o077


def own_folder(folder: Path) -> Path:
    """Return *folder* made 0700 if absent, checked to be this user's own and closed to others."""
    try:
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        # Not through a link: whoever placed it could point it elsewhere later.
        found = folder.lstat()
    except FileExistsError:
        raise ConfigError(f"{folder} is no folder; choose another one for the sealing keys") from None
    except OSError as error:
        raise ConfigError(f"the folder {folder} for the sealing keys cannot be made: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{folder} is a link; name the folder for the sealing keys itself")
    if found.st_uid != os.geteuid():
        raise ConfigError(f"the folder {folder} for the sealing keys belongs to another user; choose your own")
    if stat.S_IMODE(found.st_mode) & _OTHERS:
        raise ConfigError(f"the folder {folder} for the sealing keys is open to others; chmod 700 it")
    return folder


def unusable(path: Path, error: OSError) -> KeeperError:
    """Return the error that names *path* and the system's reason."""
    return KeeperError(f"the sealing keys in {path} cannot be read or written: {error.strerror}")


def read_file(path: Path) -> bytearray | None:
    """Return a file's bytes, None if it is absent; never through a link, never from somebody else's file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & _OTHERS:
            raise KeeperError(f"{path} is not a file of this user alone; restore it with mode 600")
        content = bytearray(FILE_BYTES_MAX)
        size = file.readinto(content)
        del content[size:]
        return content


def read_key(path: Path) -> SecretBytes | None:
    """Return the key in a file, None if it is absent; `KeeperError` if it is damaged."""
    content = read_file(path)
    if content is None:
        return None
    key = SecretBytes(content)
    if len(key) != KEY_BYTES:
        key.wipe()
        raise KeeperError(f"{path} is damaged: a key has {KEY_BYTES} bytes; restore it from its backup")
    return key


def make_key(path: Path) -> SecretBytes:
    """Write a fresh key into a file of its own and return it."""
    key = random_secret(KEY_BYTES)
    try:
        with key.view() as view:
            link_new(path, view)
    except BaseException:
        key.wipe()
        raise
    return key


def link_new(path: Path, content: memoryview | bytes) -> None:
    """Write *content* aside and link it into place, whole and durable; `FileExistsError` if the name exists."""
    unfinished = path.with_name(f".{path.name}.{random_bytes(8).hex()}")
    try:
        write_new(unfinished, content)
        # A link never replaces: if the name exists after all, this fails and no key is lost.
        os.link(unfinished, path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_new(path: Path, content: memoryview | bytes) -> None:
    """Write a new file of mode 0600 and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # Files of a few bytes are written in one piece; a short write means a full medium.
        if os.write(descriptor, content) != len(content):
            raise KeeperError(f"{path.parent} is full")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Put *content* into the place of a file, durably: whoever reads finds the old or the new."""
    unfinished = path.with_name(f".{path.name}.{random_bytes(8).hex()}")
    try:
        write_new(unfinished, content)
        unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def destroy_file(path: Path) -> None:
    """Overwrite a key's file with zeros in place, then remove it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(descriptor, bytes(max(KEY_BYTES, os.fstat(descriptor).st_size)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were added to or removed from *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
