"""Owner of the manager's own tasks: starts them, keeps them from being collected, and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextvars import Context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine

_log = logging.getLogger("qflare.manager")


class Background:
    """
    Tasks that live as long as the manager.

    A TaskGroup would tie them to the task that opened the manager, which may be any caller's: the first await does.
    """

    def __init__(self) -> None:
        """Own no task yet."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.stop = asyncio.Event()
        """Set when the manager closes; loops look at it before anything else."""

    def start(self, work: Coroutine[object, object, None], *, name: str) -> asyncio.Task[None]:
        """Start *work*; a failure is logged by *name*, without the exception's text, which may quote input."""
        # In nobody's context: whoever opened the manager is not who the task works for.
        task = asyncio.get_running_loop().create_task(work, name=f"qflare-{name}", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def close(self, timeout_s: float) -> None:
        """Set `stop`, wait up to *timeout_s* for the tasks to end, then cancel what is left."""
        self.stop.set()
        waiting = set(self._tasks)
        if not waiting:
            return
        try:
            await asyncio.wait(waiting, timeout=timeout_s)
        finally:
            # Also when the wait itself is cancelled: what the tasks use is closed next.
            late = {task for task in waiting if not task.done()}
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def pause(self, seconds: float) -> None:
        """Sleep for *seconds*, or until `stop` is set."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()

    async def pause_until(self, event: asyncio.Event) -> None:
        """Wait until *event* or `stop` is set."""
        waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self.stop.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("task %s ended with %s", task.get_name(), type(failure).__name__)
