"""The search for saturation: the highest rate that a server keeps up with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qflare.service.load.trial import Trial

_PRECISION: Final = 1.06
"""The search ends when the lowest rate that failed is that much above the highest that held."""
TRIALS_MAX: Final = 16


async def find_saturation(
    attempt: Callable[[float], Awaitable[Trial]], *, first: float, latency_ms: float, trials_max: int = TRIALS_MAX
) -> list[Trial]:
    """
    Try rates, doubling from *first* until one fails and then closing in, and return every trial in order.

    A rate that failed is tried once more before it counts as failed, since a shared machine stumbles; a rate counts as
    held only if it held in a trial of its own.  The highest that held is the answer; all trials show how sharp it is.

    Args:
        attempt: Offers a rate, handshakes a second.
        first: The rate to begin with.
        latency_ms: What 99 of 100 requests stay below at a rate that holds.
        trials_max: Trials after which no other rate is tried.
    """
    trials: list[Trial] = []
    held, failed = 0.0, 0.0
    rate = first
    while len(trials) < trials_max:
        for _ in range(2):
            trials.append(await attempt(rate))
            if trials[-1].is_sustained(latency_ms=latency_ms):
                break
        if trials[-1].is_sustained(latency_ms=latency_ms):
            held = max(held, rate)
        else:
            failed = rate
        if failed and (failed <= held * _PRECISION or failed < 1.0):
            break
        rate = rate * 2 if not failed else (held + failed) / 2 if held else failed / 2
    return trials


def highest_held(trials: list[Trial], *, latency_ms: float) -> Trial | None:
    """Return the trial of the highest rate that held, None if none did."""
    good = [trial for trial in trials if trial.is_sustained(latency_ms=latency_ms)]
    return max(good, key=lambda trial: trial.rate, default=None)
