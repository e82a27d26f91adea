"""Bucket keys with workers that race, disagree about the time, and have clocks that jump both ways (PROTOCOL A2-A5)."""

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from manager_world import Edge, TurnedClock, engine_of, make_device, make_manager, managers
from qflare.errors import KeeperError, KeyNotFoundError, StaleBucketError
from qflare.model.event import EventSeverity

WIDTH_S = 300
FIRST = 5_900_000
TICKET_S = 60


def clock_at(offset_s=10):
    return TurnedClock(FIRST * WIDTH_S + offset_s)


def keeper_of(manager):
    return engine_of(manager).foundation.keeper


async def alarms_of(manager, what):
    entries = await manager.monitor.list_events(limit=1000)
    return [entry for entry in entries if what in entry.data]


async def both_forms(edge, manager):
    for form in ("hello", "offer"):
        await edge.connect(manager, form=form)


@pytest.mark.parametrize("jump", [1, 2, 3, 1000])
async def test_forward_jump_while_running(database, tmp_path, jump):
    """One bucket is taken; more is held with one alarm until an operator accepts it, and devices connect throughout."""
    clock = clock_at()
    async with managers(database, tmp_path, 2, clock=clock) as (one, two):
        edge = await Edge.provision(one)
        await both_forms(edge, one)
        clock.turn(jump * WIDTH_S, monotonic=False)
        held = FIRST + 1 if jump == 1 else FIRST
        for worker in (one, two, one):
            assert held == await worker.turn()
            # A2: nothing more than 2 above the mark is published by a running server.
            with pytest.raises(KeyNotFoundError):
                await worker.announcement(held + 2)
        alarms = await alarms_of(one, b"clock jumped ahead")
        assert (0 if jump == 1 else 2) == len(alarms), "one alarm a worker, however often it looks"
        assert {EventSeverity.WARNING} >= {alarm.severity for alarm in alarms}
        await both_forms(edge, one)
        # Time goes on, and keys die, although the jump is held.
        clock.turn(WIDTH_S)
        assert held + 1 == await one.turn()
        await both_forms(edge, two)
        if jump > 1:
            await one.accept_clock_jump(FIRST + jump + 1)
            assert FIRST + jump + 1 == await one.current_bucket()
            # The other worker follows the mark, without an operator of its own.
            assert FIRST + jump + 1 == await two.turn()
            await both_forms(edge, two)


@pytest.mark.parametrize("jump", [1, 2, 1000])
async def test_backward_jump_while_running_and_across_a_restart(database, tmp_path, jump):
    """The bucket never falls; it goes on by elapsed time, keys die, and a worker that starts meanwhile agrees."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (one,):
        edge = await Edge.provision(one)
        clock.turn(WIDTH_S)
        assert FIRST + 1 == await one.turn()
        clock.turn(-jump * WIDTH_S, monotonic=False)
        assert FIRST + 1 == await one.turn()
        await both_forms(edge, one)
        if jump == 1:
            # A2: a clock that is set back inside the width's slack holds a bucket for one width more, never for two.
            clock.turn(WIDTH_S)
            assert FIRST + 1 == await one.turn()
        for step in (2, 3):
            clock.turn(WIDTH_S)
            assert FIRST + step == await one.turn()
            await both_forms(edge, one)
        with pytest.raises(KeeperError):
            keeper_of(one).bucket_key(FIRST + 1)
    async with managers(database, tmp_path, clock=clock) as (two,):
        assert FIRST + 3 == await two.current_bucket()
        await both_forms(edge, two)
        clock.turn(WIDTH_S)
        assert FIRST + 4 == await two.turn()
        await both_forms(edge, two)


@pytest.mark.parametrize("behind", [1, 2, 5])
async def test_workers_that_disagree_take_the_highest_mark(database, tmp_path, behind):
    """A worker whose clock is buckets behind is in the cluster's bucket, destroys what is over, and confirms others' M1."""
    ahead, slow = clock_at(), clock_at()
    slow.seconds -= behind * WIDTH_S
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(make_manager(database, tmp_path, clock=ahead))
        two = await stack.enter_async_context(make_manager(database, tmp_path, clock=slow))
        assert FIRST == await one.turn() == await two.turn()
        edge = await Edge.provision(two)
        for step in range(1, 4):
            ahead.turn(WIDTH_S)
            assert FIRST + step == await one.turn()
            # Its own clock stands still; the mark alone brings it here.
            assert FIRST + step == await two.turn()
            assert await one.announcement() == await two.announcement()
            for form in ("hello", "offer"):
                await edge.connect(one, form=form, other=two)
            with pytest.raises(KeyNotFoundError):
                await two.announcement(FIRST + step - 2)


async def test_sixteen_workers_race_for_each_bucket(database_dsn, tmp_path, admin):
    """Whoever inserts a bucket first wins and all sixteen load it: one row, one event, the same bytes from each (A3)."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, 16, clock=clock, pool_size_max=2) as workers:
        for step in range(1, 3):
            clock.turn(WIDTH_S)
            assert {FIRST + step} == set(await asyncio.gather(*(worker.turn() for worker in workers)))
            for which in ("current", "next"):
                assert 1 == len({await worker.announcement(which) for worker in workers})
        assert 4 == len(await alarms_of(workers[0], b'"what":"bucket key"'))
        assert [FIRST + number for number in (1, 2, 3)] == [
            row["bucket"] for row in await admin.fetch("SELECT bucket FROM qflare.bucket_key ORDER BY bucket")
        ]
        edge = await Edge.provision(workers[3])
        await edge.connect(workers[7], other=workers[11])


