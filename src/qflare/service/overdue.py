"""
Bucket keys that outlived their bucket because no worker runs: destroyed without a worker, and without the database.

A worker destroys KEK_b at the end of b + 1 (PROTOCOL A4, R8).  Where all of them were stopped or killed before,
the keys lie in the keeper until one runs again, and with a copy of the database they open what they sealed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.clock import Clock, SystemClock, utc
from qflare.service.assembly import KEEPER_NAME
from qflare.service.config import read_data_dir
from qflare.service.keepers import open_keeper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from qflare.manager.settings import ManagerSettings
    from qflare.model.keeper_ports import Keeper

LOOK_S: Final = 4.0
"""How long the keeper's pulse is looked at: each worker notes it every second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverdueKeys:
    """What was found in one keeper."""

    folder: str
    """The keeper's lasting folder."""
    has_worker: bool
    """Whether a worker runs on it; then nothing was touched, since workers destroy by the cluster's bucket."""
    destroyed: int
    """Keys of buckets that were over by the clock."""
    left: int
    """Keys that stand: not over yet, or a worker's."""
    next_end_at: datetime | None
    """When the next one is over; None where none is left."""


def destroy_overdue(
    data_dir: Path | None, *, settings: ManagerSettings, clock: Clock | None = None, look_s: float = LOOK_S
) -> tuple[OverdueKeys, ...]:
    """
    Destroy, in every keeper of a data folder, the keys of buckets that are over; blocks for *look_s*.

    Args:
        data_dir: The data folder; the default one if not given.
        settings: Which keeper, where its keys lie, and the width of a bucket.
        clock: What tells the time.
        look_s: How long to look for signs of a worker.

    Raises:
        KeeperError: a keeper cannot be used.
    """
    folder = read_data_dir() if data_dir is None else data_dir
    folders = sorted({folder / KEEPER_NAME, *folder.glob(f"{KEEPER_NAME}-*")})
    # Only those that exist: looking makes no keeper.
    keepers = [(each, open_keeper(each, settings)) for each in folders if each.is_dir()]
    before = [keeper.high_water().pulse for _, keeper in keepers]
    if keepers:
        time.sleep(look_s)
    now_s = (clock or SystemClock()).now_s()
    return tuple(
        _destroy(each, keeper, pulse, now_s=now_s, width_s=settings.bucket_width_s)
        for (each, keeper), pulse in zip(keepers, before, strict=True)
    )


def _destroy(folder: Path, keeper: Keeper, pulse: int, *, now_s: int, width_s: int) -> OverdueKeys:
    has_worker = keeper.high_water().pulse != pulse
    standing: Sequence[int] = keeper.bucket_keys()
    over = [bucket for bucket in standing if bucket < now_s // width_s - 1]
    destroyed = 0
    if over and not has_worker:
        # Up to the last that is over and no further: the mark never falls again, and a wrong clock that raised it far
        # ahead would keep every worker from starting until then.
        destroyed = keeper.destroy_bucket_keys(before=max(over) + 1)
    left = standing if has_worker else [bucket for bucket in standing if bucket not in over]
    return OverdueKeys(
        folder=str(folder),
        has_worker=has_worker,
        destroyed=destroyed,
        left=len(left),
        next_end_at=utc((min(left) + 2) * width_s) if left else None,
    )
