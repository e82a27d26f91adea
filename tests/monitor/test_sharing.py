"""Detectors of several workers beside each other: what each counts is everybody's, once, and outlives its worker."""

import asyncio
import json

import pytest

from forging import forged_hello, refused
from manager_world import Edge, engine_of, managers
from memory_world import make_memory_store
from qflare.clock import SystemClock
from qflare.errors import StoreUnavailableError
from qflare.model.event import EventSeverity
from qflare.model.ids import WorkerId
from qflare.model.share import Share
from qflare.model.signal import Signal
from qflare.monitor.device_table import device_key


class ShiftedClock(SystemClock):
    """A clock that goes, and is some seconds ahead."""

    def __init__(self, ahead_s):
        self._ahead_s = ahead_s

    def now_s(self):
        return super().now_s() + self._ahead_s

    def now_ms(self):
        return super().now_ms() + 1000 * self._ahead_s


def detection_of(manager):
    return engine_of(manager).detection


async def settle_all(*workers):
    """Have each tell and report, and then once more: now each has heard all others."""
    for _ in range(2):
        for manager in workers:
            await detection_of(manager).settle()


async def forge(manager, edge, forger, count=1):
    for _ in range(count):
        await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))


def score_of(manager, edge, signal=Signal.FORGED_MESSAGES):
    devices = detection_of(manager).detector.devices
    row = devices.find(device_key(edge.device.ref))
    return 0.0 if row is None else devices.score(row, signal)


async def test_an_attack_spread_over_workers_is_found_as_soon_as_at_one(database, tmp_path):
    """One forgery at each of three workers opens the incident that three at one worker would."""
    async with managers(database, tmp_path, 3, detection=True) as workers:
        edge, forger = await Edge.provision(workers[0], "d"), await Edge.provision(workers[0])
        for manager in workers:
            await forge(manager, edge, forger)
        await settle_all(*workers)
        (incident,) = await workers[0].monitor.list_incidents()
        assert (Signal.FORGED_MESSAGES, "d") == (incident.signal, incident.device_id)
        assert all(2.9 < score_of(manager, edge) <= 3.0 for manager in workers)


async def test_what_a_dead_worker_counted_outlives_it(database, tmp_path):
    """A worker that is killed has told what it counted; one that starts hears of it, beside the state that was saved."""
    async with managers(database, tmp_path, 2, detection=True) as (one, two):
        edge, forger = await Edge.provision(one, "d"), await Edge.provision(one)
        await forge(one, edge, forger)
        await detection_of(one).settle()
        await detection_of(one).save()
        await forge(two, edge, forger)
        await detection_of(two).settle()
        # Killed: neither saves any more.
        for manager in (one, two):
            detection_of(manager).save = _nothing
    async with managers(database, tmp_path, detection=True) as (manager,):
        # Saved and told within one second: the memory store's clock does not tell them apart.
        assert 1.9 < score_of(manager, edge) or not isinstance(database, str)
        await forge(manager, edge, forger)
        await detection_of(manager).settle()
        found = [each.device_id for each in await manager.monitor.list_incidents()]
        assert ["d"] == found or not isinstance(database, str)


async def test_what_was_saved_is_not_heard_a_second_time(database, tmp_path):
    """A share that is older than the saved state is in it."""
    async with managers(database, tmp_path, 2, detection=True) as (one, two):
        edge, forger = await Edge.provision(one, "d"), await Edge.provision(one)
        for manager in (one, two):
            await forge(manager, edge, forger)
        await settle_all(one, two)
    async with managers(database, tmp_path, detection=True) as (manager,):
        assert 1.9 < score_of(manager, edge) <= 2.0


async def test_a_share_whose_answer_was_lost_counts_once(tmp_path):
    """What failed is told again under its number, what was counted meanwhile under the next."""
    store = make_memory_store()
    async with managers(store, tmp_path, 2, detection=True) as (one, two):
        edge, forger = await Edge.provision(one, "d"), await Edge.provision(one)
        tell = store.exchange_shares

        async def lost(*arguments, **named):
            await tell(*arguments, **named)
            raise StoreUnavailableError("gone")

        store.exchange_shares = lost
        for _ in range(2):
            await forge(one, edge, forger)
            with pytest.raises(StoreUnavailableError):
                await detection_of(one).settle()
        store.exchange_shares = tell
        for _ in range(2):
            await detection_of(one).settle()
        await detection_of(two).settle()
        assert 1.9 < score_of(two, edge) <= 2.0


async def test_a_share_that_cannot_be_read_is_left_out_and_counted(database, tmp_path):
    """What is damaged, or of a later version, stops nothing."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        store, stranger = engine_of(manager).foundation.store, WorkerId(b"\1" * 16)
        damaged = Share(worker_id=stranger, number=1, counts=b"?")
        await store.exchange_shares(stranger, [damaged], after={}, keep_s=60, limit=1)
        for _ in range(2):
            await detection_of(manager).share()
        assert 1 == detection_of(manager).figures.left_out


async def test_workers_whose_clocks_are_apart_are_told(database_dsn, tmp_path):
    """One four seconds ahead of the database, one four behind it: neither is told alone, their difference is."""
    async with (
        managers(database_dsn, tmp_path, clock=ShiftedClock(4), detection=True) as (one,),
        managers(database_dsn, tmp_path, clock=ShiftedClock(-4), detection=True) as (two,),
    ):
        await detection_of(one).look()
        await settle_all(one)
        assert () == await one.monitor.list_incidents()
        async with asyncio.timeout(60):
            # What the database's answer takes is no skew: on a busy machine a look may see less of it.
            while not (found := await two.monitor.list_incidents()):
                for manager in (one, two):
                    await detection_of(manager).look()
                await settle_all(one, two)
        assert [(Signal.CLOCK_SKEW, EventSeverity.WARNING)] == [(each.signal, each.severity) for each in found]
        evidence = json.loads(found[0].evidence)
        assert 2 == evidence["workers"]
        assert 5000 <= evidence["spread_ms"] <= 8000
        assert -4000 <= evidence["most_behind_ms"] < 0 < evidence["most_ahead_ms"] <= 4000
        assert ["clocks of workers apart"] == list(evidence["seen"])


async def _nothing():
    pass
