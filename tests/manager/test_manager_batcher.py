import asyncio

import pytest

from qflare.errors import OverloadedError, StoreUnavailableError, UsageError
from qflare.manager.batcher import Batcher


class Kitchen:
    """Doubles numbers, batch by batch, as slowly as the test says."""

    def __init__(self, **bounds):
        self.batches = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.dropped = []
        values = {"items_max": 8, "waiting_max": 100} | bounds
        self.queue = Batcher("double", self.run, discard=self.dropped.append, **values)

    async def run(self, batch):
        self.batches.append(list(batch))
        await self.gate.wait()
        if "bomb" in batch:
            raise StoreUnavailableError("the store went away")
        return [UsageError("bad item") if item == "bad" else item * 2 for item in batch]

    async def until(self, *, waiting=0, batches=1):
        """Wait until so many items wait and so many batches have begun: the calls have come as far as they get."""
        async with asyncio.timeout(60):
            while (waiting, batches) != (self.queue.statistics.waiting, len(self.batches)):
                await asyncio.sleep(0)
        # What would come next in spite of that had its chance too.
        for _ in range(20):
            await asyncio.sleep(0)


async def test_concurrent_calls_become_one_batch():
    """Calls made in one round of the loop fly together, and each gets its own answer."""
    kitchen = Kitchen()
    answers = await asyncio.gather(*(kitchen.queue.submit(number) for number in range(8)))
    assert [0, 2, 4, 6, 8, 10, 12, 14] == answers
    assert 1 == len(kitchen.batches)


async def test_lone_call_is_not_held_back():
    """With no batch in flight a single call flies at once."""
    kitchen = Kitchen()
    assert 42 == await asyncio.wait_for(kitchen.queue.submit(21), 60)
    assert [[21]] == kitchen.batches


async def test_calls_during_a_flight_wait_for_its_end():
    """What comes while a batch flies is gathered until it ends."""
    kitchen = Kitchen()
    kitchen.gate.clear()
    calls = [asyncio.create_task(kitchen.queue.submit(0))]
    await kitchen.until()
    calls += [asyncio.create_task(kitchen.queue.submit(number)) for number in (1, 2, 3)]
    await kitchen.until(waiting=3)
    assert [[0]] == kitchen.batches
    kitchen.gate.set()
    await asyncio.gather(*calls)
    assert [[0], [1, 2, 3]] == kitchen.batches


async def test_full_batch_takes_a_second_flight():
    """A full batch does not wait for the one in flight if another flight is free."""
    kitchen = Kitchen(items_max=2, flights_max=2)
    kitchen.gate.clear()
    calls = [asyncio.create_task(kitchen.queue.submit(number)) for number in range(2)]
    await kitchen.until()
    calls += [asyncio.create_task(kitchen.queue.submit(number)) for number in range(2, 7)]
    await kitchen.until(waiting=3, batches=2)
    assert [[0, 1], [2, 3]] == kitchen.batches
    kitchen.gate.set()
    assert list(range(0, 14, 2)) == await asyncio.gather(*calls)


async def test_bad_item_fails_alone():
    """An item's error reaches its own caller and nobody else."""
    kitchen = Kitchen()
    answers = await asyncio.gather(*(kitchen.queue.submit(item) for item in (1, "bad", 3)), return_exceptions=True)
    assert [2, 6] == [answers[0], answers[2]]
    assert isinstance(answers[1], UsageError)
    assert 1 == len(kitchen.batches)


async def test_failed_batch_reaches_every_caller():
    """When the whole batch fails every caller hears it, and the next batch flies."""
    kitchen = Kitchen()
    answers = await asyncio.gather(*(kitchen.queue.submit(item) for item in (1, "bomb")), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailableError) for answer in answers)
    assert 4 == await kitchen.queue.submit(2)


async def test_cancelling_one_waiting_call_harms_no_other():
    """A call that is cancelled while it waits is never flown; the others are."""
    kitchen = Kitchen()
    kitchen.gate.clear()
    first = asyncio.create_task(kitchen.queue.submit(0))
    await kitchen.until()
    calls = [asyncio.create_task(kitchen.queue.submit(number)) for number in (1, 2, 3)]
    await kitchen.until(waiting=3)
    calls[1].cancel()
    await asyncio.sleep(0)
    kitchen.gate.set()
    answers = await asyncio.gather(first, *calls, return_exceptions=True)
    assert [0, 2, 6] == [answers[0], answers[1], answers[3]]
    assert isinstance(answers[2], asyncio.CancelledError)
    assert [[0], [1, 3]] == kitchen.batches


