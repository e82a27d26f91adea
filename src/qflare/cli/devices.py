"""`qflare device`: an enrolled device at work, from its state file."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import options

if TYPE_CHECKING:
    from qflare.device import Device

MESSAGE_BYTES_MAX = 2**30
"""Largest message that is read from a file or stdin."""

app = typer.Typer(name="device", help="Use an enrolled device.", no_args_is_help=True)


class FormName(StrEnum):
    """Which side starts the handshake."""

    HELLO = "hello"
    OFFER = "offer"


@app.callback()
def _group() -> None:
    """Use an enrolled device."""


@app.command("show")
def show(*, state: options.State, as_json: options.Json = False) -> None:
    """Show who the device is and its session."""
    from qflare.cli.output import emit
    from qflare.device import Device

    with Device.open(state) as device:
        emit(_facts(device), as_json=as_json)


@app.command("connect")
def connect(
    *,
    state: options.State,
    server: options.Server,
    form: Annotated[
        FormName, typer.Option("--form", metavar="hello|offer", help="Who starts: the device or the server.")
    ] = FormName.HELLO,
    attempts: Annotated[
        int, typer.Option("--attempts", metavar="N", min=1, help="How often to start over when refused.")
    ] = 1,
    as_json: options.Json = False,
) -> None:
    """Make a session with the server."""
    from qflare.cli.output import emit
    from qflare.device import Device

    with Device.open(state, server) as device:
        device.connect("hello" if form is FormName.HELLO else "offer", attempts=attempts)
        emit(_facts(device), as_json=as_json)


@app.command("send")
def send(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The message; - reads stdin.")],
    state: options.State,
    server: options.Server,
    reply: Annotated[
        Path | None, typer.Option("--reply", metavar="FILE", help="New file for the server's reply, 0600.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Send one sealed record and open the reply."""
    from qflare.cli.output import emit
    from qflare.device import Device

    message = _read_message(file)
    with Device.open(state, server) as device:
        answer = device.exchange(message)
        size = None
        if answer is not None:
            with answer.plaintext as plaintext, plaintext.view() as view:
                size = len(view)
                if reply is not None:
                    _write_new(reply, view)
        emit({"sent_bytes": len(message), "reply_bytes": size}, as_json=as_json)


@app.command("evidence")
def evidence(
    *,
    state: options.State,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="New file for the evidence; else stdout.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Export the session's receipt for third parties; it is JSON in either case."""
    from qflare.cli.output import emit
    from qflare.device import Device

    with Device.open(state) as device:
        text = device.evidence().to_json()
    if output is None:
        print(text)
    else:
        _write_new(output, memoryview(text.encode() + b"\n"))
        if as_json:
            emit({"written": str(output)}, as_json=True)


def _facts(device: Device) -> dict[str, object]:
    session = device.session
    return {
        "device_id": device.device_id,
        "ref": device.ref,
        "server_id": device.server_id,
        "bucket": device.bucket,
        "session": None
        if session is None
        else {
            "sid": session.sid.hex(),
            "form": session.form,
            "start": session.start,
            "lifetime": session.lifetime,
            "bucket": session.bucket,
        },
    }


def _read_message(path: Path) -> bytes:
    from qflare.errors import ConfigError

    try:
        if str(path) == "-":
            message = sys.stdin.buffer.read(MESSAGE_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                message = file.read(MESSAGE_BYTES_MAX + 1)
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
    if len(message) > MESSAGE_BYTES_MAX:
        raise ConfigError(f"{path} has more than the {MESSAGE_BYTES_MAX} bytes a message may have")
    return message


def _write_new(path: Path, content: memoryview) -> None:
    import os

    from qflare.errors import ConfigError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}; name a new file in a folder you own") from None
