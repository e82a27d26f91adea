"""`qflare backup` and `qflare restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options


def backup(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, which becomes yours alone.")],
    *,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Write the database into a file; the sealing keys are not in it.

    Needs a login that sees every tenant. Back up the keeper's folder (KEK_L) apart from it, once.
    """
    import asyncio
    import dataclasses

    from qflare.cli.managing import choose_dsn, require_server
    from qflare.cli.output import aligned, emit

    require_server()
    from qflare.service.restoring import back_up

    done = asyncio.run(back_up(path, dsn=choose_dsn(dsn), data_dir=data_dir))
    facts: dict[str, object] = {"written": str(path), **dataclasses.asdict(done)}
    emit(
        facts,
        as_json=as_json,
        text=f"{aligned(facts)}\nnot in it: the keeper's long-term key, without which the file opens nothing",
    )


def restore(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="What qflare backup wrote; absent with --accept.")
    ] = None,
    *,
    accept: Annotated[bool, typer.Option("--accept", help="Accept a database that other tools restored.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Drop the schema that stands first.")] = False,
    unchecked: Annotated[
        bool,
        typer.Option("--unchecked", help="Take a file without a checksum, of pg_dump or of a qflare from before."),
    ] = False,
    gap: Annotated[
        int,
        typer.Option("--gap", metavar="N", min=0, help="Sizes of the log to leave out if the marks are lost."),
    ] = 0,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Restore a backup and begin anew on it: no session survives.

    Workers must be stopped. The log says what is missing; devices shake hands again by themselves.
    """
    import asyncio
    import dataclasses

    from qflare.cli.managing import choose_dsn, require_server
    from qflare.cli.output import aligned, emit
    from qflare.errors import ConfigError

    if (path is None) == (not accept):
        raise ConfigError("name a file to restore, or pass --accept for a database that was restored already")
    if replace and path is None:
        raise ConfigError("--replace goes with a file to restore")
    if unchecked and path is None:
        raise ConfigError("--unchecked goes with a file to restore")
    require_server()
    from qflare.manager.settings import ManagerSettings
    from qflare.service.config import read_settings
    from qflare.service.restoring import restore as run

    done = asyncio.run(
        run(
            path,
            dsn=choose_dsn(dsn),
            data_dir=data_dir,
            settings=read_settings(ManagerSettings),
            replaces=replace,
            is_unchecked=unchecked,
            gap=gap,
        )
    )
    facts: dict[str, object] = dataclasses.asdict(done)
    advice = "revoke again what was revoked since the copy was made"
    if done.serial_found < done.serial_in_force:
        advice += (
            f"\nthe announce and log keys were rotated since the copy was made: it has the certificate of serial "
            f"{done.serial_found}, {done.serial_in_force} was in force; devices that followed refuse the older one: "
            "rotate at once with  qflare identity rotate , or  request  where the root is offline"
        )
    emit(facts, as_json=as_json, text=f"{aligned(facts)}\n{advice}")
