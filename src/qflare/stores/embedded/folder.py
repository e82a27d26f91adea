"""
The data folder of the embedded PostgreSQL: what lies where, and the two locks that say who is there.

``users.lock`` is held shared by every process that uses the server, ``supervisor.lock`` exclusively by the one process
that runs it.  Both are flock locks: the kernel releases them however their holder ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from qflare.errors import ConfigError

PORT: Final = 5432
"""Part of the socket's file name; nothing listens on a network."""
SUPERUSER: Final = "qflare"
DATABASE: Final = "qflare"
_OWNER_ONLY: Final = 0o700
_SOCKET_NAME: Final = f".s.PGSQL.{PORT}"
_SOCKET_PATH_BYTES_MAX: Final = 107
"""sun_path without its terminating zero."""


class Lock:
    """A flock lock on a file, held as long as the object is open."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def try_shared(self) -> bool:
        """Take the lock beside others who share it; False if somebody has it for himself."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take the lock alone; False if anybody else has it."""
        return self._try(fcntl.LOCK_EX)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Release the lock; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True, slots=True)
class Folder:
    """Paths inside one data folder."""

    root: Path

    @property
    def cluster(self) -> Path:
        """What initdb makes."""
        return self.root / "postgres"

    @property
    def log(self) -> Path:
        """What the server and its supervisor say."""
        return self.root / "postgres.log"

    @property
    def error(self) -> Path:
        """Why the last supervisor gave up; absent while all is well."""
        return self.root / "supervisor.error"

    @property
    def socket_folder(self) -> Path:
        """Where the server's socket lies: inside the data folder if its path is short enough, else below /tmp."""
        inside = self.root / "socket"
        if len(os.fsencode(inside / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX:
            return inside
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path("/tmp") / f"qflare-{os.geteuid()}-{name}"  # noqa: S108 - made 0700 and its owner checked

    @property
    def socket(self) -> Path:
        """The server's socket."""
        return self.socket_folder / _SOCKET_NAME

    def dsn(self, database: str = DATABASE) -> str:
        """Return how to connect to *database*."""
        host = quote(str(self.socket_folder), safe="")
        return f"postgresql://{SUPERUSER}@/{database}?host={host}&port={PORT}"

    def users_lock(self) -> Lock:
        """Open the users' lock."""
        return Lock(self.root / "users.lock")

    def supervisor_lock(self) -> Lock:
        """Open the supervisor's lock."""
        return Lock(self.root / "supervisor.lock")

    def make_socket_folder(self) -> None:
        """
        Make the socket's folder, for its owner alone.

        Raises:
            ConfigError: somebody else's folder or a link stands in its place.
        """
        folder = self.socket_folder
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError as error:
            raise ConfigError(f"the socket folder {folder} cannot be made: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), *_account_ids()}:
            raise ConfigError(f"{folder} belongs to somebody else or is no folder; remove it")
        if stat.S_IMODE(found.st_mode) != _OWNER_ONLY:
            folder.chmod(0o700)


def _account_ids() -> tuple[int, ...]:
    # Under root without user namespaces the folder was given to the account that runs the server.
    from qflare.stores.embedded.account import choose_account

    account = choose_account() if os.geteuid() == 0 else None
    return () if account is None or account.user_id is None else (account.user_id,)


def open_folder(data_dir: str | os.PathLike[str]) -> Folder:
    """
    Return the data folder, made if only its last part is missing, and checked to be writable.

    Raises:
        ConfigError: the folder above is missing, it is no folder, or it cannot be written.
    """
    given = Path(data_dir).expanduser()
    root = Path(os.path.realpath(given))
    if not root.parent.is_dir():
        raise ConfigError(f"the folder {root.parent} does not exist; create it, or choose another data folder")
    try:
        root.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{given} is no folder; choose another data folder") from None
    except OSError as error:
        raise ConfigError(f"the data folder {given} cannot be made: {error.strerror}; choose another one") from None
    folder = Folder(root)
    try:
        folder.users_lock().close()
        if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ConfigError(
            f"the data folder {given} cannot be written: {error.strerror}; choose another one or change its permissions"
        ) from None
    return folder
