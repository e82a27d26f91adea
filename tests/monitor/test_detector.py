"""The detector by itself: what makes each signal speak, what does not, and the bounds of queue, table and marks."""

import ast
import hashlib
import math
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest

from qflare.model.event import EventSeverity
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.observation import (
    ANNOUNCEMENT,
    CONFIRM,
    CONTROL,
    ENROL,
    HELLO,
    OFFER,
    RECORD,
    UPDATE,
    Observation,
)
from qflare.model.refusal import Refusal
from qflare.model.signal import Signal
from qflare.monitor import parameters
from qflare.monitor.detector import Detector
from qflare.monitor.rates import FleetRate, fallen, severity_of
from qflare.testing import TurnableClock

T = DEFAULT_TENANT
OTHER = TenantId(bytes(range(16)))
NOW_S = 1_700_000_000
WARNING, ERROR, CRITICAL = EventSeverity.WARNING, EventSeverity.ERROR, EventSeverity.CRITICAL


def ref_of(name):
    return hashlib.sha256(str(name).encode()).digest()


def new_detector(**changes):
    sizes = {"devices_max": 1024, "marks_max": 1024}
    return Detector(TurnableClock(NOW_S), **(sizes | changes))


class World:
    """A detector, a time, and messages of devices."""

    def __init__(self, **changes):
        self.detector = new_detector(**changes)
        self.now_s = NOW_S
        self.index = 0

    def see(self, step, reason=None, *, device=None, tenant=T, count=1, every_s=0, **facts):
        ref = None if device is None else ref_of(device)
        for _ in range(count):
            tenant_id = tenant if device is not None else None
            self.detector.take(Observation(step, reason, tenant_id, ref, **facts), self.now_s)
            self.now_s += every_s

    def session(self, device, *, tenant=T, form="hello"):
        """A whole handshake; return its number."""
        self.index += 1
        if form == "hello":
            self.see(HELLO, device=device, tenant=tenant, mark=os.urandom(8), other=os.urandom(8))
        mark = b"" if form == "hello" else os.urandom(8)
        self.see(CONFIRM, device=device, tenant=tenant, mark=mark, other=os.urandom(16), number=self.index)
        return self.index

    def record(self, device, number, *, tenant=T, sid=b"s" * 16, stream=None):
        self.see(RECORD, device=device, tenant=tenant, mark=stream or os.urandom(16), other=sid, number=number)

    def found(self):
        """Signals suspected since the last call: (signal, device or None) to the severity."""
        names = {ref_of(name): name for name in [*range(100), "a", "b", "c"]}
        return {(each.signal, names.get(each.ref, each.ref)): each.severity for each in self.detector.suspicions.take()}


BY_DEVICE = [
    (Signal.FORGED_MESSAGES, HELLO, Refusal.SIGNATURE),
    (Signal.FORGED_MESSAGES, RECORD, Refusal.TAG),
    (Signal.FORGED_MESSAGES, RECORD, Refusal.TRUNCATED),
    (Signal.FORGED_MESSAGES, CONTROL, Refusal.SIGNATURE),
    (Signal.REPLAYS, CONFIRM, Refusal.CONFLICT),
    (Signal.REPLAYS, RECORD, Refusal.REPLAY),
    (Signal.DEAD_BUCKETS, RECORD, Refusal.BUCKET),
    (Signal.DEAD_BUCKETS, HELLO, Refusal.BUCKET),
    (Signal.USE_AFTER_REVOCATION, HELLO, Refusal.DEVICE_STATE),
    (Signal.USE_AFTER_REVOCATION, RECORD, Refusal.DEVICE_STATE),
    (Signal.CLONE, HELLO, Refusal.KEY_VERSION),
    (Signal.CLONE, CONTROL, Refusal.CONFLICT),
]


@pytest.mark.parametrize(("signal", "step", "reason"), BY_DEVICE)
def test_a_device_is_suspected_from_the_first_rung_on_and_not_below(signal, step, reason):
    """One observation fewer than the ladder's first rung says nothing; the rung is an incident of that device alone."""
    world = World()
    rung, severity = parameters.DEVICE_RULES[signal].ladder[0]
    world.see(step, reason, device="a", count=math.ceil(rung) - 1)
    world.see(step, reason, device="b")
    assert {} == world.found()
    world.see(step, reason, device="a")
    assert {(signal, "a"): severity} == world.found()
    if len(parameters.DEVICE_RULES[signal].ladder) > 1:
        higher, graver = parameters.DEVICE_RULES[signal].ladder[1]
        world.see(step, reason, device="a", count=int(higher))
        assert graver == world.found()[signal, "a"]


