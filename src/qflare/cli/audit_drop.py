"""`qflare audit drop`: entries that archives hold, gone from the database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options


def drop(
    *,
    archive: Annotated[
        list[Path],
        typer.Option("--archive", metavar="FILE", help="An archive; all of them in their order, from entry 0 on."),
    ],
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", metavar="FILE", help="The archives' passphrase, else typed.")
    ] = None,
    confirm: Annotated[
        int | None,
        typer.Option("--confirm", metavar="SIZE", help="The size they end at: drop; else only say what would be."),
    ] = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Drop archived entries from the database, whole and from the beginning on.

    Needs the login that may change the schema. Checks the archives first, and the log tells of them; proofs go on as
    before, and the whole log is checked with  qflare audit verify --archive.
    """
    import asyncio

    from qflare.cli.managing import choose_dsn, require_server
    from qflare.cli.output import emit
    from qflare.cli.passphrase import read_passphrase

    require_server()
    from qflare.service.dropping import drop_archived

    with read_passphrase(passphrase_file, is_new=False) as passphrase:
        report = asyncio.run(drop_archived(choose_dsn(dsn), data_dir, archive, passphrase, confirmed=confirm))
    text = (
        f"would drop the entries before {report.size}; to drop them:  --confirm {report.size}"
        if report.dropped is None
        else f"dropped {report.dropped} entries before {report.size}"
    )
    emit({"size": report.size, "dropped": report.dropped}, as_json=as_json, text=text)
