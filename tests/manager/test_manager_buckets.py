import asyncio

import pytest

from manager_world import Edge, TurnedClock, engine_of, managers, settings
from qflare.errors import KeeperError, KeyNotFoundError, KeyStateError, RefusedError
from qflare.model.event import SecurityEventType
from qflare.model.refusal import Refusal
from qflare.protocol.record import read_header

WIDTH_S = 300


def clock_at(offset_s=10):
    """A clock *offset_s* into some bucket."""
    return TurnedClock(5_900_000 * WIDTH_S + offset_s)


def keeper_of(manager):
    return engine_of(manager).foundation.keeper


async def refusal_of(call):
    with pytest.raises(RefusedError) as caught:
        await call
    return caught.value.reason


async def test_bucket_is_published_one_early_and_the_same_for_all(database, tmp_path):
    """Two workers announce the same current and next bucket; nothing further lives (A3)."""
    clock = clock_at()
    async with managers(database, tmp_path, 2, clock=clock) as (one, two):
        for which in ("current", "next"):
            assert await one.announcement(which) == await two.announcement(which)
        bucket = await one.current_bucket()
        assert await one.announcement(bucket + 1) == await one.announcement("next")
        for absent in (bucket + 2, bucket - 1):
            with pytest.raises(KeyNotFoundError):
                await one.announcement(absent)
        following = await one.announcement("next")
        clock.turn(WIDTH_S)
        assert following == await two.announcement("current") == await one.announcement("current")


async def test_racing_workers_make_one_bucket(database, tmp_path):
    """Workers that open at the same moment agree on one identity and one key a bucket (A1, A3)."""
    from manager_world import make_manager

    clock = clock_at()
    opened = [make_manager(database, tmp_path, clock=clock) for _ in range(4)]
    try:
        await asyncio.gather(*(manager.open() for manager in opened))
        assert 1 == len({await manager.identity() for manager in opened})
        for which in ("current", "next"):
            assert 1 == len({await manager.announcement(which) for manager in opened})
    finally:
        for manager in opened:
            await manager.close()


async def test_sealing_keys_die_at_the_end_of_the_next_bucket(database_dsn, tmp_path, admin):
    """KEK_b is gone from keeper and database, and b's announcement from the service, when b+1 has ended (A4)."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock) as (manager,):
        edge = await Edge.provision(manager)
        session = await edge.connect(manager)
        first = session.start
        keeper = keeper_of(manager)
        folder = keeper.volatile_dir
        assert {f"kek-b-{first}", f"kek-b-{first + 1}"} == {path.name for path in folder.iterdir()}
        clock.turn(WIDTH_S)
        await manager.turn()
        keeper.bucket_key(first).wipe()
        clock.turn(WIDTH_S)
        await manager.turn()
        with pytest.raises(KeeperError):
            keeper.bucket_key(first)
        with pytest.raises(KeeperError):
            keeper.make_bucket_key(first)
        assert {f"kek-b-{first + number}" for number in (1, 2, 3)} == {path.name for path in folder.iterdir()}
        for table in ("bucket_key", "session_state", "handshake"):
            column = "ticket_bucket" if table == "handshake" else "bucket"
            left = await admin.fetchval(f"SELECT count(*) FROM qflare.{table} WHERE {column} <= $1", first)  # noqa: S608
            assert 0 == left, table
        with pytest.raises(KeyNotFoundError):
            await manager.announcement(first)


@pytest.mark.parametrize("is_touched", [True, False])
async def test_session_lives_through_turns(database, tmp_path, is_touched):
    """A session goes on over many turns, used or not, on the worker that made it and on one that starts later."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (one,):
        edge = await Edge.provision(one)
        session = await edge.connect(one)
        for _ in range(5):
            clock.turn(WIDTH_S)
            bucket = await one.turn()
            if is_touched:
                edge.chain(session.sid).advance_to(bucket)
                with await one.open_record(edge.seal(session.sid, b"up", bucket=bucket)):
                    pass
    async with managers(database, tmp_path, clock=clock) as (two,):
        bucket = await two.current_bucket()
        edge.chain(session.sid).advance_to(bucket)
        with await two.open_record(edge.seal(session.sid, b"up", bucket=bucket)) as opened:
            assert opened.plaintext.equals(b"up")
        down = await two.seal_record(session.sid, b"down")
        assert bucket == read_header(down).bucket
        with edge.open(session.sid, down, read_header(down)) as plaintext:
            assert plaintext.equals(b"down")


