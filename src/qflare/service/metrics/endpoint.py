"""`/metrics` on an address of its own, so that what operators read never stands where devices come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

import uvicorn

from qflare.service.metrics.exposition import CONTENT_TYPE, render

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from starlette.types import Receive, Scope, Send

    from qflare.service.metrics.facts import Facts

CONNECTIONS_MAX: Final = 32
_TEXT: Final = b"text/plain; charset=utf-8"
_log = logging.getLogger("qflare.service.metrics")


class MetricsPage:
    """The address as an ASGI application."""

    def __init__(self, give: Callable[[], Awaitable[Facts]]) -> None:
        """Show what *give* returns, asked anew for each scrape, one at a time."""
        self._give = give
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        if scope["path"] != "/metrics":
            await _send(send, 404, _TEXT, b"not found: the figures are at /metrics\n")
        elif scope["method"] != "GET":
            await _send(send, 405, _TEXT, b"method not allowed\n")
        else:
            async with self._lock:
                page = render(await self._give())
            await _send(send, 200, CONTENT_TYPE, page)


async def _send(send: Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    """A server whose owner takes the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


@contextlib.asynccontextmanager
async def showing(listener: socket.socket, give: Callable[[], Awaitable[Facts]]) -> AsyncIterator[None]:
    """Show `/metrics` on *listener* for the length of the block."""
    server = _Server(
        uvicorn.Config(
            MetricsPage(give),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=1,
            limit_concurrency=CONNECTIONS_MAX,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]), name="qflare-metrics")
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait({task})
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("/metrics ended with %s", type(failure).__name__)
