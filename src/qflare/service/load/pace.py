"""The open loop: each request leaves when it is due, and its latency counts from then."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.service.load.client import OK, REQUEST_S_MAX
from qflare.service.load.latency import Latencies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.service.load.client import Client

_LEAD_S: Final = 0.05
"""Before the first request is due."""
_READ_EVERY: Final = 16


@dataclass(slots=True)
class Stream:
    """Requests of one kind for one stretch, evenly spread over it, and what became of them."""

    requests: Sequence[bytes]
    latencies: Latencies = field(default_factory=Latencies)
    answers: list[bytes | None] = field(default_factory=list)
    """One a request: the body, or None if it was refused or got no answer."""
    failures: dict[int, int] = field(default_factory=dict)
    """How many ended with which status; 0 is no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One stretch of sending, as it was."""

    offered_s: float
    """From the first to the last due time, plus one interval."""
    wall_s: float
    """From the first due time to the last answer."""
    late_s: float
    """The most that this client itself sent behind time: large means the client, not the server, was at its end."""


class _Answers:
    """What comes back of one stretch."""

    def __init__(self, awaited: int) -> None:
        self._left = awaited
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, stream: Stream, number: int, due: float, status: int, body: bytes) -> None:
        stream.latencies.add(time.perf_counter() - due)
        if status == OK:
            stream.answers[number] = body
        else:
            stream.failures[status] = stream.failures.get(status, 0) + 1
        self._left -= 1
        if self._left == 0 and not self._all.done():
            self._all.set_result(None)

    async def wait(self) -> bool:
        """Wait for the last one; False if it does not come in time."""
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                if self._left:
                    await self._all
        except TimeoutError:
            return False
        return True


async def send_paced(client: Client, streams: Sequence[Stream], seconds: float) -> Stretch:
    """
    Send every stream's requests within *seconds*, evenly, the streams interleaved, and wait for the answers.

    Requests that are due are sent whether or not earlier ones were answered.
    """
    schedule = sorted(
        (seconds * number / len(stream.requests), place, number)
        for place, stream in enumerate(streams)
        for number in range(len(stream.requests))
    )
    for stream in streams:
        stream.answers = [None] * len(stream.requests)
    answers = _Answers(len(schedule))
    start = time.perf_counter() + _LEAD_S
    late_s = 0.0
    for after_s, place, number in schedule:
        due = start + after_s
        ahead_s = due - time.perf_counter()
        late_s = max(late_s, -ahead_s)
        if ahead_s > 0 or number % _READ_EVERY == 0:
            # Behind time or not, answers must be read.
            await asyncio.sleep(max(0.0, ahead_s))
        stream = streams[place]
        client.send(stream.requests[number], partial(answers.take, stream, number, due))
    if not await answers.wait():
        client.give_up()
    for stream in streams:
        missing = len(stream.requests) - stream.latencies.count
        if missing:
            stream.failures[0] = stream.failures.get(0, 0) + missing
    return Stretch(offered_s=seconds, wall_s=time.perf_counter() - start, late_s=late_s)
