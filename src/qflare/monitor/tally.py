"""
What one worker's detector counted since it last told the others, and what they told it (decision 0076).

Counts are added up, so that an attack which is spread over workers is judged by each of them as a whole; each count
says which severity its worker has told already, so that nobody tells it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from qflare.errors import DecodeError
from qflare.model.ids import DEFAULT_TENANT, ID_BYTES, REF_BYTES, DeviceRef, TenantId
from qflare.model.incident import SEVERITIES
from qflare.model.observation import CONFIRM, ENROL, HELLO
from qflare.model.signal import Signal
from qflare.monitor.device_table import SCORED
from qflare.monitor.parameters import (
    FLEET_RULES,
    SHARE_DEVICES_MAX,
    SHARE_FLEETS_MAX,
    SHARE_MARKS_MAX,
    SHARE_SESSIONS_MAX,
    SLICE_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from qflare.model.event import EventSeverity

MARKED: Final = (HELLO, CONFIRM, ENROL)
"""Steps whose marks are told: keys and ciphertexts.  Stream ids of records are too many."""
ANNOUNCEMENTS: Final = "announcements"
"""The rate of announcements fetched, which stands beside the signals."""
UNTOLD: Final = -1
"""Rank of a count below every severity."""
_Row = TypeVar("_Row")
_VERSION: Final = 1
_COUNT_MAX: Final = 2**40
_FLEET_RATES: Final = frozenset({*(signal.value for signal in FLEET_RULES), ANNOUNCEMENTS})


def rank_of(severity: EventSeverity | None) -> int:
    """Return where a severity stands among all, `UNTOLD` for none."""
    return UNTOLD if severity is None else SEVERITIES.index(severity)


class DeviceCount(NamedTuple):
    """Observations that speak for one signal about one device."""

    tenant_id: TenantId
    signal: Signal
    ref: DeviceRef
    seen: int
    """Below 0 where handshakes ended that were begun with another worker."""
    told: int
    """Rank of the severity that was told."""


class FleetCount(NamedTuple):
    """Observations that speak for one signal about a tenant's fleet."""

    tenant_id: TenantId
    rate: str
    """A signal's value, or `ANNOUNCEMENTS`."""
    seen: int
    told: int


class Traffic(NamedTuple):
    """What a tenant's fleet sent that was taken."""

    tenant_id: TenantId
    messages: int
    half_open: int
    """Handshakes begun less those ended."""


class NewestSession(NamedTuple):
    """The newest session that a device has used."""

    key: int
    """The device's in the table, 64 bits."""
    number: int
    """1 + the log index of the session."""


class Mark(NamedTuple):
    """What a device drew at random for a handshake or an enrolment."""

    tenant_id: TenantId
    step: str
    """One of `MARKED`."""
    ref: DeviceRef
    mark: int
    other: int
    """As `marks.as_numbers` returns both."""


@dataclass(frozen=True, slots=True)
class Counts:
    """All that one share says."""

    traffic: tuple[Traffic, ...] = ()
    fleets: tuple[FleetCount, ...] = ()
    devices: tuple[DeviceCount, ...] = ()
    sessions: tuple[NewestSession, ...] = ()
    marks: tuple[Mark, ...] = ()

    def __bool__(self) -> bool:
        """Say whether anything was counted."""
        return bool(self.traffic or self.fleets or self.devices or self.sessions or self.marks)

    def without(self, tenants: Collection[TenantId]) -> Counts:
        """Return the same without what was counted of *tenants*; sessions and marks stay, which nobody saves."""
        if not tenants:
            return self
        return Counts(
            traffic=tuple(each for each in self.traffic if each.tenant_id not in tenants),
            fleets=tuple(each for each in self.fleets if each.tenant_id not in tenants),
            devices=tuple(each for each in self.devices if each.tenant_id not in tenants),
            sessions=self.sessions,
            marks=self.marks,
        )

    def sliced(self) -> Iterator[Counts]:
        """Return the same in parts that the event loop can take between two turns, traffic before what it allows."""
        yield Counts(traffic=self.traffic)
        for fleets in _slices(self.fleets):
            yield Counts(fleets=fleets)
        for devices in _slices(self.devices):
            yield Counts(devices=devices)
        for sessions in _slices(self.sessions):
            yield Counts(sessions=sessions)
        for marks in _slices(self.marks):
            yield Counts(marks=marks)

    def encode(self) -> bytes:
        """Return the bytes of a share, below `SHARE_BYTES_MAX`."""
        whole = {
            "version": _VERSION,
            "traffic": [[each.tenant_id.hex(), each.messages, each.half_open] for each in self.traffic],
            "fleets": [[each.tenant_id.hex(), each.rate, each.seen, each.told] for each in self.fleets],
            "devices": [
                [each.tenant_id.hex(), each.signal.value, each.ref.hex(), each.seen, each.told] for each in self.devices
            ],
            "sessions": [[each.key, each.number] for each in self.sessions],
            "marks": [[each.tenant_id.hex(), each.step, each.ref.hex(), each.mark, each.other] for each in self.marks],
        }
        return json.dumps(whole, separators=(",", ":")).encode()


