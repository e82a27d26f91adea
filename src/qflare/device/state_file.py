"""
The device's state file: a small tree of fields in one file that is replaced as a whole.

Layout: ``"QFX1-DEV" ‖ version(u8) ‖ field ‖ SHA3-512 of all before``.
A field is ``kind(u8) ‖ size(u32) ‖ body``:
``n`` nothing, ``i`` integer (u64), ``s`` UTF-8 text, ``b`` public bytes, ``k`` secret bytes, ``l`` list of fields,
``d`` list of pairs (text field, field).  Integers are big-endian.

The checksum finds accidents and cut files; it does not stop somebody who may write the file (docs/security.md).
Secrets are read from an owned buffer into `SecretBytes`, and the buffer is wiped: no `bytes` of them lingers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, DecodeError, StoreError
from qflare.primitives.hash import sha3_512
from qflare.primitives.random import random_bytes
from qflare.secret import SecretBytes, zeroize

if TYPE_CHECKING:
    from pathlib import Path

MAGIC: Final = b"QFX1-DEV"
VERSION: Final = 1
SIZE_MAX: Final = 16 * 2**20
DEPTH_MAX: Final = 8
_DIGEST_BYTES: Final = 64
_HEAD_BYTES: Final = len(MAGIC) + 1
_FIELD_BYTES: Final = 5
_INTEGER_BYTES: Final = 8

Field = None | int | str | bytes | SecretBytes | list["Field"] | dict[str, "Field"]


def encode_state(fields: dict[str, Field]) -> bytearray:
    """Return the file's bytes for *fields*; the caller owns and wipes them, since secrets are among them."""
    # WHY: sized first, so that a growing buffer leaves no copy of a secret behind in freed memory.
    end = _HEAD_BYTES + _size(fields)
    out = bytearray(end + _DIGEST_BYTES)
    with memoryview(out) as view:
        view[:_HEAD_BYTES] = MAGIC + bytes([VERSION])
        _put(view, _HEAD_BYTES, fields)
        view[end:] = sha3_512(view[:end])
    return out


def decode_state(buffer: bytearray) -> dict[str, Field]:
    """
    Return the fields of a state file; *buffer* is wiped, whatever happens.

    Raises:
        DecodeError: the bytes are cut, altered, of another version or no state file.
    """
    try:
        if len(buffer) < _HEAD_BYTES + _DIGEST_BYTES or buffer[: len(MAGIC)] != MAGIC:
            message = "this is no QFLARE device state file; enrol the device again with a new token"
            raise DecodeError(message)
        if buffer[len(MAGIC)] != VERSION:
            message = (
                f"device state has version {buffer[len(MAGIC)]}, this QFLARE reads {VERSION}; use the matching release"
            )
            raise DecodeError(message)
        with memoryview(buffer) as view:
            body_end = len(buffer) - _DIGEST_BYTES
            if sha3_512(view[:body_end]) != view[body_end:]:
                message = (
                    "the device state file is cut or altered; restore it or enrol the device again with a new token"
                )
                raise DecodeError(message)
            field, end = _take(view, _HEAD_BYTES, body_end, DEPTH_MAX)
            if end != body_end or not isinstance(field, dict):
                message = "the device state file is malformed; enrol the device again with a new token"
                raise DecodeError(message)
            return field
    finally:
        zeroize(buffer)


