"""The spread of a figure over rounds: median and quartiles, of ratios and differences made round by round."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qflare.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """What many rounds gave: the middle and the two quartiles around it."""

    median: float
    lower: float
    """First quartile."""
    upper: float
    """Third quartile."""
    rounds: int


def spread_of(values: Sequence[float]) -> Spread:
    """
    Return median and quartiles of *values*.

    Raises:
        UsageError: there are none.
    """
    if not values:
        raise UsageError("a figure needs at least one round")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper, len(values))


def around(references: Sequence[float]) -> list[float]:
    """
    Return the mean of each two neighbours: what the reference would have shown in the middle between its rounds.

    Args:
        references: One more than the rounds of what is measured, which lie between them.
    """
    return [(before + after) / 2 for before, after in itertools.pairwise(references)]


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """
    Return the spread of the per-round ratios.

    A machine that slows down for a while slows both sides of a round; the median of ratios does not see it, the ratio
    of medians does.

    Raises:
        UsageError: the sides differ in length, or are empty.
    """
    if len(numerators) != len(denominators):
        raise UsageError(f"{len(numerators)} rounds were measured beside {len(denominators)} of the reference")
    return spread_of([top / bottom for top, bottom in zip(numerators, denominators, strict=True)])


def differences(minuends: Sequence[float], subtrahends: Sequence[float]) -> Spread:
    """
    Return the spread of the per-round differences.

    Raises:
        UsageError: the sides differ in length, or are empty.
    """
    if len(minuends) != len(subtrahends):
        raise UsageError(f"{len(minuends)} rounds were measured beside {len(subtrahends)} of the reference")
    return spread_of([left - right for left, right in zip(minuends, subtrahends, strict=True)])
