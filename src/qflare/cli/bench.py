"""`qflare bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="JSON with every figure.")] = Path(
        "benchmarks.json"
    ),
    plot: Annotated[Path, typer.Option("--plot", metavar="FILE", help="PNG with the ratios.")] = Path("benchmarks.png"),
) -> None:
    """Measure this machine; from the source tree."""
    from qflare.service.bench import run_bench

    run_bench(output, plot)
