"""What the manager saw, one small tuple a message: all that the detector ever knows of traffic."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from qflare.model.ids import DeviceRef, TenantId
from qflare.model.refusal import Refusal

HELLO = "hello"
OFFER = "offer"
CONFIRM = "confirm"
RECORD = "record"
ENROL = "enrol"
CONTROL = "control"
ANNOUNCEMENT = "announcement"
UPDATE = "update"


class Observation(NamedTuple):
    """One message that was taken or refused; in the order of the fields, since naming them costs as much again."""

    step: str
    """Which message: a constant of this module."""
    reason: Refusal | None
    """The true reason of a refusal; None: it was taken."""
    tenant_id: TenantId | None = None
    """Whose it is as far as that is known; of a refused message as it claims, if it names a device of that tenant."""
    ref: DeviceRef | None = None
    """In whose name it came, by the same rule."""
    mark: bytes = b""
    """What its sender drew at random, or the first bytes of it: ek_e of M1, ct_b of ANSWER, the stream id of a record,
    the hash of an enrolment's keys; empty where there is none."""
    other: bytes = b""
    """What tells two messages with the same mark apart: the last bytes of M1, a session, a device."""
    number: int = 0
    """Of a handshake finished and of a record: the log index of the session, by which sessions have an order."""
    value: float = 0.0
    """Of an update: the norm that the application computed."""


class Observer(Protocol):
    """Hears what the manager saw; in `manager` nobody knows who that is."""

    def note(self, observations: list[Observation]) -> None:
        """Take observations over, in constant time each; never raises and never waits."""
