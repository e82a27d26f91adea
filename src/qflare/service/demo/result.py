"""
What a run of the demo found, as frozen records that go to JSON and back without loss.

Every figure was measured in the run that the record is about.  What did not happen is None, never a default that
looks like a measurement.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Final, TypeVar

from qflare.errors import DecodeError

FORMAT: Final = "qflare-demo/2"
"""Value of the key ``format`` in the JSON; changes when a field changes its meaning."""

TURNS_MIN: Final = 2
"""Bucket turns that a run must cross: a session that never saw one shows little."""

_Record = TypeVar("_Record")


class Form(StrEnum):
    """Who starts the handshake (PROTOCOL sections H and O)."""

    HELLO = "hello"
    OFFER = "offer"


class EventKind(StrEnum):
    """What kind of thing happened at a moment of the run."""

    STEP = "step"
    BUCKET = "bucket"
    SLEEP = "sleep"
    WAKE = "wake"
    ROTATION = "rotation"
    REVOCATION = "revocation"
    ATTACK = "attack"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """
    One round of training.

    Attributes:
        index: Zero-based.
        started_s: Seconds since the start of the run.
        elapsed_s: Seconds from asking the devices to the new model.
        bucket: The server's bucket when the round's average was made.
        device_ids: Whose updates were averaged.
        accuracy: Of the model on the test set, 0 to 1.
        reference_accuracy: After the same round of the same schedule without QFLARE.
        sealed_bytes: Updates on the wire, headers and tags included.
    """

    index: int
    started_s: float
    elapsed_s: float
    bucket: int
    device_ids: tuple[str, ...]
    accuracy: float
    reference_accuracy: float
    sealed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """
    The model and how it came about.

    Attributes:
        rounds: In order.
        digest: SHA-256 of the final model, 64 hexadecimal digits (`learning.parameters_digest`).
        reference_digest: Of the model trained without QFLARE.
        parameter_count: Numbers in the model.
        test_samples: Images that accuracy was measured on.
    """

    rounds: tuple[RoundRecord, ...]
    digest: str
    reference_digest: str
    parameter_count: int
    test_samples: int

    @property
    def is_byte_equal(self) -> bool:
        """Return whether both final models have the same bytes."""
        return self.digest == self.reference_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEvent:
    """
    Something that happened, *at_s* seconds since the start of the run.

    Attributes:
        at_s: Seconds since the start of the run.
        kind: What sort of event.
        title: A few words.
        detail: A sentence or two, or empty.
        device_id: Whom it is about, if one device.
        entry_index: Where the audit log has it, if it does.
    """

    at_s: float
    kind: EventKind
    title: str
    detail: str = ""
    device_id: str | None = None
    entry_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackRecord:
    """
    One kind of attempt against the running servers, made as often as whoever means it would.

    Attributes:
        at_s: Seconds since the start of the run.
        name: A few words, such as "Update replayed".
        tried: What was sent, and where to.
        times: How often.
        answer: What the server sent back each time, as seen from outside.
        is_refused: Whether nothing was accepted.
        reason: The true reason that the server counted, by its name in `Refusal`; None if none was, or several.
        counted: By how much that counter grew, all workers together.
        entry_index: Index of the first audit entry about it; None if there is none.
        signal: What the detector calls it, by its name in `Signal`.
        device_id: Whom its incident is about; None where that is the fleet.
        incident_id: The incident that the detector opened about it, 32 hexadecimal digits; None if it opened none.
        severity: The incident's; None if there is none.
    """

    at_s: float
    name: str
    tried: str
    times: int
    answer: str
    is_refused: bool
    reason: str | None
    counted: int
    entry_index: int | None
    signal: str
    device_id: str | None
    incident_id: str | None = None
    severity: str | None = None

    @property
    def is_refused_and_logged(self) -> bool:
        """Return whether it was refused and counted each time, and logged: what shows at once."""
        return self.is_refused and self.counted == self.times > 0 and self.entry_index is not None

    @property
    def is_held(self) -> bool:
        """Return whether it was refused, counted, logged and found by the detector: all four."""
        return self.is_refused_and_logged and self.incident_id is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationRecord:
    """
    A device's keys rotated inside its session (PROTOCOL E4), and the session rekeyed after it (R7).

    Attributes:
        at_s: Seconds since the start of the run.
        device_id: Whose keys.
        old_version: Version of the keys that signed the new ones.
        new_version: Version that the device went by afterwards.
        roster_version: Version that the servers knew afterwards.
        epoch: Of the session after its rekey.
        is_same_session: Whether the session stood throughout.
        request_index: Index of the audit entry about the operator's request; None if there is none.
        rotation_index: Of the entry about the rotation.
        rekey_index: Of the entry about the rekey.
    """

    at_s: float
    device_id: str
    old_version: int
    new_version: int
    roster_version: int
    epoch: int
    is_same_session: bool
    request_index: int | None
    rotation_index: int | None
    rekey_index: int | None

    @property
    def is_held(self) -> bool:
        """Return whether device and servers went on to the next keys, in the session, and the log tells all of it."""
        return (
            self.new_version == self.roster_version == self.old_version + 1
            and self.epoch > 0
            and self.is_same_session
            and None not in {self.request_index, self.rotation_index, self.rekey_index}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCheck:
    """
    The audit log read and verified from outside the servers.

    Attributes:
        size: Entries under the latest signed head.
        root: Root hash at that size, 64 hexadecimal digits.
        origin: Name of the log, as signed.
        is_chain_valid: Whether every entry, read from the database, hashes up to that root.
        is_signature_valid: Whether the checkpoint's signature is valid under the log key of the server's certificate.
        receipts_total: Receipts that devices kept.
        receipts_valid: Those whose entry is in this log and whose signature holds.
        first_bad_index: First entry that does not verify, if any.
        elapsed_s: Seconds that verification took.
    """

    size: int
    root: str
    origin: str
    is_chain_valid: bool
    is_signature_valid: bool
    receipts_total: int
    receipts_valid: int
    first_bad_index: int | None
    elapsed_s: float

    @property
    def is_valid(self) -> bool:
        """Return whether log, signature and every receipt hold, and there was at least one receipt."""
        return (
            self.is_chain_valid
            and self.is_signature_valid
            and self.first_bad_index is None
            and 0 < self.receipts_total == self.receipts_valid
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """
    One operation's time in this run, beside the published one.

    Attributes:
        operation: Its name, such as "ML-KEM-1024 key generation".
        published_ms: Milliseconds in the founding document; None where it names none.
        measured_ms: Median milliseconds for one item in this run.
        how: How it was measured: single or in batches, how many callers.
        samples: Measurements behind the median.
    """

    operation: str
    published_ms: float | None
    measured_ms: float
    how: str
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """
    One device's part in the run.

    Attributes:
        device_id: Its name.
        form: Which form of handshake it used.
        state: Its state on the roster at the end, such as "active" or "revoked".
        samples: Training samples it holds.
        handshakes: Finished handshakes.
        rounds: Zero-based rounds whose average holds its update.
        sealed_bytes: Its accepted updates on the wire, together.
        note: What was special about it, or empty.
    """

    device_id: str
    form: Form
    state: str
    samples: int
    handshakes: int
    rounds: tuple[int, ...]
    sealed_bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """
    Where the run took place.

    Attributes:
        processor: Model name.
        cores: Logical processors this process may use.
        memory_bytes: Main memory.
        system: Operating system and release.
    """

    processor: str
    cores: int
    memory_bytes: int
    system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A piece of software, its version, and where it came from if that matters."""

    name: str
    version: str
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file or folder that the run left behind, and what it is."""

    path: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """
    A whole run of the demo.

    Attributes:
        started_at: Aware UTC datetime.
        elapsed_s: Seconds, from the first process started to the last check.
        seed: Of the data split and of training.
        worker_count: Server processes over the one database.
        process_count: Device processes.
        bucket_width_s: Seconds of a bucket in this run (300 unless told otherwise).
    """

    started_at: datetime
    elapsed_s: float
    seed: int
    worker_count: int
    process_count: int
    bucket_width_s: int
    training: Training
    timeline: tuple[TimelineEvent, ...]
    attacks: tuple[AttackRecord, ...]
    rotations: tuple[RotationRecord, ...]
    audit: AuditCheck
    timings: tuple[Timing, ...]
    devices: tuple[DeviceRecord, ...]
    machine: Machine
    components: tuple[Component, ...]
    files: tuple[OutputFile, ...]

    @property
    def bucket_turns(self) -> tuple[TimelineEvent, ...]:
        """Return the moments at which a new bucket became current."""
        return tuple(event for event in self.timeline if event.kind is EventKind.BUCKET)

    @property
    def is_successful(self) -> bool:
        """Return whether everything that the demo claims held in this run."""
        return (
            self.training.is_byte_equal
            and self.audit.is_valid
            and bool(self.attacks)
            and all(attack.is_held for attack in self.attacks)
            and bool(self.rotations)
            and all(rotation.is_held for rotation in self.rotations)
            and len(self.bucket_turns) >= TURNS_MIN
        )


def to_json(result: DemoResult) -> str:
    """Return *result* as JSON, one object with the key ``format`` first."""
    return json.dumps({"format": FORMAT, **_plain_record(result)}, indent=2, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> DemoResult:
    """
    Return the result that `to_json` wrote.

    Raises:
        DecodeError: Not JSON, another format, or a field missing, unknown or of the wrong type.
    """
    try:
        value = json.loads(text)
    except ValueError:
        message = "the demo's result is not JSON"
        raise DecodeError(message) from None
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        message = f"the demo's result must be an object with the format {FORMAT!r}"
        raise DecodeError(message)
    return _record(DemoResult, value, where="result")


def _plain_record(record: object) -> dict[str, object]:
    """Return the fields of a dataclass as values that JSON knows."""
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record)}  # type: ignore[arg-type]


def _plain(value: object) -> object:
    """Return *value* as JSON knows it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return _plain_record(value) if is_dataclass(value) else value


