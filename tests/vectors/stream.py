"""The fixed random stream, and how values are written as JSON."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from qflare.primitives.random import drawing_from
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Value = int | str | bytes | SecretBytes | list["Value"] | dict[str, "Value"]


def draw(label: str, size: int) -> bytes:
    """The first *size* bytes of the stream named *label*."""
    return hashlib.shake_256(b"QFX-1 vectors: " + label.encode("ascii")).digest(size)


def seed(label: str, size: int) -> SecretBytes:
    """The same, as a secret."""
    return SecretBytes.copy_of(draw(label, size))


def drawing(label: str, size: int = 1 << 14) -> AbstractContextManager[None]:
    """All randomness inside the block comes from the stream named *label*."""
    return drawing_from(draw(label, size))


def plain(value: Value | bytearray | memoryview) -> object:
    """*value* as JSON takes it: bytes become lower-case hexadecimal."""
    if isinstance(value, SecretBytes):
        return value.view().hex()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value