class StateFile:
    """One device state file, held by one process at a time through a lock file beside it."""

    def __init__(self, path: Path) -> None:
        """Lock the state at *path*; `ConfigError` if another process has it or the folder cannot be written."""
        self.path = path
        lock_path = path.with_name(path.name + ".lock")
        try:
            self._lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            message = (
                f"cannot use the device state folder {path.parent}: {os.strerror(error.errno or 0)}; make it writable"
            )
            raise ConfigError(message) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = -1
            message = f"the device state {path} is in use by another process; one process owns a device"
            raise ConfigError(message) from None

    def read(self) -> dict[str, Field]:
        """Return the fields; `ConfigError` if the file is missing or open to others, `DecodeError` if it is damaged."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            message = f"no device state at {self.path}; enrol the device first (qflare enrol)"
            raise ConfigError(message) from None
        except OSError as error:
            message = f"cannot read the device state {self.path}: {os.strerror(error.errno or 0)}"
            raise ConfigError(message) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
                message = f"the device state {self.path} must be a file that only its owner can read: chmod 600 it"
                raise ConfigError(message)
            if status.st_size > SIZE_MAX:
                message = f"the device state {self.path} has {status.st_size} bytes, more than the {SIZE_MAX} allowed"
                raise DecodeError(message)
            buffer = bytearray(status.st_size)
            filled = 0
            with memoryview(buffer) as view:
                while filled < len(buffer) and (got := os.readv(descriptor, [view[filled:]])) > 0:
                    filled += got
        finally:
            os.close(descriptor)
        return decode_state(buffer)

    def write(self, fields: dict[str, Field]) -> None:
        """Replace the file as a whole: written beside it, synced, renamed, the folder synced."""
        buffer = encode_state(fields)
        # A name of its own for each write: a leftover of a crash never blocks the next write.
        temporary = self.path.with_name(f".{self.path.name}.{random_bytes(8).hex()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                written = 0
                with memoryview(buffer) as view:
                    while written < len(buffer):
                        written += os.write(descriptor, view[written:])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            remedy = "free some space" if error.errno == errno.ENOSPC else "make its folder writable"
            message = f"cannot write the device state {self.path}: {os.strerror(error.errno or 0)}; {remedy}"
            raise StoreError(message) from None
        finally:
            zeroize(buffer)

    def exists(self) -> bool:
        """Return whether there is a state file already."""
        return self.path.exists()

    def close(self) -> None:
        """Let another process have the state. Safe to call twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _size(field: Field) -> int:
    match field:
        case None:
            return _FIELD_BYTES
        case int():
            return _FIELD_BYTES + _INTEGER_BYTES
        case str():
            return _FIELD_BYTES + len(field.encode())
        case bytes() | SecretBytes():
            return _FIELD_BYTES + len(field)
        case list():
            return _FIELD_BYTES + sum(_size(item) for item in field)
        case dict():
            return _FIELD_BYTES + sum(_size(name) + _size(item) for name, item in field.items())


def _put(out: memoryview, at: int, field: Field) -> int:
    """Write *field* at *at* and return where it ends."""
    start = at + _FIELD_BYTES
    match field:
        case None:
            kind, end = b"n", start
        case int():
            kind, end = b"i", start + _INTEGER_BYTES
            out[start:end] = field.to_bytes(_INTEGER_BYTES)
        case str():
            text = field.encode()
            kind, end = b"s", start + len(text)
            out[start:end] = text
        case bytes():
            kind, end = b"b", start + len(field)
            out[start:end] = field
        case SecretBytes():
            kind, end = b"k", start + len(field)
            with field.view() as view:
                out[start:end] = view
        case list():
            kind, end = b"l", start
            for item in field:
                end = _put(out, end, item)
        case dict():
            kind, end = b"d", start
            for name, item in field.items():
                end = _put(out, _put(out, end, name), item)
    out[at:start] = kind + (end - start).to_bytes(4)
    return end


def _take(view: memoryview, at: int, end: int, depth: int) -> tuple[Field, int]:
    """Read the field at *at* and return it and where it ends; nothing reads beyond *end*."""
    if end - at < _FIELD_BYTES or depth == 0:
        raise _malformed()
    kind, start = chr(view[at]), at + _FIELD_BYTES
    stop = start + int.from_bytes(view[at + 1 : start])
    if stop > end:
        raise _malformed()
    if kind == "l":
        return _take_list(view, start, stop, depth - 1), stop
    if kind == "d":
        return _take_pairs(view, start, stop, depth - 1), stop
    return _leaf(kind, view[start:stop]), stop


def _leaf(kind: str, body: memoryview) -> Field:
    match kind, len(body):
        case "n", 0:
            return None
        case "i", size if size == _INTEGER_BYTES:
            return int.from_bytes(body)
        case "s", _:
            try:
                return str(body, "utf-8")
            except UnicodeDecodeError:
                raise _malformed() from None
        case "b", _:
            return bytes(body)
        case "k", _:
            return SecretBytes(bytearray(body))
        case _:
            raise _malformed()


def _take_list(view: memoryview, at: int, stop: int, depth: int) -> list[Field]:
    items: list[Field] = []
    while at < stop:
        item, at = _take(view, at, stop, depth)
        items.append(item)
    return items


def _take_pairs(view: memoryview, at: int, stop: int, depth: int) -> dict[str, Field]:
    pairs: dict[str, Field] = {}
    while at < stop:
        name, at = _take(view, at, stop, depth)
        if not isinstance(name, str) or name in pairs:
            raise _malformed()
        pairs[name], at = _take(view, at, stop, depth)
    return pairs


def _malformed() -> DecodeError:
    return DecodeError("the device state file is malformed; enrol the device again with a new token")
