"""`qflare audit`: the signed log, checked as a whole and against what devices hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import audit_disclose, audit_erase, audit_export, audit_prove, audit_verify, audit_watch, options

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
app.command("erase")(audit_erase.erase)


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

    from qflare.cli.managing import open_monitor
    from qflare.cli.output import emit

    async def run() -> Sequence[AuditEntry]:
        async with open_monitor(dsn, data_dir) as monitor:
            return await monitor.list_events(first=first, limit=limit)

    entries = [_facts(entry) for entry in asyncio.run(run())]
    text = "\n".join(
        f"{entry['index']:>8}  {entry['recorded_at']}  {entry['severity']:8}  {entry['event_type']:22}"
        f"  {entry['device_id'] or ''}  {'(erased)' if entry['is_erased'] else entry['data']}"
        for entry in entries
    )
    emit({"entries": entries}, as_json=as_json, text=text or "no entries")


def _facts(entry: AuditEntry) -> dict[str, object]:
    return {
        "index": entry.index,
        "event_type": entry.event_type.value,
        "severity": entry.severity.value,
        "device_id": entry.device_id,
        "recorded_at": entry.recorded_at.isoformat(timespec="milliseconds"),
        "leaf_hash": entry.leaf_hash,
        "is_erased": entry.is_erased,
        "data": entry.data.decode(),
    }
