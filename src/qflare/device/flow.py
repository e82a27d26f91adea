"""
Flows: what a device does, as generators that ask for messages to be carried and never touch a socket themselves.

A flow yields `Send` or `Pause` and is sent the server's answer (or None after a pause); it returns its result.  One
driver blocks, the other awaits; both run the same flows, so the two devices cannot differ.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from qflare.device.transport import Refusal
from qflare.errors import RefusedError, StoreUnavailableError
from qflare.primitives.random import random_bytes
from qflare.protocol import wire

if TYPE_CHECKING:
    from qflare.device.transport import Step

PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 300.0
DELIVERIES_MAX: Final = 4
"""How often the same bytes are sent when no answer comes; M3 and M1 may be repeated (H7)."""


@dataclass(frozen=True, slots=True)
class Send:
    """Carry *message* to the server and send its answer back into the flow."""

    step: Step
    message: bytes | bytearray


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait that long."""

    seconds: float


T = TypeVar("T")
Flow: TypeAlias = Generator[Send | Pause, bytes, T]


def pause_before(attempt: int) -> Pause:
    """Return how long to wait before retry *attempt* (from 1): 1 to 300 s, growing, with jitter (N5)."""
    longest = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2**attempt)
    # Jitter between half and all of it, so that a fleet does not come back at once.
    jitter = int.from_bytes(random_bytes(2)) / 0xFFFF
    return Pause(max(PAUSE_FIRST_S, longest * (0.5 + jitter / 2)))


def deliver(step: Step, message: bytes | bytearray) -> Flow[bytes]:
    """
    Send the same bytes until an answer comes, a few times at most.

    Raises:
        StoreUnavailableError: no answer came.
        RefusedError: the server refused (N5).
    """
    for attempt in range(1, DELIVERIES_MAX + 1):
        try:
            answer = yield Send(step, message)
        except StoreUnavailableError:
            if attempt == DELIVERIES_MAX:
                raise
            yield pause_before(attempt)
        else:
            if answer == wire.REFUSED:
                raise refused(answer, step.value)
            return answer
    raise AssertionError  # pragma: no cover - the loop returns or raises


def refused(answer: bytes, what: str) -> RefusedError:
    """Return the error for the server's refusal of *what*: where the reason stands, under which id if it told one."""
    request = answer.request if isinstance(answer, Refusal) else ""
    place = f"its operator's log does, under request id {request}" if request else "its operator's log does"
    return RefusedError(f"the server refused the {what}; it tells no reason, {place}")
