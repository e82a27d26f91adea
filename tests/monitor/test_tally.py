"""What workers' detectors tell each other: together they judge as one would that sees everything."""

import random

import pytest

from qflare.errors import DecodeError
from qflare.model.event import EventSeverity
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.observation import ANNOUNCEMENT, CONFIRM, ENROL, HELLO, OFFER, RECORD, Observation
from qflare.model.refusal import Refusal
from qflare.model.share import SHARE_BYTES_MAX
from qflare.model.signal import Signal
from qflare.monitor import parameters
from qflare.monitor.detector import Detector
from qflare.monitor.device_table import SCORED, device_key
from qflare.monitor.hearing import hear
from qflare.monitor.tally import Mark, decode_counts
from qflare.testing import TurnableClock

T = DEFAULT_TENANT
OTHER = TenantId(bytes(range(16)))
NOW_S = 1_700_000_040
REFS = [random.Random(number).randbytes(32) for number in range(8)]


def workers(count=2):
    return [Detector(TurnableClock(NOW_S), devices_max=1024, marks_max=64) for _ in range(count)]


def exchange(*detectors, at_s=NOW_S):
    """Each tells what it counted, as bytes, and hears the others."""
    told = [each.take_counts().encode() for each in detectors]
    for number, each in enumerate(detectors):
        for other, encoded in enumerate(told):
            if other != number:
                hear(each, decode_counts(encoded), at_s=at_s)


def suspected(*detectors):
    """What each is about to report, as a set of (signal, severity, device)."""
    return [{(each.signal, each.severity, each.ref) for each in one.suspicions.take()} for one in detectors]


def forge(detector, ref=REFS[0], *, tenant=T, at_s=NOW_S):
    detector.take(Observation(HELLO, Refusal.SIGNATURE, tenant, ref), at_s)


def hello(detector, ref, mark, at_s=NOW_S):
    detector.take(Observation(HELLO, None, T, ref, mark, mark), at_s)


def finish(detector, ref, at_s=NOW_S):
    detector.take(Observation(CONFIRM, None, T, ref, number=1), at_s)


def half_open(detector, ref):
    row = detector.devices.find(device_key(ref))
    return 0.0 if row is None else detector.devices.score(row, Signal.HALF_OPEN)


def test_one_forgery_at_each_of_three_workers_is_three():
    """None of them has seen enough by itself; together they have, once they have told each other."""
    detectors = workers(3)
    for each in detectors:
        forge(each)
    assert [set(), set(), set()] == suspected(*detectors)
    exchange(*detectors)
    assert [{(Signal.FORGED_MESSAGES, EventSeverity.WARNING, REFS[0])}] * 3 == suspected(*detectors)
    exchange(*detectors)
    assert [set(), set(), set()] == suspected(*detectors)


def test_what_one_has_told_is_not_told_again():
    """A device that one worker suspects already is known to the others, and their incident count stays its own."""
    one, two = workers()
    for _ in range(5):
        forge(one)
    assert [{(Signal.FORGED_MESSAGES, EventSeverity.WARNING, REFS[0])}, set()] == suspected(one, two)
    exchange(one, two)
    assert [set(), set()] == suspected(one, two)
    forge(two)
    (suspicion,) = two.suspicions.take()
    assert (6.0, 1) == (suspicion.score, suspicion.count)