@pytest.mark.parametrize(("signal", "step", "reason"), BY_DEVICE)
def test_what_is_allowed_an_hour_says_nothing_for_ever(signal, step, reason):
    """At the allowed rate, for a month, a device is not suspected: its score falls as fast as it rises."""
    world = World()
    allowed = parameters.DEVICE_RULES[signal].allowed
    world.see(step, reason, device="a", count=int(720 * allowed), every_s=int(3600 / allowed) + 1)
    assert {} == world.found()


BY_FLEET = [
    (Signal.BROKEN_MESSAGES, HELLO, Refusal.TAG),
    (Signal.BROKEN_MESSAGES, ENROL, Refusal.TAG),
    (Signal.BAD_TICKETS, CONFIRM, Refusal.TICKET),
    (Signal.BAD_TICKETS, CONFIRM, Refusal.TAG),
    (Signal.DEAD_BUCKETS, HELLO, Refusal.BUCKET),
    (Signal.DEAD_BUCKETS, CONFIRM, Refusal.EXPIRED),
    (Signal.REPLAYS, HELLO, Refusal.SEEN),
    (Signal.SCAN, HELLO, Refusal.UNKNOWN_DEVICE),
    (Signal.SCAN, OFFER, Refusal.UNKNOWN_DEVICE),
    (Signal.ENROLMENT_GUESSING, ENROL, Refusal.TOKEN),
]


@pytest.mark.parametrize(("signal", "step", "reason"), BY_FLEET)
def test_what_names_no_device_is_judged_by_the_fleet(signal, step, reason):
    """A burst beyond the rung and what is allowed is one incident of the fleet; half of the rung is none."""
    rule = parameters.FLEET_RULES[signal]
    rung, severity = rule.ladder[0]
    world = World()
    world.see(step, reason, count=int(rung / 2))
    assert {} == world.found()
    world.see(step, reason, count=int(rung + rule.allowed) + 1)
    assert {(signal, None): severity} == world.found()


@pytest.mark.parametrize(("signal", "step", "reason"), BY_FLEET)
def test_a_few_a_minute_are_nothing_for_ever(signal, step, reason):
    """What is allowed a minute, for two days, is no incident."""
    rule = parameters.FLEET_RULES[signal]
    world = World()
    for _ in range(2880):
        world.see(step, reason, count=int(rule.allowed))
        world.now_s += 60
    assert {} == world.found()


def test_an_attack_on_many_devices_is_the_fleets():
    """Forgeries spread so thin that no device has three are seen as a whole."""
    world = World()
    for number in range(100):
        world.see(HELLO, Refusal.SIGNATURE, device=number, every_s=1)
    found = world.found()
    assert [(Signal.FORGED_MESSAGES, None)] == list(found)


def test_refusals_that_speak_for_nothing_are_nothing():
    """Bad lengths, types and overload are the sender's or our own trouble, not an attack."""
    world = World()
    for reason in (Refusal.LENGTH, Refusal.TYPE, Refusal.VERSION, Refusal.SUITE, Refusal.OVERLOADED, Refusal.INTERNAL):
        world.see(HELLO, reason, device="a", count=1000)
    assert {} == world.found()


def test_a_fleet_after_an_outage_is_honest():
    """Ten thousand devices that wake with old announcements, and then begin anew, are no incident."""
    world = World(devices_max=2**15)
    for number in range(10_000):
        if number % 4 == 0:
            world.see(HELLO, Refusal.BUCKET)
        world.session(f"device {number}")
        world.now_s += number % 20 == 0
    assert {} == world.found()


def test_sessions_in_turn_are_a_clone_and_one_after_the_other_are_not():
    """Records of an older session after a newer one's, again and again, are one identity in two places."""
    world = World()
    for _ in range(50):
        number = world.session("a")
        for _ in range(5):
            world.record("a", number)
    assert {} == world.found()
    first, second = world.session("b"), world.session("b")
    world.record("b", first)
    world.record("b", second)
    world.record("b", first)
    assert {} == world.found()
    for _ in range(3):
        world.record("b", second)
        world.record("b", first)
    assert {(Signal.CLONE, "b"): ERROR} == world.found()


