"""What other workers counted, added to what this one did (decision 0076)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.model.signal import Signal
from qflare.monitor.device_table import device_key
from qflare.monitor.parameters import ANNOUNCEMENT_RULE, DEVICE_RULES, ENDED_MAX, FLEET_RULES
from qflare.monitor.rates import FleetRate, severity_of
from qflare.monitor.tally import ANNOUNCEMENTS, rank_of

if TYPE_CHECKING:
    from collections import OrderedDict

    from qflare.model.ids import DeviceRef, TenantId
    from qflare.monitor.detector import Detector
    from qflare.monitor.parameters import Ladder
    from qflare.monitor.tally import Counts, DeviceCount, FleetCount, Mark, Traffic

_BY_SEVERAL: Final = "counted by several workers"


def hear(detector: Detector, counts: Counts, *, at_s: int) -> None:
    """
    Add to *detector* what another worker counted, as if it had been seen here at *at_s*.

    A severity that is reached by both together is told here, unless the other one has told it.
    """
    for traffic in counts.traffic:
        _hear_traffic(detector, traffic, at_s)
    for fleet in counts.fleets:
        _hear_fleet(detector, fleet, at_s)
    for device in counts.devices:
        _hear_device(detector, device, at_s)
    for mark in counts.marks:
        _hear_mark(detector, mark, at_s)
    for key, number in counts.sessions:
        # A device that never came here has no older session here either.
        row = detector.devices.find(key)
        if row is not None:
            detector.devices.sessions[row] = max(detector.devices.sessions[row], number)


def _hear_mark(detector: Detector, heard: Mark, at_s: int) -> None:
    key = device_key(heard.ref)
    repeated = detector.marks[heard.step].note_numbers(heard.mark, heard.other, key)
    if repeated is None or repeated.is_same:
        return
    what = f"{heard.step} drawn twice, at two workers"
    # Both workers hear of it, and each counts it once: nobody is told of it again.
    if repeated.owner != key:
        detector.count(Signal.BROKEN_RANDOMNESS, heard.tenant_id, at_s=at_s, what=f"{what}, by two devices")
        return
    row = detector.devices.row_of(key, tenant=detector.fleet_of(heard.tenant_id).number, at_s=at_s)
    score = detector.devices.add(row, Signal.BROKEN_RANDOMNESS, at_s=at_s)
    severity = severity_of(DEVICE_RULES[Signal.BROKEN_RANDOMNESS].ladder, score)
    if severity is not None:
        detector.suspicions.add(
            heard.tenant_id, Signal.BROKEN_RANDOMNESS, heard.ref, severity, at_s=at_s, score=score, what=what
        )


def note_ended(ended: OrderedDict[int, int], key: int, count: int) -> None:
    """Remember that *count* handshakes of a device ended of which nobody has told that they were begun."""
    ended[key] = ended.get(key, 0) + count
    if len(ended) > ENDED_MAX:
        ended.popitem(last=False)


def _hear_traffic(detector: Detector, heard: Traffic, at_s: int) -> None:
    fleet = detector.fleet_of(heard.tenant_id)
    fleet.close_minute(at_s // 60)
    fleet.traffic += heard.messages
    # What it comes to is looked at with the next hello: a flood goes on.
    fleet.half_open += heard.half_open


def _hear_fleet(detector: Detector, heard: FleetCount, at_s: int) -> None:
    fleet = detector.fleet_of(heard.tenant_id)
    fleet.close_minute(at_s // 60)
    if heard.rate == ANNOUNCEMENTS:
        signal, rule, rate = Signal.SCAN, ANNOUNCEMENT_RULE, fleet.announcements
    else:
        signal = Signal(heard.rate)
        rule, rate = FLEET_RULES[signal], fleet.rates.setdefault(signal, FleetRate())
    before = rate.add(rule, at_s=at_s, traffic=fleet.traffic, count=0)
    score = rate.add(rule, at_s=at_s, traffic=fleet.traffic, count=heard.seen)
    _tell(detector, heard.tenant_id, signal, None, rule.ladder, before=before, score=score, told=heard.told, at_s=at_s)


def _hear_device(detector: Detector, heard: DeviceCount, at_s: int) -> None:
    devices, key, count = detector.devices, device_key(heard.ref), heard.seen
    if heard.signal is Signal.HALF_OPEN and count > 0:
        known = min(count, detector.ended.get(key, 0))
        note_ended(detector.ended, key, -known)
        if not detector.ended[key]:
            del detector.ended[key]
        count -= known
    row = devices.find(key)
    if row is None:
        if count <= 0:
            note_ended(detector.ended, key, -count)
            return
        row = devices.row_of(key, tenant=detector.fleet_of(heard.tenant_id).number, at_s=at_s)
    before = devices.add(row, heard.signal, at_s=at_s, weight=0)
    score = devices.add(row, heard.signal, at_s=at_s, weight=count)
    if before + count < 0:
        note_ended(detector.ended, key, int(-before - count))
    ladder = DEVICE_RULES[heard.signal].ladder
    _tell(
        detector,
        heard.tenant_id,
        heard.signal,
        heard.ref,
        ladder,
        before=before,
        score=score,
        told=heard.told,
        at_s=at_s,
    )


def _tell(
    detector: Detector,
    tenant_id: TenantId,
    signal: Signal,
    ref: DeviceRef | None,
    ladder: Ladder,
    *,
    before: float,
    score: float,
    told: int,
    at_s: int,
) -> None:
    severity = severity_of(ladder, score)
    if severity is not None and rank_of(severity) > max(told, rank_of(severity_of(ladder, before))):
        detector.suspicions.add(tenant_id, signal, ref, severity, at_s=at_s, score=score, what=_BY_SEVERAL)
