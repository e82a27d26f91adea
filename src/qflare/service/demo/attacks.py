"""
Attempts against the running servers: messages recorded from the wire and sent again, altered, or sent by a thief.

Each goes over a real socket, as anybody on the network could send it, and to the other worker than the one that took
the original.  What came of it is read in three places: the answer outside, the workers' counters inside, and the log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from qflare.device import Device
from qflare.device.transport import HttpTransport, Step
from qflare.errors import RefusedError
from qflare.protocol import wire
from qflare.service.demo.journal import find_event
from qflare.service.demo.recording import RecordingTransport
from qflare.service.demo.result import AttackRecord, EventKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from qflare.service.demo.journal import Journal
    from qflare.service.demo.progress import Progress
    from qflare.service.demo.servers import Servers
    from qflare.service.key_manager import QuantumKeyManager

REFUSED_TEXT: Final = "16 bytes, the same for every reason (N5)"
_ALTERED_FROM_END: Final = 100
"""Which byte of an update is altered: inside its last sealed segment, before the tag."""


class Attacker:
    """Makes attempts one after the other and keeps what came of them."""

    def __init__(self, servers: Servers, manager: QuantumKeyManager, *, journal: Journal, progress: Progress) -> None:
        """Send to *servers*; look into counters and log as the operator behind *manager* can."""
        self._servers = servers
        self._manager = manager
        self._journal = journal
        self._progress = progress
        self._records: list[AttackRecord] = []

    @property
    def records(self) -> tuple[AttackRecord, ...]:
        """Return what came of each attempt."""
        return tuple(self._records)

    async def attempt(self, name: str, tried: str, send: Callable[[], Awaitable[bytes]]) -> AttackRecord:
        """
        Make one attempt.

        Args:
            name: A few words.
            tried: A sentence.
            send: Sends it and returns what the server answered.
        """
        first = (await self._manager.get_key_statistics()).log_size
        before = await self._count()
        at_s = self._journal.now_s
        answer = await send()
        grown = await self._count() - before
        reason: str | None = None
        counted, entry_index = 0, None
        # One attempt is refused once, for one reason; anything else is not what is claimed, and is not held.
        if len(grown) == 1:
            ((cause, counted),) = grown.items()
            step, _, reason = cause.partition("/")
            entry_index = await find_event(self._manager.monitor, first=first, facts={"step": step, "reason": reason})
        is_refused = answer == wire.REFUSED
        record = AttackRecord(
            at_s=at_s,
            name=name,
            tried=tried,
            answer=REFUSED_TEXT if is_refused else f"{len(answer)} bytes, not the refusal",
            is_refused=is_refused,
            reason=reason,
            counted=counted,
            entry_index=entry_index,
        )
        self._records.append(record)
        self._journal.add(EventKind.ATTACK, name, tried, entry_index=entry_index, at_s=at_s)
        self._progress.attack_done(record)
        return record

    async def _count(self) -> Counter[str]:
        """Return what all workers have refused so far, by step and reason."""
        total: Counter[str] = Counter()
        for worker in range(len(self._servers.urls)):
            total += await self._servers.refusals(worker)
        return total


def altered(envelope: bytes) -> bytes:
    """Return *envelope* with one bit of its sealed update flipped."""
    changed = bytearray(envelope)
    changed[-_ALTERED_FROM_END] ^= 1
    return bytes(changed)


async def enrol_as_thief(url: str, token: str, *, device_id: str, folder: Path) -> bytes:
    """Enrol with a *token* that was used already and keys of one's own; return what the server answered."""
    return await asyncio.to_thread(_enrol, url, token, device_id, folder)


async def connect_as_thief(url: str, state: Path) -> bytes:
    """Begin a handshake with a device's *state* that was copied; return what the server answered."""
    return await asyncio.to_thread(_connect, url, state)


def _connect(url: str, state: Path) -> bytes:
    way = HttpTransport(url)
    transport = RecordingTransport([way])
    try:
        with Device.open(state, transport) as thief:
            thief.connect(attempts=1)
    except RefusedError:
        pass
    finally:
        way.close()
    return transport.answers[Step.HELLO]


def _enrol(url: str, token: str, device_id: str, folder: Path) -> bytes:
    way = HttpTransport(url)
    transport = RecordingTransport([way])
    try:
        Device.enrol(transport, token, device_id=device_id, state=folder / "thief.bin").close()
    except RefusedError:
        pass
    finally:
        way.close()
        (folder / "thief.bin").unlink(missing_ok=True)
    return transport.answers[Step.ENROL]