@pytest.mark.parametrize("down", [1, 2, 400])
async def test_start_after_downtime(database, tmp_path, down):
    """At start-up the present bucket is taken, with an alarm if more than one has passed; devices connect at once."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (one,):
        edge = await Edge.provision(one)
        await edge.connect(one)
    clock.turn(down * WIDTH_S)
    async with managers(database, tmp_path, clock=clock) as (two,):
        assert FIRST + down == await two.turn()
        assert (down > 1) == bool(await alarms_of(two, b"bucket step at start"))
        await both_forms(edge, two)


async def test_no_security_rests_on_the_clock_of_a_device(database, tmp_path):
    """A device whose clock is years off goes by announcements alone, both ways, and never below its mark (A5)."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        for years in (-30, 0, 30):
            device = await make_device(manager)
            theirs = TurnedClock(max(1, int(clock.seconds) + years * 31_557_600))
            device._device.engine._clock = theirs
            async with device:
                old = await manager.announcement()
                session = await device.connect()
                assert session.start == await manager.current_bucket()
                for _ in range(3):
                    clock.turn(WIDTH_S)
                    await manager.turn()
                    theirs.turn(-86_400, monotonic=False)
                    reply = await device.exchange(b"abc")
                    assert reply.plaintext.equals(b"cba")
                    reply.plaintext.wipe()
                await device.connect("offer")
                with pytest.raises(StaleBucketError):
                    device._device.take_announcement(old)


class Schedule:
    """Workers with clocks of their own over one database, and what must hold whatever happens to them."""

    def __init__(self, seed, dsn, folder, stack):
        self.chance = random.Random(seed)
        self.dsn, self.folder, self.stack = dsn, folder, stack
        self.workers, self.clocks = [], []
        self.mark = 0
        self.bodies = {}
        self.session = None

    async def start(self, count):
        for _ in range(count):
            clock = clock_at()
            self.clocks.append(clock)
            self.workers.append(await self._open(clock))
        self.edge = await Edge.provision(self.workers[0])

    async def _open(self, clock):
        return await self.stack.enter_async_context(make_manager(self.dsn, self.folder, clock=clock, pool_size_max=2))

    async def step(self):
        """Let one thing happen to somebody's clock or worker, then look at everything."""
        chance = self.chance
        number = chance.randrange(len(self.workers))
        match chance.choice(("time", "time", "jump", "back", "restart", "stand")):
            case "time":
                seconds = chance.choice((1, 100, WIDTH_S, 2 * WIDTH_S))
                for clock in self.clocks:
                    clock.turn(seconds)
            case "jump":
                self.clocks[number].turn(chance.choice((1, 2, 3, 50)) * WIDTH_S, monotonic=False)
            case "back":
                self.clocks[number].turn(-chance.choice((1, 2, 3, 50)) * WIDTH_S, monotonic=False)
            case "restart":
                await self.workers[number].close()
                self.workers[number] = await self._open(self.clocks[number])
            case "stand":
                self.clocks[number].elapsed_ns += chance.randrange(2 * WIDTH_S) * 10**9
        order = list(self.workers)
        chance.shuffle(order)
        for worker in order * 2:
            await worker.turn()
        await self.look()

    async def look(self):
        buckets = {await worker.current_bucket() for worker in self.workers}
        assert 1 == len(buckets), f"workers disagree: {buckets}"
        (bucket,) = buckets
        assert bucket >= self.mark, "the mark fell"
        self.mark = bucket
        for which in ("current", "next"):
            (announcement,) = {await worker.announcement(which) for worker in self.workers}
            at = bucket + (which == "next")
            assert self.bodies.setdefault(at, announcement) == announcement, f"bucket {at} was announced twice"
        held = {int(path.name.rpartition("-")[2]) for path in keeper_of(self.workers[0]).volatile_dir.iterdir()}
        assert held <= {bucket - 1, bucket, bucket + 1}, "a sealing key outlived its bucket"
        one, two = self.chance.sample(self.workers, 2)
        times = [engine_of(worker).buckets.now_s() for worker in (one, two)]
        if abs(times[0] - times[1]) > TICKET_S - 10:
            # H5: a ticket lives for 60 s of server time, so workers that disagree by more finish only what is their own.
            two = one
        await self.edge.connect(one, form=self.chance.choice(("hello", "offer")), other=two)


@pytest.mark.parametrize("seed", range(3))
async def test_random_schedules_of_clocks_and_workers(database_dsn, tmp_path, seed):
    """Whatever clocks do: one bucket for all, never falling, announced once, its keys destroyed in time, devices let in."""
    async with AsyncExitStack() as stack:
        schedule = Schedule(seed, database_dsn, tmp_path, stack)
        await schedule.start(3)
        for _ in range(12):
            await schedule.step()
