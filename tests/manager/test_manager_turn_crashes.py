"""A worker killed or stopped at each step of a turn, in a process of its own: nothing is lost, nothing doubled."""

import asyncio
import multiprocessing
import os
import signal

import pytest

import turning
from dying import ended, start
from manager_turns import all_carry, sessions_of, stand
from manager_world import TurnedClock, engine_of, managers
from qflare.manager import pages, turns
from turning import PAGE_MIN, POINTS, RANGE_SESSIONS, TURN_PAGE, WIDTH_S


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch):
    """Several steps a turn and several pages, with few sessions."""
    monkeypatch.setattr(turns, "RANGE_SESSIONS", RANGE_SESSIONS)
    monkeypatch.setattr(pages, "PAGE_MIN", PAGE_MIN)


async def test_killed_at_each_step(database_dsn, tmp_path, admin):
    """Whatever step a worker is killed at, the next one goes on from there: every session once, old keys destroyed."""
    clock = TurnedClock(5_900_000 * WIDTH_S + 10)
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=TURN_PAGE) as (one,):
        sessions = await sessions_of(one, 40)
        folder = engine_of(one).foundation.keeper.volatile_dir
    once = {(session.sid, 0): 1 for _, session in sessions}
    for point in POINTS:
        clock.turn(WIDTH_S)
        process = start(turning.turn_and_die, database_dsn, tmp_path, clock.now_s(), point)
        assert -signal.SIGKILL == await ended(process), point
        async with managers(database_dsn, tmp_path, clock=clock, turn_page=TURN_PAGE) as (two,):
            bucket = await two.turn()
            assert once == await stand(admin, bucket), point
            await all_carry(two, sessions)
            clock.turn(WIDTH_S - 20)
            assert bucket == await two.turn()
            assert once == await stand(admin, bucket), point
            clock.turn(20 - WIDTH_S, monotonic=False)
        keys = {int(path.name.removeprefix("kek-b-")) for path in folder.iterdir()}
        assert {bucket - 1, bucket, bucket + 1} == keys, point
        rows = await admin.fetch("SELECT bucket FROM qflare.bucket_key ORDER BY bucket")
        assert [bucket - 1, bucket, bucket + 1] == [row["bucket"] for row in rows], point
        for table in ("session_state", "session_page"):
            left = f"SELECT count(*) FROM qflare.{table} WHERE bucket < $1"  # noqa: S608 - one of the two
            assert 0 == await admin.fetchval(left, bucket - 1), (point, table)
        paged = await admin.fetchval("SELECT sum(cardinality(sids)) FROM qflare.session_page WHERE bucket = $1", bucket)
        assert paged, point


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
async def test_another_leads_on(database_dsn, tmp_path, admin, sign):
    """While a leader works others wait; when it dies or stops in the middle, one of them leads on where it was."""
    clock = TurnedClock(5_900_000 * WIDTH_S + 10)
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=TURN_PAGE) as (one,):
        sessions = await sessions_of(one, 40)
        once = {(session.sid, 0): 1 for _, session in sessions}
        context = multiprocessing.get_context("forkserver")
        leads, goes_on = context.Event(), context.Event()
        # What is killed leaves at once; what stops leaves when it was silent for too long, though not before it is seen.
        idle_timeout = "600s" if sign is signal.SIGKILL else "5s"
        process = start(turning.lead, database_dsn, tmp_path, clock.now_s() + WIDTH_S, (leads, goes_on), idle_timeout)
        assert await asyncio.to_thread(leads.wait, 60)
        clock.turn(WIDTH_S)
        if sign is signal.SIGSTOP:
            # The database, not a signal of ours, ends what is silent for too long.
            os.kill(process.pid, signal.SIGSTOP)
        turned = asyncio.create_task(one.turn())
        await asyncio.sleep(0.4)
        assert not turned.done()
        before = await engine_of(one).foundation.store.find_turn()
        assert (1, 4) == (before.done, before.ranges)
        if sign is signal.SIGKILL:
            process.kill()
        bucket = await turned
        assert once == await stand(admin, bucket)
        await all_carry(one, sessions)
        if sign is signal.SIGSTOP:
            # Woken up it finds its step taken, and goes on as any other worker.
            os.kill(process.pid, signal.SIGCONT)
            goes_on.set()
            await ended(process)
            assert once == await stand(admin, bucket)
        await ended(process)
