"""
The detector: observations in, suspicions out; constant cost for each, bounded memory, no input or output.

Deterministic rules say which observation speaks for which signal; CUSUM and EWMA (`rates`, `device_table`) say whether
there are too many.  Timing is no signal: devices of one model that answer evenly are honest devices.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from qflare.model.ids import DEFAULT_TENANT
from qflare.model.observation import ANNOUNCEMENT, CONFIRM, CONTROL, ENROL, HELLO, OFFER, RECORD, UPDATE
from qflare.model.refusal import Refusal
from qflare.model.signal import Signal
from qflare.monitor.device_table import DeviceTable, device_key
from qflare.monitor.fleet import Fleet
from qflare.monitor.hearing import note_ended
from qflare.monitor.marks import RecentMarks, as_numbers
from qflare.monitor.norms import is_norm, judge_norm
from qflare.monitor.parameters import (
    ANNOUNCEMENT_RULE,
    DEVICE_RULES,
    DEVICES_MAX,
    FLEET_RULES,
    MARKS_MAX,
    TENANTS_MAX,
    WAITING_MAX,
    WAKE_AT,
)
from qflare.monitor.rates import FleetRate, severity_of
from qflare.monitor.suspicions import Suspicions
from qflare.monitor.tally import ANNOUNCEMENTS, UNTOLD, Mark, Tally, rank_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.clock import Clock
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.model.observation import Observation
    from qflare.monitor.opinion import Opinion
    from qflare.monitor.parameters import FleetRule
    from qflare.monitor.tally import Counts
    from qflare.protocol.leaf import JsonValue

_SIGNALS: Final[dict[tuple[str, Refusal], Signal]] = {
    (HELLO, Refusal.TAG): Signal.BROKEN_MESSAGES,
    (ENROL, Refusal.TAG): Signal.BROKEN_MESSAGES,
    (RECORD, Refusal.UNKNOWN_SESSION): Signal.BROKEN_MESSAGES,
    (RECORD, Refusal.TAG): Signal.FORGED_MESSAGES,
    (RECORD, Refusal.TRUNCATED): Signal.FORGED_MESSAGES,
    (HELLO, Refusal.SIGNATURE): Signal.FORGED_MESSAGES,
    (HELLO, Refusal.ENCAPSULATION_KEY): Signal.FORGED_MESSAGES,
    (CONTROL, Refusal.SIGNATURE): Signal.FORGED_MESSAGES,
    (CONFIRM, Refusal.TICKET): Signal.BAD_TICKETS,
    (CONFIRM, Refusal.TAG): Signal.BAD_TICKETS,
    (HELLO, Refusal.BUCKET): Signal.DEAD_BUCKETS,
    (CONFIRM, Refusal.BUCKET): Signal.DEAD_BUCKETS,
    (CONFIRM, Refusal.EXPIRED): Signal.DEAD_BUCKETS,
    (ENROL, Refusal.BUCKET): Signal.DEAD_BUCKETS,
    (RECORD, Refusal.BUCKET): Signal.DEAD_BUCKETS,
    (CONTROL, Refusal.BUCKET): Signal.DEAD_BUCKETS,
    (HELLO, Refusal.SEEN): Signal.REPLAYS,
    (CONFIRM, Refusal.CONFLICT): Signal.REPLAYS,
    (RECORD, Refusal.REPLAY): Signal.REPLAYS,
    (RECORD, Refusal.NO_REQUEST): Signal.REPLAYS,
    (HELLO, Refusal.UNKNOWN_DEVICE): Signal.SCAN,
    (HELLO, Refusal.UNKNOWN_TENANT): Signal.SCAN,
    (OFFER, Refusal.UNKNOWN_DEVICE): Signal.SCAN,
    (CONFIRM, Refusal.UNKNOWN_DEVICE): Signal.SCAN,
    (ENROL, Refusal.TOKEN): Signal.ENROLMENT_GUESSING,
    (ENROL, Refusal.SIGNATURE): Signal.ENROLMENT_GUESSING,
    (HELLO, Refusal.DEVICE_STATE): Signal.USE_AFTER_REVOCATION,
    (OFFER, Refusal.DEVICE_STATE): Signal.USE_AFTER_REVOCATION,
    (CONFIRM, Refusal.DEVICE_STATE): Signal.USE_AFTER_REVOCATION,
    (RECORD, Refusal.DEVICE_STATE): Signal.USE_AFTER_REVOCATION,
    # One identity whose counters have parted: an old key version, another rekey or rotation in the same place.
    (HELLO, Refusal.KEY_VERSION): Signal.CLONE,
    (CONFIRM, Refusal.KEY_VERSION): Signal.CLONE,
    (CONTROL, Refusal.KEY_VERSION): Signal.CLONE,
    (CONTROL, Refusal.CONFLICT): Signal.CLONE,
}
"""What a refusal speaks for; those that are not here (length, type, overload, …) speak for nothing."""
_HALF_OPEN: Final = DEVICE_RULES[Signal.HALF_OPEN]
_FLEET_HALF_OPEN: Final = FLEET_RULES[Signal.HALF_OPEN]
_NO_END: Final = "hello without an end"
_LOOKED_AT: Final = 16
_FETCHED: Final = "announcement without a handshake"
_WHAT: Final = {pair: f"{pair[0]} {pair[1].value}" for pair in _SIGNALS}


class Detector:
    """
    One worker's detector; lives on the event loop's thread, and an observation costs it some microseconds.

    Args:
        clock: Says when an observation came.
        wake: Called when much waits; must return at once.
        devices_max: Devices remembered, a power of two.
        marks_max: Random marks of each kind remembered, a power of two.
        waiting_max: Observations that wait at most.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        wake: Callable[[], None] | None = None,
        devices_max: int = DEVICES_MAX,
        marks_max: int = MARKS_MAX,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self.clock = clock
        self.devices = DeviceTable(devices_max)
        self.suspicions = Suspicions()
        self.tally = Tally()
        """What the other workers are told next."""
        self.ended: OrderedDict[int, int] = OrderedDict()
        """Handshakes that ended here and were begun with a worker that has not told yet, by device."""
        self.taken = 0
        """Observations looked at."""
        self.dropped = 0
        """Observations dropped because too many waited."""
        self.waiting = 0
        """Observations that wait."""
        self.fleets: OrderedDict[TenantId, Fleet] = OrderedDict()
        self.new_opinion: Callable[[], Opinion] | None = None
        """Makes the second opinion about a fleet, where one is wanted."""
        self._tenants: list[TenantId] = []
        self._waiting_max = waiting_max
        self._batches: deque[tuple[int, list[Observation]]] = deque()
        self._wake = wake
        self.marks = {step: RecentMarks(marks_max) for step in (HELLO, CONFIRM, RECORD, ENROL)}
        self._on_taken = {
            HELLO: self._hello,
            CONFIRM: self._confirmed,
            RECORD: self._record,
            ENROL: self._enrolled,
            ANNOUNCEMENT: self._announced,
            UPDATE: self._updated,
        }
        self.fleet_of(DEFAULT_TENANT)

    # --- the queue ----------------------------------------------------------------------------------

    def note(self, observations: list[Observation]) -> None:
        """Take observations over; beyond the bound the oldest are dropped and counted."""
        self._batches.append((self.clock.now_s(), observations))
        self.waiting += len(observations)
        while self.waiting > self._waiting_max:
            at_s, oldest = self._batches.popleft()
            over = min(len(oldest), self.waiting - self._waiting_max)
            self.dropped += over
            self.waiting -= over
            if over < len(oldest):
                self._batches.appendleft((at_s, oldest[over:]))
        if self._wake is not None and self.waiting >= WAKE_AT:
            self._wake()

    def work(self, limit: int) -> int:
        """Look at up to *limit* observations that wait, and some more up to a batch's end; return how many."""
        done = 0
        while self._batches and done < limit:
            at_s, batch = self._batches.popleft()
            rest = batch[limit - done :]
            if rest:
                batch = batch[: limit - done]
                self._batches.appendleft((at_s, rest))
            for observation in batch:
                self.take(observation, at_s)
            done += len(batch)
            self.waiting -= len(batch)
        return done

    # --- one observation ----------------------------------------------------------------------------

    def take(self, observation: Observation, at_s: int) -> None:
        """Look at one observation of *at_s*."""
        self.taken += 1
        if observation.reason is None:
            handle = self._on_taken.get(observation.step)
            if handle is not None:
                handle(observation, at_s)
            return
        if observation.reason is Refusal.DRAWN_TWICE:
            self._same_ciphertext(observation, at_s)
            return
        pair = (observation.step, observation.reason)
        signal = _SIGNALS.get(pair)
        if signal is None:
            return
        self.suspect(signal, observation.tenant_id, observation.ref, at_s=at_s, what=_WHAT[pair])

    def suspect(
        self, signal: Signal, tenant_id: TenantId | None, ref: DeviceRef | None, *, at_s: int, what: str
    ) -> None:
        """Count an observation that speaks for *signal*, for its device if it has one, else for its fleet."""
        tenant = DEFAULT_TENANT if tenant_id is None else tenant_id
        fleet = self.fleet_of(tenant)
        if ref is not None and signal in DEVICE_RULES:
            row = self.devices.row_of(device_key(ref), tenant=fleet.number, at_s=at_s)
            score = self.devices.add(row, signal, at_s=at_s)
            severity = severity_of(DEVICE_RULES[signal].ladder, score)
            self.tally.count_device(tenant, signal, ref, 1, told=rank_of(severity))
            if severity is not None:
                # It has an incident of its own: the fleet's is for what no device explains alone.
                self.suspicions.add(tenant, signal, ref, severity, at_s=at_s, score=score, what=what)
                return
        self._count(fleet, tenant, signal, FLEET_RULES[signal], at_s=at_s, what=what)

    def count(self, signal: Signal, tenant_id: TenantId, *, at_s: int, what: str, weight: float = 1.0) -> None:
        """Count for a fleet what every worker sees by itself, so that no other is told of it."""
        fleet, rule = self.fleet_of(tenant_id), FLEET_RULES[signal]
        self._count(fleet, tenant_id, signal, rule, at_s=at_s, what=what, weight=weight, is_mine=False)

    def _count(
        self,
        fleet: Fleet,
        tenant_id: TenantId,
        signal: Signal,
        rule: FleetRule,
        *,
        at_s: int,
        what: str,
        weight: float = 1.0,
        is_mine: bool = True,
    ) -> None:
        minute = at_s // 60
        if minute > fleet.traffic_minute:
            fleet.close_minute(minute)
        rate = fleet.rates.get(signal)
        if rate is None:
            rate = fleet.rates[signal] = FleetRate()
        score = rate.add(rule, at_s=at_s, traffic=fleet.traffic, count=weight)
        severity = severity_of(rule.ladder, score)
        if is_mine:
            self.tally.count_fleet(tenant_id, signal.value, 1, told=rank_of(severity))
        if severity is not None:
            facts: dict[str, JsonValue] | None = None if fleet.unusual is None else {"unusual_percent": fleet.unusual}
            self.suspicions.add(tenant_id, signal, None, severity, at_s=at_s, score=score, what=what, facts=facts)

    # --- what was taken -----------------------------------------------------------------------------

    def _hello(self, observation: Observation, at_s: int) -> None:
        tenant_id, ref = observation.tenant_id, observation.ref
        if tenant_id is None or ref is None:
            return
        fleet = self._took(tenant_id, at_s)
        repeated = self.marks[HELLO].note(observation.mark, observation.other, key := device_key(ref))
        if repeated is not None:
            if not repeated.is_same:
                self._drawn_twice(observation, repeated.owner, at_s)
            return
        self._tell_mark(observation, tenant_id, ref)
        row = self.devices.row_of(key, tenant=fleet.number, at_s=at_s)
        score = self.devices.begin(row, at_s=at_s)
        severity = severity_of(_HALF_OPEN.ladder, score) if score >= _HALF_OPEN.ladder[0][0] else None
        self.tally.count_device(tenant_id, Signal.HALF_OPEN, ref, 1, told=rank_of(severity))
        if severity is not None:
            self.suspicions.add(tenant_id, Signal.HALF_OPEN, ref, severity, at_s=at_s, score=score, what=_NO_END)
            return
        fleet.half_open += 1
        fleet.unshared[1] += 1
        # Batches of hellos come before their ends: a look at every one would be a look at nothing.
        if fleet.half_open > _FLEET_HALF_OPEN.allowed and fleet.half_open % _LOOKED_AT == 0:
            score = fleet.judge_half_open(at_s)
            severity = severity_of(_FLEET_HALF_OPEN.ladder, score)
            if severity is not None:
                self.suspicions.add(
                    tenant_id, Signal.HALF_OPEN, None, severity, at_s=at_s, score=score, what=_NO_END, count=_LOOKED_AT
                )

    def _confirmed(self, observation: Observation, at_s: int) -> None:
        tenant_id, ref = observation.tenant_id, observation.ref
        if tenant_id is None or ref is None:
            return
        fleet = self._took(tenant_id, at_s)
        key = device_key(ref)
        if observation.mark:
            # ct_b of an ANSWER, which the device drew.
            repeated = self.marks[CONFIRM].note(observation.mark, observation.other, key)
            if repeated is None:
                self._tell_mark(observation, tenant_id, ref)
            elif not repeated.is_same:
                self._drawn_twice(observation, repeated.owner, at_s)
            return
        row = self.devices.row_of(key, tenant=fleet.number, at_s=at_s)
        if not self.devices.end(row, at_s=at_s):
            note_ended(self.ended, key, 1)
        self.tally.count_device(tenant_id, Signal.HALF_OPEN, ref, -1, told=UNTOLD)
        fleet.half_open -= 1
        fleet.unshared[1] -= 1

    def _record(self, observation: Observation, at_s: int) -> None:
        tenant_id, ref = observation.tenant_id, observation.ref
        if tenant_id is None or ref is None:
            return
        fleet = self._took(tenant_id, at_s)
        key = device_key(ref)
        repeated = self.marks[RECORD].note(observation.mark, observation.other, key)
        if repeated is not None and not repeated.is_same:
            self._drawn_twice(observation, repeated.owner, at_s)
        if not observation.number:
            return
        row = self.devices.row_of(key, tenant=fleet.number, at_s=at_s)
        newest = self.devices.sessions[row]
        if observation.number > newest:
            self.devices.sessions[row] = observation.number
            self.tally.note_session(key, observation.number)
        elif observation.number < newest:
            self.suspect(Signal.CLONE, tenant_id, ref, at_s=at_s, what="record of an older session after a newer one's")

    def _enrolled(self, observation: Observation, at_s: int) -> None:
        tenant_id, ref = observation.tenant_id, observation.ref
        if tenant_id is None or ref is None:
            return
        self._took(tenant_id, at_s)
        repeated = self.marks[ENROL].note(observation.mark, observation.other, device_key(ref))
        if repeated is None:
            self._tell_mark(observation, tenant_id, ref)
        elif not repeated.is_same:
            self._drawn_twice(observation, repeated.owner, at_s)

    def _announced(self, _: Observation, at_s: int) -> None:
        # Nobody's in particular: whoever fetches an announcement says no name.
        fleet = self.fleet_of(DEFAULT_TENANT)
        minute = at_s // 60
        if minute > fleet.traffic_minute:
            fleet.close_minute(minute)
        score = fleet.announcements.add(ANNOUNCEMENT_RULE, at_s=at_s, traffic=fleet.traffic)
        severity = severity_of(ANNOUNCEMENT_RULE.ladder, score)
        self.tally.count_fleet(DEFAULT_TENANT, ANNOUNCEMENTS, 1, told=rank_of(severity))
        if severity is not None:
            self.suspicions.add(
                DEFAULT_TENANT,
                Signal.SCAN,
                None,
                severity,
                at_s=at_s,
                score=score,
                what=_FETCHED,
            )

    def _updated(self, observation: Observation, at_s: int) -> None:
        tenant_id, ref = observation.tenant_id, observation.ref
        if tenant_id is None or ref is None or not is_norm(observation.value):
            return
        row = self.devices.row_of(device_key(ref), tenant=self.fleet_of(tenant_id).number, at_s=at_s)
        distance = judge_norm(self.devices, row, observation.value)
        if distance:
            self.suspicions.add(
                tenant_id,
                Signal.UPDATE_NORM,
                ref,
                DEVICE_RULES[Signal.UPDATE_NORM].ladder[0][1],
                at_s=at_s,
                score=distance,
                what="norm far from the device's own",
                facts={"hint": "poisoning is one explanation among several"},
            )

    def _tell_mark(self, observation: Observation, tenant_id: TenantId, ref: DeviceRef) -> None:
        self.tally.note_mark(Mark(tenant_id, observation.step, ref, *as_numbers(observation.mark, observation.other)))

    # --- other workers ------------------------------------------------------------------------------

    def take_counts(self) -> Counts:
        """Return what was counted since the last call, for the other workers."""
        traffic: dict[TenantId, tuple[int, int]] = {}
        for tenant_id, fleet in self.fleets.items():
            if any(fleet.unshared):
                traffic[tenant_id] = fleet.unshared[0], fleet.unshared[1]
                fleet.unshared = [0, 0]
        return self.tally.take(traffic)

    # --- random sources -----------------------------------------------------------------------------

    def _same_ciphertext(self, observation: Observation, at_s: int) -> None:
        """Tell whose source drew the ciphertext of a refused hello again, by the key that it drew with it."""
        if observation.ref is None:
            return
        key = device_key(observation.ref)
        repeated = self.marks[HELLO].note(observation.mark, observation.other, key)
        self._drawn_twice(observation, key if repeated is None else repeated.owner, at_s)

    def _drawn_twice(self, observation: Observation, owner: int, at_s: int) -> None:
        tenant_id, ref = observation.tenant_id, observation.ref
        if tenant_id is None or ref is None:
            return
        what = f"{observation.step} drawn twice"
        fleet = self.fleet_of(tenant_id)
        if owner == device_key(ref):
            self.suspect(Signal.BROKEN_RANDOMNESS, tenant_id, ref, at_s=at_s, what=what)
            return
        # Two devices with one source: the fault is the fleet's.
        self._count(
            fleet,
            tenant_id,
            Signal.BROKEN_RANDOMNESS,
            FLEET_RULES[Signal.BROKEN_RANDOMNESS],
            at_s=at_s,
            what=f"{what}, by two devices",
        )

    # --- tenants ------------------------------------------------------------------------------------

    def fleet_of(self, tenant_id: TenantId) -> Fleet:
        """Return what is remembered of a tenant; beyond the bound of tenants that of the default tenant."""
        fleet = self.fleets.get(tenant_id)
        if fleet is None:
            if len(self.fleets) >= TENANTS_MAX:
                return self.fleets[DEFAULT_TENANT]
            fleet = self.fleets[tenant_id] = Fleet(len(self._tenants))
            self._tenants.append(tenant_id)
        if fleet.opinion is None and self.new_opinion is not None:
            fleet.opinion = self.new_opinion()
        return fleet

    def _took(self, tenant_id: TenantId, at_s: int) -> Fleet:
        fleet = self.fleet_of(tenant_id)
        minute = at_s // 60
        fleet.took(minute)
        if tenant_id != DEFAULT_TENANT:
            # What names no tenant is judged by the traffic of all.
            self.fleets[DEFAULT_TENANT].took(minute)
        return fleet
