"""The file in which a check of the log notes how far it has come, and the one with the key under which it does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from qflare.clock import SystemClock
from qflare.errors import ConfigError
from qflare.monitor.audit_state import BYTES_MAX, AuditState
from qflare.primitives.random import random_secret
from qflare.secret import SecretBytes, zeroize

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES: Final = 32
_KEY_HEAD: Final = b"QFLARE-STATE-KEY-1\n"
_EVERY_NS: Final = 2_000_000_000


class StateFile:
    """
    One check's state: written every few seconds and when the check is interrupted, removed once it is done.

    It is written under a key of its own, which stands in another file for its owner alone and goes with it: what
    somebody else wrote, or kept from a check that is done, is no state.

    Args:
        path: The state.
        key_path: Its key; where no state stands a new one is made.

    Raises:
        ConfigError: both are one file.
    """

    def __init__(self, path: Path, key_path: Path) -> None:
        if path.absolute() == key_path.absolute():
            raise ConfigError("the state and its key are two files: whoever can write the state must not read the key")
        self._path = path
        self._key_path = key_path
        self._key: SecretBytes | None = None
        self._is_key_written = False
        self._clock = SystemClock()
        self._next_ns = self._clock.monotonic_ns() + _EVERY_NS
        self._latest: AuditState | None = None

    def load(self) -> AuditState | None:
        """
        Return what an interrupted check left, or None.

        Raises:
            ConfigError: a file cannot be read, the key is missing, or something else stands in its place.
            DecodeError: the state is damaged, or was written under another key.
        """
        kept = _read_key(self._key_path)
        try:
            with self._path.open("rb") as file:
                encoded = file.read(BYTES_MAX)
        except FileNotFoundError:
            if kept is not None:
                kept.wipe()
            self._key = random_secret(KEY_BYTES)
            return None
        except OSError as failure:
            raise ConfigError(f"cannot read {self._path}: {failure.strerror}") from None
        if kept is None:
            raise ConfigError(
                f"there is no key in {self._key_path} for the state in {self._path}: remove the state and begin anew"
            )
        self._key, self._is_key_written = kept, True
        return AuditState.decode(encoded, kept)

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
        if self._latest is None or self._key is None:
            return
        if not self._is_key_written:
            content = bytearray(_KEY_HEAD + bytes(KEY_BYTES))
            try:
                content[len(_KEY_HEAD) :] = self._key.view()
                write_owned(self._key_path, content)
            finally:
                zeroize(content)
            self._is_key_written = True
        write_owned(self._path, self._latest.encode(self._key))
        self._next_ns = self._clock.monotonic_ns() + _EVERY_NS

    def remove(self) -> None:
        """
        Forget it and its key: the check is done.

        Raises:
            ConfigError: a file cannot be removed.
        """
        try:
            self._path.unlink(missing_ok=True)
            if self._is_key_written:
                self._key_path.unlink(missing_ok=True)
        except OSError as failure:
            raise ConfigError(f"cannot remove {self._path} or its key: {failure.strerror}; remove both") from None

    def close(self) -> None:
        """Wipe the key from memory."""
        if self._key is not None:
            self._key.wipe()


def _read_key(path: Path) -> SecretBytes | None:
    """
    Return the key of a state, None where no file stands.

    Raises:
        ConfigError: it cannot be read, is not its owner's alone, or is something else.
    """
    content = bytearray(len(_KEY_HEAD) + KEY_BYTES + 1)
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError(f"{path} is open to others: chmod 600, or remove it and the state and begin anew")
            size = file.readinto(content)
        if size != len(_KEY_HEAD) + KEY_BYTES or not content.startswith(_KEY_HEAD):
            raise ConfigError(f"{path} is no key of a state: name a file that a check may make and remove")
        return SecretBytes.copy_of(memoryview(content)[len(_KEY_HEAD) : size])
    except FileNotFoundError:
        return None
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
    finally:
        zeroize(content)


def write_owned(path: Path, content: bytes | bytearray) -> None:
    """
    Write a file for its owner alone, whole or not at all: what stood there before stands until the new one is on disk.

    Raises:
        ConfigError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        # Of a run that was killed, where process ids come again.
        unfinished.unlink(missing_ok=True)
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
