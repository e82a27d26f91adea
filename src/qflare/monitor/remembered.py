"""What a detector remembers of one tenant, as bytes: saved now and then, merged with what other workers saved."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.errors import DecodeError
from qflare.model.signal import Signal
from qflare.monitor.device_table import SCORED
from qflare.monitor.parameters import FLEET_RULES, STATE_AGE_S, STATE_DEVICES_MAX
from qflare.monitor.rates import FleetRate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qflare.model.ids import TenantId
    from qflare.monitor.detector import Detector
    from qflare.monitor.device_table import DeviceTable

_MAGIC: Final = b"QFD1"
_COUNT: Final = struct.Struct("<I")
_ROW: Final = struct.Struct(f"<QIIQ{len(SCORED)}f4f")
_RATES_MAX: Final = 64


class DeviceRow(NamedTuple):
    """One device."""

    key: int
    seen_s: int
    fallen_s: int
    session: int
    scores: tuple[float, ...]
    usual: float
    norm_mean: float
    norm_variance: float
    norms: float

    @property
    def weight(self) -> tuple[float, int]:
        """How much would be lost without it: what is suspected comes before what is only known."""
        return sum(self.scores), self.seen_s


@dataclass(slots=True)
class Remembered:
    """All that is known of one tenant."""

    rates: dict[Signal, FleetRate] = field(default_factory=dict)
    devices: dict[int, DeviceRow] = field(default_factory=dict)

    def merge(self, other: Remembered) -> None:
        """Take over what *other* knows more of: the higher scores, the newer times, the longer history."""
        for signal, rate in other.rates.items():
            mine = self.rates.get(signal)
            if mine is None:
                self.rates[signal] = rate
            else:
                mine.score, mine.usual = max(mine.score, rate.score), max(mine.usual, rate.usual)
        for key, row in other.devices.items():
            mine_row = self.devices.get(key)
            self.devices[key] = row if mine_row is None else _merged(mine_row, row)

    def encode(self) -> bytes:
        """Return the bytes that are saved, below 1 MiB."""
        rates = {
            signal.value: [rate.minute, rate.count, rate.usual, rate.score]
            for signal, rate in sorted(self.rates.items())
        }
        head = json.dumps(rates, separators=(",", ":")).encode()
        kept = sorted(self.devices.values(), key=lambda row: row.weight, reverse=True)[:STATE_DEVICES_MAX]
        rows = [
            _ROW.pack(
                row.key,
                row.seen_s,
                row.fallen_s,
                row.session,
                *row.scores,
                row.usual,
                row.norm_mean,
                row.norm_variance,
                row.norms,
            )
            for row in kept
        ]
        return b"".join([_MAGIC, _COUNT.pack(len(head)), head, _COUNT.pack(len(rows)), *rows])


def decode_remembered(state: bytes) -> Remembered:
    """
    Read what was saved.

    Raises:
        DecodeError: it is not that, or of another version.
    """
    try:
        if state[:4] != _MAGIC:
            raise DecodeError("the detector's state is of another version: begin anew")
        (size,) = _COUNT.unpack_from(state, 4)
        rates: object = json.loads(state[8 : 8 + size])
        (count,) = _COUNT.unpack_from(state, 8 + size)
        rows = state[12 + size :]
        if len(rows) != count * _ROW.size or not isinstance(rates, dict) or len(rates) > _RATES_MAX:
            raise DecodeError("the detector's state is damaged: begin anew")
        remembered = Remembered()
        for name, values in rates.items():
            signal = Signal(name)
            if signal in FLEET_RULES:
                minute, *numbers = (float(value) for value in values)
                remembered.rates[signal] = FleetRate(int(minute), *numbers)
        for row in _ROW.iter_unpack(rows):
            key, seen_s, fallen_s, session, *rest = row
            usual, norm_mean, norm_variance, norms = rest[len(SCORED) :]
            remembered.devices[key] = DeviceRow(
                key, seen_s, fallen_s, session, tuple(rest[: len(SCORED)]), usual, norm_mean, norm_variance, norms
            )
    except (ValueError, TypeError, struct.error, OverflowError):
        raise DecodeError("the detector's state is damaged: begin anew") from None
    return remembered


def remember(detector: Detector, tenant_id: TenantId) -> Remembered:
    """Return what *detector* knows of a tenant; may run in a thread, beside the detector at work."""
    fleet = detector.fleets.get(tenant_id)
    if fleet is None:
        return Remembered()
    rates = {
        signal: FleetRate(rate.minute, rate.count, rate.usual, rate.score)
        for signal, rate in list(fleet.rates.items())
        if rate.count or rate.usual or rate.score
    }
    table = detector.devices
    since_s = detector.clock.now_s() - STATE_AGE_S
    devices = {
        row.key: row
        for place, key in enumerate(table.keys.tolist())
        if key and table.tenants[place] == fleet.number and table.seen_s[place] >= since_s
        if any((row := _row(table, place)).scores) or row.usual or row.norms or row.session
    }
    return Remembered(rates, devices)


def recall(detector: Detector, tenant_id: TenantId, remembered: Remembered) -> None:
    """Give *detector* what was remembered; what it has seen itself meanwhile is merged with it."""
    fleet = detector.fleet_of(tenant_id)
    known = Remembered(dict(fleet.rates))
    known.merge(Remembered(remembered.rates))
    fleet.rates.update(known.rates)
    for row in _oldest_first(remembered.devices.values()):
        _put(detector.devices, fleet.number, row)


def _oldest_first(rows: Iterable[DeviceRow]) -> list[DeviceRow]:
    return sorted(rows, key=lambda row: row.seen_s)


def _row(table: DeviceTable, place: int) -> DeviceRow:
    return DeviceRow(
        table.keys[place],
        table.seen_s[place],
        table.fallen_s[place],
        table.sessions[place],
        tuple(column[place] for column in table.scores),
        table.usual[place],
        table.norm_mean[place],
        table.norm_variance[place],
        table.norms[place],
    )


def _put(table: DeviceTable, tenant: int, row: DeviceRow) -> None:
    known = table.find(row.key)
    place = table.row_of(row.key, tenant=tenant, at_s=row.seen_s) if known is None else known
    merged = row if known is None else _merged(_row(table, place), row)
    table.seen_s[place], table.fallen_s[place], table.sessions[place] = merged.seen_s, merged.fallen_s, merged.session
    for column, score in zip(table.scores, merged.scores, strict=True):
        column[place] = score
    table.usual[place] = merged.usual
    table.norm_mean[place], table.norm_variance[place] = merged.norm_mean, merged.norm_variance
    table.norms[place] = merged.norms


def _merged(one: DeviceRow, other: DeviceRow) -> DeviceRow:
    norms = one if one.norms >= other.norms else other
    return DeviceRow(
        one.key,
        max(one.seen_s, other.seen_s),
        # The later one: scores that fell to then do not fall again for the same time.
        max(one.fallen_s, other.fallen_s),
        max(one.session, other.session),
        tuple(max(pair) for pair in zip(one.scores, other.scores, strict=True)),
        max(one.usual, other.usual),
        norms.norm_mean,
        norms.norm_variance,
        norms.norms,
    )
