"""A database that does not answer when a bucket turns: everybody is told in time, and old keys die all the same."""

import asyncio

from given_time import GivenTime
from manager_world import TurnedClock, engine_of, managers
from qflare.errors import StoreUnavailableError


async def test_turn_without_a_database_keeps_nobody_waiting_in_line(database_dsn, tmp_path, admin):
    """Any number of callers who meet a turn that cannot be made wait for one attempt together, not for one each (D2)."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock, store_timeout_s=2.0, tick_max_s=600.0) as (manager,):
        before = await manager.current_bucket()
        clock.turn(600)
        async with admin.transaction():
            await admin.execute("LOCK TABLE qflare.bucket_mark IN ACCESS EXCLUSIVE MODE")
            given = GivenTime()
            async with asyncio.timeout(120):
                ended = await asyncio.gather(*(manager.announcement() for _ in range(60)), return_exceptions=True)
            assert given.is_within(10)
        assert {StoreUnavailableError} == {type(end) for end in ended}
        # R8: the database has no say in what must die.
        assert before not in engine_of(manager).buckets._live
        assert before + 2 == await manager.current_bucket()
        assert await manager.announcement()


async def test_loop_that_destroys_keys_outlives_a_fault_of_our_own(database_dsn, tmp_path):
    """Whatever is raised inside the maintenance loop, it goes on: an idle worker's keys still die in time (R8)."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock, tick_max_s=0.05) as (manager,):
        engine = engine_of(manager)
        before, sweep, failed = await manager.current_bucket(), engine.maintenance._turns.sweep, asyncio.Event()

        async def fault(_bucket):
            failed.set()
            engine.maintenance._turns.sweep = sweep
            raise RuntimeError("a fault of our own")

        engine.maintenance._turns.sweep = fault
        clock.turn(300)
        async with asyncio.timeout(60):
            await failed.wait()
            clock.turn(600)
            while before in engine.buckets._live or engine.buckets.current != before + 3:
                await asyncio.sleep(0.02)
