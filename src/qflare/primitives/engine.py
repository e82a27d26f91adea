"""
Which engine computes batches of ML-KEM-1024 under one key and verifies ML-DSA-44: liboqs, or the lanes of this
package's own C.

Both give the same results.  liboqs computes until `choose_engine` was called, which a server does at its start; other
operations are always liboqs's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from qflare._native import kem_lanes, sig_lanes
from qflare.errors import ConfigError

LANES_COUNT_MIN: Final = 4
"""Fewest ciphertexts for which expanding the key pays; measured: 2 with AVX-512, 4 with AVX2."""


class Engine(StrEnum):
    """What computes."""

    LIBOQS = "liboqs"
    LANES = "lanes"


# One value for the process, set once at a server's start; a call can name another.
_chosen: Engine = Engine.LIBOQS


def engine() -> Engine:
    """Return what computes batches under one key."""
    return _chosen


def lanes_items() -> int:
    """Return how many ciphertexts the lanes take at once: 32 with AVX-512, 16 with AVX2, 0 where there are none."""
    return kem_lanes.items()


def choose_engine(name: str | None) -> Engine:
    """
    Choose for this process: *name*, or None for the lanes where the processor has them, else liboqs.

    Choosing the lanes compares them with liboqs first.

    Raises:
        ConfigError: there is no such engine, or this processor cannot run it.
        SelfTestError: the lanes and liboqs disagree; nothing was chosen.
    """
    global _chosen  # noqa: PLW0603  # the one setting of the process
    if name is not None and name not in set(Engine):
        message = f"there is no engine {name!r}: use {' or '.join(Engine)}, or leave it out"
        raise ConfigError(message)
    has_lanes = kem_lanes.items() > 0
    if name == Engine.LANES and not has_lanes:
        message = "the lanes engine needs a processor with AVX2 or AVX-512, and this one has neither: use liboqs"
        raise ConfigError(message)
    wanted = Engine(name) if name is not None else Engine.LANES if has_lanes else Engine.LIBOQS
    if wanted is Engine.LANES:
        kem_lanes.require_agreement()
        sig_lanes.require_agreement()
    _chosen = wanted
    return wanted