@pytest.mark.parametrize(
    ("observation", "signal"),
    [
        (Observation(HELLO, Refusal.TAG), Signal.BROKEN_MESSAGES),
        (Observation(OFFER, Refusal.UNKNOWN_DEVICE, T), Signal.SCAN),
        (Observation(ANNOUNCEMENT, None), Signal.SCAN),
    ],
)
def test_an_attack_on_the_fleet_is_seen_whole(observation, signal):
    """Half of what is needed at each of two workers: found within one exchange, at neither before it."""
    rule = parameters.ANNOUNCEMENT_RULE if observation.step == ANNOUNCEMENT else parameters.FLEET_RULES[signal]
    detectors = workers()
    for each in detectors:
        for _ in range(int(rule.ladder[0][0] + rule.allowed) // 2 + 1):
            each.take(observation, NOW_S)
    assert [set(), set()] == suspected(*detectors)
    exchange(*detectors)
    assert [{(signal, EventSeverity.WARNING, None)}] * 2 == suspected(*detectors)


def test_workers_that_tell_each_other_score_as_one_that_sees_all():
    """A day of honest traffic and refusals, spread at random: every score and rate is that of one detector."""
    generator = random.Random(7)
    (alone,), several = workers(1), workers(3)
    choices = [
        Observation(HELLO, Refusal.SIGNATURE, T, REFS[0]),
        Observation(HELLO, Refusal.SEEN, OTHER, REFS[1]),
        Observation(RECORD, Refusal.REPLAY, T, REFS[2]),
        Observation(HELLO, Refusal.TAG),
        Observation(CONFIRM, Refusal.TICKET),
        Observation(ANNOUNCEMENT, None),
    ]
    marks = 0
    for minute in range(240):
        at_s = NOW_S - NOW_S % 60 + minute * 60
        for _ in range(generator.randrange(6)):
            marks += 1
            taken = Observation(RECORD, None, T, REFS[3], b"%08d" % marks, b"sid", 1)
            for observation in (generator.choice(choices), taken):
                alone.take(observation, at_s)
                generator.choice(several).take(observation, at_s)
        exchange(*several, at_s=at_s)
    for each in several:
        for ref, signal in ((REFS[0], Signal.FORGED_MESSAGES), (REFS[1], Signal.REPLAYS), (REFS[2], Signal.REPLAYS)):
            rows = [one.devices.find(device_key(ref)) for one in (alone, each)]
            scores = [one.devices.score(row, signal) for one, row in zip((alone, each), rows, strict=True)]
            assert scores[0] == pytest.approx(scores[1], rel=0.02)
        for tenant in (T, OTHER):
            fleets = [one.fleets[tenant] for one in (alone, each)]
            assert fleets[0].traffic == fleets[1].traffic
            assert set(fleets[0].rates) == set(fleets[1].rates)
            for signal, rate in fleets[0].rates.items():
                assert (rate.minute, rate.count) == (fleets[1].rates[signal].minute, fleets[1].rates[signal].count)
                assert rate.score == pytest.approx(fleets[1].rates[signal].score)
                assert rate.usual == pytest.approx(fleets[1].rates[signal].usual)


@pytest.mark.parametrize("tells_first", [0, 1])
def test_handshakes_begun_here_and_ended_there_are_no_half_open_ones(tells_first):
    """A proxy that sends every hello to one worker and every end to the other, whoever of them tells first."""
    one, two = workers()
    for number in range(200):
        hello(one, REFS[number % 8], b"%08d" % number)
        finish(two, REFS[number % 8])
        if number % 3 == 0:
            for teller, hearer in ((one, two), (two, one))[:: 1 if tells_first else -1]:
                hear(hearer, decode_counts(teller.take_counts().encode()), at_s=NOW_S)
    exchange(one, two)
    assert [0.0] * 16 == [half_open(each, ref) for each in (one, two) for ref in REFS]
    assert (0, 0) == (one.fleet_of(T).half_open, two.fleet_of(T).half_open)
    assert [set(), set()] == suspected(one, two)
    assert not one.ended
    assert not two.ended


def test_a_flood_of_half_open_handshakes_is_seen_whole():
    """A device that begins a handshake at one worker and the next one at another is found by the sum."""
    detectors = workers()
    for number in range(24):
        hello(detectors[number % 2], REFS[0], b"%08d" % number)
    exchange(*detectors)
    assert [{(Signal.HALF_OPEN, EventSeverity.WARNING, REFS[0])}] * 2 == suspected(*detectors)
    assert 24 == half_open(detectors[0], REFS[0])


def test_a_clone_whose_copies_keep_to_their_workers_is_found():
    """Each copy uses its own session with its own worker: the one with the older session is suspected."""
    one, two = workers()
    marks = iter(range(100))

    def record(detector, number):
        detector.take(Observation(RECORD, None, T, REFS[0], b"%08d" % next(marks), b"%08d" % number, number), NOW_S)

    record(one, 5)
    record(two, 9)
    for _ in range(4):
        exchange(one, two)
        record(one, 5)
        record(two, 9)
    assert [{(Signal.CLONE, EventSeverity.ERROR, REFS[0])}, set()] == suspected(one, two)


@pytest.mark.parametrize(("second", "told_of"), [(REFS[0], REFS[0]), (REFS[1], None)])
@pytest.mark.parametrize("step", [HELLO, ENROL, CONFIRM])
def test_what_is_drawn_twice_at_two_workers_is_a_broken_source(step, second, told_of):
    """The same key or ciphertext at two workers: of the device if it drew both, else of the fleet; no repetition is."""
    one, two = workers()
    one.take(Observation(step, None, T, REFS[0], b"the-same", b"tail-aaa"), NOW_S)
    two.take(Observation(step, None, T, REFS[0], b"the-same", b"tail-aaa"), NOW_S)
    exchange(one, two)
    assert [set(), set()] == suspected(one, two)
    one.take(Observation(step, None, T, REFS[0], b"an-other", b"tail-bbb"), NOW_S)
    two.take(Observation(step, None, T, second, b"an-other", b"tail-ccc"), NOW_S)
    exchange(one, two)
    assert [{(Signal.BROKEN_RANDOMNESS, EventSeverity.ERROR, told_of)}] * 2 == suspected(one, two)
    exchange(one, two)
    assert [set(), set()] == suspected(one, two)


def test_a_device_that_never_came_here_takes_no_place():
    """Sessions and honest handshakes of others fill no table."""
    one, two = workers()
    hello(one, REFS[0], b"12345678")
    finish(one, REFS[0])
    one.take(Observation(RECORD, None, T, REFS[0], b"abcdefgh", b"sid", 3), NOW_S)
    exchange(one, two)
    assert None is two.devices.find(device_key(REFS[0]))


def test_a_share_is_bounded_whatever_comes():
    """More devices, fleets and sessions than fit are left out and counted; the bytes stay below the row's bound."""
    (detector,) = workers(1)
    tenants = [TenantId(number.to_bytes(16, "big")) for number in range(parameters.TENANTS_MAX - 1)]
    for number in range(parameters.SHARE_DEVICES_MAX + 100):
        for _ in range(2):
            forge(detector, number.to_bytes(4, "big") * 8, tenant=tenants[number % len(tenants)])
    for number, tenant in enumerate(tenants * 9):
        for rate in Signal:
            detector.tally.count_fleet(tenant, rate.value, 2**20, told=3)
        detector.fleet_of(tenant).unshared = [2**30, -(2**30)]
        detector.tally.note_session(2**63 + number, 2**62 + number)
    for number in range(parameters.SHARE_MARKS_MAX + 7):
        detector.tally.note_mark(Mark(tenants[1], CONFIRM, REFS[0], 2**64 - 1 - number, 2**64 - 1))
    assert 7 + 100 * 2 + 9 * len(tenants) - parameters.SHARE_SESSIONS_MAX == detector.tally.left_out
    counts = detector.take_counts()
    assert (parameters.SHARE_DEVICES_MAX, parameters.SHARE_SESSIONS_MAX) == (len(counts.devices), len(counts.sessions))
    assert len(counts.fleets) <= parameters.SHARE_FLEETS_MAX + len(Signal)
    encoded = counts.encode()
    assert len(encoded) < SHARE_BYTES_MAX
    assert len(counts.devices) == len(decode_counts(encoded).devices)
    assert not detector.take_counts()


@pytest.mark.parametrize("seed", range(3))
def test_damaged_shares_are_refused_and_never_half_taken(seed):
    """Cut, prolonged, of another version or with random bytes in it: a clear error, or counts that can be."""
    one, two = workers()
    for number, ref in enumerate(REFS):
        forge(one, ref)
        hello(one, ref, b"%08d" % number)
        one.take(Observation(HELLO, Refusal.TAG), NOW_S)
    good = one.take_counts().encode()
    for bad in (
        b"",
        b"{}",
        b"[]",
        b"[" * 100_000,
        good[:-1],
        good + b"x",
        good.replace(b'"version":1', b'"version":2'),
    ):
        with pytest.raises(DecodeError, match="left out"):
            decode_counts(bad)
    generator = random.Random(seed)
    for _ in range(500):
        altered = bytearray(good)
        altered[generator.randrange(len(good))] = generator.randrange(256)
        try:
            hear(two, decode_counts(bytes(altered)), at_s=NOW_S)
        except DecodeError:
            continue


def test_rates_of_a_later_version_are_left_out():
    """A worker that is newer may tell of signals that this one does not know: the others count."""
    one, two = workers()
    forge(one)
    encoded = (
        one.take_counts()
        .encode()
        .replace(b'"devices":[', b'"devices":[["%s","later","%s",1,0],' % (b"00" * 16, b"11" * 32))
    )
    counts = decode_counts(encoded)
    assert [Signal.FORGED_MESSAGES] == [each.signal for each in counts.devices]
    assert Signal.FORGED_MESSAGES in SCORED
    hear(two, counts, at_s=NOW_S)
    assert 1.0 == two.devices.score(two.devices.find(device_key(REFS[0])), Signal.FORGED_MESSAGES)
