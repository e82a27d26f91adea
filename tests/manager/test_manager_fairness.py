"""Queues shared by tenants: turns, room, order, cancellation (manager/waiting.py)."""

import asyncio

import pytest

from qflare.errors import OverloadedError
from qflare.manager.batcher import Batcher

LARGE, SMALL, THIRD = b"large", b"small", b"third"


class Kitchen:
    """Doubles numbers, one batch at a time, each when the test says so."""

    def __init__(self, **bounds):
        self.batches = []
        self.dropped = []
        self.may = asyncio.Semaphore(0)
        values = {"items_max": 8, "waiting_max": 1000} | bounds
        self.queue = Batcher("double", self.run, discard=self.dropped.append, **values)

    async def run(self, batch):
        self.batches.append(list(batch))
        await self.may.acquire()
        return [item * 2 for item in batch]

    async def busy(self):
        """Keep a batch in flight, so that what comes now waits."""
        call = asyncio.create_task(self.queue.submit(0))
        await until(lambda: self.batches)
        self.batches.clear()
        return call

    def serve(self, batches=1000):
        for _ in range(batches):
            self.may.release()

    async def call(self, items, tenant):
        """Begin a call and let it reach the queue."""
        call = asyncio.create_task(self.queue.submit_many(items, tenant_id=tenant))
        await asyncio.sleep(0)
        return call


async def until(is_so):
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0)


async def test_a_tenant_of_thousands_does_not_delay_another_ones_few():
    """Behind thousands of calls of one tenant, another one's few are in the very next batch."""
    kitchen = Kitchen(waiting_max=5000)
    first = await kitchen.busy()
    flood = [await kitchen.call([number], LARGE) for number in range(1, 2001)]
    few = [await kitchen.call([5000 + number], SMALL) for number in range(3)]
    kitchen.serve(2)
    assert [[10000], [10002], [10004]] == await asyncio.gather(*few)
    assert {5000, 5001, 5002} < set(kitchen.batches[0])
    assert 5 == len([item for item in kitchen.batches[0] if item < 5000]), "what one leaves goes to the other"
    kitchen.serve()
    await asyncio.gather(first, *flood)
    assert [*range(1, 2001)] == [item for batch in kitchen.batches for item in batch if item < 5000]