async def test_window_of_accepted_buckets(database, tmp_path):
    """Records of the server's bucket, the one before and the published next are read; others are refused (R1)."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        edge = await Edge.provision(manager)
        session = await edge.connect(manager)
        old = edge.seal(session.sid, b"old", bucket=session.start)
        older = edge.seal(session.sid, b"older", bucket=session.start)
        clock.turn(WIDTH_S)
        for bucket in (session.start + 1, session.start + 2):
            with await manager.open_record(edge.seal(session.sid, b"x", bucket=bucket)):
                pass
        with await manager.open_record(old):
            pass
        assert Refusal.BUCKET == await refusal_of(
            manager.open_record(edge.seal(session.sid, b"x", bucket=session.start + 3))
        )
        clock.turn(WIDTH_S)
        assert Refusal.BUCKET == await refusal_of(manager.open_record(older))


async def test_late_answer_is_carried_into_the_current_bucket(database, tmp_path):
    """A session that begins with its bucket's last answer, in the bucket after, outlives that bucket's KEK."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (one,):
        edge = await Edge.provision(one)
        pending = await edge.answer(one)
        clock.turn(WIDTH_S)
        await one.turn()
        session = edge.accept(pending, (await one.confirm(pending.message)).confirmation)
        assert session.start + 1 == await one.current_bucket()
        with await one.open_record(edge.seal(session.sid, b"first", bucket=session.start)):
            pass
    clock.turn(WIDTH_S)
    async with managers(database, tmp_path, clock=clock) as (two,):
        with await two.open_record(edge.seal(session.sid, b"next", bucket=session.start + 2)):
            pass
        pending = await edge.answer(two)
        clock.turn(2 * WIDTH_S - 10)
        # TK_b dies in the second in which the offer's ticket expires.
        assert Refusal.BUCKET == await refusal_of(two.confirm(pending.message))


async def test_hello_expires_with_its_ticket(database, tmp_path):
    """M3 is taken for 60 s after M2, not longer (H5)."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        edge = await Edge.provision(manager)
        early, late = await edge.hello(manager), await edge.hello(manager)
        clock.turn(59)
        edge.accept(early, (await manager.confirm(early.message)).confirmation)
        clock.turn(1)
        assert Refusal.EXPIRED == await refusal_of(manager.confirm(late.message))


async def test_replay_is_refused_across_a_turn(database, tmp_path):
    """M3 and records repeated in the next bucket do nothing new, on a worker that started meanwhile."""
    clock = clock_at(WIDTH_S - 20)
    async with managers(database, tmp_path, clock=clock) as (one,):
        edge = await Edge.provision(one)
        pending = await edge.hello(one)
        session = edge.accept(pending, (await one.confirm(pending.message)).confirmation)
        record = edge.seal(session.sid, b"up")
        with await one.open_record(record):
            pass
    clock.turn(30)
    async with managers(database, tmp_path, clock=clock) as (two,):
        again = await two.confirm(pending.message)
        assert (True, session.sid) == (again.is_repeated, again.session_id)
        assert Refusal.REPLAY == await refusal_of(two.open_record(record))
        clock.turn(2 * WIDTH_S)
        assert Refusal.BUCKET == await refusal_of(two.confirm(pending.message))
        assert Refusal.BUCKET == await refusal_of(two.open_record(record))


async def test_clock_that_falls_back_does_not_stop_the_buckets(database, tmp_path):
    """While the clock is behind, buckets go on by elapsed time, keys die, and handshakes work (A2)."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        edge = await Edge.provision(manager)
        before = await manager.current_bucket()
        clock.turn(-10 * WIDTH_S, monotonic=False)
        assert before == await manager.turn()
        await edge.connect(manager)
        await edge.connect(manager, form="offer")
        clock.turn(WIDTH_S)
        assert before + 1 == await manager.turn()
        session = await edge.connect(manager)
        assert before + 1 == session.start
        clock.turn(WIDTH_S)
        await manager.turn()
        with pytest.raises(KeeperError):
            keeper_of(manager).bucket_key(before)


