"""
Gather concurrent calls into batches (DESIGN, decision 5).

A queue per operation: what waits is flushed at once when no batch is in flight, else when one ends, or earlier when a
full batch waits and another flight is free.  Every caller has its own future: cancelling one takes its item out (or
lets its result be discarded) and harms no other, and an item that fails does so alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from qflare.errors import OverloadedError, QflareError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


def _one(_item: object) -> int:
    return 1


class Batcher(Generic[Item, Result]):
    """One operation's queue and its flights."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | QflareError]]],
        *,
        items_max: int,
        waiting_max: int,
        flights_max: int = 1,
        discard: Callable[[Result], None] | None = None,
        weigh: Callable[[Item], int] = _one,
        weight_max: int | None = None,
    ) -> None:
        """
        Make an empty queue.

        Args:
            name: Names the operation in errors and tasks.
            run: Takes a batch and returns one result an item, in order; a `QflareError` in the place of a result
                is raised to that item's caller alone. What it raises itself every caller of the batch gets.
            items_max: Most items of a batch.
            waiting_max: Most items that wait.
            flights_max: Most batches under way at a time.
            discard: Wipes a result whose caller was cancelled.
            weigh: Weight of an item, such as its bytes.
            weight_max: Most weight of a batch; an item heavier than that flies alone.
        """
        self._name = name
        self._run = run
        self._items_max = items_max
        self._waiting_max = waiting_max
        self._flights_max = flights_max
        self._discard = discard
        self._weigh = weigh
        self._weight_max = weight_max
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._is_flush_due = False
        self.batches = 0
        """Batches begun so far."""
        self.items = 0
        """Items in them."""

    async def submit(self, item: Item) -> Result:
        """
        Put *item* into the next batch and return its result.

        Raises:
            OverloadedError: the queue is full or closed.
            QflareError: what the batch said of this item.
        """
        future = self._enqueue(item)
        try:
            return await future
        except asyncio.CancelledError:
            self._abandon(future)
            raise

    async def submit_many(self, items: Sequence[Item]) -> list[Result | QflareError]:
        """
        Put *items* into the next batches and return one result or error each, in order.

        Raises:
            OverloadedError: they do not all fit into the queue; none was taken.
        """
        if not items:
            return []
        if len(self._waiting) + len(items) > self._waiting_max:
            raise self._overloaded()
        futures = [self._enqueue(item) for item in items]
        try:
            await asyncio.wait(futures)
        except asyncio.CancelledError:
            for future in futures:
                self._abandon(future)
            raise
        outcomes: list[Result | QflareError] = []
        for future in futures:
            failure = future.exception()
            if failure is None:
                outcomes.append(future.result())
            elif isinstance(failure, QflareError):
                outcomes.append(failure)
            else:
                raise failure
        return outcomes

    async def close(self, timeout_s: float) -> None:
        """Take nothing more, let what was accepted end within *timeout_s*, and fail the rest."""
        self._is_closed = True
        self._flush()
        try:
            async with asyncio.timeout(timeout_s):
                while self._flights:
                    await asyncio.wait(self._flights)
        except TimeoutError:
            for task in self._flights:
                task.cancel()
            if self._flights:
                await asyncio.wait(self._flights)
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(self._overloaded())

    def _enqueue(self, item: Item) -> asyncio.Future[Result]:
        if self._is_closed or len(self._waiting) >= self._waiting_max:
            raise self._overloaded()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if not self._is_flush_due:
            # In the next round of the loop: whoever calls in this round still gets on.
            self._is_flush_due = True
            loop.call_soon(self._flush)
        return future

    def _overloaded(self) -> OverloadedError:
        if self._is_closed:
            return OverloadedError(f"{self._name}: the manager is closing; open another one")
        return OverloadedError(f"{self._name}: {self._waiting_max} calls wait already; retry later")

    def _flush(self) -> None:
        self._is_flush_due = False
        while self._waiting:
            is_full = len(self._waiting) >= self._items_max
            if len(self._flights) >= (self._flights_max if is_full else 1):
                return
            batch = self._take()
            if batch:
                self.batches += 1
                self.items += len(batch)
                # The set keeps the task alive; close() waits for it.
                task = asyncio.get_running_loop().create_task(self._fly(batch), name=f"qflare-batch-{self._name}")
                self._flights.add(task)
                task.add_done_callback(self._land)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        weight = 0
        while self._waiting and len(batch) < self._items_max:
            item, future = self._waiting[0]
            if future.done():  # cancelled while it waited
                self._waiting.popleft()
                continue
            weight += self._weigh(item)
            if batch and self._weight_max is not None and weight > self._weight_max:
                break
            self._waiting.popleft()
            batch.append((item, future))
        return batch

    async def _fly(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                if not future.done():
                    future.set_exception(
                        StoreUnavailableError(
                            f"{self._name}: the manager closed before it was done", outcome_unknown=True
                        )
                    )
            raise
        except Exception as failure:  # noqa: BLE001 - every caller gets it; the batch task itself must not die
            for _, future in batch:
                if not future.done():
                    future.set_exception(failure)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                self._drop(result)
            elif isinstance(result, QflareError):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _land(self, task: asyncio.Task[None]) -> None:
        self._flights.discard(task)
        if not task.cancelled():
            task.exception()  # _fly has told the callers
        self._flush()

    def _abandon(self, future: asyncio.Future[Result]) -> None:
        """Leave: take back a result that came in the same moment, else mark the place as empty."""
        if not future.done():
            future.cancel()
        elif not future.cancelled() and future.exception() is None:
            self._drop(future.result())

    def _drop(self, result: Result | QflareError) -> None:
        if self._discard is not None and not isinstance(result, QflareError):
            self._discard(result)
