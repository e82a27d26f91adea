"""
Sealing keys in files: KEK_L in a lasting folder, each KEK_b in a file of a memory file system.

Every worker of a machine uses the same two folders.  A bucket's file appears whole or not at all (written aside, then
linked), so that all of them read the same key.  Destroying one first raises a mark, then overwrites and removes the
file; below the mark no key is ever made again.  The mark lies in the lasting folder: it outlives a restart of the
machine, the keys do not.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.errors import KeeperError
from qflare.model.mark import HighWaterMark
from qflare.stores.keeper.files import destroy_file, make_key, own_folder, read_key, unusable
from qflare.stores.keeper.folder import KeeperFolder
from qflare.stores.keeper.medium import file_system_of, has_swap, is_in_memory

if TYPE_CHECKING:
    from qflare.secret import SecretBytes

_LONG_TERM_NAME: Final = "kek-l"
_BUCKET_PREFIX: Final = "kek-b-"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder in it is made 0700 and its owner checked


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
        self._folder = KeeperFolder(Path(long_term_dir))
        self._volatile = own_folder(
            Path(volatile_dir) if volatile_dir is not None else default_volatile(self._folder.path)
        )

    @property
    def volatile_dir(self) -> Path:
        """Where the KEK_b lie."""
        return self._volatile

    def long_term_key(self) -> SecretBytes:
        """Return KEK_L (32 bytes), made at first use; the caller wipes the copy."""
        path = self._folder.path / _LONG_TERM_NAME
        with self._folder.locked():
            found = read_key(path)
            if found is not None:
                return found
            return make_key(path)

    def make_bucket_key(self, bucket: int) -> SecretBytes:
        """
        Return KEK_b (32 bytes), made if it is absent and was never destroyed; all workers get the same.

        Raises:
            KeeperError: the bucket is below the mark, or the file cannot be written or is damaged.
        """
        path = self._bucket_path(bucket)
        with self._folder.locked():
            found = read_key(path)
            if bucket < self._folder.destroyed_before():
                if found is not None:
                    found.wipe()
                raise KeeperError(f"the key of bucket {bucket} was destroyed and is never made again")
            return found if found is not None else make_key(path)

    def bucket_key(self, bucket: int) -> SecretBytes:
        """
        Return KEK_b; the caller wipes the copy.

        Raises:
            KeeperError: there is none: destroyed, never made, or lost with a restart of the machine.
        """
        with self._folder.locked():
            # A file below the mark is what a crash left, or a copy that somebody put back.
            is_destroyed = bucket < self._folder.destroyed_before()
            found = read_key(self._bucket_path(bucket))
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
        with self._folder.locked():
            self._folder.raise_destroyed_before(before)
            over = [bucket for bucket in self._standing() if bucket < before]
            for bucket in over:
                destroy_file(self._bucket_path(bucket))
        return len(over)

    def bucket_keys(self) -> tuple[int, ...]:
        """Return the buckets whose KEK_b lies here, ascending, also below the mark."""
        with self._folder.locked():
            return tuple(self._standing())

    def _standing(self) -> list[int]:
        numbers = [path.name.removeprefix(_BUCKET_PREFIX) for path in self._volatile.glob(f"{_BUCKET_PREFIX}*")]
        # As `_bucket_path` writes them, and in no other way.
        return sorted(int(number) for number in numbers if number.isdecimal() and number == str(int(number)))

    def destroyed_before(self) -> int:
        """Return the lowest bucket whose key was not destroyed for good, 0 where none was yet."""
        with self._folder.locked():
            return self._folder.destroyed_before()

    def high_water(self) -> HighWaterMark:
        """Return the high-water marks; `KeeperError` if they are damaged."""
        return self._folder.high_water()

    def raise_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Raise the marks, durably, and return those that stand."""
        return self._folder.raise_high_water(mark)

    def replace_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Take over the log and database that an operator has accepted, durably; return the marks that stand."""
        return self._folder.replace_high_water(mark)

    def promise(self) -> str | None:
        """Return None if destroyed keys are gone from the medium, else a sentence saying why the promise is void."""
        try:
            file_system = file_system_of(self._volatile)
        except OSError as error:
            raise unusable(self._volatile, error) from None
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


def default_volatile(lasting: Path) -> Path:
    """Return the folder of shared memory that belongs to a lasting folder."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(lasting))).hexdigest()[:16]
    parent = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else lasting
    return parent / f"qflare-{os.geteuid()}-{name}"
