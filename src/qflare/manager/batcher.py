"""
Gather concurrent calls into batches (DESIGN, decision 5).

A queue per operation: what waits is flushed at once when no batch is in flight, else when one ends, or earlier when a
full batch waits and another flight is free.  Every call has one future, however many items it brought: cancelling one
takes its items out (or lets their results be discarded) and harms no other, and an item that fails does so alone.  Of a
call that brought more than a batch takes, what is left goes behind the others that wait, so that none waits for all of
it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from qflare.errors import OverloadedError, QflareError, StoreUnavailableError
from qflare.model.statistics import QueueStatistics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

Item = TypeVar("Item")
Result = TypeVar("Result")

_MS: Final = 1000.0
_NO_OUTCOME: Final = StoreUnavailableError("no outcome for this item yet; send it again", outcome_unknown=True)


class _Call(Generic[Item, Result]):
    """The items of one call on their way through the queue."""

    __slots__ = ("began_s", "end", "failure", "future", "items", "outcomes", "remaining", "taken", "traceback")

    def __init__(self, items: Sequence[Item], future: asyncio.Future[None], began_s: float) -> None:
        self.items = items
        self.future = future
        """Done when every item has its outcome; cancelled when the caller has left."""
        self.began_s = began_s
        self.outcomes: list[Result | QflareError] = [_NO_OUTCOME] * len(items)
        self.failure: BaseException | None = None
        """What a batch of its items raised, if that was no error of ours."""
        self.traceback: TracebackType | None = None
        """Where a batch of its items failed."""
        self.taken = 0
        """Items that have gone into batches."""
        self.end = len(items)
        """Items that are to; fewer once the caller has left."""
        self.remaining = len(items)
        """Items without an outcome."""

    def settle(self, first: int, outcomes: Sequence[Result | QflareError]) -> None:
        """Note the outcomes of items from *first* on, and wake the caller with the last."""
        self.outcomes[first : first + len(outcomes)] = outcomes
        self.remaining -= len(outcomes)
        if not self.remaining and not self.future.done():
            self.future.set_result(None)


_Part = tuple[_Call[Item, Result], int, int]
"""Of a call, the first item that a batch took, and how many."""


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
        self._weight_max = weight_max
        self._full_max = items_max - items_max % lanes if items_max > lanes > 0 else items_max
        """Most items of a batch that leaves others waiting: whole lanes."""
        self._calls: OrderedDict[_Call[Item, Result], None] = OrderedDict()
        """Those with items that no batch has taken, in their order."""
        self._waiting = 0
        """Items that no batch has taken."""
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

    @property
    def statistics(self) -> QueueStatistics:
        """What went through this queue so far, and what waits."""
        return QueueStatistics(
            name=self._name,
            batches=self.batches,
            items=self.items,
            batch_items_max=self._items_most,
            waiting=self._waiting,
            in_flight=len(self._flights),
            waited_ms=self._waited_s * _MS,
            waited_max_ms=self._waited_max_s * _MS,
        )

    async def submit(self, item: Item) -> Result:
        """
        Put *item* into the next batch and return its result.

        Raises:
            OverloadedError: the queue is full or closed.
            QflareError: what the batch said of this item.
        """
        call = await self._settled((item,))
        (outcome,) = call.outcomes
        try:
            if isinstance(outcome, QflareError):
                # One error may go to every caller of a batch: none of them lengthens the others' traceback.
                raise outcome.with_traceback(call.traceback)
            return outcome
        finally:
            del call, outcome  # the error holds this frame, which must not hold the error

    async def submit_many(self, items: Sequence[Item]) -> list[Result | QflareError]:
        """
        Put *items* into the next batches and return one result or error each, in order.

        Raises:
            OverloadedError: they do not all fit into the queue; none was taken.
        """
        return (await self._settled(items)).outcomes if items else []

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
        for call in list(self._calls):
            first, count = call.taken, call.end - call.taken
            self._forget(call)
            call.settle(first, [self._overloaded()] * count)

    async def _settled(self, items: Sequence[Item]) -> _Call[Item, Result]:
        if self._is_closed or self._waiting + len(items) > self._waiting_max:
            raise self._overloaded()
        loop = asyncio.get_running_loop()
        call: _Call[Item, Result] = _Call(items, loop.create_future(), loop.time())
        self._calls[call] = None
        self._waiting += len(items)
        if not self._is_flush_due:
            # In the next round of the loop: whoever calls in this round still gets on.
            self._is_flush_due = True
            loop.call_soon(self._flush)
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

    def _flush(self) -> None:
        self._is_flush_due = False
        while self._waiting:
            is_full = self._waiting >= self._items_max
            if len(self._flights) >= (self._flights_max if is_full else 1):
                return
            items, parts = self._take()
            if parts:
                # The set keeps the task alive; close() waits for it.
                task = asyncio.get_running_loop().create_task(
                    self._fly(items, parts), name=f"qflare-batch-{self._name}"
                )
                self._flights.add(task)
                task.add_done_callback(self._land)

    def _take(self) -> tuple[list[Item], list[_Part[Item, Result]]]:
        items: list[Item] = []
        parts: list[_Part[Item, Result]] = []
        now_s = asyncio.get_running_loop().time()
        weight = 0
        items_max = self._full_max if self._waiting > self._items_max else self._items_max
        while self._calls and len(items) < items_max:
            call = next(iter(self._calls))
            if call.future.done():  # cancelled in this very round of the loop
                self._forget(call)
                continue
            count, weight = self._count_of(call, items_max - len(items), weight)
            if not count:
                break
            parts.append((call, call.taken, count))
            items += call.items[call.taken : call.taken + count]
            call.taken += count
            self._waiting -= count
            waited_s = now_s - call.began_s
            self._waited_s += waited_s * count
            self._waited_max_s = max(self._waited_max_s, waited_s)
            # Behind the others: a call of thousands keeps nobody waiting for all of it.
            self._calls.move_to_end(call)
            if call.taken == call.end:
                del self._calls[call]
        if items:
            self.batches += 1
            self.items += len(items)
            self._items_most = max(self._items_most, len(items))
        return items, parts

    def _count_of(self, call: _Call[Item, Result], room: int, weight: int) -> tuple[int, int]:
        """Return how many of a call's items go into a batch that has *room* and *weight*, and its weight with them."""
        count = min(room, call.end - call.taken)
        if self._weight_max is None or self._weigh is None:
            return count, weight
        for number in range(count):
            more = weight + self._weigh(call.items[call.taken + number])
            # What is too heavy for any batch flies alone: the weight is 0 only before the first item.
            if more > self._weight_max and (weight or number):
                return number, weight
            weight = more
        return count, weight

    async def _fly(self, items: list[Item], parts: list[_Part[Item, Result]]) -> None:
        try:
            results = await self._run(items)
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
                    call.settle(first, [_NO_OUTCOME] * count)
            return
        if len(results) != len(items):
            self._drop(results)
            for call, first, count in parts:
                call.failure = ValueError(f"{self._name}: {len(results)} results of {len(items)} items")
                call.settle(first, [_NO_OUTCOME] * count)
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

    def _abandon(self, call: _Call[Item, Result]) -> None:
        """Leave: take back the results that came already, and the items that no batch has taken."""
        self._drop(call.outcomes)
        if not call.future.done():
            call.future.cancel()
        self._forget(call)

    def _forget(self, call: _Call[Item, Result]) -> None:
        self._calls.pop(call, None)
        self._waiting -= call.end - call.taken
        call.end, call.items = call.taken, ()

    def _drop(self, outcomes: Sequence[Result | QflareError]) -> None:
        if self._discard is not None:
            for outcome in outcomes:
                if not isinstance(outcome, QflareError):
                    self._discard(outcome)
