"""`qflare demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qflare.cli import options

if TYPE_CHECKING:
    from qflare.service.demo.result import DemoResult


def demo(
    *,
    devices: Annotated[int, typer.Option("--devices", metavar="N", help="How many devices take part.")] = 10,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Rounds of training.")] = 20,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where report, data and logs are written.")
    ] = Path("demo-output"),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of data split and training.")] = 7,
    width_s: Annotated[int, typer.Option("--width-s", metavar="SECONDS", help="Width of a bucket in this run.")] = 6,
    as_json: options.Json = False,
) -> None:
    """Train a model over QFLARE, attacks included."""
    from qflare.cli.exits import ExitCode
    from qflare.service.demo.options import DemoOptions
    from qflare.service.demo.progress import open_progress
    from qflare.service.demo.result import to_json
    from qflare.service.demo.run import run_demo

    chosen = DemoOptions(devices=devices, rounds=rounds, folder=folder, seed=seed, width_s=width_s)
    with open_progress(is_json=as_json) as progress:
        result = run_demo(chosen, progress)
    print(to_json(result) if as_json else _summary(result, folder), flush=True)
    if not result.is_successful:
        raise typer.Exit(ExitCode.FAILED)


def _summary(result: DemoResult, folder: Path) -> str:
    from qflare.cli.output import aligned
    from qflare.service.demo.report import report_paths

    training, audit = result.training, result.audit
    last, count = training.rounds[-1], len(training.rounds)
    held = sum(attack.is_held for attack in result.attacks)
    facts: dict[str, object] = {
        "accuracy": f"{last.accuracy:.1%} after {count} rounds; without QFLARE {last.reference_accuracy:.1%}",
        "models": "byte-equal" if training.is_byte_equal else "NOT equal to the one trained without QFLARE",
        "attacks": f"{held} of {len(result.attacks)} refused, counted and in the log",
        "audit_log": f"{audit.size} entries, {audit.receipts_valid} of {audit.receipts_total} receipts "
        + ("verified" if audit.is_valid else "DO NOT VERIFY"),
        "bucket_turns": len(result.bucket_turns),
        "elapsed": f"{result.elapsed_s:.1f} s",
        "report": report_paths(folder).html,
    }
    return aligned(facts)
