"""The turn in pages: who leads, what is carried, what a slow worker commits."""

import asyncio
import dataclasses
from os import urandom

import asyncpg
import pytest

from manager_turns import all_carry, sessions_of, stand
from manager_world import Edge, TurnedClock, engine_of, managers
from qflare.errors import RefusedError
from qflare.manager import turns
from qflare.manager.pages import open_pages, seal_owners
from qflare.model.ids import DEFAULT_TENANT, SessionId
from qflare.model.refusal import Refusal
from qflare.model.turn import TurnRange
from qflare.primitives.kdf import chain_step
from qflare.secret import SecretBytes

WIDTH_S = 300


def clock_at(offset_s=10):
    return TurnedClock(5_900_000 * WIDTH_S + offset_s)


async def write_late(admin, row):
    """Write a chain key back that was taken away: as a slow worker's transaction does."""
    await admin.execute(
        "INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        *(row[name] for name in ("bucket", "sid", "tenant_id", "slot", "epoch", "sealed_chain_key")),
    )


async def test_sessions_live_on_in_pages(database_dsn, tmp_path, admin):
    """Sessions of two tenants go from rows into pages and from pages into pages, with new ones in between; each once."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, 2, clock=clock, turn_page=16) as (one, two):
        other = one.for_tenant(await one.create_tenant("other"))
        sessions = await sessions_of(one, 40) + await sessions_of(other, 18)
        few = await sessions_of(one.for_tenant(await one.create_tenant("few")), 3)
        for turn in range(3):
            clock.turn(WIDTH_S)
            await asyncio.gather(one.turn(), two.turn())
            bucket = await one.current_bucket()
            assert {(session.sid, 0): 1 for _, session in (*sessions, *few)} == await stand(admin, bucket)
            pages = await admin.fetch(
                "SELECT tenant_id, cardinality(sids) AS size FROM qflare.session_page WHERE bucket = $1", bucket
            )
            assert 58 + 2 * turn == sum(page["size"] for page in pages)
            assert 3 + 2 == len(pages)
            assert 3 == await admin.fetchval("SELECT count(*) FROM qflare.session_state WHERE bucket = $1", bucket)
            sessions += await sessions_of(two, 2)
        clock.turn(WIDTH_S)
        await two.turn()
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=16) as (three,):
        await all_carry(three, sessions + few)
        progress = await engine_of(three).foundation.store.find_turn()
        assert (67, 1, 1) == (progress.carried, progress.ranges, progress.done)


async def test_a_touch_between_turns_reads_a_page(database_dsn, tmp_path, admin):
    """A worker that holds nothing reads records of both buckets out of pages, and carries what no turn has yet."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (one,):
        sessions = await sessions_of(one, 20)
        for _ in range(2):
            clock.turn(WIDTH_S)
            await one.turn()
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (two,):
        bucket = await two.current_bucket()
        for edge, session in sessions[:3]:
            for at in (bucket - 1, bucket, bucket + 1):
                with await two.open_record(edge.seal(session.sid, b"x", bucket=at)):
                    pass
        assert 0 == await admin.fetchval("SELECT count(*) FROM qflare.session_state WHERE bucket = $1", bucket)
    clock.turn(WIDTH_S)
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (three,):
        await _until(lambda: engine_of(three).maintenance._swept == bucket + 1)
        await all_carry(three, sessions)
    assert {(session.sid, 0): 1 for _, session in sessions} == await stand(admin, bucket + 1)


