"""`qflare audit`: the signed log, checked as a whole and against what devices hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import (
    audit_archive,
    audit_countersign,
    audit_disclose,
    audit_drop,
    audit_erase,
    audit_export,
    audit_prove,
    audit_tail,
    audit_verify,
    audit_watch,
    options,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import AuditEntry

app = typer.Typer(name="audit", help="Check and read the audit log.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check and read the audit log."""


app.command("verify", epilog="Exit codes: 0 the log holds, 1 it does not, 2 it could not be checked.")(
    audit_verify.verify
)
app.command("export")(audit_export.export)
app.command("prove")(audit_prove.prove)
app.command("watch", epilog="Exit codes: those of every command, and 6: the log shrank or shows another history.")(
    audit_watch.watch
)
app.command("disclose")(audit_disclose.disclose)
app.command(
    "verify-disclosure", epilog="Exit codes: 0 the disclosure holds, 1 it does not, 2 it could not be checked."
)(audit_disclose.verify_disclosure)
app.command("countersign")(audit_countersign.countersign)
app.command("witness-key")(audit_watch.witness_key)
app.command("tail")(audit_tail.tail)
app.command("erase")(audit_erase.erase)
app.command("archive")(audit_archive.archive)
app.command("drop")(audit_drop.drop)


@app.command("show")
def show(
    *,
    first: Annotated[int, typer.Option("--first", metavar="INDEX", min=0, help="Index of the first entry.")] = 0,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 100,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show entries of the default tenant's log."""
    import asyncio

    from qflare.cli.audit_entry import entry_facts, entry_line
    from qflare.cli.managing import open_monitor
    from qflare.cli.output import emit

    async def run() -> Sequence[AuditEntry]:
        async with open_monitor(dsn, data_dir) as monitor:
            return await monitor.list_events(first=first, limit=limit)

    entries = asyncio.run(run())
    facts = {"entries": [entry_facts(entry) for entry in entries]}
    emit(facts, as_json=as_json, text="\n".join(map(entry_line, entries)) or "no entries")
