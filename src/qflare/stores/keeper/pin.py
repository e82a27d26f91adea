"""Where the token's PIN comes from: a file of this user alone, or an inherited descriptor; never an argument."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from qflare.errors import ConfigError, KeeperError
from qflare.secret import SecretBytes
from qflare.stores.keeper.files import read_file, unusable

_PIN_BYTES_MAX: Final = 256
_from_descriptors: dict[int, SecretBytes] = {}
"""A pipe is read once, and the PIN is needed again whenever the token comes back."""


def read_pin(source: str) -> SecretBytes:
    """
    Return the PIN; the caller wipes it.

    Args:
        source: ``file:/path`` or ``fd:N``.

    Raises:
        ConfigError: the file is missing, empty or too long, or the descriptor is not open.
        KeeperError: the file belongs to somebody else or is open to others.
    """
    kind, _, rest = source.partition(":")
    if kind == "fd":
        return _from_descriptor(int(rest))
    path = Path(rest)
    try:
        content = read_file(path)
    except OSError as error:
        raise unusable(path, error) from None
    except KeeperError:
        raise KeeperError(f"the PIN in {path} is open to others or not this user's; chmod 600 it") from None
    if content is None:
        raise ConfigError(f"there is no file {path} with the token's PIN")
    return _trimmed(content, str(path))


def _from_descriptor(descriptor: int) -> SecretBytes:
    held = _from_descriptors.get(descriptor)
    if held is None:
        content = bytearray(_PIN_BYTES_MAX + 1)
        try:
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                size = 0
                with memoryview(content) as view:
                    while size < len(content) and (read := file.readinto(view[size:])):
                        size += read
        except OSError:
            raise ConfigError(f"descriptor {descriptor} with the token's PIN is not open in this process") from None
        del content[size:]
        held = _from_descriptors[descriptor] = _trimmed(content, f"descriptor {descriptor}")
    return SecretBytes.copy_of(held)


def _trimmed(content: bytearray, where: str) -> SecretBytes:
    while content and content[-1] in b"\r\n":
        content.pop()
    with SecretBytes(content) as pin:
        if not 0 < len(pin) <= _PIN_BYTES_MAX:
            raise ConfigError(f"the token's PIN in {where} must be one line of 1 to {_PIN_BYTES_MAX} bytes")
        return SecretBytes.copy_of(pin)
