"""
When a device's keys are due by a policy: pure, in whole seconds, the same on every worker and after every restart.

Jitter is no draw: it follows from the device's ref.  By age, a device has a phase on a grid of windows of
``max_age_s × jitter_percent / 100``, and its keys are due at the last point of its grid within their age.  A whole
number of windows makes one age, so the first rotation comes early by the jitter and every later one a full age after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.rotation import MIN_INTERVAL_S, DueKey, RotationReason

if TYPE_CHECKING:
    from qflare.model.ids import DeviceRef
    from qflare.model.rotation import RotatableKey, RotationPolicy

_HALF = 8
"""Bytes of the ref, a hash, that the phase and the thresholds each take."""


def age_due_s(policy: RotationPolicy, ref: DeviceRef, created_s: int) -> int | None:
    """
    Return since when keys are due by their age, Unix seconds; None if the policy bounds no age.

    Never earlier than `MIN_INTERVAL_S` after *created_s*, never later than ``created_s + max_age_s``.
    """
    if policy.max_age_s is None:
        return None
    latest_s = created_s + policy.max_age_s
    window_s = policy.max_age_s * policy.jitter_percent // 100
    if not window_s:
        return latest_s
    phase_s = int.from_bytes(ref[:_HALF]) % window_s
    return max(latest_s - (latest_s - phase_s) % window_s, created_s + MIN_INTERVAL_S)


def use_threshold(policy: RotationPolicy, ref: DeviceRef, bound: int) -> int:
    """Return from how much use on keys are due, *bound* less the device's own jitter; at least 1."""
    return bound - int.from_bytes(ref[_HALF : 2 * _HALF]) % (bound * policy.jitter_percent // 100 + 1)


def find_due(policy: RotationPolicy, key: RotatableKey, now_s: int) -> DueKey | None:
    """
    Return why and since when *key* is due, None if it is not, or is marked already.

    Args:
        policy: Of the key's tenant.
        key: The device's current keys.
        now_s: The database's clock, Unix seconds; a clock that is behind `created_s` makes nothing due.
    """
    if key.marked_s is not None or now_s < key.created_s + MIN_INTERVAL_S:
        return None
    if policy.max_records is not None and key.records >= use_threshold(policy, key.ref, policy.max_records):
        return DueKey(key=key, reason=RotationReason.RECORDS, due_s=now_s)
    if policy.max_bytes is not None and key.bytes >= use_threshold(policy, key.ref, policy.max_bytes):
        return DueKey(key=key, reason=RotationReason.BYTES, due_s=now_s)
    due_s = age_due_s(policy, key.ref, key.created_s)
    if due_s is not None and now_s >= due_s:
        return DueKey(key=key, reason=RotationReason.AGE, due_s=due_s)
    return None
