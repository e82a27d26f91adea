"""
Gather concurrent calls into batches (DESIGN, decision 5).

A queue per operation: what waits is flushed at once when no batch is in flight, else when one ends, or earlier when a
full batch waits and another flight is free.  Every call has one future, however many items it brought: cancelling one
takes its items out (or lets their results be discarded) and harms no other, and an item that fails does so alone.  Of a
call that brought more than a batch takes, what is left goes behind the others that wait, so that none waits for all of
it; and so it is between tenants (`waiting.py`).
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from qflare.errors import OverloadedError, QflareError, StoreUnavailableError
from qflare.manager.waiting import NO_OUTCOME, Call, Part, Waiting
from qflare.model.histogram import ITEMS, SECONDS, Histogram
from qflare.model.statistics import QueueStatistics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qflare.model.ids import TenantId

Item = TypeVar("Item")
Result = TypeVar("Result")

_MS: Final = 1000.0


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
        weigh: Callable[[Item], int] | None = None,
        weight_max: int | None = None,
        lanes: int = 1,
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
            weigh: Weight of an item, such as its bytes; with *weight_max*.
            weight_max: Most weight of a batch; an item heavier than that flies alone.
            lanes: Items that are computed at once: a batch that leaves others waiting has a multiple of as many, as far
                as *items_max* and weights allow.
        """
        self._name = name
        self._run = run
        self._items_max = items_max
        self._waiting_max = waiting_max
        self._flights_max = flights_max
        self._discard = discard
        self._weigh = weigh
        self._full_max = items_max - items_max % lanes if items_max > lanes > 0 else items_max
        """Most items of a batch that leaves others waiting: whole lanes."""
        self._waiting: Waiting[Item, Result] = Waiting(waiting_max, weigh=weigh, weight_max=weight_max)
        self._flights: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._is_flush_due = False
        self.batches = 0
        """Batches begun so far."""
        self.items = 0
        """Items in them."""
        self._items_most = 0
        self._waited_s = 0.0
        self._waited_max_s = 0.0
        self.overloads = 0
        """Calls that were refused since the queue was full or closed."""
        # One value a batch: an item costs nothing more.
        self.sizes = Histogram(ITEMS)
        """Items of each batch."""
        self.waits_s = Histogram(SECONDS)
        """The longest wait of an item of each batch, seconds."""
        self.runs_s = Histogram(SECONDS)
        """From the begin of each batch to its end, seconds."""

    @property
    def displaced(self) -> int:
        """Items that were sent away since a tenant with less in the full queue needed their room."""
        return self._waiting.displaced

    @property
    def statistics(self) -> QueueStatistics:
        """What went through this queue so far, and what waits."""
        return QueueStatistics(
            name=self._name,
            batches=self.batches,
            items=self.items,
            batch_items_max=self._items_most,
            waiting=len(self._waiting),
            in_flight=len(self._flights),
            waited_ms=self._waited_s * _MS,
            waited_max_ms=self._waited_max_s * _MS,
        )

    async def submit(self, item: Item, *, tenant_id: TenantId | None = None) -> Result:
        """
        Put *item* into the next batch and return its result.

        Args:
            item: One item.
            tenant_id: Who waits; tenants take turns.

        Raises:
            OverloadedError: the queue is full or closed, or a tenant with less in the full queue needed the room.
            QflareError: what the batch said of this item.
        """
        call = await self._settled((item,), tenant_id)
        (outcome,) = call.outcomes
        try:
            if isinstance(outcome, QflareError):
                # One error may go to every caller of a batch: none of them lengthens the others' traceback.
                raise outcome.with_traceback(call.traceback)
            return outcome
        finally:
            del call, outcome  # the error holds this frame, which must not hold the error

    async def submit_many(
        self, items: Sequence[Item], *, tenant_id: TenantId | None = None
    ) -> list[Result | QflareError]:
        """
        Put *items* into the next batches and return one result or error each, in order.

        Args:
            items: Any number of items.
            tenant_id: Who waits; tenants take turns.

        Raises:
            OverloadedError: they do not all fit into the queue; none was taken. As the error of an item: a tenant with
                less in the full queue needed its room, and nothing was done of it.
        """
        return (await self._settled(items, tenant_id)).outcomes if items else []

    async def close(self, timeout_s: float) -> None:
        """Take nothing more, let what was accepted end within *timeout_s*, and fail the rest."""
        self._is_closed = True
        self._flush()
        try:
            async with asyncio.timeout(timeout_s):
                while self._flights:
                    await asyncio.wait(self._flights)
        except TimeoutError:
            # What waits first: a flight that ends begins the next one.
            for call in self._waiting.calls:
                first, count = call.taken, call.end - call.taken
                self._waiting.forget(call)
                call.settle(first, [self._overloaded()] * count)
            for task in self._flights:
                task.cancel()
            if self._flights:
                await asyncio.wait(self._flights)

    async def _settled(self, items: Sequence[Item], tenant_id: TenantId | None) -> Call[Item, Result]:
        if self._weigh is not None:
            for item in items:
                # One that has no weight fails here, its caller alone: in a flush it would stop the whole queue.
                self._weigh(item)
        if self._is_closed or (
            len(self._waiting) + len(items) > self._waiting_max
            and not self._waiting.make_room(len(items), tenant_id, self._displaced())
        ):
            self.overloads += 1
            raise self._overloaded()
        loop = asyncio.get_running_loop()
        call: Call[Item, Result] = Call(items, loop.create_future(), loop.time(), tenant_id)
        self._waiting.add(call)
        if not self._is_flush_due:
            # In the next round of the loop: whoever calls in this round still gets on.
            self._is_flush_due = True
            # In nobody's context: what a batch logs is no single caller's.
            loop.call_soon(self._flush, context=Context())
        try:
            await call.future
        except asyncio.CancelledError:
            self._abandon(call)
            raise
        if call.failure is not None:
            self._drop(call.outcomes)
            raise call.failure.with_traceback(call.traceback)
        return call

    def _overloaded(self) -> OverloadedError:
        if self._is_closed:
            return OverloadedError(f"{self._name}: the manager is closing; open another one")
        return OverloadedError(f"{self._name}: {self._waiting_max} calls wait already; retry later")

    def _displaced(self) -> OverloadedError:
        return OverloadedError(f"{self._name}: other tenants need the room in the queue; retry later")

    def _flush(self) -> None:
        self._is_flush_due = False
        while waiting := len(self._waiting):
            is_full = waiting >= self._items_max
            if len(self._flights) >= (self._flights_max if is_full else 1):
                return
            items, parts = self._take()
            if parts:
                # The set keeps the task alive; close() waits for it.
                task = asyncio.get_running_loop().create_task(
                    self._fly(items, parts), name=f"qflare-batch-{self._name}", context=Context()
                )
                self._flights.add(task)
                task.add_done_callback(self._land)

    def _take(self) -> tuple[list[Item], list[Part[Item, Result]]]:
        items, parts = self._waiting.take(self._full_max if len(self._waiting) > self._items_max else self._items_max)
        now_s = asyncio.get_running_loop().time()
        longest_s = 0.0
        for call, _, count in parts:
            waited_s = now_s - call.began_s
            self._waited_s += waited_s * count
            longest_s = max(longest_s, waited_s)
        if items:
            self.batches += 1
            self.items += len(items)
            self._items_most = max(self._items_most, len(items))
            self._waited_max_s = max(self._waited_max_s, longest_s)
            self.sizes.observe(len(items))
            self.waits_s.observe(longest_s)
        return items, parts

    async def _fly(self, items: list[Item], parts: list[Part[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            try:
                results = await self._run(items)
            finally:
                self.runs_s.observe(loop.time() - began_s)
        except asyncio.CancelledError:
            closed = StoreUnavailableError(f"{self._name}: the manager closed before it was done", outcome_unknown=True)
            for call, first, count in parts:
                call.settle(first, [closed] * count)
            raise
        except Exception as failure:  # noqa: BLE001 - every caller gets it; the batch task itself must not die
            for call, first, count in parts:
                call.traceback = failure.__traceback__
                if isinstance(failure, QflareError):
                    call.settle(first, [failure] * count)
                else:
                    call.failure = failure
                    call.settle(first, [NO_OUTCOME] * count)
            return
        if len(results) != len(items):
            self._drop(results)
            for call, first, count in parts:
                call.failure = ValueError(f"{self._name}: {len(results)} results of {len(items)} items")
                call.settle(first, [NO_OUTCOME] * count)
            return
        at = 0
        for call, first, count in parts:
            outcomes = results[at : at + count]
            at += count
            if call.future.done():
                self._drop(outcomes)
            else:
                call.settle(first, outcomes)

    def _land(self, task: asyncio.Task[None]) -> None:
        self._flights.discard(task)
        if not task.cancelled():
            task.exception()  # _fly has told the callers
        self._flush()

    def _abandon(self, call: Call[Item, Result]) -> None:
        """Leave: take back the results that came already, and the items that no batch has taken."""
        self._drop(call.outcomes)
        if not call.future.done():
            call.future.cancel()
        self._waiting.forget(call)

    def _drop(self, outcomes: Sequence[Result | QflareError]) -> None:
        if self._discard is not None:
            for outcome in outcomes:
                if not isinstance(outcome, QflareError):
                    self._discard(outcome)
