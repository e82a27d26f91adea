"""
The keeper's lasting folder: its lock, the mark below which no bucket key is ever made again, and the high-water marks.

It lies outside the database and outlives restarts of the machine; every worker of a machine uses the same one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final

from qflare.errors import KeeperError
from qflare.stores.keeper.files import own_folder, read_file, replace_file, unusable
from qflare.stores.keeper.marks import read_marks, write_marks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qflare.model.mark import HighWaterMark

LOCK_NAME: Final = "keeper.lock"
TURN_NAME: Final = "keeper.turn"
"""Held while waiting for the lock, so that who releases it and wants it again stands behind who waits."""
_MARK_NAME: Final = "destroyed-before"
LOCK_TIMEOUT_S: Final = 0.8
"""Below the second within which a keeper answers or refuses: the lock is held for a few small calls only."""
_POLL_S: Final = 0.002
_POLL_MAX_S: Final = 0.02


class KeeperFolder:
    """
    One lasting folder, made 0700 if absent.

    Raises:
        ConfigError: it cannot be made, belongs to somebody else, or is open to others.
    """

    def __init__(self, path: Path) -> None:
        self.path = own_folder(path)

    def destroyed_before(self) -> int:
        """Return the mark, 0 where nothing was destroyed yet; `KeeperError` if it cannot be read as a number."""
        path = self.path / _MARK_NAME
        content = read_file(path)
        if content is None:
            return 0
        if not content.isdigit():
            raise KeeperError(f"{path} is damaged; write the lowest live bucket's number into it")
        return int(content)

    def raise_destroyed_before(self, bucket: int) -> None:
        """Raise the mark to *bucket*, durably; a lower one changes nothing."""
        if bucket > self.destroyed_before():
            replace_file(self.path / _MARK_NAME, str(bucket).encode())

    def high_water(self) -> HighWaterMark:
        """Return the high-water marks; `KeeperError` if their file is damaged."""
        with self.locked():
            return read_marks(self.path)

    def raise_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Raise the marks, durably, and return those that stand; takes the lock."""
        with self.locked():
            before = read_marks(self.path)
            after = before.raised(mark)
            if after != before:
                write_marks(self.path, after)
            return after

    def replace_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Take over the log and database that an operator has accepted, durably; takes the lock."""
        with self.locked():
            after = read_marks(self.path).replaced(mark)
            write_marks(self.path, after)
            return after

    @contextlib.contextmanager
    def locked(self, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """
        Hold the keeper's lock: making, destroying and the mark change one at a time, across processes.

        A worker that asks for the lock again and again, as the first ones of a bucket do, does not starve the others.

        Args:
            timeout_s: Longest wait.

        Raises:
            KeeperError: another worker holds it for too long, or a file cannot be used.
        """
        end = time.monotonic() + timeout_s
        try:
            with contextlib.ExitStack() as held:
                # Released by the kernel however the holder ends.
                with _taken(self.path / TURN_NAME, end):
                    held.enter_context(_taken(self.path / LOCK_NAME, end))
                yield
        except OSError as error:
            raise unusable(self.path, error) from None


@contextlib.contextmanager
def _taken(path: Path, end: float) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise unusable(path, error) from None
    try:
        _take(descriptor, path, end)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, end: float) -> None:
    pause_s = _POLL_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A worker whose HSM hangs keeps it: the others must not hang with that one.
            if time.monotonic() >= end:
                raise KeeperError(f"another worker holds {path} and does not release it") from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_MAX_S)
        else:
            return
