"""The PNG: how far every figure is from what was set for it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from qflare.errors import MissingExtraError
from qflare.service.bench.claim import Goal, Relation
from qflare.service.bench.table import as_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qflare.service.bench.claim import Claim

_INK: Final = "#1b1f23"
_SOFT: Final = "#596068"
_RULE: Final = "#e4e4df"
_GROUND: Final = "#fcfcfa"
_MET: Final = "#0a6b70"
_MISSED: Final = "#a8480f"
_DPI: Final = 110
_ROW_INCH: Final = 0.27
_BOUND: Final = 100.0


def distance(goal: Goal, figure: float) -> float:
    """Return how many times better than *goal* a figure is; below 1 it misses it."""
    if figure <= 0:
        # A difference below nothing: better than any bound above it.
        return _BOUND if goal.relation is Relation.AT_MOST else 1 / _BOUND
    ratio = goal.value / figure if goal.relation is Relation.AT_MOST else figure / goal.value
    return min(max(ratio, 1 / _BOUND), _BOUND)


def render_plot(claims: Sequence[Claim], machine: Mapping[str, object]) -> bytes:
    """
    Return the PNG: one bar a figure, from the goal outwards.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        # WHY: the figure by itself, not pyplot, which keeps global state and looks for a display.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != "matplotlib":
            raise
        raise MissingExtraError(feature="the benchmarks' plot", extra="bench", package="matplotlib") from None

    drawn = [(claim, claim.goal) for claim in claims if claim.goal is not None]
    figure = Figure(figsize=(12, 1.6 + _ROW_INCH * len(drawn)), facecolor=_GROUND)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.44, 0.6 / figure.get_figheight(), 0.42, 1 - 1.4 / figure.get_figheight()))
    axes.set_facecolor(_GROUND)
    axes.set_xscale("log")
    for row, (claim, goal) in enumerate(drawn):
        times = distance(goal, claim.figure.median)
        axes.barh(row, times - 1, left=1, height=0.62, color=_MET if claim.is_met else _MISSED)
        axes.text(
            1.01, row, as_quantity(claim.figure.median, claim.unit),
            transform=axes.get_yaxis_transform(), va="center", color=_INK, fontsize=8,
        )  # fmt: skip
    axes.axvline(1, color=_INK, linewidth=1)
    axes.set_yticks(range(len(drawn)), [claim.what for claim, _ in drawn], fontsize=8, color=_INK)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_xlabel(
        "times better than the figure to reach (log scale; left of 1 it is missed)", color=_SOFT, fontsize=9
    )
    axes.grid(axis="x", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    met = sum(claim.is_met is True for claim, _ in drawn)
    figure.text(
        0.02, 1 - 0.4 / figure.get_figheight(),
        f"QFLARE benchmarks: {met} of {len(drawn)} figures met  ·  {machine.get('cpu')}, "
        f"{machine.get('cores')} cores  ·  liboqs {machine.get('liboqs')}",
        color=_INK, fontsize=11, fontweight="bold",
    )  # fmt: skip
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI, facecolor=_GROUND)
    return image.getvalue()
