"""
Where C batches run: a bounded executor, beside the event loop.

A thread cannot be cancelled.  When a caller is, its job runs to the end all the same, and what it returns belongs to
nobody: `run` then wipes it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from typing import TYPE_CHECKING, TypeVar

from qflare.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Offload:
    """Owner of the threads; close it last."""

    def __init__(self, *, threads: int, jobs_max: int) -> None:
        """Make an executor of *threads*, with room for *jobs_max* jobs that run or wait."""
        self._executor = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="qflare")
        self._jobs_max = jobs_max
        self._jobs = 0

    @property
    def jobs(self) -> int:
        """How many jobs run or wait for a thread."""
        return self._jobs

    @property
    def is_idle(self) -> bool:
        """Whether no job runs or waits: what can be done later may be done now."""
        return self._jobs == 0

    async def run(self, work: Callable[[], T], *, wipe: Callable[[T], None] | None = None) -> T:
        """
        Run *work* in a thread and return its result.

        Args:
            work: Takes no argument; bind them with `functools.partial` or a lambda.
            wipe: Called with the result if the caller was cancelled and will never see it; give it for secrets.

        Raises:
            OverloadedError: there is no room for one more job.
            Exception: what *work* raised.
        """
        if self._jobs >= self._jobs_max:
            raise OverloadedError(f"{self._jobs_max} jobs run or wait for a thread already; retry later")
        loop = asyncio.get_running_loop()
        job = self._executor.submit(work)
        self._jobs += 1
        job.add_done_callback(functools.partial(self._count_down, loop))
        waiter = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            # The job may be running: whatever it still returns is wiped when it comes, by the thread that made it.
            if not job.cancel():
                job.add_done_callback(functools.partial(_discard, wipe))
            # The shielded waiter may still receive an exception that nobody will look at.
            waiter.add_done_callback(_look_away)
            raise

    def close(self) -> None:
        """Wait for running jobs, drop waiting ones and end the threads; blocks for as long as one batch takes."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _count_down(self, loop: asyncio.AbstractEventLoop, _job: concurrent.futures.Future[T]) -> None:
        try:
            loop.call_soon_threadsafe(self._release)
        except RuntimeError:
            # The loop is closed: nobody counts any more.
            self._release()

    def _release(self) -> None:
        self._jobs -= 1


def _discard(wipe: Callable[[T], None] | None, job: concurrent.futures.Future[T]) -> None:
    if wipe is not None and not job.cancelled() and job.exception() is None:
        wipe(job.result())


def _look_away(waiter: asyncio.Future[T]) -> None:
    if not waiter.cancelled():
        waiter.exception()
