"""A passphrase for a command: from a file or typed unseen, never from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from qflare.errors import ConfigError
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from pathlib import Path

_BYTES_MAX = 1025
"""One more than a passphrase may have, so that a longer one is seen."""


def read_passphrase(
    path: Path | None, *, is_new: bool, what: str = "passphrase", option: str = "--passphrase-file"
) -> SecretBytes:
    """
    Return the passphrase: the first line of *path*, or what a person types, twice where it *is_new*.

    *what* it is and the *option* that names a file are for the errors.

    Raises:
        ConfigError: the file cannot be read, nobody is there to type, or what was typed differs.
    """
    if path is not None:
        try:
            with path.open("rb") as file:
                line = file.readline(_BYTES_MAX + 1)
        except OSError as failure:
            raise ConfigError(f"cannot read the {what} from {path}: {failure.strerror}") from None
        return SecretBytes.copy_of(line.rstrip(b"\r\n"))
    if not sys.stdin.isatty():
        raise ConfigError(f"there is nobody to type the {what}: give it with {option}")
    from getpass import getpass

    # SAFETY: a terminal gives text, which Python cannot wipe; it is copied at once and the process is short.
    typed = SecretBytes.copy_of(getpass(f"{what.capitalize()}: ").encode())
    if is_new:
        with SecretBytes.copy_of(getpass("Passphrase again: ").encode()) as again:
            if not typed.equals(again):
                typed.wipe()
                raise ConfigError("the two passphrases differ: try again")
    return typed
