"""Options that several commands share, each with one name and one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Dsn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--dsn", metavar="DSN", help="PostgreSQL to use; better given as QFLARE_DSN, which no process list shows."
    ),
]
DataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Folder of the embedded PostgreSQL and the sealing keys."),
]
State: TypeAlias = Annotated[Path, typer.Option("--state", metavar="FILE", help="The device's state file.")]
Server: TypeAlias = Annotated[str, typer.Option("--server", metavar="URL", help="Address of the aggregation server.")]
DeviceName: TypeAlias = Annotated[str, typer.Option("--device-id", metavar="NAME", help="The device's name.")]
CallId: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--call-id", metavar="HEX", help="Names this change, 32 random hex digits: asked for again, it is done once."
    ),
]
Tenant: TypeAlias = Annotated[
    str | None,
    typer.Option("--tenant", metavar="HEX", help="The device's tenant, 32 hex digits; else the default one."),
]
