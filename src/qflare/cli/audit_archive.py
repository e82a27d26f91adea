"""`qflare audit archive`: old entries in a sealed file, with all that their rows hold."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import options

if TYPE_CHECKING:
    from qflare.service.archiving import ArchiveReport


def archive(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, 0600.")],
    *,
    before: Annotated[
        str, typer.Option("--before", metavar="DATE|INDEX", help="Entries before this day or time (UTC), or index.")
    ],
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", metavar="FILE", help="The passphrase to seal under, else typed.")
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option("--head", metavar="NOTE", help="A new file for the signed head it ends under, to countersign."),
    ] = None,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show progress on stderr where that is no terminal, too.")
    ] = False,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Write old entries, with their proofs, into a file sealed under a passphrase.

    Needs read access alone. Check it, with the database after it, by  qflare audit verify --archive FILE. The entries
    stay in the database.
    """
    import asyncio

    from qflare.cli.managing import choose_dsn, require_server
    from qflare.cli.output import aligned, emit
    from qflare.cli.passphrase import read_passphrase
    from qflare.cli.progress import Progress

    bound = _bound(before)
    require_server()
    from qflare.service.archiving import write_archive
    from qflare.service.auditing import open_audit
    from qflare.service.exports import new_file

    shown = Progress("archived", is_wanted=progress)

    async def run() -> ArchiveReport:
        async with open_audit(choose_dsn(dsn), data_dir) as audit:
            return await write_archive(audit, path, passphrase, before=bound, progress=shown)

    with (
        nullcontext() if head is None else new_file(head) as note,
        read_passphrase(passphrase_file, is_new=True) as passphrase,
    ):
        try:
            report = asyncio.run(run())
        finally:
            shown.end()
        if note is not None:
            note.write(report.note.encode())
    facts: dict[str, object] = {
        "written": str(path),
        "first": report.first,
        "size": report.size,
        "root": report.checkpoint.root,
    }
    emit(facts, as_json=as_json, text=aligned(facts))


def _bound(text: str) -> int | datetime:
    from qflare.errors import ConfigError

    if text.isdecimal() and len(text) < 19:  # noqa: PLR2004 - 2^63 has 19 digits
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "--before is a day such as 2026-03-31, a time such as 2026-03-31T12:00Z, or an index"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
