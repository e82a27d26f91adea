"""`qflare audit`: the signed log, checked from outside the server."""

from __future__ import annotations

import typer

app = typer.Typer(name="audit", help="Check and read the audit log.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check and read the audit log."""
