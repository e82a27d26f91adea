"""`qflare token`: enrolment tokens, made on the server's side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import listing, options

app = typer.Typer(name="token", help="Make enrolment tokens (server side).", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Make enrolment tokens (server side)."""


@app.command("issue")
def issue(
    device_id: Annotated[str, typer.Argument(metavar="NAME", help="The device's name.")],
    *,
    valid_s: Annotated[
        int, typer.Option("--valid-s", metavar="SECONDS", help="Seconds until the token expires.")
    ] = 86_400,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="New file for the token, 0600; else stdout.")
    ] = None,
    call_id: options.CallId = None,
    tenant: options.Tenant = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Issue a token with which one device enrols once."""
    import asyncio

    from qflare.cli.managing import open_manager
    from qflare.cli.output import emit

    change = listing.parse_call_id(call_id)

    async def run() -> str:
        async with open_manager(dsn, data_dir, tenant=tenant) as manager:
            return await manager.issue_enrolment_token(device_id, valid_s=valid_s, call_id=change)

    if output is not None:
        require_new(output)
    token = asyncio.run(run())
    facts: dict[str, object] = {"device_id": device_id, "valid_s": valid_s}
    if output is None:
        emit(facts | {"token": token}, as_json=as_json, text=token)
        return
    write_secret(output, token + "\n")
    emit(facts | {"output": str(output)}, as_json=as_json, text=f"token for {device_id} in {output}")


def write_secret(path: Path, text: str) -> None:
    """Write a new file that only its owner can read."""
    import os

    from qflare.errors import ConfigError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}; name a new file in a folder you own") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def require_new(path: Path) -> None:
    """
    Refuse before something is made that could not be kept.

    Raises:
        ConfigError: *path* exists, or its folder does not.
    """
    from qflare.errors import ConfigError

    if path.exists():
        raise ConfigError(f"{path} exists already; name a new file")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for {path.name}; make it first")
