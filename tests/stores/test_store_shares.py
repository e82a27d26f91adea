"""What workers' detectors tell each other: each share once, in order, for minutes."""

from os import urandom

import pytest

from qflare.model.ids import WorkerId
from qflare.model.share import Share

pytestmark = pytest.mark.contract

ONE, TWO, THREE = (WorkerId(bytes([number]) * 16) for number in (1, 2, 3))


def share(worker, number):
    return Share(worker_id=worker, number=number, counts=b"%d of %d" % (number, worker[0]))


async def exchange(store, worker, *shares, after=None, limit=100):
    return await store.exchange_shares(worker, shares, after=after or {}, keep_s=600, limit=limit)


async def test_shares_reach_the_others_after_what_they_know(store):
    """Nobody gets its own; each gets what comes after the number that it names, the first shares first."""
    assert () == await exchange(store, ONE)
    assert () == await exchange(store, ONE, share(ONE, 1), share(ONE, 2))
    assert (share(ONE, 1), share(ONE, 2)) == await exchange(store, TWO, share(TWO, 1))
    assert (share(TWO, 1), share(ONE, 2)) == await exchange(store, THREE, after={ONE: 1})
    assert (share(TWO, 1),) == await exchange(store, THREE, after={ONE: 2, WorkerId(urandom(16)): 9})
    assert (share(ONE, 1), share(TWO, 1)) == await exchange(store, THREE, limit=2)
    assert (share(TWO, 1),) == await exchange(store, ONE)


async def test_a_share_that_was_added_before_is_not_added_again(store):
    """A repetition, whose first answer was lost, changes nothing, also where it says something else."""
    await exchange(store, ONE, share(ONE, 1))
    other = Share(worker_id=ONE, number=1, counts=b"another")
    await exchange(store, ONE, other, share(ONE, 2))
    assert (share(ONE, 1), share(ONE, 2)) == await exchange(store, TWO)


async def test_old_shares_are_not_told_and_go(store):
    """What is older than it is kept reaches nobody, and is deleted by the next who adds one."""
    await exchange(store, ONE, share(ONE, 1))
    assert () == await store.exchange_shares(TWO, [], after={}, keep_s=0, limit=9)
    assert (share(ONE, 1),) == await exchange(store, TWO)
    await store.exchange_shares(TWO, [share(TWO, 1)], after={}, keep_s=0, limit=9)
    assert {share(ONE, 1), share(TWO, 1)} > set(await exchange(store, THREE))


async def test_clocks_of_the_others_are_told(store):
    """The last offset of each other worker that noted one lately."""
    assert () == await store.exchange_clocks(ONE, offset_ms=7, keep_s=600)
    await store.exchange_clocks(ONE, offset_ms=-5, keep_s=600)
    (told,) = await store.exchange_clocks(TWO, offset_ms=3, keep_s=600)
    assert (ONE, -5) == (told.worker_id, told.offset_ms)
    assert () == await store.exchange_clocks(THREE, offset_ms=0, keep_s=0)
