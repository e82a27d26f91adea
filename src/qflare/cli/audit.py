"""`qflare audit`: the signed log, checked as a whole and against what devices hold."""

from __future__ import annotations

import typer

from qflare.cli import (
    audit_archive,
    audit_countersign,
    audit_disclose,
    audit_drop,
    audit_erase,
    audit_export,
    audit_prove,
    audit_show,
    audit_tail,
    audit_verify,
    audit_watch,
)

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
app.command("show")(audit_show.show)
