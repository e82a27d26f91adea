"""`qflare audit show`: entries of the log, in the database or in archives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.service.archived_entries import ArchivedEntry


def show(
    *,
    first: Annotated[int, typer.Option("--first", metavar="INDEX", min=0, help="Index of the first entry.")] = 0,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 100,
    archive: Annotated[
        list[Path] | None,
        typer.Option("--archive", metavar="FILE", help="Show this archive's entries instead; several in their order."),
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", metavar="FILE", help="The archives' passphrase, else typed.")
    ] = None,
    opened: Annotated[
        bool, typer.Option("--open", help="Of an archive: open what is about devices, with the keys in the database.")
    ] = False,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show entries of the default tenant's log.

    An archive is read without the database; what it holds about devices stays sealed without --open. Whether it is of
    the signed log is for  qflare audit verify --archive FILE.
    """
    import asyncio

    from qflare.cli.audit_entry import entry_facts, entry_line
    from qflare.cli.managing import open_monitor
    from qflare.cli.output import emit
    from qflare.errors import UsageError

    if opened and not archive:
        raise UsageError("--open goes with --archive: what the database has it opens by itself")
    archived = _from_archives(archive, passphrase_file, first=first, limit=limit) if archive else ()

    async def from_database() -> Sequence[ArchivedEntry]:
        from qflare.service.archived_entries import ArchivedEntry

        async with open_monitor(dsn, data_dir) as monitor:
            if archive:
                return await monitor.open_archived(archived)
            events = await monitor.list_events(first=first, limit=limit)
            return [ArchivedEntry(each, is_sealed=False) for each in events]

    entries = asyncio.run(from_database()) if opened or not archive else archived
    facts = {"entries": [entry_facts(each.entry, is_sealed=each.is_sealed) for each in entries]}
    lines = [entry_line(each.entry, is_sealed=each.is_sealed) for each in entries]
    emit(facts, as_json=as_json, text="\n".join(lines) or "no entries")


def _from_archives(
    paths: Sequence[Path], passphrase_file: Path | None, *, first: int, limit: int
) -> Sequence[ArchivedEntry]:
    from qflare.cli.managing import require_server
    from qflare.cli.passphrase import read_passphrase
    from qflare.model.ids import DEFAULT_TENANT

    require_server()
    from qflare.service.archived_entries import read_archived

    with read_passphrase(passphrase_file, is_new=False) as passphrase:
        return read_archived(paths, passphrase, DEFAULT_TENANT, first=first, limit=limit)
