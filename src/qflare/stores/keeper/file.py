"""
Sealing keys in files: KEK_L in a lasting folder, each KEK_b in a file of a memory file system.

Every worker of a machine uses the same two folders.  A bucket's file appears whole or not at all (written aside, then
linked), so that all of them read the same key.  Destroying one first raises a mark, then overwrites and removes the
file; below the mark no key is ever made again.  The mark lies in the lasting folder: it outlives a restart of the
machine, the keys do not.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, KeeperError
from qflare.primitives.random import random_bytes, random_secret
from qflare.secret import SecretBytes
from qflare.stores.keeper.medium import file_system_of, has_swap, is_in_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_BYTES: Final = 32
_LONG_TERM_NAME: Final = "kek-l"
_MARK_NAME: Final = "destroyed-before"
_LOCK_NAME: Final = "keeper.lock"
_BUCKET_PREFIX: Final = "kek-b-"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder in it is made 0700 and its owner checked
_FOLDER_MODE: Final = 0o700
_OTHERS: Final = 0o077


class FileKeeper:
    """
    `model.ports.Keeper` in two folders.

    Args:
        long_term_dir: For KEK_L and the mark; lasting, backed up apart from the database.
        volatile_dir: For the KEK_b; by default a folder of /dev/shm that belongs to *long_term_dir*.

    Raises:
        ConfigError: a folder cannot be made, belongs to somebody else, or is open to others.
    """

    def __init__(
        self, long_term_dir: str | os.PathLike[str], volatile_dir: str | os.PathLike[str] | None = None
    ) -> None:
        self._lasting = _own_folder(Path(long_term_dir))
        self._volatile = _own_folder(
            Path(volatile_dir) if volatile_dir is not None else _default_volatile(self._lasting)
        )

    @property
    def volatile_dir(self) -> Path:
        """Where the KEK_b lie."""
        return self._volatile

    def long_term_key(self) -> SecretBytes:
        """Return KEK_L (32 bytes), made at first use; the caller wipes the copy."""
        path = self._lasting / _LONG_TERM_NAME
        with self._locked():
            found = _read_key(path)
            if found is not None:
                return found
            return _make_key(path)

    def make_bucket_key(self, bucket: int) -> SecretBytes:
        """
        Return KEK_b (32 bytes), made if it is absent and was never destroyed; all workers get the same.

        Raises:
            KeeperError: the bucket is below the mark, or the file cannot be written or is damaged.
        """
        path = self._bucket_path(bucket)
        with self._locked():
            found = _read_key(path)
            if bucket < self._destroyed_before():
                if found is not None:
                    found.wipe()
                raise KeeperError(f"the key of bucket {bucket} was destroyed and is never made again")
            return found if found is not None else _make_key(path)

    def bucket_key(self, bucket: int) -> SecretBytes:
        """
        Return KEK_b; the caller wipes the copy.

        Raises:
            KeeperError: there is none: destroyed, never made, or lost with a restart of the machine.
        """
        with self._locked():
            # A file below the mark is what a crash left, or a copy that somebody put back.
            is_destroyed = bucket < self._destroyed_before()
            found = _read_key(self._bucket_path(bucket))
        if found is not None and is_destroyed:
            found.wipe()
            found = None
        if found is None:
            raise KeeperError(
                f"there is no key of bucket {bucket}: it was destroyed, or lost when the machine restarted"
            )
        return found

    def destroy_bucket_keys(self, *, before: int) -> int:
        """
        Destroy every KEK_b of buckets below *before*, for good; return how many.

        The mark is durable before the first file goes: a crash in between destroys the rest at the next call.
        """
        with self._locked():
            if before > self._destroyed_before():
                _replace(self._lasting / _MARK_NAME, str(before).encode())
            count = 0
            for path in sorted(self._volatile.iterdir()):
                number = path.name.removeprefix(_BUCKET_PREFIX)
                if path.name.startswith(_BUCKET_PREFIX) and number.isdecimal() and int(number) < before:
                    _destroy(path)
                    count += 1
        return count

    def promise(self) -> str | None:
        """Return None if destroyed keys are gone from the medium, else a sentence saying why the promise is void."""
        try:
            file_system = file_system_of(self._volatile)
        except OSError as error:
            raise _unusable(self._volatile, error) from None
        if not is_in_memory(file_system):
            return (
                f"bucket keys lie in {self._volatile} on {file_system or 'an unknown file system'}, which may keep "
                f"what was overwritten: forward secrecy at rest is not promised; use a folder on tmpfs"
            )
        if file_system == "tmpfs" and has_swap():
            return (
                f"bucket keys lie in {self._volatile} on tmpfs, which the kernel may write to swap: forward secrecy at "
                f"rest is not promised unless swap is encrypted with a fresh key; switch swap off or use ramfs"
            )
        return None

    def _bucket_path(self, bucket: int) -> Path:
        if bucket < 0:
            raise KeeperError(f"bucket indexes count from 0, got {bucket}")
        return self._volatile / f"{_BUCKET_PREFIX}{bucket}"

    def _destroyed_before(self) -> int:
        content = _read(self._lasting / _MARK_NAME)
        if content is None:
            return 0
        if not content.isdigit():
            raise KeeperError(f"{self._lasting / _MARK_NAME} is damaged; write the lowest live bucket's number into it")
        return int(content)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the keeper's lock: making, destroying and the mark change one at a time, across processes."""
        path = self._lasting / _LOCK_NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            # Held for a few file operations only, and released by the kernel however the holder ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise _unusable(self._volatile, error) from None
        finally:
            os.close(descriptor)


