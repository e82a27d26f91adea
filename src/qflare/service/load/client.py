"""
HTTP/1.1 for one purpose: post bodies made ahead over many kept connections, at a tenth of a general client's cost.

One request is under way on a connection at a time; a request that finds none free waits in order, and its wait counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import httptools

from qflare.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST_S_MAX: Final = 30.0
"""An answer that takes longer counts as none."""
OK: Final = 200


class _Connection(asyncio.Protocol):
    """One connection, and the request under way on it."""

    def __init__(self, done: Callable[[_Connection], None]) -> None:
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._waiter: Callable[[int, bytes], None] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, waiter: Callable[[int, bytes], None]) -> None:
        """Send *request*; *waiter* is called once with status and body, status 0 if the connection was lost."""
        self._waiter = waiter
        if self._transport is None or self._transport.is_closing():
            self._finish(0)
        else:
            self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # --- asyncio and httptools call these ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_connection makes
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._finish(0)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._finish(self._parser.get_status_code())
        self._parser = httptools.HttpResponseParser(self)

    def _finish(self, status: int) -> None:
        waiter, self._waiter = self._waiter, None
        body, self._body = b"".join(self._body), []
        if waiter is not None:
            waiter(status, body)
            self._done(self)


class Client:
    """Connections to one server; made by `connect`."""

    def __init__(self, host: str, port: int) -> None:
        """Speak to the server at *host*, *port*."""
        self._host = host
        self._port = port
        self._connections: list[_Connection] = []
        self._free: deque[_Connection] = deque()
        self._waiting: deque[tuple[bytes, Callable[[int, bytes], None]]] = deque()

    async def connect(self, count: int) -> None:
        """
        Open *count* connections.

        Raises:
            StoreUnavailableError: the server does not take them.
        """
        loop = asyncio.get_running_loop()
        for _ in range(count):
            try:
                async with asyncio.timeout(REQUEST_S_MAX):
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self._take_back), self._host, self._port
                    )
            except (OSError, TimeoutError) as failure:
                raise StoreUnavailableError(
                    f"{self._host}:{self._port} takes no connection ({type(failure).__name__}): is the server running?"
                ) from None
            self._connections.append(connection)
            self._free.append(connection)

    def request(self, path: str, body: bytes) -> bytes:
        """Return the bytes of a POST, to be made ahead."""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\ncontent-type: application/octet-stream\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body

    def send(self, request: bytes, waiter: Callable[[int, bytes], None]) -> None:
        """Send *request* on the next free connection; *waiter* gets status and body, status 0 for no answer."""
        while self._free:
            connection = self._free.popleft()
            if connection.is_open:
                connection.send(request, waiter)
                return
        self._waiting.append((request, waiter))

    @property
    def open_connections(self) -> int:
        """Return how many connections are still there."""
        return sum(connection.is_open for connection in self._connections)

    def give_up(self) -> None:
        """Answer everything that still waits with status 0: its connections are gone or its time is over."""
        waiting, self._waiting = self._waiting, deque()
        for _, waiter in waiting:
            waiter(0, b"")

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.close()

    def _take_back(self, connection: _Connection) -> None:
        if not connection.is_open:
            return
        if self._waiting:
            request, waiter = self._waiting.popleft()
            connection.send(request, waiter)
        else:
            self._free.append(connection)
