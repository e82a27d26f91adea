"""`qflare demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qflare.cli import options


def demo(
    *,
    devices: Annotated[int, typer.Option("--devices", metavar="N", help="How many devices take part.")] = 10,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Rounds of training.")] = 20,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where report, data and logs are written.")
    ] = Path("demo-output"),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of data split and training.")] = 7,
    width_s: Annotated[int, typer.Option("--width-s", metavar="SECONDS", help="Width of a bucket in this run.")] = 6,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the live page while it runs, and keep it open until Ctrl-C.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train a model over QFLARE, attacks included."""
    from qflare.cli.exits import ExitCode
    from qflare.errors import ConfigError
    from qflare.service.demo.options import DemoOptions
    from qflare.service.demo.progress import open_progress
    from qflare.service.demo.result import to_json
    from qflare.service.demo.run import run_demo
    from qflare.service.demo.summary import print_summary

    if watch and as_json:
        raise ConfigError("--watch says where the page is and --json says one object alone: choose one of them")
    chosen = DemoOptions(devices=devices, rounds=rounds, folder=folder, seed=seed, width_s=width_s, is_watched=watch)
    with open_progress(is_json=as_json) as progress:
        result = run_demo(chosen, progress)
    if as_json:
        print(to_json(result), flush=True)
    else:
        print_summary(result)
    if not result.is_successful:
        raise typer.Exit(ExitCode.FAILED)
