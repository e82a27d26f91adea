"""
The output folder of a run: made, locked, and cleared of what an earlier run left, of nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Final, Self

from qflare.errors import ConfigError
from qflare.service.demo.report import HTML_NAME, JSON_NAME, PNG_NAME
from qflare.stores.embedded.folder import open_folder
from qflare.stores.keeper import FileKeeper

MARKER_NAME: Final = ".qflare-demo"
_MARKER: Final = b"This folder belongs to qflare demo: its next run replaces what is in it.\n"
_KEEPER_NAME: Final = "keeper"
"""Where a manager puts its keeper in a data folder."""
_DATABASE_END_S: Final = 15.0
_POLL_S: Final = 0.05
_FOLDERS: Final = ("data", "devices", "shards", "evidence", "logs")
_FILES: Final = (HTML_NAME, PNG_NAME, JSON_NAME, "identity.bin")


class Output:
    """A run's folder, locked for as long as the run lasts."""

    def __init__(self, folder: Path) -> None:
        """
        Make and lock *folder* and remove what an earlier run left in it.

        Raises:
            ConfigError: it holds other things, cannot be written, or another run uses it.
        """
        self.folder = folder = folder.absolute()
        self._lock: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            marker = folder / MARKER_NAME
            if not marker.exists():
                if any(folder.iterdir()):
                    raise ConfigError(  # noqa: TRY301 - not an OSError, which is what is handled below
                        f"{folder} holds other things than a run's output; choose an empty --folder"
                    )
                marker.write_bytes(_MARKER)
            self._lock = os.open(marker, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another run of the demo uses {folder}; wait for it or choose another --folder"
                ) from None
            # An earlier run that was killed left its database to end by itself.
            self.leave_data()
            self._clear()
            for name in _FOLDERS:
                (folder / name).mkdir(mode=0o700)
        except OSError as error:
            self.close()
            raise ConfigError(f"cannot write to {folder}: {error.strerror}; choose another --folder") from None
        except BaseException:
            self.close()
            raise

    @property
    def data(self) -> Path:
        """The servers' data folder: PostgreSQL and the keeper's lasting part."""
        return self.folder / "data"

    @property
    def devices(self) -> Path:
        """A folder with the state file of each device."""
        return self.folder / "devices"

    def state_of(self, device_id: str) -> Path:
        """Return a device's state file."""
        return self.devices / device_id / "state.bin"

    @property
    def copied_state(self) -> Path:
        """A device's state file as a thief copied it."""
        return self.devices / "copied.bin"

    @property
    def shards(self) -> Path:
        """Each device's training samples."""
        return self.folder / "shards"

    @property
    def evidence(self) -> Path:
        """What devices keep of their sessions for third parties."""
        return self.folder / "evidence"

    @property
    def logs(self) -> Path:
        """What each process wrote to its standard error."""
        return self.folder / "logs"

    @property
    def identity(self) -> Path:
        """``root vk ‖ CERT`` as the servers gave it out."""
        return self.folder / "identity.bin"

    def leave_data(self) -> None:
        """
        Wait until the database of the data folder has ended, and destroy the bucket keys that were left.

        What the run's sessions were sealed under is then gone from memory; the log can still be read and verified.
        """
        if not (self.data / _KEEPER_NAME).is_dir():
            return
        supervisor = open_folder(self.data).supervisor_lock()
        deadline = time.monotonic() + _DATABASE_END_S
        try:
            while not supervisor.try_exclusive() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        finally:
            supervisor.close()
        keeper = FileKeeper(self.data / _KEEPER_NAME)
        buckets = keeper.bucket_keys()
        if buckets:
            keeper.destroy_bucket_keys(before=max(buckets) + 1)
        # Anything else in it is not ours to remove, and keeps it.
        with contextlib.suppress(OSError):
            keeper.volatile_dir.rmdir()

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        """Lend the folder to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the lock."""
        self.close()

    def _clear(self) -> None:
        for name in _FOLDERS:
            # A symbolic link is not ours: rmtree refuses it, and so do we.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder / name)
        for name in _FILES:
            (self.folder / name).unlink(missing_ok=True)
