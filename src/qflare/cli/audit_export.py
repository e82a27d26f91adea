"""`qflare audit export`: the log as a file that is checked without the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import options
from qflare.cli.audit_files import read_note

if TYPE_CHECKING:
    from qflare.model.event import SignedCheckpoint
    from qflare.monitor.export import ExportReport

Progress = Annotated[bool, typer.Option("--progress", help="Show progress on stderr where that is no terminal, too.")]


def export(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE|FOLDER]", help="A new file; or a folder, which gets what it lacks as a part."),
    ] = None,
    *,
    tiles: Annotated[
        Path | None,
        typer.Option("--tiles", metavar="FOLDER", help="Write the tree there for publication: hashes, no entries."),
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="NOTE", help="A signed head that you kept: only what came after it."),
    ] = None,
    progress: Progress = False,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Write the log to a file that  qflare audit verify --export  checks without the database.

    Needs read access alone. Holds every entry up to the latest signed head, with what tenants wrote into them.
    """
    import asyncio

    from qflare.cli.managing import choose_dsn, require_server
    from qflare.cli.output import aligned, emit
    from qflare.cli.progress import Progress as Shown
    from qflare.errors import ConfigError

    if (path is None) == (tiles is None) or (tiles is not None and since is not None):
        raise ConfigError("name a file or a folder for the entries, or --tiles with a folder for the tree's hashes")
    note = None if since is None else read_note(since)
    require_server()
    from qflare.service.auditing import open_audit
    from qflare.service.exports import write_export
    from qflare.service.tile_files import write_tiles

    shown = Shown("exported", is_wanted=progress)

    async def run(path: Path) -> tuple[Path, ExportReport] | None:
        async with open_audit(choose_dsn(dsn), data_dir) as audit:
            return await write_export(audit, path, since=note, progress=shown)

    async def publish(folder: Path) -> tuple[SignedCheckpoint, int]:
        async with open_audit(choose_dsn(dsn), data_dir) as audit:
            return await write_tiles(audit, folder, progress=shown)

    try:
        if tiles is not None:
            head, count = asyncio.run(publish(tiles))
            published: dict[str, object] = {"written": str(tiles), "size": head.size, "root": head.root, "tiles": count}
            emit(published, as_json=as_json, text=aligned(published))
            return
        done = asyncio.run(run(path)) if path is not None else None
    finally:
        shown.end()
    if done is None:
        emit({"written": None}, as_json=as_json, text="nothing was signed since the last part")
        return
    written, report = done
    facts: dict[str, object] = {
        "written": str(written),
        "first": report.first,
        "size": report.size,
        "root": report.checkpoint.root,
        "signed_heads": report.heads,
    }
    emit(facts, as_json=as_json, text=aligned(facts))
