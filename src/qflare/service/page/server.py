"""The live page's own server, in the worker that was given its listener."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Final

import uvicorn

from qflare.service.config import read_settings
from qflare.service.page.application import Page
from qflare.service.page.settings import PageSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from qflare.service.key_manager import QuantumKeyManager

CONNECTIONS_MAX: Final = 256
"""A browser keeps six at most."""
_DRAIN_S: Final = 1
_log = logging.getLogger("qflare.service.page")


class _Server(uvicorn.Server):
    """A server that leaves signals to the worker's own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Change nothing."""
        yield


@contextlib.asynccontextmanager
async def serving_page(
    manager: QuantumKeyManager, descriptor: int | None, settings: PageSettings | None = None
) -> AsyncIterator[None]:
    """
    Serve the page on the listening socket of that number while the block runs.

    Args:
        manager: Whose tenants' pages.
        descriptor: Of the socket, which is closed at the end; None serves nothing.
        settings: Its bounds; those of the environment if None.
    """
    if descriptor is None:
        yield
        return
    listener = socket.socket(fileno=descriptor)
    host, port = listener.getsockname()[:2]
    page = Page(manager, settings or read_settings(PageSettings), host=host, port=port)
    server = _Server(
        uvicorn.Config(
            page,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_DRAIN_S,
            limit_concurrency=CONNECTIONS_MAX,
        )
    )
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]), name="page server")
    task.add_done_callback(_say_end)
    try:
        async with page.running():
            yield
    finally:
        # The visits have ended, and with them the streams: nothing keeps a connection open.
        server.should_exit = True
        await asyncio.wait({task})


def _say_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("the live page is no longer served", exc_info=task.exception())
