"""
How the parent asks a worker for its facts: one line each way over the socket between them.

Each question has a number and the answer repeats it, so that an answer that came too late is not taken for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError, QflareError
from qflare.service.metrics.facts import Facts

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

_ASK: Final = b"facts"
_LINE_MAX: Final = 4 * 2**20
"""Above every metric with as many series as it may have."""
_PART_BYTES: Final = 2**16
_log = logging.getLogger("qflare.service.metrics")


class Questions:
    """The parent's side of one worker's socket; one question at a time."""

    def __init__(self, control: socket.socket) -> None:
        """Ask over *control*, which does not block and which the caller closes."""
        self._control = control
        self._number = 0
        self._rest = b""
        self._lock = asyncio.Lock()

    async def facts(self, *, timeout_s: float) -> Facts | None:
        """Return what the worker tells, None if it does not within *timeout_s*."""
        with contextlib.suppress(TimeoutError, OSError, DecodeError):
            async with asyncio.timeout(timeout_s), self._lock:
                self._number += 1
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(self._control, b"%s %d\n" % (_ASK, self._number))
                while True:
                    number, _, told = (await self._line(loop)).partition(b" ")
                    if number == b"%d" % self._number:
                        return Facts.decode(told)
        return None

    async def _line(self, loop: asyncio.AbstractEventLoop) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > _LINE_MAX:
                raise DecodeError("a worker's answer is too long")
            part = await loop.sock_recv(self._control, _PART_BYTES)
            if not part:
                raise ConnectionResetError
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, give: Callable[[], Awaitable[Facts]]
) -> None:
    """Answer the parent's questions until it is gone."""
    while line := await reader.readline():
        what, _, number = line.strip().partition(b" ")
        if what != _ASK:
            continue
        try:
            facts = await give()
        except QflareError as failure:
            # The parent shows that this worker is silent.
            _log.warning("no figures: %s", type(failure).__name__)
            continue
        writer.write(b"%s %s\n" % (number, facts.encode()))
        await writer.drain()
