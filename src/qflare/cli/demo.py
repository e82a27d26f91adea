"""`qflare demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options


def demo(
    *,
    devices: Annotated[int, typer.Option("--devices", metavar="N", min=2, help="How many devices take part.")] = 10,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Rounds of training.")] = 20,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where report, plot and logs are written.")
    ] = Path("demo-output"),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of data split and training.")] = 1,
    as_json: options.Json = False,
) -> None:
    """Train a model over QFLARE, attacks included."""
    from qflare.cli.output import emit
    from qflare.service.demo.run import run_demo

    emit(run_demo(devices=devices, rounds=rounds, folder=folder, seed=seed, as_json=as_json), as_json=as_json)
