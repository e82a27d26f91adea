"""
Which engine computes batches of ML-KEM-1024 and verifies ML-DSA-44: liboqs, or the lanes of this package's own C.

Both give the same results.  liboqs computes until `choose_engine` was called, which a server does at its start; other
operations are always liboqs's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from qflare._native import kem_agreement, kem_lanes, sig_lanes
from qflare.errors import ConfigError

LANES_COUNT_MIN: Final = 4
"""Fewest rows for which the lanes pay, whose places are computed all or none; measured, each operation and width."""

WIDE_ITEMS_MIN: Final = 16
"""Items at once of the narrowest lanes that are faster than liboqs; without AVX2 they are for tests alone."""


class Engine(StrEnum):
    """What computes."""

    LIBOQS = "liboqs"
    LANES = "lanes"


# One value for the process, set once at a server's start; a call can name another.
_chosen: Engine = Engine.LIBOQS


def engine() -> Engine:
    """Return what computes batches."""
    return _chosen


def is_for_lanes(count: int, named: Engine | None) -> bool:
    """Say if a batch of *count* rows goes through the lanes: as the call *named*, else as chosen and where it pays."""
    if named is not None:
        return named is Engine.LANES
    return _chosen is Engine.LANES and count >= LANES_COUNT_MIN


def lanes_items() -> int:
    """
    Return how many rows the lanes take at once.

    32 with AVX-512, 16 with AVX2, 8 with neither, 0 where there are none at all: in the wheel for devices.
    """
    return kem_lanes.items()


def choose_engine(name: str | None) -> Engine:
    """
    Choose for this process: *name*, or None for the lanes where the processor makes them faster, else liboqs.

    Choosing the lanes compares them with liboqs first.

    Raises:
        ConfigError: there is no such engine, or this machine cannot run it.
        SelfTestError: the lanes and liboqs disagree; nothing was chosen.
    """
    global _chosen  # noqa: PLW0603  # the one setting of the process
    if name is not None and name not in set(Engine):
        message = f"there is no engine {name!r}: use {' or '.join(Engine)}, or leave it out"
        raise ConfigError(message)
    items = kem_lanes.items()
    if name == Engine.LANES and items == 0:
        message = "this build or this machine has no lanes engine of ML-KEM-1024: use liboqs"
        raise ConfigError(message)
    wanted = Engine(name) if name is not None else Engine.LANES if items >= WIDE_ITEMS_MIN else Engine.LIBOQS
    if wanted is Engine.LANES:
        kem_agreement.require_agreement()
        sig_lanes.require_agreement()
    _chosen = wanted
    return wanted