def test_late_replies_say_nothing_about_the_order_of_sessions():
    """A reply belongs to its request's session, however old (R6)."""
    world = World()
    first, second = world.session("a"), world.session("a")
    world.record("a", second)
    for _ in range(50):
        world.record("a", 0)
    world.record("a", first)
    assert {} == world.found()


@pytest.mark.parametrize(("step", "other"), [(HELLO, b"tag-"), (CONFIRM, b"sid-"), (RECORD, b"sid-")])
def test_what_is_drawn_twice_is_a_broken_source(step, other):
    """The same key, ciphertext or stream id in another message of one device; the same message again is a repetition."""
    world = World()
    mark = os.urandom(8)
    world.see(step, device="a", mark=mark, other=other + b"1111", count=3)
    assert {} == world.found()
    world.see(step, device="a", mark=mark, other=other + b"2222")
    assert {(Signal.BROKEN_RANDOMNESS, "a"): ERROR} == world.found()


def test_two_devices_with_one_source_are_the_fleets_fault():
    """The same drawn by two devices is an incident of the fleet, critical once it is several."""
    world = World()
    for number in range(6):
        mark = os.urandom(8)
        world.see(RECORD, device="a", mark=mark, other=b"sid-aaaa")
        world.see(RECORD, device="b", mark=mark, other=b"sid-bbbb")
        found = world.found()
        assert {(Signal.BROKEN_RANDOMNESS, None)} == set(found)
        assert (ERROR if number < 4 else CRITICAL) == found[Signal.BROKEN_RANDOMNESS, None]


@pytest.mark.parametrize(("second", "told_of"), [("a", "a"), ("b", None)])
def test_a_ciphertext_drawn_again_is_its_drawers_fault(second, told_of):
    """A hello refused for its ciphertext: of the device if it drew it itself, of the fleet if another did; no replay."""
    world = World()
    world.see(HELLO, device="a", mark=b"ek-seed-", other=b"tail-aaa")
    world.see(HELLO, Refusal.DRAWN_TWICE, device=second, mark=b"ek-seed-", other=b"tail-bbb")
    assert {(Signal.BROKEN_RANDOMNESS, told_of): ERROR} == world.found()
    # Another key with the same ciphertext: nothing says whose it was before.
    world.see(HELLO, Refusal.DRAWN_TWICE, device="c", mark=b"ek-other", other=b"tail-ccc")
    assert {(Signal.BROKEN_RANDOMNESS, "c"): ERROR} == world.found()


def test_two_devices_enrolled_with_the_same_keys_are_found():
    """One key pair under two names, as a cloned image enrols."""
    world = World()
    for name in ("a", "b"):
        world.see(ENROL, device=name, mark=b"keyhash1", other=ref_of(name))
    assert {(Signal.BROKEN_RANDOMNESS, None): ERROR} == world.found()


def test_random_marks_agree_by_chance_never():
    """A hundred thousand draws fall into the same places often, and are never taken for each other."""
    world = World()
    generator = random.Random(1)
    for number in range(100_000):
        world.record("a", 1, stream=generator.randbytes(16), sid=number.to_bytes(16, "big"))
    assert {} == world.found()


def test_half_open_handshakes_of_one_device_and_of_many():
    """Hellos without an end are counted, those that end are not, nor the same hello again."""
    world = World()
    for _ in range(200):
        world.session("a")
    world.see(HELLO, device="a", mark=b"12345678", other=b"12345678", count=100)
    assert {} == world.found()
    for _ in range(30):
        world.see(HELLO, device="b", mark=os.urandom(8), other=os.urandom(8))
    assert {(Signal.HALF_OPEN, "b"): WARNING} == world.found()
    for number in range(600):
        world.see(HELLO, device=f"flood {number}", mark=os.urandom(8), other=os.urandom(8))
    assert {(Signal.HALF_OPEN, None): WARNING} == world.found()


def test_announcements_without_handshakes_are_a_scan():
    """A fleet that fetches and speaks is honest; thousands of fetches beside silence are not."""
    world = World()
    for number in range(3000):
        world.see(ANNOUNCEMENT, count=2)
        world.session(number % 50)
    assert {} == world.found()
    world.now_s += 120
    world.see(ANNOUNCEMENT, count=2500)
    assert {(Signal.SCAN, None): WARNING} == world.found()


