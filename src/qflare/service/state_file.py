"""The file in which a check of the log notes how far it has come."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from qflare.clock import SystemClock
from qflare.errors import ConfigError
from qflare.monitor.audit_state import BYTES_MAX, AuditState

if TYPE_CHECKING:
    from pathlib import Path

_EVERY_NS: Final = 2_000_000_000


class StateFile:
    """One check's state: written every few seconds and when the check is interrupted, removed once it is done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clock = SystemClock()
        self._next_ns = self._clock.monotonic_ns() + _EVERY_NS
        self._latest: AuditState | None = None

    def load(self) -> AuditState | None:
        """
        Return what an interrupted check left, or None.

        Raises:
            ConfigError: the file cannot be read.
            DecodeError: it is damaged.
        """
        try:
            with self._path.open("rb") as file:
                return AuditState.decode(file.read(BYTES_MAX))
        except FileNotFoundError:
            return None
        except OSError as failure:
            raise ConfigError(f"cannot read {self._path}: {failure.strerror}") from None

    def note(self, state: AuditState) -> None:
        """Take the latest state; write it if the last time is a while ago."""
        self._latest = state
        if self._clock.monotonic_ns() >= self._next_ns:
            self.save()

    def save(self) -> None:
        """
        Write the latest state, if there is one.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self._latest is None:
            return
        write_owned(self._path, self._latest.encode())
        self._next_ns = self._clock.monotonic_ns() + _EVERY_NS

    def remove(self) -> None:
        """Forget it: the check is done."""
        self._path.unlink(missing_ok=True)


def write_owned(path: Path, content: bytes) -> None:
    """
    Write a file for its owner alone, whole or not at all: what stood there before stands until the new one is on disk.

    Raises:
        ConfigError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}") from None
