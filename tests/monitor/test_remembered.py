"""What a detector remembers, as bytes: whole, bounded, merged, and never trusted beyond what it can be."""

import random

import pytest

from qflare.errors import DecodeError
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.observation import HELLO, RECORD, UPDATE, Observation
from qflare.model.refusal import Refusal
from qflare.model.signal import Signal
from qflare.monitor import parameters
from qflare.monitor.detector import Detector
from qflare.monitor.device_table import SCORED, device_key
from qflare.monitor.rates import FleetRate
from qflare.monitor.remembered import DeviceRow, Remembered, decode_remembered, recall, remember
from qflare.testing import TurnableClock

T = DEFAULT_TENANT
OTHER = TenantId(bytes(range(16)))
NOW_S = 1_700_000_000
REFS = [random.Random(number).randbytes(32) for number in range(20)]


def new_detector():
    return Detector(TurnableClock(NOW_S), devices_max=1024, marks_max=64)


def busy_detector():
    """A detector that has seen several things of two tenants."""
    detector = new_detector()
    for number, ref in enumerate(REFS):
        tenant = OTHER if number % 5 == 0 else T
        for _ in range(number % 3):
            detector.take(Observation(HELLO, Refusal.SIGNATURE, tenant, ref), NOW_S)
        detector.take(Observation(RECORD, None, tenant, ref, b"%08d" % number, b"sid", number + 1), NOW_S + number)
        for step in range(number):
            detector.take(Observation(UPDATE, None, tenant, ref, value=1.0 + step), NOW_S)
    for _ in range(10):
        detector.take(Observation(HELLO, Refusal.TAG), NOW_S)
    return detector


def row(key, *, score=0.0, seen_s=NOW_S, session=0, norms=0.0):
    return DeviceRow(key, seen_s, NOW_S, session, (score, *[0.0] * (len(SCORED) - 1)), 0.0, 1.5, 0.25, norms)


def test_what_is_remembered_is_recalled():
    """Scores, sessions, norms and rates of one tenant are the same in another detector, and nothing of the other's."""
    old = busy_detector()
    saved = remember(old)[T].encode()
    new = new_detector()
    recall(new, T, decode_remembered(saved))
    for number, ref in enumerate(REFS):
        places = [each.devices.find(device_key(ref)) for each in (old, new)]
        if number % 5 == 0 or number == 0:
            assert None is places[1]
            continue
        for column in ("sessions", "seen_s", "norms", "norm_mean", "norm_variance", "usual"):
            values = [getattr(each.devices, column)[place] for each, place in zip((old, new), places, strict=True)]
            assert values[0] == values[1], column
        for signal in SCORED:
            assert old.devices.score(places[0], signal) == new.devices.score(places[1], signal)
    rates = [each.fleet_of(T).rates[Signal.BROKEN_MESSAGES] for each in (old, new)]
    assert (rates[0].minute, rates[0].count) == (rates[1].minute, rates[1].count)
    assert saved == remember(new)[T].encode()


def test_merging_keeps_the_higher_the_newer_and_the_longer():
    """Two workers' rows of one device become one that forgets nothing that either knew."""
    one = Remembered({Signal.SCAN: FleetRate(5, 1.0, 2.0, 3.0)}, {1: row(1, score=2.0, session=7, norms=3.0)})
    other = Remembered(
        {Signal.SCAN: FleetRate(6, 9.0, 1.0, 8.0), Signal.REPLAYS: FleetRate(6, 1.0, 1.0, 1.0)},
        {1: row(1, score=1.0, seen_s=NOW_S + 9, session=3, norms=30.0), 2: row(2, score=4.0)},
    )
    one.merge(other)
    assert (3.0, 2.0) != (one.rates[Signal.SCAN].score, one.rates[Signal.SCAN].usual)
    assert (8.0, 2.0) == (one.rates[Signal.SCAN].score, one.rates[Signal.SCAN].usual)
    assert {Signal.SCAN, Signal.REPLAYS} == set(one.rates)
    merged = one.devices[1]
    assert (2.0, NOW_S + 9, 7, 30.0) == (merged.scores[0], merged.seen_s, merged.session, merged.norms)
    assert 4.0 == one.devices[2].scores[0]


def test_a_large_fleet_is_saved_within_the_bound_the_suspected_first():
    """Of a million devices those with the highest scores are saved, and the bytes stay below the row's bound."""
    count = parameters.STATE_DEVICES_MAX + 5000
    remembered = Remembered({}, {key: row(key, score=float(key % 100)) for key in range(1, count)})
    encoded = remembered.encode()
    assert len(encoded) < 2**20
    kept = decode_remembered(encoded).devices
    assert parameters.STATE_DEVICES_MAX == len(kept)
    assert all(key in kept for key in remembered.devices if key % 100 > 40)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_states_are_refused_and_never_half_taken(seed):
    """Cut, prolonged, of another version or with random bytes in it: a clear error, or numbers that can be."""
    good = remember(busy_detector())[T].encode()
    generator = random.Random(seed)
    for bad in (b"", b"QFD1", b"QFD0" + good[4:], good[:-1], good + b"x", good[:8] + b"[" + good[9:]):
        with pytest.raises(DecodeError, match="begin anew"):
            decode_remembered(bad)
    for _ in range(500):
        altered = bytearray(good)
        altered[generator.randrange(len(good))] = generator.randrange(256)
        try:
            recall(new_detector(), T, decode_remembered(bytes(altered)))
        except DecodeError:
            continue


def test_what_is_old_is_not_saved_whoever_saved_it():
    """Scores of more than a day ago go, histories of norms of more than a month, also those that were merged."""
    day, month = parameters.STATE_AGE_S, parameters.STATE_NORMS_AGE_S
    remembered = Remembered({}, {1: row(1, score=9.0), 2: row(2, score=9.0, norms=10.0)})
    remembered.forget_old(NOW_S + day)
    assert {1, 2} == set(remembered.devices)
    remembered.forget_old(NOW_S + day + 1)
    assert {2} == set(remembered.devices)
    kept = remembered.devices[2]
    assert (0.0, 10.0, 1.5) == (sum(kept.scores), kept.norms, kept.norm_mean)
    remembered.forget_old(NOW_S + month + 1)
    assert {} == remembered.devices
    detector = busy_detector()
    detector.clock.turn(month + 3600)
    assert {} == remember(detector)[T].devices


def test_only_tenants_that_were_heard_of_are_saved_again():
    """What did not change since the last save is not written again; what did is whole."""
    detector = busy_detector()
    assert {T, OTHER} == set(remember(detector))
    whole = remember(detector)[OTHER]
    detector.clock.turn(600)
    since_s = detector.clock.now_s()
    assert {} == remember(detector, changed_since_s=since_s)
    for _ in range(3):
        detector.take(Observation(HELLO, Refusal.SIGNATURE, OTHER, REFS[5]), since_s)
    changed = remember(detector, changed_since_s=since_s)
    assert {OTHER} == set(changed)
    assert set(whole.devices) == set(changed[OTHER].devices)


def test_the_pass_over_the_table_finds_every_row():
    """Whatever column alone says something of a device, at the edges of blocks too, the row is found."""
    detector = new_detector()
    table = detector.devices
    columns = (*table.scores, table.usual, table.norms)
    places = [0, 1, 63, 64, 127, 128, 500, 1023]
    for number, place in enumerate(places):
        table.keys[place], table.seen_s[place] = place + 1, NOW_S
        columns[number % len(columns)][place] = 1.0
    assert {place + 1 for place in places} == set(remember(detector)[T].devices)
