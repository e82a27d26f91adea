"""
Attempts against the running servers: messages recorded from the wire and sent again, altered, or sent by a thief.

Each goes over a real socket, as anybody on the network could send it, and to the other worker than the one that took
the original.  Each is made as often as whoever means it would: one message may be an accident, and the detector knows
that.  What came of it is read in four places: the answer outside, the workers' counters inside, the log, and incidents.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
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

    from qflare.model.incident import Incident
    from qflare.model.signal import Signal
    from qflare.service.demo.journal import Journal
    from qflare.service.demo.progress import Progress
    from qflare.service.demo.servers import Servers
    from qflare.service.key_manager import QuantumKeyManager

REFUSED_TEXT: Final = "16 bytes, the same for every reason (N5)"
_ALTERED_FROM_END: Final = 100
"""Which byte of an update is altered: inside its last sealed segment, before the tag."""
_INCIDENTS_S: Final = 60.0
"""Longest wait for the detector, which works beside the answers and reports every two seconds."""
_POLL_S: Final = 0.2


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

    async def attempt(
        self,
        name: str,
        tried: str,
        send: Callable[[int], Awaitable[bytes]],
        *,
        times: int,
        signal: Signal,
        device_id: str | None,
    ) -> AttackRecord:
        """
        Make one attempt, as often as whoever means it would.

        Args:
            name: A few words.
            tried: A sentence.
            send: Sends it, given its number from 0 on, and returns what the server answered.
            times: How often.
            signal: What the detector calls it.
            device_id: Whom the incident is about; None for the fleet.
        """
        first = (await self._manager.get_key_statistics()).log_size
        before = await self._count()
        at_s = self._journal.now_s
        # One after the other: each is answered before the next.
        answers = {await send(number) for number in range(times)}
        grown = await self._count() - before
        reason: str | None = None
        counted, entry_index = 0, None
        # Each is refused once, all for one reason; anything else is not what is claimed, and is not held.
        if len(grown) == 1:
            ((cause, counted),) = grown.items()
            step, _, reason = cause.partition("/")
            entry_index = await find_event(self._manager.monitor, first=first, facts={"step": step, "reason": reason})
        is_refused = answers == {wire.REFUSED}
        wrong = ", ".join(sorted(f"{len(answer)}" for answer in answers - {wire.REFUSED}))
        record = AttackRecord(
            at_s=at_s,
            name=name,
            tried=tried,
            times=times,
            answer=REFUSED_TEXT if is_refused else f"{wrong} bytes, not the refusal",
            is_refused=is_refused,
            reason=reason,
            counted=counted,
            entry_index=entry_index,
            signal=signal.value,
            device_id=device_id,
        )
        self._records.append(record)
        self._journal.add(EventKind.ATTACK, name, tried, entry_index=entry_index, at_s=at_s)
        self._progress.attack_done(record)
        return record

    async def find_incidents(self) -> None:
        """
        Look up the incident that the detector opened about each attempt; workers report every few seconds.

        What is not there in time stays without one, and is not held.
        """
        deadline_s = self._journal.now_s + _INCIDENTS_S
        while True:
            incidents = await self._manager.monitor.list_incidents()
            found: dict[tuple[str, str | None], Incident] = {
                (each.signal.value, each.device_id): each for each in incidents
            }
            for place, record in enumerate(self._records):
                incident = found.get((record.signal, record.device_id))
                if incident is not None:
                    self._records[place] = replace(
                        record, incident_id=incident.incident_id.hex(), severity=incident.severity.value
                    )
            if all(record.incident_id for record in self._records) or self._journal.now_s > deadline_s:
                break
            await asyncio.sleep(_POLL_S)
        for record in {record.incident_id: record for record in self._records if record.incident_id}.values():
            about = "the fleet" if record.device_id is None else record.device_id
            self._progress.note(f"the detector has opened an incident: {record.signal} of {about}, {record.severity}")

    async def _count(self) -> Counter[str]:
        """Return what all workers have refused so far, by step and reason."""
        total: Counter[str] = Counter()
        for worker in range(len(self._servers.urls)):
            total += await self._servers.refusals(worker)
        return total


def altered(envelope: bytes, number: int) -> bytes:
    """Return *envelope* with one bit of its sealed update flipped, another one for each *number*."""
    changed = bytearray(envelope)
    changed[-_ALTERED_FROM_END - number] ^= 1
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
