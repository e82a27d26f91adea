import hashlib
import itertools
import random

import pytest

from qflare.errors import ConfigError
from qflare.manager.due import age_due_s, find_due, use_threshold
from qflare.model.rotation import JITTER_PERCENTS, MIN_INTERVAL_S, RotatableKey, RotationPolicy, RotationReason

HOUR_S = 3600
DAY_S = 24 * HOUR_S
YEAR_S = 365 * DAY_S


def ref_of(number):
    return hashlib.sha3_256(number.to_bytes(8, "big")).digest()


def key_of(ref, *, created_s, records=0, size=0, marked_s=None, key_version=1):
    return RotatableKey(
        ref=ref,
        device_id="d",
        key_version=key_version,
        created_s=created_s,
        records=records,
        bytes=size,
        marked_s=marked_s,
        mark_reason=None,
    )


def random_policy(draw):
    return RotationPolicy(
        max_age_s=draw.randrange(2, 24 * 120) * HOUR_S,
        jitter_percent=draw.choice(JITTER_PERCENTS),
        minute_ppm=1_000_000,
    )


def test_keys_are_due_within_their_age_and_never_before_the_shortest_interval():
    """Whatever the policy, keys are due after the shortest interval, within their jitter, and at their age at the latest."""
    draw = random.Random(1)
    for number in range(5000):
        policy, created_s = random_policy(draw), draw.randrange(2**32)
        due_s = age_due_s(policy, ref_of(number % 500), created_s)
        window_s = policy.max_age_s * policy.jitter_percent // 100
        assert created_s + max(MIN_INTERVAL_S, policy.max_age_s - window_s) <= due_s <= created_s + policy.max_age_s
        key = key_of(ref_of(number % 500), created_s=created_s)
        assert find_due(policy, key, due_s - 1) is None
        assert RotationReason.AGE is find_due(policy, key, due_s).reason


def test_jitter_spreads_a_fleet_evenly_and_stays_where_it_is():
    """Devices enrolled in one second are due all over the jitter's window, each at the same time on every worker."""
    policy = RotationPolicy(max_age_s=30 * DAY_S, jitter_percent=10)
    window_s, tenths = 3 * DAY_S, [0] * 10
    for number in range(5000):
        due_s = age_due_s(policy, ref_of(number), YEAR_S)
        assert due_s == age_due_s(policy, ref_of(number), YEAR_S)
        tenths[(YEAR_S + 30 * DAY_S - due_s) * 10 // window_s] += 1
    assert max(tenths) < 1.3 * min(tenths)


def test_jitter_does_not_drift():
    """A device that rotates late in the window is due a whole age after it was due, not a jitter earlier each time."""
    policy = RotationPolicy(max_age_s=10 * DAY_S, jitter_percent=50)
    draw, created_s, due = random.Random(2), 12_345, []
    for _ in range(200):
        due.append(age_due_s(policy, ref_of(7), created_s))
        created_s = due[-1] + draw.randrange(HOUR_S)
    assert all(later - earlier >= 10 * DAY_S for earlier, later in itertools.pairwise(due))


def test_use_makes_keys_due_before_the_bound_and_after_the_shortest_interval():
    """Records and bytes make keys due within the jitter below their bound; young keys are never due."""
    policy = RotationPolicy(max_records=1000, max_bytes=10**9, jitter_percent=20)
    for number in range(2000):
        ref = ref_of(number)
        threshold = use_threshold(policy, ref, 1000)
        assert 800 <= threshold <= 1000
        old = MIN_INTERVAL_S
        assert find_due(policy, key_of(ref, created_s=0, records=threshold - 1), old) is None
        assert RotationReason.RECORDS is find_due(policy, key_of(ref, created_s=0, records=threshold), old).reason
        assert RotationReason.BYTES is find_due(policy, key_of(ref, created_s=0, size=10**9), old).reason
        assert find_due(policy, key_of(ref, created_s=0, records=10**9, size=10**12), old - 1) is None
        assert find_due(policy, key_of(ref, created_s=0, records=10**9, marked_s=1), 10 * old) is None


def test_a_clock_behind_the_key_makes_nothing_due():
    """A clock that went back, before the keys were made, makes none of them due."""
    policy = RotationPolicy(max_age_s=2 * HOUR_S, max_records=1)
    assert find_due(policy, key_of(ref_of(1), created_s=YEAR_S, records=10), YEAR_S - DAY_S) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "give max_age_s, max_records or max_bytes"),
        ({"max_age_s": 300}, "max_age_s"),
        ({"max_age_s": HOUR_S}, "max_age_s"),
        ({"max_age_s": 2 * HOUR_S + 1}, "whole hours"),
        ({"max_age_s": 1e9}, "max_age_s"),
        ({"max_age_s": True}, "max_age_s"),
        ({"max_records": 0}, "max_records"),
        ({"max_records": 2**32 + 1}, "max_records"),
        ({"max_bytes": 2**44 + 1}, "max_bytes"),
        ({"max_records": 1, "jitter_percent": 3}, "jitter_percent"),
        ({"max_records": 1, "jitter_percent": 75}, "jitter_percent"),
        ({"max_records": 1, "minute_ppm": 0}, "minute_ppm"),
        ({"max_records": 1, "minute_ppm": None}, "minute_ppm"),
        ({"max_records": 1, "grace_s": 60}, "grace_s"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(changes, named):
    """A policy out of its range, or one that would rotate a device every five minutes, cannot be made."""
    with pytest.raises(ConfigError, match=named):
        RotationPolicy(**changes)


def rotations_of(ref, policies, *, seconds, delay_s, draw, step_s):
    """Live through *seconds* by this device's rule, marked by several workers that restart, and return when it rotated."""
    created_s, version, marked_s, times = 0, 1, None, []
    policy = policies[0]
    now_s = 0
    while now_s < seconds:
        now_s += draw.randrange(1, step_s)
        if draw.random() < 0.01:
            policy = draw.choice(policies)
        for _worker in range(3):
            # A worker knows nothing from before: each look is as after a restart.
            key = key_of(ref, created_s=created_s, marked_s=marked_s, key_version=version)
            if find_due(policy, key, now_s) is not None:
                marked_s = now_s
        if marked_s is not None and now_s >= marked_s + draw.randrange(delay_s):
            times.append(now_s)
            created_s, version, marked_s = now_s, version + 1, None
    return times


def test_a_year_of_devices_rotates_no_oftener_than_the_policy():
    """In a year of random steps no device rotates oftener than once an age, and once more at the start."""
    draw = random.Random(3)
    for number in range(8):
        policy = random_policy(draw)
        times = rotations_of(
            ref_of(number), [policy], seconds=YEAR_S, delay_s=DAY_S, draw=draw, step_s=max(600, policy.max_age_s // 4)
        )
        assert len(times) <= -(-YEAR_S // policy.max_age_s) + 1
        assert all(b - a >= MIN_INTERVAL_S for a, b in itertools.pairwise(times))


def test_policy_changes_do_not_rotate_a_device_twice_within_the_shortest_interval():
    """However often policies change, a device rotates at most once in the shortest interval and within the shortest age."""
    draw = random.Random(4)
    for number in range(20):
        policies = [random_policy(draw) for _ in range(4)]
        shortest_s = min(each.max_age_s - each.max_age_s * each.jitter_percent // 100 for each in policies)
        times = rotations_of(
            ref_of(number), policies, seconds=YEAR_S // 4, delay_s=HOUR_S, draw=draw, step_s=2 * HOUR_S
        )
        assert all(b - a >= max(MIN_INTERVAL_S, shortest_s) for a, b in itertools.pairwise(times))
