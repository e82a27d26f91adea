"""
The report's PNG: accuracy by round and timings side by side, for places that show no page.
"""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Final

from qflare.service.demo.extras import demo_package
from qflare.service.demo.wording import count, percent, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qflare.service.demo.result import DemoResult

_INK: Final = "#1b1f23"
_SOFT: Final = "#596068"
_RULE: Final = "#e4e4df"
_GROUND: Final = "#fcfcfa"
_ACCENT: Final = "#0a6b70"
_SIZE_INCH: Final = (12.0, 5.2)
_DPI: Final = 144


def render_plot(result: DemoResult) -> bytes:
    """
    Return the PNG, 1728 × 749 pixels.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with demo_package("matplotlib", feature="the demo's PNG"):
        # WHY: the figure by itself, not pyplot, which keeps global state and looks for a display.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.25, h_pad=0.15)
    figure = Figure(figsize=_SIZE_INCH, facecolor=_GROUND, layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(_headline(result), x=0.02, ha="left", color=_INK, fontsize=13, fontweight="bold")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_accuracy(left, result)
    _draw_timings(right, result)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI, facecolor=_GROUND)
    return image.getvalue()


def _headline(result: DemoResult) -> str:
    """Return the run in one line."""
    equal = "byte-equal to" if result.training.is_byte_equal else "NOT byte-equal to"
    held = sum(attack.is_held for attack in result.attacks)
    return (
        f"QFLARE demo: {count(len(result.devices), 'device')}, {count(len(result.training.rounds), 'round')}, "
        f"model {equal} training without QFLARE, {held} of {count(len(result.attacks), 'attempt')} refused"
    )


def _draw_accuracy(axes: Axes, result: DemoResult) -> None:
    """Draw accuracy by round over the reference."""
    rounds = result.training.rounds
    numbers = [record.index + 1 for record in rounds]
    reference = [record.reference_accuracy * 100 for record in rounds]
    accuracy = [record.accuracy * 100 for record in rounds]
    axes.plot(
        numbers, reference, color=_ACCENT, alpha=0.2, linewidth=10, solid_capstyle="round", label="without QFLARE"
    )
    axes.plot(numbers, accuracy, color=_ACCENT, linewidth=2, marker="o", markersize=4, label="through QFLARE")
    turns = [after.index + 0.5 for before, after in itertools.pairwise(rounds) if before.bucket != after.bucket]
    for place, turn in enumerate(turns):
        label = "bucket turn" if place == 0 else None
        axes.axvline(turn, color=_SOFT, linewidth=0.8, linestyle=(0, (2, 4)), label=label)
    if rounds:
        axes.annotate(
            percent(rounds[-1].accuracy), (numbers[-1], accuracy[-1]), xytext=(0, -20), textcoords="offset points",
            ha="right", color=_ACCENT, fontweight="bold",
        )  # fmt: skip
    axes.set_ylim(0, 102)
    axes.set_xlabel("round", color=_SOFT)
    axes.set_title("Accuracy on held-out digits, per cent", loc="left", color=_INK, fontsize=11)
    axes.locator_params(axis="x", integer=True)
    # A ground of its own, so that no line of the plot runs through its words.
    axes.legend(
        frameon=True,
        framealpha=1,
        facecolor=_GROUND,
        edgecolor="none",
        labelcolor=_SOFT,
        loc="lower right",
        bbox_to_anchor=(1, 0.06),
    )
    _quiet(axes, grid="y")


def _draw_timings(axes: Axes, result: DemoResult) -> None:
    """Draw each operation's time, published and in this run, on a logarithmic scale."""
    shown = [(timing, timing.published_ms) for timing in reversed(result.timings) if timing.published_ms is not None]
    places = range(len(shown))
    measured = [timing.measured_ms for timing, _ in shown]
    published = [time for _, time in shown]
    axes.hlines(places, measured, published, color=_ACCENT, alpha=0.45, linewidth=2)
    axes.scatter(published, places, s=42, facecolor=_GROUND, edgecolor=_SOFT, zorder=3, label="published")
    axes.scatter(measured, places, s=46, color=_ACCENT, zorder=3, label="this run")
    for place, (timing, time) in enumerate(shown):
        axes.annotate(
            ratio(time, timing.measured_ms), (max(time, timing.measured_ms), place), xytext=(9, -3),
            textcoords="offset points", color=_SOFT, fontsize=8,
        )  # fmt: skip
    axes.set_title("Time of one operation", loc="left", color=_INK, fontsize=11)
    if not shown:
        axes.set_axis_off()
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.margins(x=0.2)
    axes.set_yticks(list(places), [timing.operation for timing, _ in shown])
    axes.set_xlabel("milliseconds, logarithmic", color=_SOFT)
    axes.legend(
        frameon=False, labelcolor=_SOFT, loc="lower right", ncols=2, bbox_to_anchor=(1.03, 0.985),
        fontsize=9, handletextpad=0.2, columnspacing=1.0,
    )  # fmt: skip
    _quiet(axes, grid="x")


def _quiet(axes: Axes, *, grid: str) -> None:
    """Take away what is not data."""
    axes.set_facecolor(_GROUND)
    axes.grid(axis="x" if grid == "x" else "y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(_SOFT)
