"""`--watch`: the live page of a run, from its beginning until whoever watches has seen enough."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from typing import TYPE_CHECKING, Final

from qflare.service.page import PageSettings
from qflare.service.page.server import serving_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qflare.service.demo.progress import Progress
    from qflare.service.key_manager import QuantumKeyManager

OPERATOR: Final = "demo"
_LOOPBACK: Final = "127.0.0.1"
_REFRESH_S: Final = 0.5
"""Buckets of a run are seconds wide."""


@contextlib.asynccontextmanager
async def watched(manager: QuantumKeyManager, progress: Progress) -> AsyncIterator[str]:
    """Serve the page of *manager*'s tenant, say where it is and how to log in, and lend its address."""
    secret = await manager.add_operator(OPERATOR)
    listener = socket.create_server((_LOOPBACK, 0))
    url = f"http://{_LOOPBACK}:{listener.getsockname()[1]}"
    settings = PageSettings(page_refresh_s=_REFRESH_S)
    async with serving_page(manager, listener.detach(), settings):
        # This run's alone: the database that it opens ends with the run.
        progress.note(f"live page at {url} for operator {OPERATOR} with the secret {secret}")
        yield url


async def until_seen(url: str, progress: Progress) -> None:
    """Wait for SIGINT or SIGTERM, where signals can be had; they end the run in order, with its result."""
    if threading.current_thread() is not threading.main_thread():
        return
    loop, seen = asyncio.get_running_loop(), asyncio.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, seen.set)
    try:
        progress.note(f"the run is over; the live page stays at {url} until Ctrl-C")
        await seen.wait()
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
