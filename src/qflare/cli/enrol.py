"""`qflare enrol`: the device's side of enrolment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options

TOKEN_CHARS_MAX = 4096
"""A token has some 160 characters; more is not read."""


def enrol(
    *,
    server: options.Server,
    device_id: options.DeviceName,
    state: options.State,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="File with the enrolment token; else it is read from stdin."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Enrol this device, with a token from stdin or a file."""
    from qflare.cli.output import emit
    from qflare.device import Device

    # WHY no --token: a command line can be read by every user of the machine.
    with Device.enrol(server, read_token(token_file), device_id=device_id, state=state) as device:
        emit(
            {
                "device_id": device.device_id,
                "ref": device.ref,
                "server_id": device.server_id,
                "state": str(state),
            },
            as_json=as_json,
        )


def read_token(path: Path | None) -> str:
    """
    Return the token from *path*, from stdin, or from a person who types it unseen.

    Raises:
        ConfigError: the file cannot be read, or holds no text.
    """
    from qflare.errors import ConfigError

    try:
        if path is not None and str(path) != "-":
            with path.open(encoding="ascii") as file:
                text = file.read(TOKEN_CHARS_MAX)
        elif sys.stdin.isatty():
            from getpass import getpass

            text = getpass("Enrolment token: ")
        else:
            text = sys.stdin.read(TOKEN_CHARS_MAX)
    except OSError as failure:
        raise ConfigError(f"cannot read the token from {path}: {failure.strerror}") from None
    except UnicodeError:
        raise ConfigError(f"there is no enrolment token in {path or 'stdin'}: it is ASCII text") from None
    if not text.strip():
        raise ConfigError("the enrolment token is empty: give it on stdin or with --token-file")
    return text.strip()