async def _until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_touched_while_another_leads_is_carried_once(database_dsn, tmp_path, admin):
    """What a worker carries on first touch before the turn comes to it is left out of the page."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (one,):
        sessions = await sessions_of(one, 24)
        clock.turn(WIDTH_S)
        await one.turn()
        first = await one.current_bucket()
    leader = await asyncpg.connect(database_dsn)
    transaction = leader.transaction()
    await transaction.start()
    await leader.execute("SELECT pg_advisory_xact_lock(1363561218, $1)", first + 1)
    clock.turn(WIDTH_S)
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (two,):
        await all_carry(two, sessions[:5])
        assert {(session.sid, 0): 1 for _, session in sessions[:5]} == await stand(admin, first + 1)
        turning = asyncio.create_task(two.turn())
        await asyncio.sleep(0.3)
        assert not turning.done()
        # The leader dies; whoever followed leads.
        await leader.close()
        await turning
        assert {(session.sid, 0): 1 for _, session in sessions} == await stand(admin, first + 1)
        assert 19 == await admin.fetchval(
            "SELECT sum(cardinality(sids)) FROM qflare.session_page WHERE bucket = $1", first + 1
        )


@pytest.mark.parametrize("moment", ["before the late sweep", "before its writers are awaited", "before the sweep"])
async def test_a_bucket_that_begins_between_two_looks_is_swept_into(database, tmp_path, monkeypatch, moment):
    """R8: a step whose bucket ends while it works sweeps into the next one, and does not wait for itself for ever."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        sessions = await sessions_of(manager, 2)
        clock.turn(WIDTH_S)
        await manager.turn()
        clock.turn(WIDTH_S * 0.95 - 10)
        maintenance, moved = engine_of(manager).maintenance, []
        owner, name = {
            "before the late sweep": (maintenance, "_is_late"),
            "before its writers are awaited": (engine_of(manager).foundation.store, "await_writers"),
            "before the sweep": (maintenance._turns, "sweep"),
        }[moment]
        method = getattr(owner, name)

        def turned(*arguments):
            if not moved:
                clock.turn(WIDTH_S * 0.1)
                moved.append(name)
            return method(*arguments)

        monkeypatch.setattr(owner, name, turned)
        if moment == "before the sweep":
            clock.turn(WIDTH_S * 0.1)
        async with asyncio.timeout(60):
            await manager.turn()
            # What came too late for this step comes with the next look, which it does not hold up.
            bucket = await manager.turn()
        assert (name, await manager.current_bucket()) == (*moved, bucket)
        await all_carry(manager, sessions)
        assert bucket == (await engine_of(manager).foundation.store.find_turn()).bucket


async def test_looks_that_crowd_carry_every_session(database, tmp_path):
    """R8: many looks at once, at every moment of buckets that follow each other: none of them holds up the others."""
    clock = clock_at()
    async with managers(database, tmp_path, 2, clock=clock) as opened:
        sessions = await sessions_of(opened[0], 2)
        for _ in range(4):
            looks = []
            for _ in range(10):
                clock.turn(WIDTH_S / 10)
                looks += [asyncio.create_task(manager.turn()) for manager in opened]
                await asyncio.sleep(0)
            async with asyncio.timeout(60):
                await asyncio.gather(*looks)
            await all_carry(opened[0], sessions)


async def test_a_turn_that_lags_shows_in_the_readiness(database_dsn, tmp_path):
    """In the middle of a bucket a worker says how far an unfinished turn is, and is ready all the same."""
    clock = clock_at()
    leader = await asyncpg.connect(database_dsn)
    try:
        async with managers(database_dsn, tmp_path, clock=clock, turn_page=64, tick_max_s=0.1) as (one,):
            await sessions_of(one, 2)
            bucket = await one.current_bucket() + 1
            await leader.execute("SELECT pg_advisory_lock(1363561218, $1)", bucket)
            clock.turn(WIDTH_S)
            assert bucket == await one.current_bucket()
            assert (await one.readiness(timeout_s=5)).turn is None
            clock.turn(WIDTH_S / 2)
            ready = await one.readiness(timeout_s=5)
            assert f"the turn into bucket {bucket} lags: no step of it is done" == ready.turn
            assert ready.is_ready
            await leader.execute("SELECT pg_advisory_unlock(1363561218, $1)", bucket)
            await one.turn()
            assert (await one.readiness(timeout_s=5)).turn is None
    finally:
        await leader.close()


async def test_ended_and_expired_sessions_leave_the_pages(database_dsn, tmp_path, admin):
    """A turn carries live sessions alone, up to their last bucket."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (one,):
        sessions = await sessions_of(one, 20)
        clock.turn(WIDTH_S)
        bucket = await one.turn()
        edge, ended = sessions[0]
        await one.end_session(ended.sid)
        await admin.execute(
            "UPDATE qflare.session SET last_bucket = $2::bigint, slot = $2::bigint / 192 % 4 WHERE sid = encode($1, 'hex')::uuid",
            sessions[1][1].sid,
            bucket,
        )
        clock.turn(WIDTH_S)
        await one.turn()
        assert {(session.sid, 0): 1 for _, session in sessions[2:]} == await stand(admin, bucket + 1)
        with pytest.raises(RefusedError) as caught:
            await one.open_record(edge.seal(ended.sid, b"x", bucket=bucket + 1))
        assert Refusal.SESSION_ENDED is caught.value.reason


async def test_a_late_commit_into_the_old_bucket_is_settled(database_dsn, tmp_path, admin):
    """What a slow worker writes into the old bucket after its sweep is carried in the last tenth of the present one."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (one,):
        sessions = await sessions_of(one, 20)
        slow_edge, slow = (await sessions_of(one, 1))[0]
        row = await admin.fetchrow(
            "DELETE FROM qflare.session_state WHERE sid = encode($1, 'hex')::uuid RETURNING *", slow.sid
        )
        clock.turn(WIDTH_S)
        bucket = await one.turn()
        assert {(session.sid, 0): 1 for _, session in sessions} == await stand(admin, bucket)
        await write_late(admin, row)
        await one.turn()
        assert 20 == len(await stand(admin, bucket))
        clock.turn(WIDTH_S - 20)
        assert bucket == await one.turn()
        expected = {(session.sid, 0): 1 for _, session in sessions} | {(slow.sid, 0): 1}
        assert expected == await stand(admin, bucket)
        clock.turn(20)
        await one.turn()
        assert expected == await stand(admin, bucket + 1)
        await all_carry(one, [*sessions, (slow_edge, slow)])


