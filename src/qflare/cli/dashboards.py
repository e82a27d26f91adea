"""`qflare dashboards`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options


def dashboards(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; files of the same names are replaced.")],
    *,
    as_json: options.Json = False,
) -> None:
    """Write dashboards for Grafana and alert rules for Prometheus."""
    from qflare.cli.output import emit
    from qflare.service.dashboards.writing import write

    written = [str(path) for path in write(folder)]
    emit({"files": written}, as_json=as_json, text="\n".join(written))
