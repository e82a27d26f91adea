"""`qflare migrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from qflare.cli import options


def migrate(
    *,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run; change nothing.")] = False,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Set up the database's schema, or bring it up to date.

    Needs the login that set it up, or a superuser's.
    """
    import asyncio

    from qflare.cli.managing import choose_dsn, require_server
    from qflare.cli.output import emit

    require_server()
    from qflare.service.migrating import migrate_database

    done = asyncio.run(migrate_database(choose_dsn(dsn), data_dir, is_plan=plan))
    facts: dict[str, object] = {
        "found": done.found,
        "version": done.version,
        "steps": list(done.steps),
        "is_plan": plan,
    }
    if not done.steps:
        text = f"the schema is up to date: version {done.version}"
    else:
        verb = "would apply" if plan else "applied"
        text = "\n".join([f"{verb} {step}" for step in done.steps])
    emit(facts, as_json=as_json, text=text)
