"""The collector of cyclic garbage in a worker: what a process that serves and nothing else asks of it."""

from __future__ import annotations

import gc
from typing import Final

YOUNG_MAX: Final = 20_000
"""Objects made and not yet dropped before the young ones are looked at: several batches' worth."""
_ROUNDS: Final = (20, 50)
"""Rounds of a younger generation before the next one is looked at."""


def settle_collector() -> None:
    """
    Look for cyclic garbage as rarely as suits batches, and never among what stands for the process's whole life.

    A batch of 256 handshakes makes some ten thousand objects that all die by their last reference; by the default the
    collector walks through them a dozen times, and from time to time through every module, to find nothing.  Cycles
    are still found, somewhat later.  Nothing secret waits for that: secrets are wiped by their owners.

    For processes of our own, at the end of their start: a library does not set this for its host.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *_ROUNDS)