async def test_many_late_commits_hide_no_page(database_dsn, tmp_path, admin):
    """However many are settled late, the pages of a bucket do not overlap, so that every session is found."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (one,):
        sessions = await sessions_of(one, 20)
        slow = await sessions_of(one, 20)
        rows = await admin.fetch(
            "DELETE FROM qflare.session_state WHERE sid = ANY ($1::uuid[]) RETURNING *",
            [session.sid.hex() for _, session in slow],
        )
        clock.turn(WIDTH_S)
        bucket = await one.turn()
        for row in rows:
            await write_late(admin, row)
        clock.turn(WIDTH_S - 20)
        assert bucket == await one.turn()
        assert {(session.sid, 0): 1 for _, session in [*sessions, *slow]} == await stand(admin, bucket)
        assert 20 == await admin.fetchval(
            "SELECT sum(cardinality(sids)) FROM qflare.session_page WHERE bucket = $1", bucket
        )
        clock.turn(20)
        await one.turn()
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (two,):
        for edge, session in [*sessions, *slow]:
            with await two.open_record(edge.seal(session.sid, b"x", bucket=bucket)):
                pass


async def test_settling_waits_for_writers_under_way(database_dsn, tmp_path, admin):
    """The late sweep does not pass by a worker that is about to commit into the old bucket."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock, turn_page=64) as (one,):
        sessions = await sessions_of(one, 2)
        row = await admin.fetchrow(
            "DELETE FROM qflare.session_state WHERE sid = encode($1, 'hex')::uuid RETURNING *", sessions[0][1].sid
        )
        clock.turn(WIDTH_S)
        bucket = await one.turn()
        transaction = admin.transaction()
        await transaction.start()
        await admin.execute("SELECT pg_advisory_xact_lock_shared(1363561217, $1)", (bucket - 1) % 8)
        await write_late(admin, row)
        clock.turn(WIDTH_S - 20)
        with pytest.raises(Exception, match="a lock was not free in time"):
            await one.turn()
        await transaction.commit()
        await one.turn()
        assert {(session.sid, 0): 1 for _, session in sessions} == await stand(admin, bucket)


