"""What the detector says about a fleet: false alarms a device-year, detection rates, times to detect."""

import heapq
import statistics
from dataclasses import dataclass

from qflare.model.event import EventSeverity
from qflare.model.signal import Signal
from qflare.monitor.detector import Detector
from qflare.testing import TurnableClock

from .fleet import CALM, DAY_S, Player, ref_of
from .recording import START_S

_YEAR_S = 365.25 * DAY_S
_FLUSH_S = 2


@dataclass(frozen=True, slots=True)
class Alarm:
    """An incident as it would be opened, if each were closed after a day."""

    at_s: int
    signal: Signal
    ref: bytes | None
    severity: EventSeverity


@dataclass(frozen=True, slots=True)
class HonestResult:
    """What was said about an honest fleet."""

    profile: str
    devices: int
    days: float
    observations: int
    alarms: tuple[Alarm, ...]

    @property
    def device_years(self):
        """How long was watched, over all devices."""
        return self.devices * self.days * DAY_S / _YEAR_S

    def rate(self, severity):
        """False alarms of a severity, a device-year."""
        return sum(alarm.severity is severity for alarm in self.alarms) / self.device_years


@dataclass(frozen=True, slots=True)
class Plan:
    """An attack: which act, what it should be found as, and at which strengths."""

    act: str
    signals: tuple[Signal, ...]
    strengths: tuple[float, ...]
    """Acts an hour."""
    is_spread: bool = False
    """Over all devices of the fleet, not one."""


@dataclass(frozen=True, slots=True)
class AttackResult:
    """How an attack of one strength was found."""

    plan: Plan
    an_hour: float
    trials: int
    times_s: tuple[int, ...]
    """Seconds until it was found, of the trials in which it was."""

    @property
    def rate(self):
        """The share of trials in which it was found."""
        return len(self.times_s) / self.trials

    @property
    def median_s(self):
        """The median time until it was found."""
        return int(statistics.median(self.times_s)) if self.times_s else None


F, S = Signal, (5.0, 60.0, 1000.0)
PLANS = (
    Plan("forged_hello", (F.FORGED_MESSAGES,), (1.0, 6.0, 60.0)),
    Plan("forged_hello", (F.FORGED_MESSAGES,), (60.0, 600.0), is_spread=True),
    Plan("forged_record", (F.FORGED_MESSAGES,), (1.0, 6.0, 60.0)),
    Plan("broken_hello", (F.BROKEN_MESSAGES,), (60.0, 300.0, 3000.0)),
    Plan("bad_ticket", (F.BAD_TICKETS,), (60.0, 300.0, 3000.0)),
    Plan("replayed_hello", (F.REPLAYS,), (300.0, 1200.0, 6000.0)),
    Plan("replayed_record", (F.REPLAYS,), (3.0, 12.0, 120.0)),
    Plan("replayed_record", (F.REPLAYS,), (300.0, 2400.0), is_spread=True),
    Plan("old_hello", (F.DEAD_BUCKETS,), (1200.0, 4000.0, 20_000.0)),
    Plan("clone", (F.CLONE,), (0.2, 1.0, 6.0)),
    Plan("old_keys", (F.CLONE,), (1.0, 6.0, 60.0)),
    Plan("low_entropy", (F.BROKEN_RANDOMNESS,), (0.2,)),
    Plan("one_source", (F.BROKEN_RANDOMNESS,), (0.2,)),
    Plan("same_seed_again", (F.BROKEN_RANDOMNESS,), (0.2,)),
    Plan("scan", (F.SCAN,), (120.0, 1200.0, 6000.0)),
    Plan("announcements_alone", (F.SCAN,), (3000.0, 20_000.0)),
    Plan("half_open", (F.HALF_OPEN,), (6.0, 30.0, 300.0)),
    Plan("half_open", (F.HALF_OPEN,), (600.0, 6000.0), is_spread=True),
    Plan("guessed_token", (F.ENROLMENT_GUESSING,), (10.0, 60.0, 600.0)),
    Plan("revoked_device", (F.USE_AFTER_REVOCATION,), (1.0, 6.0, 60.0)),
    Plan("poisoned_update", (F.UPDATE_NORM,), (0.2,)),
)
"""What is measured; beneath the weakest strength of each lies what the detector does not see."""

ATTACK_S = 6 * 3600
"""How long an attack goes on."""
BACKGROUND_DEVICES = 200
BEFORE_S = 4 * 3600
"""Honest time before it."""


def watch(stream):
    """Return the alarms about a stream of (time, observation), and how many observations it had."""
    clock = TurnableClock(START_S)
    detector = Detector(clock, devices_max=2**14, marks_max=2**15)
    alarms, latest = [], {}
    next_s = count = 0
    for at_s, observation in stream:
        if at_s >= next_s:
            _take(detector, alarms, latest)
            next_s = at_s + _FLUSH_S
        detector.take(observation, at_s)
        count += 1
    _take(detector, alarms, latest)
    return alarms, count


def _take(detector, alarms, latest):
    for each in detector.suspicions.take():
        key = (each.signal, each.ref)
        opened = latest.get(key)
        if opened is None or each.first_s - opened.at_s >= DAY_S or _is_graver(each, opened):
            latest[key] = Alarm(each.first_s, each.signal, each.ref, each.severity)
            alarms.append(latest[key])


def _is_graver(each, opened):
    order = list(EventSeverity)
    return order.index(each.severity) > order.index(opened.severity)


def measure_honest(episodes, profile, *, devices, days, seed=1):
    """Watch an honest fleet."""
    player = Player(episodes, seed)
    alarms, count = watch(player.honest(profile, devices=devices, seconds=int(days * DAY_S)))
    return HonestResult(profile.name, devices, days, count, tuple(alarms))


def measure_attack(episodes, plan, an_hour, *, trials, seed=1):
    """Run an attack in the middle of an honest fleet's day, some times."""
    times = []
    for trial in range(trials):
        player = Player(episodes, (seed + 1) * 1000 + trial)
        honest = player.honest(CALM, devices=BACKGROUND_DEVICES, seconds=BEFORE_S + ATTACK_S)
        targets = (
            list(range(BACKGROUND_DEVICES)) if plan.is_spread else [BACKGROUND_DEVICES + 1, BACKGROUND_DEVICES + 2]
        )
        if not plan.is_spread and plan.act not in {"low_entropy", "one_source"}:
            targets = targets[:1]
        begin_s = START_S + BEFORE_S
        attack = player.attack(plan.act, an_hour=an_hour, seconds=ATTACK_S, begin_s=begin_s, targets=targets)
        alarms, _ = watch(heapq.merge(honest, attack, key=lambda item: item[0]))
        wanted = {ref_of(target) for target in targets} | {None}
        first = next((a for a in alarms if a.signal in plan.signals and a.ref in wanted and a.at_s >= begin_s), None)
        if first is not None:
            times.append(first.at_s - begin_s)
    return AttackResult(plan, an_hour, trials, tuple(times))
