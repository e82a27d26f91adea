"""What people read at the end of a run in the terminal: the model, the attempts, the log, the timings, the files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TextIO

from qflare.service.demo.extras import demo_package
from qflare.service.demo.wording import SPACE, count, milliseconds, percent, ratio, seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qflare.service.demo.result import DemoResult

_ROUNDS_SHOWN: Final = 5
"""Rounds in the table of accuracies: the first, the last, and some between."""


def print_summary(result: DemoResult, *, stream: TextIO | None = None) -> None:
    """Print the summary of *result* to *stream*, standard output if None."""
    with demo_package("rich", feature="the demo's summary"):
        from rich.console import Console
        from rich.text import Text
    console = Console(file=stream, highlight=False)
    console.print()
    console.print(_rounds(result))
    _say(
        console,
        is_good=result.training.is_byte_equal,
        good="The model is byte-equal to the one trained without QFLARE.",
        bad="The model DIFFERS from the one trained without QFLARE.",
    )
    console.print()
    console.print(_attacks(result))
    console.print()
    for rotation in result.rotations:
        _say(
            console,
            is_good=rotation.is_held,
            good=f"{rotation.device_id} rotated its keys in its session: version {rotation.new_version}, log entry "
            f"{rotation.rotation_index}.",
            bad=f"The rotation of {rotation.device_id} DID NOT HOLD.",
        )
    audit = result.audit
    _say(
        console,
        is_good=audit.is_valid,
        good=f"The audit log verifies from outside: {count(audit.size, 'entry', 'entries')}, "
        f"{audit.receipts_valid} of {count(audit.receipts_total, 'receipt')} of devices.",
        bad=f"The audit log DOES NOT VERIFY: {audit.receipts_valid} of {count(audit.receipts_total, 'receipt')} hold.",
    )
    console.print()
    console.print(_timings(result))
    console.print(Text("How each was measured stands in the report.", style="dim"))
    console.print()
    for file in result.files:
        # Paths whole, so that they can be copied, however narrow the terminal is.
        console.print(Text(f"{file.path}  "), Text(file.content, style="dim"), soft_wrap=True, sep="")
    console.print()
    turns = f"{count(len(result.bucket_turns), 'bucket turn')} in {seconds(result.elapsed_s)}."
    _say(
        console,
        is_good=result.is_successful,
        good=f"Every check held; {turns}",
        bad=f"NOT EVERYTHING HELD: the report says what; {turns}",
    )


def _rounds(result: DemoResult) -> Table:
    table = _table("round", "accuracy", "without QFLARE", "devices", "bucket", numbers=range(5))
    rounds = result.training.rounds
    last = len(rounds) - 1
    shown = sorted({round(place * last / (_ROUNDS_SHOWN - 1)) for place in range(_ROUNDS_SHOWN)})
    for index in shown:
        each = rounds[index]
        table.add_row(
            str(each.index + 1),
            percent(each.accuracy),
            percent(each.reference_accuracy),
            str(len(each.device_ids)),
            str(each.bucket),
        )
    return table


def _attacks(result: DemoResult) -> Table:
    table = _table("", "attempt", "reason", "entry", "incident", numbers=(3,))
    for attack in result.attacks:
        table.add_row(
            "✓" if attack.is_held else "✕",
            attack.name,
            attack.reason or "none",
            "none" if attack.entry_index is None else str(attack.entry_index),
            "NONE" if attack.incident_id is None else attack.signal,
        )
    return table


def _timings(result: DemoResult) -> Table:
    table = _table("operation", "published", "this run", "ratio", numbers=(1, 2, 3))
    for timing in result.timings:
        published = timing.published_ms
        table.add_row(
            timing.operation,
            "–" if published is None else milliseconds(published),
            milliseconds(timing.measured_ms),
            "–" if published is None else ratio(published, timing.measured_ms),
        )
    return table


def _table(*headings: str, numbers: range | tuple[int, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading.replace(" ", SPACE), justify="right" if place in numbers else "left")
    return table


def _say(console: Console, *, is_good: bool, good: str, bad: str) -> None:
    from rich.text import Text

    mark, style, text = ("✓", "cyan", good) if is_good else ("✕", "red", bad)
    console.print(Text(f"{mark} ", style), Text(text), sep="", soft_wrap=True)