async def test_a_commit_that_took_over_a_turn_is_carried_before_it_is_answered(database_dsn, tmp_path):
    """A worker stopped while it commits carries the session into the bucket that it wakes up in, and then answers."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, 2, clock=clock, turn_page=64) as (slow, quick):
        edge = await Edge.provision(slow)
        store = engine_of(slow).foundation.store
        confirm_sessions = store.confirm_sessions

        async def late(*args, **named):
            answer = await confirm_sessions(*args, **named)
            clock.turn(WIDTH_S)
            await quick.turn()
            clock.turn(WIDTH_S - 20)
            await quick.turn()  # the late sweep is over too
            return answer

        pending = await edge.hello(slow)
        engine_of(slow).handshakes._claims._store = _Late(store, late)
        session = edge.accept(pending, (await slow.confirm(pending.message)).confirmation)
        clock.turn(WIDTH_S)
        await quick.turn()
        await all_carry(quick, [(edge, session)])


class _Late:
    """A store of which one call is slow."""

    def __init__(self, store, confirm_sessions):
        self._store = store
        self.confirm_sessions = confirm_sessions

    def __getattr__(self, name):
        return getattr(self._store, name)


async def test_a_race_for_one_session_across_a_turn(database_dsn, tmp_path, admin):
    """64 copies of one M3 at two workers, while the bucket turns, make exactly one session, and it lives on."""
    clock = clock_at(WIDTH_S - 20)
    async with managers(database_dsn, tmp_path, 2, clock=clock, turn_page=16) as (one, two):
        sessions = await sessions_of(one, 20)
        edge = await Edge.provision(one)
        pending = await edge.hello(one)
        confirms = [(one, two)[number % 2].confirm(pending.message) for number in range(64)]

        async def turn():
            await asyncio.sleep(0.005)
            clock.turn(30)
            await asyncio.gather(one.turn(), two.turn())

        *done, _ = await asyncio.gather(*confirms, turn())
        assert 1 == len({answer.session_id for answer in done})
        assert 1 == sum(not answer.is_repeated for answer in done)
        session = edge.accept(pending, done[0].confirmation)
        assert 1 == await admin.fetchval("SELECT count(*) FROM qflare.session WHERE ref = $1", edge.device.ref)
        everyone = [*sessions, (edge, session)]
        bucket = await one.current_bucket()
        assert {(held.sid, 0) for _, held in everyone} == set(await stand(admin, bucket))
        clock.turn(WIDTH_S)
        await asyncio.gather(one.turn(), two.turn())
        assert {(held.sid, 0): 1 for _, held in everyone} == await stand(admin, bucket + 1)
        await all_carry(two, everyone)


class _Ring:
    """Two live buckets with known keys."""

    def __init__(self, *buckets):
        self._keks = {bucket: SecretBytes.copy_of(bytes([bucket]) * 32) for bucket in buckets}

    def has(self, bucket):
        return bucket in self._keks

    def kek(self, bucket):
        return self._keks[bucket]


def sealed_range(ring, count, *, bucket=7, epochs=(0,), page_max=64):
    sids = [SessionId(urandom(16)) for _ in range(count)]
    owners = sorted((DEFAULT_TENANT, sid, epoch) for sid in sids for epoch in epochs)
    keys = SecretBytes.copy_of(urandom(64 * len(owners)))
    return owners, keys, seal_owners(ring, bucket, owners, keys, page_max=page_max)


def found_in(sealed, **more):
    values = {
        "chains": tuple(((row.tenant_id, row.sid, row.epoch), row.sealed_chain_key) for row in sealed.chains),
        "pages": tuple((page, tuple(range(len(page.sids)))) for page in sealed.pages),
        "turned": frozenset(),
    }
    return TurnRange(**(values | more))


@pytest.mark.parametrize("count", [1, 15, 16, 64, 65, 1000])
def test_a_step_equals_single_steps(count):
    """Whatever the number, each key that comes out of a step is its own stepped once, in one page or row."""
    ring = _Ring(7, 8)
    owners, keys, sealed = sealed_range(ring, count)
    assert bool(sealed.chains) == (count < 16)
    assert -(-count // 64) * (count >= 16) == len(sealed.pages)
    stepped = turns.step_range(ring, 8, found_in(sealed), page_max=64)
    carried = {sid for page in stepped.pages for sid in page.sids} | {chain.sid for chain in stepped.chains}
    assert {sid for _, sid, _ in owners} == carried
    assert count == sum(len(page.sids) for page in stepped.pages) + len(stepped.chains)
    by_sid = {sid: keys.take_row(place, 64) for place, (_, sid, _) in enumerate(owners)}
    for chain in open_pages(ring, stepped.pages, carried):
        assert chain.chain_key.equals(chain_step(by_sid[chain.sid], chain.sid, 8))


def test_epochs_of_a_session_stay_on_one_page():
    """A session with two epochs stands twice on one page, so that a look-up by its id finds both."""
    ring = _Ring(7, 8)
    owners, _, sealed = sealed_range(ring, 50, epochs=(1, 2), page_max=33)
    on_pages = [[(sid, epoch) for sid, epoch in zip(page.sids, page.epochs, strict=True)] for page in sealed.pages]
    assert [(sid, epoch) for _, sid, epoch in owners] == [entry for page in on_pages for entry in page]
    for page in sealed.pages:
        assert all(2 == page.sids.count(sid) for sid in page.sids)
    (chosen, *_) = sealed.pages[1].sids
    assert [1, 2] == [chain.epoch for chain in open_pages(ring, sealed.pages, {chosen})]


def test_what_does_not_open_is_left_out_and_the_rest_goes_on():
    """A damaged page or row costs its own sessions alone."""
    ring = _Ring(7, 8)
    _, _, sealed = sealed_range(ring, 64, page_max=32)
    broken, whole = sealed.pages
    broken = dataclasses.replace(broken, sealed_chain_keys=broken.sealed_chain_keys[:-1] + b"\x00")
    both = dataclasses.replace(sealed, pages=(broken, whole))
    stepped = turns.step_range(ring, 8, found_in(both), page_max=32)
    assert [whole.sids] == [page.sids for page in stepped.pages]