def decode_counts(encoded: bytes) -> Counts:
    """
    Read a share; rates that this version does not know are left out.

    Raises:
        DecodeError: it is none, or of another version.
    """
    try:
        whole = json.loads(encoded)
        if whole["version"] != _VERSION:
            raise DecodeError("another worker's counts are of another version: they are left out")
        known = {signal.value: signal for signal in SCORED}
        return Counts(
            traffic=tuple(
                Traffic(_tenant(tenant), _number(messages, least=0), _number(half_open))
                for tenant, messages, half_open in whole["traffic"]
            ),
            fleets=tuple(
                FleetCount(_tenant(tenant), rate, _number(count, least=0), _rank(told))
                for tenant, rate, count, told in whole["fleets"]
                if rate in _FLEET_RATES
            ),
            devices=tuple(
                DeviceCount(_tenant(tenant), known[signal], _ref(ref), _number(count), _rank(told))
                for tenant, signal, ref, count, told in whole["devices"]
                if signal in known
            ),
            sessions=tuple(
                NewestSession(_number(key, least=1, most=2**64), _number(number, least=1, most=2**63))
                for key, number in whole["sessions"]
            ),
            # A worker of the version before tells none.
            marks=tuple(
                Mark(
                    _tenant(tenant),
                    step,
                    _ref(ref),
                    _number(mark, least=1, most=2**64),
                    _number(other, least=0, most=2**64),
                )
                for tenant, step, ref, mark, other in whole.get("marks", ())
                if step in MARKED
            ),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DecodeError("another worker's counts are damaged: they are left out") from None


class Tally:
    """
    What was counted since the last share; what does not fit any more is left out of it, and counted.

    Traffic is not here: each fleet counts its own.
    """

    def __init__(self) -> None:
        """Have counted nothing."""
        self._devices: dict[tuple[TenantId, Signal, DeviceRef], list[int]] = {}
        self._fleets: dict[tuple[TenantId, str], list[int]] = {}
        self._sessions: dict[int, int] = {}
        self._marks: list[Mark] = []
        self.left_out = 0
        """Observations of devices, sessions and marks that the others are not told of."""

    def count_device(self, tenant_id: TenantId, signal: Signal, ref: DeviceRef, count: int, *, told: int) -> None:
        """Count for one device; *told* is the rank of the severity that was told."""
        found = self._devices.get((tenant_id, signal, ref))
        if found is None:
            if len(self._devices) >= SHARE_DEVICES_MAX:
                self.left_out += 1
                return
            found = self._devices[tenant_id, signal, ref] = [0, UNTOLD]
        found[0] += count
        found[1] = max(found[1], told)

    def count_fleet(self, tenant_id: TenantId, rate: str, count: int, *, told: int) -> None:
        """Count for one fleet."""
        if (tenant_id, rate) not in self._fleets and len(self._fleets) >= SHARE_FLEETS_MAX:
            tenant_id = DEFAULT_TENANT
        found = self._fleets.setdefault((tenant_id, rate), [0, UNTOLD])
        found[0] += count
        found[1] = max(found[1], told)

    def note_session(self, key: int, number: int) -> None:
        """Note that a device has used a session that is newer than those before."""
        if key not in self._sessions and len(self._sessions) >= SHARE_SESSIONS_MAX:
            self.left_out += 1
            return
        self._sessions[key] = number

    def note_mark(self, mark: Mark) -> None:
        """Note what was drawn at random."""
        if len(self._marks) < SHARE_MARKS_MAX:
            self._marks.append(mark)
        else:
            self.left_out += 1

    def take(self, traffic: Mapping[TenantId, tuple[int, int]]) -> Counts:
        """Return what was counted, with the *traffic* and half-open handshakes of fleets, and begin anew."""
        counts = Counts(
            traffic=tuple(Traffic(tenant_id, *both) for tenant_id, both in traffic.items()),
            fleets=tuple(FleetCount(*key, *both) for key, both in self._fleets.items()),
            # Handshakes that were begun and ended here are nobody else's.
            devices=tuple(DeviceCount(*key, *both) for key, both in self._devices.items() if both[0]),
            sessions=tuple(NewestSession(*each) for each in self._sessions.items()),
            marks=tuple(self._marks),
        )
        self._marks.clear()
        self._devices.clear()
        self._fleets.clear()
        self._sessions.clear()
        return counts


def _slices(rows: tuple[_Row, ...]) -> Iterator[tuple[_Row, ...]]:
    for first in range(0, len(rows), SLICE_MAX):
        yield rows[first : first + SLICE_MAX]


def _number(value: object, *, least: int = -_COUNT_MAX, most: int = _COUNT_MAX) -> int:
    if type(value) is not int or not least <= value < most:
        raise ValueError
    return value


def _rank(value: object) -> int:
    return _number(value, least=UNTOLD, most=len(SEVERITIES))


def _tenant(text: str) -> TenantId:
    return TenantId(_sized(text, ID_BYTES))


def _ref(text: str) -> DeviceRef:
    return DeviceRef(_sized(text, REF_BYTES))


def _sized(text: str, size: int) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != size:
        raise ValueError
    return found
