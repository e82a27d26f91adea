"""`qflare doctor`: what this installation is made of, what is missing, and how to get it."""

from __future__ import annotations

from qflare.cli import options


def doctor(*, dsn: options.Dsn = None, as_json: options.Json = False) -> None:
    """Say what is installed, missing and promised."""
    import asyncio
    import dataclasses

    import typer

    import qflare
    from qflare.cli.exits import ExitCode
    from qflare.cli.managing import choose_dsn
    from qflare.cli.output import emit
    from qflare.manager.settings import ManagerSettings
    from qflare.service.config import read_settings
    from qflare.service.examination import examine

    about = qflare.about()
    settings = read_settings(ManagerSettings)
    found = asyncio.run(examine(dsn=choose_dsn(dsn), keeper=settings.keeper, keeper_dir=settings.keeper_dir))
    facts: dict[str, object] = {
        **{field.name: getattr(about, field.name) for field in dataclasses.fields(about)},
        **dataclasses.asdict(found),
        "is_well": found.database in {None, "ok"} and found.is_keeper_usable and all(about.self_test.values()),
    }
    emit(facts, as_json=as_json)
    if not facts["is_well"]:
        raise typer.Exit(ExitCode.FAILED)
