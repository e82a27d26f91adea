"""Request bodies, limited before they are read: how large, how many at a time, how slow."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import OverloadedError, ProtocolError
from qflare.service.aggregator import answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope

    from qflare.service.aggregator.answer import Answer

_OCTETS: Final = b"application/octet-stream"
_LENGTH_DIGITS_MAX: Final = 15
FREE_BYTES: Final = 16 * 2**10
"""What each request may hold outside the budget: handshakes get on while large records wait for memory."""


class BodyError(ProtocolError):
    """A body that is not read to its end; `answer` says so to the client, and the connection ends with it."""

    def __init__(self, reason: str, said: Answer) -> None:
        """Record why, for the log, and what the client is told."""
        super().__init__(reason)
        self.answer = said


class ClientGoneError(ProtocolError):
    """The client closed the connection: there is nobody to answer."""


class Reservation:
    """The bytes one request has taken from the worker's budget."""

    __slots__ = ("_bodies", "size")

    def __init__(self, bodies: Bodies) -> None:
        """Begin with nothing reserved."""
        self._bodies = bodies
        self.size = 0

    def grow_to(self, size: int) -> None:
        """Hold a body of *size* bytes; `OverloadedError` if the worker has none left."""
        beyond = size - FREE_BYTES
        if beyond > self.size:
            self._bodies.take(beyond - self.size)
            self.size = beyond


class Bodies:
    """One worker's budget: how many requests are under way, and how many bytes of bodies they hold."""

    def __init__(self, *, requests_max: int, bytes_max: int) -> None:
        """Begin empty."""
        self._requests_max = requests_max
        self._bytes_max = bytes_max
        self.requests = 0
        """Requests under way."""
        self.bytes = 0
        """Bytes reserved for their bodies."""
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextmanager
    def admit(self) -> Iterator[Reservation]:
        """
        Take one request in for the length of the block.

        Raises:
            OverloadedError: as many as may be are under way.
        """
        if self.requests >= self._requests_max:
            raise OverloadedError(f"{self._requests_max} requests are under way")
        self.requests += 1
        self._is_idle.clear()
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.bytes -= reservation.size
            self.requests -= 1
            if self.requests == 0:
                self._is_idle.set()

    def take(self, size: int) -> None:
        """Reserve *size* more bytes."""
        if self.bytes + size > self._bytes_max:
            raise OverloadedError(f"request bodies hold {self.bytes} of {self._bytes_max} bytes")
        self.bytes += size

    async def settled(self) -> None:
        """Wait until no request is under way."""
        await self._is_idle.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a body may take: *begin_s* seconds, more while it keeps *bytes_per_s*, *timeout_s* in all."""

    begin_s: float
    bytes_per_s: int
    timeout_s: float

    def seconds(self, size: int) -> float:
        """Return when, from its start, a body of which *size* bytes have come is too slow."""
        return min(self.timeout_s, self.begin_s + size / self.bytes_per_s)


async def read_body(scope: Scope, receive: Receive, reservation: Reservation, *, size_max: int, pace: Pace) -> bytes:
    """
    Read a request's body of at most *size_max* bytes, no slower than *pace*.

    Raises:
        BodyError: it is too large (by its header, before anything is read), too slow, or of another type.
        OverloadedError: the worker holds as many bytes of bodies as it may.
        ClientGoneError: the client went away.
    """
    declared = _declared_size(scope)
    if declared is not None and declared > size_max:
        raise BodyError("the body is declared too large", answer.TOO_LARGE)
    try:
        async with asyncio.timeout(pace.seconds(0)) as limit:
            return await _collect(receive, reservation, size_max=size_max, pace=pace, limit=limit)
    except TimeoutError:
        raise BodyError("the body came too slowly", answer.TOO_SLOW) from None


async def _collect(
    receive: Receive, reservation: Reservation, *, size_max: int, pace: Pace, limit: asyncio.Timeout
) -> bytes:
    parts: list[bytes] = []
    size = 0
    began = asyncio.get_running_loop().time()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGoneError
        part: bytes = event.get("body", b"")
        size += len(part)
        # Chunked bodies say no size before: they are counted as they come.
        if size > size_max:
            raise BodyError("the body is too large", answer.TOO_LARGE)
        # WHY as they come: a size that is only declared costs its sender nothing, and would hold up everybody else.
        reservation.grow_to(size)
        limit.reschedule(began + pace.seconds(size))
        if part:
            parts.append(part)
        if not event.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _declared_size(scope: Scope) -> int | None:
    """Return what content-length says, None without it, and refuse a body of another type."""
    declared: int | None = None
    for name, value in scope["headers"]:
        if name == b"content-length":
            # The server in front has checked it; what is not a plain number is not believed.
            if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
                raise BodyError("content-length is no number", answer.TOO_LARGE)
            declared = int(value)
        elif name == b"content-type":
            if value.partition(b";")[0].strip().lower() != _OCTETS:
                raise BodyError("the content type is another", answer.WRONG_TYPE)
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            raise BodyError("the body is encoded", answer.WRONG_TYPE)
    return declared