async def test_tenants_share_a_batch_evenly():
    """Of tenants who all have more than their share each has as much in every batch, in the order of its calls."""
    kitchen = Kitchen(items_max=9)
    first = await kitchen.busy()
    calls = [
        await kitchen.call([base + number for number in range(30)], tenant)
        for base, tenant in ((100, LARGE), (200, SMALL), (300, THIRD))
    ]
    kitchen.serve()
    await asyncio.gather(first, *calls)
    assert all(
        [3, 3, 3] == [len([i for i in batch if i // 100 == base]) for base in (1, 2, 3)] for batch in kitchen.batches
    )
    for base in (1, 2, 3):
        assert [*range(base * 100, base * 100 + 30)] == [
            i for batch in kitchen.batches for i in batch if i // 100 == base
        ]


async def test_more_tenants_than_a_batch_has_room_for_take_turns():
    """With more tenants than items in a batch, each has an item done before any has two."""
    kitchen = Kitchen(items_max=3)
    first = await kitchen.busy()
    calls = [await kitchen.call([tenant * 10, tenant * 10 + 1], bytes([tenant])) for tenant in range(1, 8)]
    kitchen.serve()
    await asyncio.gather(first, *calls)
    order = [item for batch in kitchen.batches for item in batch]
    assert {tenant * 10 for tenant in range(1, 8)} == set(order[:7])


async def test_calls_of_one_tenant_take_turns():
    """Within a tenant a call of many batches keeps its other calls waiting for one batch alone."""
    kitchen = Kitchen(items_max=4)
    first = await kitchen.busy()
    many = await kitchen.call(list(range(1, 21)), LARGE)
    one = await kitchen.call([100], LARGE)
    kitchen.serve()
    await asyncio.gather(first, many, one)
    assert 100 in kitchen.batches[1]


async def test_weight_is_shared_too():
    """A tenant of heavy items leaves the others their share of a batch's weight."""
    kitchen = Kitchen(weigh=lambda number: number, weight_max=100)
    first = await kitchen.busy()
    heavy = await kitchen.call([40] * 6, LARGE)
    light = await kitchen.call([1, 2, 3], SMALL)
    kitchen.serve()
    await asyncio.gather(first, heavy, light)
    assert {1, 2, 3} < set(kitchen.batches[0])
    assert all(sum(batch) <= 100 for batch in kitchen.batches)


async def test_a_heavy_item_does_not_starve_among_light_ones():
    """An item above its tenant's share of the weight, or above the whole, has its turn however many others come."""
    kitchen = Kitchen(weigh=lambda number: number, weight_max=10)
    first = await kitchen.busy()
    light = await kitchen.call([2] * 40, SMALL)
    heavy = await kitchen.call([9, 30], LARGE)
    kitchen.serve()
    await asyncio.gather(first, light, heavy)
    began = [number for number, batch in enumerate(kitchen.batches) if 9 in batch or 30 in batch]
    assert 2 == len(began)
    assert began[1] <= 4


async def test_a_tenant_that_fills_the_queue_makes_no_other_overloaded():
    """Where one tenant fills the queue, another finds room: the newest of the first one's items go, and say so."""
    kitchen = Kitchen(items_max=2, waiting_max=10)
    first = await kitchen.busy()
    many = await kitchen.call(list(range(1, 11)), LARGE)
    with pytest.raises(OverloadedError, match="10 calls wait already"):
        await kitchen.queue.submit(99, tenant_id=LARGE)
    few = await kitchen.call([100, 101, 102], SMALL)
    kitchen.serve()
    assert [200, 202, 204] == await few
    outcomes = await many
    assert [2 * number for number in range(1, 8)] == outcomes[:7]
    assert all(isinstance(outcome, OverloadedError) for outcome in outcomes[7:])
    assert 3 == len(outcomes[7:])
    assert 0 == await first
    assert sorted([*range(1, 8), 100, 101, 102]) == sorted(item for batch in kitchen.batches for item in batch)


async def test_room_is_made_by_the_newest_calls():
    """Whole calls of one item each that have to go are the newest, and each caller gets the error."""
    kitchen = Kitchen(items_max=2, waiting_max=6)
    first = await kitchen.busy()
    calls = [asyncio.create_task(kitchen.queue.submit(number, tenant_id=LARGE)) for number in range(1, 7)]
    await asyncio.sleep(0)
    other = asyncio.create_task(kitchen.queue.submit(100, tenant_id=SMALL))
    with pytest.raises(OverloadedError, match="other tenants need the room"):
        await calls[-1]
    kitchen.serve()
    assert [2, 4, 6, 8, 10, 200] == await asyncio.gather(*calls[:-1], other)
    await first


async def test_nobody_gains_more_than_an_even_share_of_a_full_queue():
    """A tenant takes room from larger ones until it has as much as they, and is then refused without harm to any."""
    kitchen = Kitchen(items_max=2, waiting_max=12)
    first = await kitchen.busy()
    large = await kitchen.call(list(range(1, 13)), LARGE)
    small = await kitchen.call([100] * 6, SMALL)
    with pytest.raises(OverloadedError):
        await kitchen.queue.submit(101, tenant_id=SMALL)
    with pytest.raises(OverloadedError):
        await kitchen.queue.submit_many([200] * 6, tenant_id=THIRD)
    third = await kitchen.call([200] * 4, THIRD)
    kitchen.serve()
    assert [400] * 4 == await third
    done = [[outcome for outcome in await call if not isinstance(outcome, OverloadedError)] for call in (large, small)]
    assert [4, 4] == [len(outcomes) for outcomes in done]
    assert (2, 10) == (kitchen.queue.overloads, kitchen.queue.displaced)
    await first


async def test_cancelling_one_tenants_calls_harms_no_other():
    """Calls that are cancelled while they wait leave room and turns to the others, whatever made room before."""
    kitchen = Kitchen(items_max=4, waiting_max=8)
    first = await kitchen.busy()
    gone = await kitchen.call(list(range(1, 9)), LARGE)
    other = await kitchen.call([100, 101], SMALL)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert 2 == kitchen.queue.statistics.waiting
    more = await kitchen.call([200] * 6, THIRD)
    kitchen.serve()
    assert [[200, 202], [400] * 6] == await asyncio.gather(other, more)
    assert [] == kitchen.dropped
    await first


async def test_a_call_in_flight_may_give_up_its_rest_and_be_cancelled():
    """Of a call that is partly in flight the rest makes room; cancelled then, its results are discarded, each once."""
    kitchen = Kitchen(items_max=2, waiting_max=4)
    large = await kitchen.call([1, 2, 3, 4], LARGE)
    await until(lambda: kitchen.batches)
    filling = await kitchen.call([5, 6], LARGE)
    small = await kitchen.call([100, 101], SMALL)
    assert all(isinstance(outcome, OverloadedError) for outcome in await filling)
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    kitchen.serve()
    assert [200, 202] == await small
    assert [2, 4] == sorted(kitchen.dropped)
    assert [[1, 2], [100, 101]] == kitchen.batches


async def test_closing_ends_the_calls_of_every_tenant():
    """A queue that closes ends what waits of every tenant, with the error that says so."""
    kitchen = Kitchen(items_max=2)
    calls = [await kitchen.call([1, 2, 3], tenant) for tenant in (LARGE, SMALL, None)]
    await until(lambda: kitchen.batches)
    await kitchen.queue.close(0.01)
    outcomes = [outcome for call in calls for outcome in await call]
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    assert 0 == kitchen.queue.statistics.waiting