async def test_cancelling_one_call_in_flight_discards_its_result():
    """The result of a call that is cancelled in flight is handed to `discard`, which wipes secrets."""
    kitchen = Kitchen()
    kitchen.gate.clear()
    calls = [asyncio.create_task(kitchen.queue.submit(number)) for number in (1, 2)]
    await kitchen.until()
    calls[0].cancel()
    await asyncio.sleep(0)
    kitchen.gate.set()
    assert 4 == await calls[1]
    assert [2] == kitchen.dropped


async def test_full_queue_refuses_one_more():
    """A queue has a maximum, and says so."""
    kitchen = Kitchen(waiting_max=2, items_max=1)
    kitchen.gate.clear()
    calls = [asyncio.create_task(kitchen.queue.submit(0))]
    await kitchen.until()
    calls += [asyncio.create_task(kitchen.queue.submit(number)) for number in (1, 2)]
    await kitchen.until(waiting=2)
    with pytest.raises(OverloadedError, match="retry later"):
        await kitchen.queue.submit(3)
    kitchen.gate.set()
    assert [0, 2, 4] == await asyncio.gather(*calls)


async def test_submit_many_is_all_or_nothing_at_the_door():
    """A batch that does not fit is refused whole: nothing of it is done."""
    kitchen = Kitchen(waiting_max=4)
    with pytest.raises(OverloadedError):
        await kitchen.queue.submit_many(list(range(5)))
    assert [] == kitchen.batches
    assert [2, 4] == await kitchen.queue.submit_many([1, 2])
    assert [] == await kitchen.queue.submit_many([])


async def test_submit_many_returns_errors_in_place():
    """The many form gives one result or error an item, in order."""
    kitchen = Kitchen()
    answers = await kitchen.queue.submit_many([1, "bad", 3])
    assert [2, 6] == [answers[0], answers[2]]
    assert isinstance(answers[1], UsageError)


async def test_weight_bounds_a_batch():
    """A batch ends before its weight passes the maximum; one heavy item flies alone."""
    kitchen = Kitchen(weigh=lambda number: number, weight_max=10)
    await kitchen.queue.submit_many([4, 5, 6, 30, 1])
    assert [[4, 5], [6], [30], [1]] == kitchen.batches


async def test_close_finishes_what_was_accepted():
    """Closing lets accepted calls end and refuses new ones."""
    kitchen = Kitchen(items_max=1)
    kitchen.gate.clear()
    calls = [asyncio.create_task(kitchen.queue.submit(number)) for number in (1, 2)]
    await kitchen.until(waiting=1)
    closing = asyncio.create_task(kitchen.queue.close(60))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="closing"):
        await kitchen.queue.submit(3)
    kitchen.gate.set()
    assert [2, 4] == await asyncio.gather(*calls)
    await closing


async def test_close_gives_up_after_its_time():
    """A batch that never ends does not keep the manager from closing; its callers hear it."""
    kitchen = Kitchen()
    kitchen.gate.clear()
    call = asyncio.create_task(kitchen.queue.submit(1))
    await kitchen.until()
    await kitchen.queue.close(0.05)
    with pytest.raises(StoreUnavailableError, match="closed"):
        await call


async def test_a_large_call_keeps_nobody_waiting_for_all_of_it():
    """A call that comes behind one of many batches waits for one batch of it, not for all, and both get their own."""
    kitchen = Kitchen(items_max=4)
    large = asyncio.create_task(kitchen.queue.submit_many(list(range(20))))
    await asyncio.sleep(0)
    small = asyncio.create_task(kitchen.queue.submit(100))
    assert 200 == await small
    assert 100 in kitchen.batches[2]
    assert [2 * number for number in range(20)] == await large
    assert [4, 4, 4, 4, 4, 1] == [len(batch) for batch in kitchen.batches]


@pytest.mark.parametrize(("lanes", "sizes"), [(1, [10, 10, 5]), (4, [8, 8, 9]), (0, [10, 10, 5]), (16, [10, 10, 5])])
async def test_batches_that_leave_others_waiting_fill_their_lanes(lanes, sizes):
    """While more waits than a batch takes, batches have whole lanes; the last one takes what is left."""
    kitchen = Kitchen(items_max=10, lanes=lanes)
    assert [2 * number for number in range(25)] == await kitchen.queue.submit_many(list(range(25)))
    assert sizes == [len(batch) for batch in kitchen.batches]