def _default_volatile(lasting: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(lasting))).hexdigest()[:16]
    parent = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else lasting
    return parent / f"qflare-{os.geteuid()}-{name}"


def _own_folder(folder: Path) -> Path:
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


def _unusable(path: Path, error: OSError) -> KeeperError:
    return KeeperError(f"the sealing keys in {path} cannot be read or written: {error.strerror}")


def _read(path: Path) -> bytearray | None:
    """Return a file's bytes, None if it is absent; never through a link, never from somebody else's file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & _OTHERS:
            raise KeeperError(f"{path} is not a file of this user alone; restore it with mode 600")
        content = bytearray(KEY_BYTES + 1)
        size = file.readinto(content)
        del content[size:]
        return content


def _read_key(path: Path) -> SecretBytes | None:
    content = _read(path)
    if content is None:
        return None
    key = SecretBytes(content)
    if len(key) != KEY_BYTES:
        key.wipe()
        raise KeeperError(f"{path} is damaged: a key has {KEY_BYTES} bytes; restore it from its backup")
    return key


def _make_key(path: Path) -> SecretBytes:
    """Write a fresh key aside and link it into place, whole and durable."""
    key = random_secret(KEY_BYTES)
    unfinished = path.with_name(f".{path.name}.{random_bytes(8).hex()}")
    try:
        with key.view() as view:
            _write_new(unfinished, view)
        # A link never replaces: if the name exists after all, this fails and no key is lost.
        os.link(unfinished, path)
        _sync_folder(path.parent)
    except BaseException:
        key.wipe()
        raise
    finally:
        unfinished.unlink(missing_ok=True)
    return key


def _write_new(path: Path, content: memoryview | bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # Files of a few bytes are written in one piece; a short write means a full medium.
        if os.write(descriptor, content) != len(content):
            raise KeeperError(f"{path.parent} is full")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{random_bytes(8).hex()}")
    try:
        _write_new(unfinished, content)
        unfinished.replace(path)
        _sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _destroy(path: Path) -> None:
    """Overwrite a key's file with zeros in place, then remove it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(descriptor, bytes(max(KEY_BYTES, os.fstat(descriptor).st_size)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
