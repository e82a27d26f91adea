"""`qflare bench` and `qflare bench load`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options

app = typer.Typer(
    name="bench",
    help="Measure this machine against the published timings and the raw library; run from the source tree.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def bench(
    context: typer.Context,
    *,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="JSON with every figure; the table goes beside it.")
    ] = Path("build/bench/benchmarks.json"),
    plot: Annotated[Path, typer.Option("--plot", metavar="FILE", help="PNG with the ratios.")] = Path(
        "build/bench/benchmarks.png"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Few, short rounds: only to see that it runs.")] = False,
    only: Annotated[
        str | None, typer.Option("--only", metavar="EXPRESSION", help="Choose as pytest's -k does.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure this machine against the published timings and the raw library; run from the source tree."""
    if context.invoked_subcommand is not None:
        return
    from qflare.cli.output import emit
    from qflare.service.bench import run_bench

    report = run_bench(output, plot, is_quick=quick, only=only)
    written = f"\nwritten: {report.json_path}, {report.markdown_path}, {report.plot_path}"
    emit(report.to_json(), as_json=as_json, text=report.text + written)


@app.command("load")
def load(
    *,
    form: Annotated[str, typer.Option("--form", metavar="FORM", help="hello or offer.")] = "hello",
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="N", help="Handshakes a second; without it the highest that holds is sought."),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="Length of a stretch.")] = 5.0,
    stretches: Annotated[int, typer.Option("--stretches", metavar="N", help="Measured stretches at a rate.")] = 2,
    latency_ms: Annotated[
        float, typer.Option("--latency-ms", metavar="MS", help="What 99 of 100 requests stay below where a rate holds.")
    ] = 250.0,
    devices: Annotated[int, typer.Option("--devices", metavar="N", help="Devices to register and use in turn.")] = 2000,
    connections: Annotated[int, typer.Option("--connections", metavar="N", help="HTTP connections.")] = 256,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Worker processes of the server.")] = 2,
    dsn: options.Dsn = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="JSON with every trial and histogram.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Start a server and offer it handshakes in an open loop; the database named by --dsn keeps what the load wrote."""
    import asyncio
    import json
    import sys

    from qflare.cli.managing import choose_dsn, require_server
    from qflare.cli.output import emit

    require_server()
    from qflare.service.load import LoadOptions, run_load

    chosen = LoadOptions(
        form=form,
        rate=rate,
        seconds=seconds,
        stretches=stretches,
        latency_ms=latency_ms,
        devices=devices,
        connections=connections,
        workers=workers,
        dsn=choose_dsn(dsn),
    )
    report = asyncio.run(run_load(chosen, say=lambda line: print(line, file=sys.stderr, flush=True)))
    if output is not None:
        output.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    emit(report.to_json(), as_json=as_json, text=report.text)


@app.command("compare")
def compare(
    baseline: Annotated[Path, typer.Argument(metavar="BASELINE", help="JSON of an earlier run on this machine.")],
    newer: Annotated[Path, typer.Argument(metavar="NEWER", help="JSON of the run to look at.")] = Path(
        "build/bench/benchmarks.json"
    ),
    *,
    as_json: options.Json = False,
) -> None:
    """Say which ratios became worse since an earlier run on this machine; ends with 1 if any did."""
    from qflare.cli.exits import ExitCode
    from qflare.cli.output import emit
    from qflare.service.bench.compare import compare as compare_runs

    found = compare_runs(baseline, newer)
    emit(found.to_json(), as_json=as_json, text=found.text)
    if found.regressions:
        raise typer.Exit(ExitCode.FAILED)


@app.command("flame")
def flame(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="SVG to write.")] = Path(
        "build/bench/flame.svg"
    ),
    only: Annotated[
        str, typer.Option("--only", metavar="EXPRESSION", help="Which benchmarks, as pytest's -k.")
    ] = "test_cpu and 256",
) -> None:
    """Draw where the time of benchmarks goes, in Python and C, as a flame graph."""
    from qflare.service.bench.flame import draw_flames

    draw_flames(output, only=only)
    print(f"written: {output}")
