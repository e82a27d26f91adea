r"""
A witness's key in a file that only its owner reads.

    "QFLARE-WITNESS\x01" ‖ n (u8) ‖ name (n) ‖ verification key (1312) ‖ signing key (2560)
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, DecodeError
from qflare.primitives.sig import SIG44
from qflare.protocol.checkpoint import encode_origin
from qflare.protocol.cosignature import cosign_note
from qflare.protocol.log_key import LogKey
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_MAGIC: Final = b"QFLARE-WITNESS\x01"
_NAME_AT: Final = len(_MAGIC) + 1
_KEYS_BYTES: Final = SIG44.PK_BYTES + SIG44.SK_BYTES
_SIZE_MAX: Final = _NAME_AT + 255 + _KEYS_BYTES
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class WitnessKey:
    """An opened key; wiped at the end of the block that uses it."""

    def __init__(self, public: LogKey, signing_key: SecretBytes) -> None:
        self.public = public
        self._signing_key = signing_key

    def __enter__(self) -> Self:
        """Lend the key to a block."""
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Wipe it."""
        self._signing_key.wipe()

    def __repr__(self) -> str:
        """Say the name alone."""
        return f"<WitnessKey {self.public.origin}>"

    def cosign(self, note: str, *, time_s: int) -> str:
        """Add this witness's line to a note whose head was verified; errors as `cosign_note`."""
        return cosign_note(note, self.public, self._signing_key, time_s=time_s)


def make_witness_key(path: Path, name: str) -> LogKey:
    """
    Make a key of that name in a new file, mode 0600, and return its public half.

    Raises:
        ConfigError: the file stands already, or cannot be written.
        EntropyError: the random source failed.
        UsageError: the name cannot stand in a note.
    """
    encoded = encode_origin(name)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}; name a new file in a folder you own") from None
    try:
        with os.fdopen(descriptor, "wb", 0) as file:
            pair = SIG44.generate()
            with pair.signing_key as signing_key, signing_key.view() as view:
                for part in (_MAGIC, bytes((len(encoded),)), encoded, pair.verification_key, view):
                    file.write(part)
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return LogKey(origin=name, key=pair.verification_key)


def open_witness_key(path: Path) -> WitnessKey:
    """
    Open a key's file; use what it returns in a `with` block.

    Raises:
        ConfigError: the file cannot be read, or others than its owner may read it.
        DecodeError: it is none.
    """
    buffer = bytearray(_SIZE_MAX + 1)
    # Owned, and so wiped, from the first byte on.
    with SecretBytes(buffer) as content:
        try:
            with path.open("rb", buffering=0) as file, content.view() as view:
                if os.fstat(file.fileno()).st_mode & _OTHERS:
                    raise ConfigError(f"others may read {path}: chmod 600 it, and make a new key if they could have")
                size = file.readinto(view) or 0
        except OSError as failure:
            raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
        with content.view() as view:
            is_whole = bytes(view[: len(_MAGIC)]) == _MAGIC and size == _NAME_AT + view[_NAME_AT - 1] + _KEYS_BYTES
            name_end = _NAME_AT + view[_NAME_AT - 1]
            name = bytes(view[_NAME_AT:name_end]).decode(errors="replace") if is_whole else ""
            key = bytes(view[name_end : name_end + SIG44.PK_BYTES])
            if not is_whole:
                raise DecodeError(f"{path} is no witness's key: make one with  qflare audit witness-key")
            signing_key = SecretBytes.copy_of(view[name_end + SIG44.PK_BYTES : size])
    return WitnessKey(LogKey(origin=name, key=key), signing_key)
