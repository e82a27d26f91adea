"""`qflare serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from qflare.cli import options


def serve(
    *,
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", help="Port to listen on; 0 takes a free one.")] = 8440,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Worker processes over one database.")] = 1,
    app: Annotated[
        str | None,
        typer.Option(
            "--app", metavar="MODULE:FACTORY", help="Called with the manager; returns the function for records."
        ),
    ] = None,
    dsn: options.Dsn = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Serve devices over HTTP until SIGTERM."""
    import asyncio
    import resource

    from qflare.cli.interrupts import ended_by_interrupts
    from qflare.cli.managing import choose_dsn
    from qflare.cli.output import emit
    from qflare.errors import MissingExtraError

    with ended_by_interrupts():
        try:
            from qflare.service.config import read_settings
            from qflare.service.logs import set_up_logging
            from qflare.service.metrics.settings import MetricsSettings
            from qflare.service.page.settings import PageSettings
            from qflare.service.serve import ServeOptions, Serving
            from qflare.service.serve import serve as run
        except ModuleNotFoundError as missing:
            if missing.name not in {"uvicorn", "starlette"}:
                raise
            raise MissingExtraError(feature="qflare serve", extra="server", package=missing.name or "") from None

    def announce(serving: Serving) -> None:
        facts: dict[str, object] = {
            "url": serving.url,
            "workers": list(serving.workers),
            "metrics": serving.metrics,
            "page": serving.page,
        }
        count = len(serving.workers)
        text = f"QFLARE serves on {serving.url} with {count} worker{'s' if count != 1 else ''}"
        if serving.metrics is not None:
            text += f"\nmetrics at {serving.metrics}"
        if serving.page is not None:
            text += f"\nlive page at {serving.page}; qflare operator add lets somebody log in"
        emit(facts, as_json=as_json, text=text)

    set_up_logging()
    # A dump of a worker would put keys on the disk that are destroyed everywhere else (R8); children inherit this.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    settings = ServeOptions(
        host=host,
        port=port,
        workers=workers,
        app=app,
        dsn=choose_dsn(dsn),
        data_dir=data_dir,
        metrics=read_settings(MetricsSettings),
        page=read_settings(PageSettings),
    )
    asyncio.run(run(settings, announce=announce))
