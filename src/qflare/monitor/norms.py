"""
Norms of updates: far from a device's own history is a hint of poisoning, and no proof of it.

What is judged is ln(norm), whose mean and variance are EWMAs: norms of one model are spread over a factor, not over a
sum, and shrink as the model settles.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qflare.monitor.parameters import NORM_ALPHA, NORM_SIGMA_MIN, NORM_WARMUP, NORM_Z

if TYPE_CHECKING:
    from qflare.monitor.device_table import DeviceTable


def is_norm(value: object) -> bool:
    """Return whether *value* can be a norm at all: a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0.0


def judge_norm(table: DeviceTable, row: int, norm: float) -> float:
    """
    Return how many standard deviations *norm* lies from the device's own history, 0 while too little is known.

    What is far off does not change the history: who poisons must not become usual by it, and a device whose model has
    really changed is told until somebody looks.
    """
    value = math.log(norm)
    count = table.norms[row]
    mean, variance = table.norm_mean[row], table.norm_variance[row]
    if count >= NORM_WARMUP:
        distance = abs(value - mean) / max(NORM_SIGMA_MIN, math.sqrt(variance))
        if distance >= NORM_Z:
            return distance
    weight = max(NORM_ALPHA, 1.0 / (count + 1.0))
    change = value - mean
    table.norm_mean[row] = mean + weight * change
    table.norm_variance[row] = (1.0 - weight) * (variance + weight * change * change)
    table.norms[row] = min(count + 1.0, 1e6)
    return 0.0