def test_norms_are_judged_by_the_devices_own_history_and_only_hinted_at():
    """Norms that shrink and scatter are honest; a hundredfold one is a hint, never more than a warning."""
    world = World()
    generator = random.Random(2)
    for name, scale in (("a", 1.0), ("b", 500.0)):
        for number in range(200):
            world.see(UPDATE, device=name, value=scale * 0.99**number * generator.lognormvariate(0, 0.2))
    assert {} == world.found()
    world.see(UPDATE, device="a", value=100.0)
    (suspicion,) = world.detector.suspicions.take()
    assert (Signal.UPDATE_NORM, WARNING) == (suspicion.signal, suspicion.severity)
    assert b"poisoning is one explanation" in suspicion.evidence()
    world.see(UPDATE, device="a", value=100.0, count=1000)
    assert {(Signal.UPDATE_NORM, "a"): WARNING} == world.found()
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        world.see(UPDATE, device="b", value=wrong)
    assert {} == world.found()


def test_even_timing_is_no_signal():
    """A device that answers like a clock for a day is an honest device."""
    world = World()
    number = world.session("a")
    for _ in range(8640):
        world.record("a", number)
        world.now_s += 10
    assert {} == world.found()


def test_tenants_are_judged_apart():
    """A fleet's incident is its tenant's; another tenant's traffic does not hide it."""
    world = World()
    for number in range(100):
        world.see(HELLO, Refusal.SIGNATURE, device=number, tenant=OTHER)
        world.session(f"honest {number}")
    (suspicion,) = world.detector.suspicions.take()
    assert (OTHER, Signal.FORGED_MESSAGES) == (suspicion.tenant_id, suspicion.signal)


def test_a_flakier_device_is_allowed_its_own_usual():
    """Repetitions that a device has always had are usual for it; many more are not."""
    world = World()
    world.see(RECORD, Refusal.REPLAY, device="a", count=24 * 14 * 5, every_s=720)
    assert {} == world.found()
    world.see(RECORD, Refusal.REPLAY, device="a", count=60, every_s=10)
    assert {(Signal.REPLAYS, "a"): WARNING} == world.found()