async def test_cancelling_a_large_call_takes_its_items_out():
    """Of a call that is cancelled what has not flown never does, what comes back is discarded, and its room is free."""
    kitchen = Kitchen(items_max=2, waiting_max=6, flights_max=1)
    kitchen.gate.clear()
    large = asyncio.create_task(kitchen.queue.submit_many([1, 2, 3, 4, 5, 6]))
    await kitchen.until(waiting=4)
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    others = asyncio.create_task(kitchen.queue.submit_many([11, 12, 13, 14, 15, 16]))
    await kitchen.until(waiting=6)
    kitchen.gate.set()
    assert [22, 24, 26, 28, 30, 32] == await others
    assert [[1, 2], [11, 12], [13, 14], [15, 16]] == kitchen.batches
    assert [2, 4] == kitchen.dropped


async def test_results_before_a_cancellation_are_discarded_too():
    """Results that came before the rest of their call was cancelled are handed to `discard` as well, each once."""
    kitchen = Kitchen(items_max=2)
    large = asyncio.create_task(kitchen.queue.submit_many([1, 2, 3, 4]))
    while len(kitchen.batches) < 2:
        kitchen.gate.set()
        await asyncio.sleep(0)
        if kitchen.batches:
            kitchen.gate.clear()
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    kitchen.gate.set()
    await kitchen.queue.close(60)
    assert [2, 4, 6, 8] == sorted(kitchen.dropped)


async def test_one_error_for_many_callers_keeps_its_traceback_short():
    """However many callers a failed batch has, none finds the others' frames in the error."""
    kitchen = Kitchen()
    answers = await asyncio.gather(
        *(kitchen.queue.submit(item) for item in ("bomb", 1, 2, 3, 4, 5, 6, 7)), return_exceptions=True
    )
    depth, step = 0, answers[0].__traceback__
    while step is not None:
        depth, step = depth + 1, step.tb_next
    assert 1 == len({id(answer) for answer in answers})
    assert depth <= 4


async def test_a_batch_with_too_few_results_fails_whole():
    """A batch that returns another number of results than it had items answers nobody with somebody else's."""
    kitchen = Kitchen()

    async def run(batch):
        return [item for item in batch if item != 2]

    queue = Batcher("short", run, items_max=8, waiting_max=8, discard=kitchen.dropped.append)
    answers = await asyncio.gather(*(queue.submit(number) for number in (1, 2, 3)), return_exceptions=True)
    assert all(isinstance(answer, ValueError) for answer in answers)
    assert [1, 3] == kitchen.dropped


async def test_an_item_that_has_no_weight_is_refused_and_stops_nobody():
    """What cannot be weighed fails its caller before it waits: others of the queue are answered."""

    async def run(items):
        return list(items)

    batcher = Batcher("test", run, items_max=8, waiting_max=8, weigh=len, weight_max=100)
    with pytest.raises(TypeError):
        await batcher.submit(None)
    async with asyncio.timeout(60):
        failed, done = await asyncio.gather(
            batcher.submit_many([b"a", None]), batcher.submit(b"good"), return_exceptions=True
        )
    assert isinstance(failed, TypeError)
    assert (b"good", 0) == (done, batcher.statistics.waiting)
    await batcher.close(5)


async def test_statistics_tell_batches_and_waits():
    """A queue tells how many batches and items it had, its largest batch, what waits, and for how long items waited."""
    kitchen = Kitchen(items_max=4)
    kitchen.gate.clear()
    call = asyncio.create_task(kitchen.queue.submit_many([1, 2, 3, 4, 5, 6]))
    await kitchen.until(waiting=2)
    await asyncio.sleep(0.02)
    now = kitchen.queue.statistics
    assert ("double", 1, 4, 4, 2, 1) == (
        now.name,
        now.batches,
        now.items,
        now.batch_items_max,
        now.waiting,
        now.in_flight,
    )
    kitchen.gate.set()
    await call
    then = kitchen.queue.statistics
    assert (2, 6, 0) == (then.batches, then.items, then.waiting)
    assert then.waited_ms >= 2 * then.waited_max_ms >= 2 * 15


async def test_a_close_that_gives_up_begins_no_other_batch():
    """What waits when the time to close is over fails; none of it is begun after that."""
    kitchen = Kitchen(items_max=2)
    kitchen.gate.clear()
    call = asyncio.create_task(kitchen.queue.submit_many([1, 2, 3, 4, 5, 6]))
    await kitchen.until(waiting=4)
    await kitchen.queue.close(0.05)
    outcomes = await asyncio.wait_for(call, 30)
    assert [[1, 2]] == kitchen.batches
    assert [StoreUnavailableError] * 2 + [OverloadedError] * 4 == [type(outcome) for outcome in outcomes]
