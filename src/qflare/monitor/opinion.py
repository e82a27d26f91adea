"""
A second opinion on fleets: how unusual a minute is, over all signals together (half-space trees, of `river`).

It opens no incident and raises none: what it says stands in the evidence of the fleet's incidents, for whoever reads
them.  It learns every minute, attacks among them, and begins anew with each worker.

Source: S. C. Tan, K. M. Ting, T. F. Liu, Fast anomaly detection for streaming data, 2011.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Protocol

from qflare.errors import MissingExtraError
from qflare.monitor.parameters import FLEET_RULES, OPINION_COUNT_MAX, OPINION_TREES, OPINION_WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qflare.model.signal import Signal

_HEIGHT: Final = 6
_TRAFFIC: Final = "traffic"


class Model(Protocol):
    """What is used of a model of river."""

    def score_one(self, x: dict[str, float]) -> float:
        """Return how unusual *x* is, 0 to 1."""

    def learn_one(self, x: dict[str, float]) -> None:
        """Take *x* for usual from now on."""


class Opinion:
    """What is usual for one fleet, by the minute."""

    def __init__(self, model: Model) -> None:
        """Know nothing yet: within the first hours there is no opinion."""
        self._model = model
        self._minutes = 0

    def judge(self, counts: Mapping[Signal, float], *, traffic: int) -> int | None:
        """Return how unusual a minute was, in percent, None while too little is known; and learn it."""
        minute = {signal.value: _scaled(counts.get(signal, 0.0)) for signal in FLEET_RULES}
        minute[_TRAFFIC] = _scaled(traffic)
        score = self._model.score_one(minute)
        self._model.learn_one(minute)
        self._minutes += 1
        # The trees judge by the window before the present one.
        return round(100 * score) if self._minutes > 2 * OPINION_WINDOW else None


def load_opinions() -> Callable[[], Opinion]:
    """
    Return what makes an opinion for a fleet; imports river, which takes a second or more: run it in a thread.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from river import anomaly
    except ModuleNotFoundError as missing:
        if missing.name != "river":
            raise
        raise MissingExtraError(feature="the detector's second opinion", extra="detect", package="river") from None
    trees: Any = anomaly.HalfSpaceTrees  # river has no types

    def new_opinion() -> Opinion:
        # Seeded: the trees' cuts need not be secret, and the same minutes get the same opinion.
        return Opinion(trees(n_trees=OPINION_TREES, height=_HEIGHT, window_size=OPINION_WINDOW, seed=1))

    return new_opinion


def _scaled(count: float) -> float:
    """Return a count between 0 and 1, by its order of magnitude."""
    return min(1.0, math.log1p(count) / math.log1p(OPINION_COUNT_MAX))