def _record(kind: type[_Record], value: object, *, where: str) -> _Record:
    """Return *value* as the dataclass *kind*, every field present and of its type."""
    if not isinstance(value, dict):
        raise _mismatch(where, kind)
    hints = typing.get_type_hints(kind)
    if set(value) != set(hints):
        message = f"{where} has other fields than expected: {', '.join(sorted(set(value) ^ set(hints)))}"
        raise DecodeError(message)
    return kind(**{name: _typed(hints[name], value[name], where=f"{where}.{name}") for name in hints})


def _typed(kind: Any, value: object, *, where: str) -> Any:
    """Return *value* as *kind*, a type that occurs in the records above."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _mismatch(where, kind)
        return tuple(_typed(typing.get_args(kind)[0], item, where=f"{where}[{i}]") for i, item in enumerate(value))
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return None if value is None else _typed(typing.get_args(kind)[0], value, where=where)
    if is_dataclass(kind):
        return _record(typing.cast("type[Any]", kind), value, where=where)
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(value, str) and (kind is datetime or issubclass(kind, Enum)):
        try:
            return datetime.fromisoformat(value) if kind is datetime else kind(value)
        except ValueError:
            raise _mismatch(where, kind) from None
    if type(value) is not kind:  # WHY: not isinstance, for which True is an int
        raise _mismatch(where, kind)
    return value


def _mismatch(where: str, kind: object) -> DecodeError:
    """Return the error about a value of the wrong type."""
    return DecodeError(f"{where} must be {getattr(kind, '__name__', kind)}")
