"""
Calls that wait for a batch, fair between tenants (DESIGN, decision 5).

Tenants take turns, and within a tenant its calls do: a batch is shared out evenly among the tenants that wait, and what
some leave of their share goes to the others.  A full queue makes room for a tenant that has less in it than another by
sending the newest items of the one that has most away, which no batch has touched.  While one tenant waits alone,
nothing of this costs anything.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from qflare.errors import QflareError, StoreUnavailableError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from qflare.model.ids import TenantId

Item = TypeVar("Item")
Result = TypeVar("Result")

NO_OUTCOME: Final = StoreUnavailableError("no outcome for this item yet; send it again", outcome_unknown=True)


class Call(Generic[Item, Result]):
    """The items of one call on their way through the queue."""

    __slots__ = (
        "began_s",
        "end",
        "failure",
        "future",
        "items",
        "outcomes",
        "remaining",
        "taken",
        "tenant_id",
        "traceback",
    )

    def __init__(
        self, items: Sequence[Item], future: asyncio.Future[None], began_s: float, tenant_id: TenantId | None
    ) -> None:
        self.items = items
        self.future = future
        """Done when every item has its outcome; cancelled when the caller has left."""
        self.began_s = began_s
        self.tenant_id = tenant_id
        """Whose turn it takes; those of nobody are a tenant of their own."""
        self.outcomes: list[Result | QflareError] = [NO_OUTCOME] * len(items)
        self.failure: BaseException | None = None
        """What a batch of its items raised, if that was no error of ours."""
        self.traceback: TracebackType | None = None
        """Where a batch of its items failed."""
        self.taken = 0
        """Items that have gone into batches."""
        self.end = len(items)
        """Items that are to; fewer once the caller has left, or the last of them had to make room."""
        self.remaining = len(items)
        """Items without an outcome."""

    def settle(self, first: int, outcomes: Sequence[Result | QflareError]) -> None:
        """Note the outcomes of items from *first* on, and wake the caller with the last."""
        self.outcomes[first : first + len(outcomes)] = outcomes
        self.remaining -= len(outcomes)
        if not self.remaining and not self.future.done():
            self.future.set_result(None)


Part = tuple[Call[Item, Result], int, int]
"""Of a call, the first item that a batch took, and how many."""


class _Line(Generic[Item, Result]):
    """One tenant's calls with items that no batch has taken."""

    __slots__ = ("calls", "waiting")

    def __init__(self) -> None:
        self.calls: OrderedDict[Call[Item, Result], None] = OrderedDict()
        """In the order of their turns."""
        self.waiting = 0
        """Items of them that no batch has taken."""


class _Batch(Generic[Item, Result]):
    """Items that are being taken, and how much more fits."""

    __slots__ = ("items", "parts", "room", "weight")

    def __init__(self, room: int) -> None:
        self.items: list[Item] = []
        self.parts: list[Part[Item, Result]] = []
        self.room = room
        self.weight = 0


