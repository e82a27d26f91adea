"""The commands by name; each loads its own half of QFLARE only when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from qflare.cli import (
    backup,
    bench,
    completion,
    dashboards,
    demo,
    devices,
    doctor,
    enrol,
    identity,
    incidents,
    issued,
    keys,
    migrate,
    operators,
    policy,
    roster,
    serve,
    sessions,
    signer,
    tenants,
    tokens,
)
from qflare.errors import MissingExtraError

app = typer.Typer(
    name="qflare",
    help="Post-quantum session keys for federated-learning aggregation servers.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 unavailable, 5 evidence, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # the same text everywhere, and a shell that starts at once
    pretty_exceptions_enable=False,  # main.py tells errors, and no traceback shows locals
)


def _version(value: bool) -> None:  # noqa: FBT001 - typer's signature
    if value:
        from importlib.metadata import version

        print(f"qflare {version('qflare')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Post-quantum session keys for federated-learning aggregation servers."""


app.command("serve")(serve.serve)
app.command("signer")(signer.signer)
app.command("enrol")(enrol.enrol)
app.add_typer(tokens.app)
app.add_typer(issued.app)
app.add_typer(roster.app)
app.add_typer(sessions.app)
app.add_typer(keys.app)
app.add_typer(tenants.app)
app.add_typer(operators.app)
app.add_typer(policy.app)
app.add_typer(identity.app)
app.add_typer(incidents.app)
app.add_typer(devices.app)
app.command("demo")(demo.demo)
app.command("migrate")(migrate.migrate)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("doctor")(doctor.doctor)
try:
    from qflare.cli import audit
except ImportError as missing:
    # The wheel for devices leaves the auditor's tools out, and says so.
    if missing.name not in {"qflare.cli", "qflare.cli.audit"}:
        raise

    @app.command("audit", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def _audit() -> None:
        """Check and read the audit log (the whole wheel has it)."""
        raise MissingExtraError(feature="this command", extra="server", package="qflare.cli.audit") from None
else:
    app.add_typer(audit.app)
app.add_typer(bench.app)
app.command("dashboards")(dashboards.dashboards)
app.command("completion")(completion.completion)
