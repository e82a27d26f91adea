"""What a detector remembers of one tenant, as bytes: saved now and then, merged with what other workers saved."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.errors import DecodeError
from qflare.model.signal import Signal
from qflare.monitor.device_table import SCORED
from qflare.monitor.parameters import FLEET_RULES, STATE_AGE_S, STATE_DEVICES_MAX, STATE_NORMS_AGE_S
from qflare.monitor.rates import FleetRate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qflare.model.ids import TenantId
    from qflare.monitor.detector import Detector
    from qflare.monitor.device_table import DeviceTable

_MAGIC: Final = b"QFD1"
_COUNT: Final = struct.Struct("<I")
_ROW: Final = struct.Struct(f"<QIIQ{len(SCORED)}f4f")
_RATES_MAX: Final = 64
_BLOCK: Final = 64


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

    def forget_old(self, now_s: int) -> None:
        """Leave out what is too old to mean anything, whoever saved it."""
        kept: dict[int, DeviceRow] = {}
        for key, row in self.devices.items():
            if row.seen_s >= now_s - STATE_AGE_S:
                kept[key] = row
            elif row.norms and row.seen_s >= now_s - STATE_NORMS_AGE_S:
                kept[key] = row._replace(scores=(0.0,) * len(SCORED), usual=0.0)
        self.devices = kept

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


def remember(detector: Detector, *, changed_since_s: int = 0) -> dict[TenantId, Remembered]:
    """
    Return what *detector* knows of each tenant that it has heard of since; may run in a thread, beside it at work.

    One pass over the table, whatever the number of tenants.  A device of which only the newest session is known is left
    out: it is known again with its next record.
    """
    table = detector.devices
    tenants = {fleet.number: tenant_id for tenant_id, fleet in list(detector.fleets.items())}
    found: dict[TenantId, Remembered] = {tenant_id: Remembered() for tenant_id in tenants.values()}
    heard: set[TenantId] = set()
    for place in _places(table):
        tenant_id = tenants.get(table.tenants[place])
        if tenant_id is None:
            continue
        if table.seen_s[place] >= changed_since_s:
            heard.add(tenant_id)
        row = _row(table, place)
        found[tenant_id].devices[row.key] = row
    for tenant_id, fleet in list(detector.fleets.items()):
        for signal, rate in list(fleet.rates.items()):
            if rate.count or rate.usual or rate.score:
                found[tenant_id].rates[signal] = FleetRate(rate.minute, rate.count, rate.usual, rate.score)
                if rate.minute * 60 >= changed_since_s - 60:
                    heard.add(tenant_id)
    for tenant_id in heard:
        found[tenant_id].forget_old(detector.clock.now_s())
    return {tenant_id: found[tenant_id] for tenant_id in heard}


def _places(table: DeviceTable) -> Iterator[int]:
    """Return the rows of which something is known, quickly where nearly nothing is."""
    columns = (*table.scores, table.usual, table.norms)
    for first in range(0, table.places, _BLOCK):
        last = min(first + _BLOCK, table.places)
        if any(column[first:last].tobytes().count(0) != 4 * (last - first) for column in columns):
            for place in range(first, last):
                if any(column[place] for column in columns):
                    yield place


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