class Waiting(Generic[Item, Result]):
    """The items of one queue that no batch has taken."""

    def __init__(
        self, items_max: int, *, weigh: Callable[[Item], int] | None = None, weight_max: int | None = None
    ) -> None:
        """
        Make an empty queue.

        Args:
            items_max: Most items that wait.
            weigh: Weight of an item, such as its bytes; with *weight_max*.
            weight_max: Most weight of a batch; an item heavier than that goes alone.
        """
        self._items_max = items_max
        self._weigh = weigh
        self._weight_max = weight_max
        self._lines: OrderedDict[TenantId | None, _Line[Item, Result]] = OrderedDict()
        """Of tenants with items that no batch has taken, in the order of their turns."""
        self._count = 0
        self.displaced = 0
        """Items that were sent away so far, since a tenant with less needed their room."""

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._count

    @property
    def calls(self) -> list[Call[Item, Result]]:
        """Every call that waits with something."""
        return [call for line in self._lines.values() for call in line.calls]

    def make_room(self, count: int, tenant_id: TenantId | None, refusal: QflareError) -> bool:
        """
        Make room for *count* items of a tenant; False, and nothing done, if there is none that it may have.

        Where the queue is full, tenants that would still have as many items in it as this one give up their newest
        ones, whose outcome is then *refusal*.
        """
        need = self._count + count - self._items_max
        if need <= 0:
            return True
        own = self._lines.get(tenant_id)
        level = count + (0 if own is None else own.waiting)
        larger = [line for its, line in self._lines.items() if its != tenant_id and line.waiting > level]
        if sum(line.waiting - level for line in larger) < need:
            return False
        for line in sorted(larger, key=lambda line: line.waiting, reverse=True):
            given = min(need, line.waiting - level)
            self._send_away(line, given, refusal)
            self.displaced += given
            need -= given
        return True

    def add(self, call: Call[Item, Result]) -> None:
        """Let *call* wait behind the others of its tenant."""
        line = self._lines.get(call.tenant_id)
        if line is None:
            line = self._lines[call.tenant_id] = _Line()
        line.calls[call] = None
        line.waiting += call.end
        self._count += call.end

    def take(self, items_max: int) -> tuple[list[Item], list[Part[Item, Result]]]:
        """
        Take a batch of at most *items_max* items, which its calls have given from then on.

        Whoever was in it goes behind the others: a tenant of thousands keeps no other waiting for all of them, nor one
        call of thousands the tenant's others.
        """
        batch: _Batch[Item, Result] = _Batch(items_max)
        weight_max = self._weight_max
        tenants = len(self._lines)
        if tenants > 1:
            share = max(1, items_max // tenants)
            for tenant_id in list(self._lines):
                if not batch.room:
                    break
                limit = None if weight_max is None else min(weight_max, batch.weight + weight_max // tenants)
                self._take_from(tenant_id, batch, share, limit)
        for tenant_id in list(self._lines):
            if not batch.room or not self._take_from(tenant_id, batch, batch.room, weight_max):
                break
        return batch.items, batch.parts

    def forget(self, call: Call[Item, Result]) -> None:
        """Take out what is left of *call*: its caller has left, or it has its outcome."""
        line = self._lines.get(call.tenant_id)
        if line is None or call not in line.calls:
            return
        count = call.end - call.taken
        del line.calls[call]
        call.end, call.items = call.taken, ()
        self._remove(call.tenant_id, line, count)

    def _take_from(
        self,
        tenant_id: TenantId | None,
        batch: _Batch[Item, Result],
        share: int,
        weight_max: int | None,
    ) -> bool:
        """Take up to *share* items of a tenant into *batch*, up to that weight; False if the next one is too heavy."""
        line = self._lines[tenant_id]
        left = min(share, batch.room)
        taken = 0
        fits = True
        while left and line.calls and fits:
            call = next(iter(line.calls))
            if call.future.done():  # cancelled in this very round of the loop
                count = call.end - call.taken
                del line.calls[call]
                call.end, call.items = call.taken, ()
                line.waiting -= count
                self._count -= count
                continue
            wanted = min(left, call.end - call.taken)
            count = wanted if weight_max is None else self._fitting(call, wanted, batch, weight_max)
            fits = count == wanted
            if not count:
                break
            batch.parts.append((call, call.taken, count))
            batch.items += call.items[call.taken : call.taken + count]
            call.taken += count
            left -= count
            taken += count
            line.calls.move_to_end(call)
            if call.taken == call.end:
                del line.calls[call]
        batch.room -= taken
        if taken:
            self._lines.move_to_end(tenant_id)
        self._remove(tenant_id, line, taken)
        return fits

    def _fitting(self, call: Call[Item, Result], wanted: int, batch: _Batch[Item, Result], weight_max: int) -> int:
        """Return how many of the next *wanted* items of a call go into *batch*, and add their weight to it."""
        if self._weigh is None:
            return wanted
        weights = list(map(self._weigh, call.items[call.taken : call.taken + wanted]))
        whole = batch.weight + sum(weights)
        if whole <= weight_max:
            batch.weight = whole
            return wanted
        for number, weight in enumerate(weights):
            more = batch.weight + weight
            # The first item of a batch goes whatever it weighs: it is a tenant's turn, and it may be too heavy for any.
            if more > weight_max and (batch.items or number):
                return number
            batch.weight = more
        return wanted

    def _send_away(self, line: _Line[Item, Result], count: int, refusal: QflareError) -> None:
        line.waiting -= count
        self._count -= count
        while count:
            call = next(reversed(line.calls))
            given = min(count, call.end - call.taken)
            call.end -= given
            count -= given
            if call.taken == call.end:
                del line.calls[call]
            call.settle(call.end, [refusal] * given)

    def _remove(self, tenant_id: TenantId | None, line: _Line[Item, Result], count: int) -> None:
        line.waiting -= count
        self._count -= count
        if not line.calls:
            del self._lines[tenant_id]