async def test_clock_that_jumps_ahead_does_not_lock_the_fleet_out(database, tmp_path):
    """A jump ahead is held and alarmed; sessions begin all the same; an operator may accept it (A2)."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        edge = await Edge.provision(manager)
        before = await manager.current_bucket()
        clock.turn(100 * WIDTH_S, monotonic=False)
        assert before == await manager.turn()
        await edge.connect(manager)
        await edge.connect(manager, form="offer")
        entries = await manager.monitor.list_events()
        assert any(
            entry.event_type is SecurityEventType.SYSTEM and b"clock jumped ahead" in entry.data for entry in entries
        )
        await manager.accept_clock_jump(before + 100)
        assert before + 100 == await manager.current_bucket()
        await edge.connect(manager)


async def test_start_after_downtime_takes_the_step(database, tmp_path):
    """After a day down the server starts in the present bucket and says so; old sessions are gone, new ones begin."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (one,):
        edge = await Edge.provision(one)
        session = await edge.connect(one)
        before = await one.current_bucket()
    clock.turn(86_400)
    async with managers(database, tmp_path, clock=clock) as (two,):
        await two.turn()
        assert before + 288 == await two.current_bucket()
        stale = edge.seal(session.sid, b"x", bucket=session.start + 287)
        assert await refusal_of(two.open_record(stale)) in {Refusal.SESSION_ENDED, Refusal.BUCKET}
        await edge.connect(two)
        assert any(b"bucket step at start" in entry.data for entry in await two.monitor.list_events())


async def test_lost_keeper_means_new_bucket_keys(database_dsn, tmp_path):
    """After a reboot took the keeper's memory the server makes new bucket keys and says so; old sessions are gone."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock) as (one,):
        edge = await Edge.provision(one)
        session = await edge.connect(one)
        old = await one.announcement()
        folder = keeper_of(one).volatile_dir
    for path in folder.iterdir():
        path.unlink()
    async with managers(database_dsn, tmp_path, clock=clock) as (two,):
        await two.turn()
        assert old != await two.announcement()
        assert Refusal.SESSION_ENDED == await refusal_of(two.open_record(edge.seal(session.sid, b"x")))
        await edge.connect(two)
        assert any(b"bucket keys lost" in entry.data for entry in await two.monitor.list_events())


async def test_worker_with_another_keeper_is_refused(database_dsn, tmp_path):
    """A worker whose keeper did not seal this database's identity does not start, and the error says what to do."""
    (tmp_path / "other").mkdir()
    async with managers(database_dsn, tmp_path):
        with pytest.raises(KeeperError, match="keeper folder that "):
            async with managers(database_dsn, tmp_path / "other"):
                pass


async def test_another_width_is_refused(database_dsn, tmp_path):
    """A database made with one bucket width does not open with another."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock):
        pass
    from qflare.service.key_manager import QuantumKeyManager

    other = QuantumKeyManager(
        database_dsn, data_dir=tmp_path / "data", config=settings(tmp_path, bucket_width_s=600), clock=clock
    )
    with pytest.raises(KeyStateError, match="300 s"):
        await other.open()
    await other.close()


async def test_real_time_turns_by_itself(database_dsn, tmp_path):
    """With buckets of 4 s the maintenance loops of two workers turn, sweep and destroy without being asked."""
    async with managers(database_dsn, tmp_path, 2, bucket_width_s=4) as (one, two):
        edge = await Edge.provision(one)
        session = await edge.connect(one)
        first = session.start
        async with asyncio.timeout(120):
            while (bucket := await two.current_bucket()) < first + 4:
                edge.chain(session.sid).advance_to(max(first, bucket - 1))
                manager = (one, two)[bucket % 2]
                try:
                    with await manager.open_record(edge.seal(session.sid, b"tick", bucket=bucket)):
                        pass
                except RefusedError as refused:
                    assert Refusal.BUCKET == refused.reason  # noqa: PT017 - the bucket turned in between
                await asyncio.sleep(0.3)
            with await two.open_record(edge.seal(session.sid, b"last", bucket=await two.current_bucket())):
                pass
            # The file is destroyed by whichever loop comes first, and no event of ours tells of it.
            while (keeper_of(one).volatile_dir / f"kek-b-{first}").exists():
                await asyncio.sleep(0.05)


async def test_untouched_sessions_of_many_tenants_are_swept_in_pages(database_dsn, tmp_path, admin):
    """A turn steps every live session of every tenant, page by page, once, however many workers sweep."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, 2, clock=clock, turn_page=3) as (one, two):
        tenant = await one.create_tenant("other")
        sessions = []
        for number, view in enumerate((one, one.for_tenant(tenant)) * 4):
            edge = await Edge.provision(view)
            sessions.append((edge, await edge.connect(view, form=("hello", "offer")[number % 2])))
        clock.turn(WIDTH_S)
        await asyncio.gather(one.turn(), two.turn())
        bucket = await one.current_bucket()
        assert 8 == await admin.fetchval("SELECT count(*) FROM qflare.session_state WHERE bucket = $1", bucket)
        for edge, session in sessions:
            with await two.open_record(edge.seal(session.sid, b"x", bucket=bucket)):
                pass
