"""`qflare bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options


def bench(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="JSON with every figure.")] = Path(
        "benchmarks.json"
    ),
    plot: Annotated[Path, typer.Option("--plot", metavar="FILE", help="PNG with the ratios.")] = Path("benchmarks.png"),
    as_json: options.Json = False,
) -> None:
    """Measure this machine against the published timings; run from the source tree."""
    from qflare.service.bench import run_bench

    run_bench(output, plot)