def test_who_trains_the_detector_gains_little():
    """A rate that is raised slowly for a week becomes usual to a bound, beyond which it is seen all the same."""
    rule = parameters.FLEET_RULES[Signal.BROKEN_MESSAGES]
    world = World()
    for minute in range(7 * 1440):
        world.see(HELLO, Refusal.TAG, count=min(40, 1 + minute // 200))
        world.now_s += 60
    assert (Signal.BROKEN_MESSAGES, None) in world.found()
    fleet = world.detector.fleet_of(T)
    assert fleet.rates[Signal.BROKEN_MESSAGES].usual <= parameters.FLEET_USUAL_MAX * rule.allowed


# The queue, and bounds ------------------------------------------------------------------------------------------------


def test_the_queue_drops_the_oldest_and_counts_them_exactly():
    """Beyond the bound the oldest observations go, one by one where a batch is cut, and nothing is lost twice."""
    detector = new_detector(waiting_max=100)
    seen = []
    detector.take = lambda observation, _at_s: seen.append(observation.number)
    numbers = iter(range(10_000))
    sizes = [30, 30, 30, 7, 64, 250, 1, 3]
    for size in sizes:
        detector.note([Observation(RECORD, None, number=next(numbers)) for _ in range(size)])
        assert detector.waiting <= 100
    total = sum(sizes)
    assert (100, total - 100) == (detector.waiting, detector.dropped)
    while detector.work(7):
        pass
    assert list(range(total - 100, total)) == seen
    assert (0, total - 100) == (detector.waiting, detector.dropped)


def test_work_is_done_in_slices():
    """A slice looks at no more than it is asked to, and leaves the rest in order."""
    detector = new_detector()
    detector.note([Observation(RECORD, None, number=number) for number in range(10)])
    assert [4, 4, 2, 0] == [detector.work(4) for _ in range(4)]
    assert 10 == detector.taken


def test_the_table_forgets_the_device_that_was_silent_longest():
    """More devices than places: the memory stays, who is heard of stays, and what is forgotten is counted."""
    world = World(devices_max=64)
    for number in range(1000):
        world.see(HELLO, Refusal.SIGNATURE, device="kept")
        world.now_s += 3600 * 2
        world.see(RECORD, device=f"other {number}", mark=os.urandom(8), number=1)
        world.now_s += 1
    assert 64 == world.detector.devices.places
    assert 1000 - 64 <= world.detector.devices.evicted <= 1001
    world.see(HELLO, Refusal.SIGNATURE, device="kept", count=3)
    assert ref_of("kept") in [ref for _, ref in world.found()]


def test_many_devices_at_once_are_folded_into_their_fleet():
    """Who attacks ten thousand devices fills no list: some have incidents of their own, the rest one together."""
    world = World(devices_max=2**15)
    for number in range(5000):
        world.see(HELLO, Refusal.SIGNATURE, device=f"victim {number}", count=3)
    suspicions = world.detector.suspicions.take()
    of_devices = [each for each in suspicions if each.ref is not None]
    (of_fleet,) = [each for each in suspicions if each.ref is None]
    assert parameters.OPENED_PER_FLUSH == len(of_devices)
    assert 5000 - len(of_devices) == of_fleet.facts["folded"] == world.detector.suspicions.folded
    assert len(of_fleet.evidence()) <= 4096


def test_tenants_beyond_the_bound_are_judged_together(monkeypatch):
    """The memory of fleets is bounded; what comes beyond it is judged with the default tenant's."""
    monkeypatch.setattr("qflare.monitor.detector.TENANTS_MAX", 3)
    world = World()
    for number in range(10):
        world.see(RECORD, device="a", tenant=TenantId(bytes([number] * 16)), mark=os.urandom(8))
    assert 3 == len(world.detector.fleets)


def test_a_clock_that_falls_back_lets_nothing_fall_twice():
    """Time that runs backwards neither wipes scores nor raises."""
    world = World()
    world.see(HELLO, Refusal.SIGNATURE, device="a", count=2)
    world.see(HELLO, Refusal.TAG, count=10)
    world.now_s -= 7200
    world.see(HELLO, Refusal.SIGNATURE, device="a")
    world.see(HELLO, Refusal.TAG, count=15)
    assert {(Signal.FORGED_MESSAGES, "a"), (Signal.BROKEN_MESSAGES, None)} == set(world.found())


# Rates ----------------------------------------------------------------------------------------------------------------


def test_scores_fall_by_what_is_allowed():
    """A CUSUM falls linearly, to 0 and no further, and not while the clock stands or falls back."""
    assert 7.0 == fallen(10.0, allowed=6.0, elapsed_s=1800)
    assert 0.0 == fallen(1.0, allowed=6.0, elapsed_s=36_000)
    assert 5.0 == fallen(5.0, allowed=6.0, elapsed_s=-10)


def test_severities_follow_the_ladder():
    """The highest rung reached counts."""
    ladder = ((3, WARNING), (30, ERROR))
    assert [None, WARNING, WARNING, ERROR] == [severity_of(ladder, score) for score in (2.9, 3, 29, 30)]


def test_the_usual_is_learned_in_hours_and_forgotten_when_it_is_quiet():
    """The EWMA comes near a steady rate within hours, within its bound, and fades in silence."""
    rule = parameters.FLEET_RULES[Signal.REPLAYS]
    rate = FleetRate()
    for minute in range(1, 601):
        for _ in range(8):
            rate.add(rule, at_s=minute * 60, traffic=0)
    assert 7.9 < rate.usual < 8.1
    rate.pass_to(rule, 601 + 600, traffic=0)
    assert rate.usual < 0.01
    assert 0.0 == rate.score


def test_every_parameter_has_its_reason():
    """No number of the detector stands without a sentence about it, and ladders rise."""
    text = Path(parameters.__file__).read_text()
    body = ast.parse(text).body
    for statement, after in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and not isinstance(statement.value, ast.Dict):
            assert isinstance(after, ast.Expr), statement.target.id
            assert isinstance(after.value.value, str)
    for rules in (parameters.DEVICE_RULES, parameters.FLEET_RULES):
        assert all(list(rule.ladder) == sorted(rule.ladder, key=lambda rung: rung[0]) for rule in rules.values())
