"""`qflare bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options


def bench(
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
    from qflare.cli.output import emit
    from qflare.service.bench import run_bench

    report = run_bench(output, plot, is_quick=quick, only=only)
    written = f"\nwritten: {report.json_path}, {report.markdown_path}, {report.plot_path}"
    emit(report.to_json(), as_json=as_json, text=report.text + written)
