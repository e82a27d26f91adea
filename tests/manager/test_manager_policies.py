import asyncio
import itertools
import json
import random
from contextlib import asynccontextmanager
from os import urandom

import asyncpg
import pytest

from manager_world import Edge, TurnedClock, engine_of, managers
from qflare.errors import KeyNotFoundError, RefusedError, SessionUsedUpError
from qflare.model.ids import TenantId
from qflare.model.refusal import Refusal
from qflare.model.rotation import MIN_INTERVAL_S, DueKey, RotationPolicy, RotationReason
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.record import KIND_CONTROL, read_header
from qflare.protocol.rotation import Urgency, accept_due, accept_rotated, encode_due_asked, make_rotation
from qflare.stores.postgres import PoolSettings, open_store
from store_records import new_device, new_event, register

HOUR_S, DAY_S = 3600, 86_400
DAILY = RotationPolicy(max_age_s=DAY_S, jitter_percent=0, minute_ppm=1_000_000)


async def pass_time(admin, seconds):
    """Let *seconds* go by: the database's clock cannot be turned, so all that has happened is put into the past."""
    await admin.execute("UPDATE qflare.device_key SET created_at = created_at - $1 * interval '1 second'", seconds)
    await admin.execute(
        "UPDATE qflare.rotation_mark SET marked_at = marked_at - $1 * interval '1 second',"
        " due_at = due_at - $1 * interval '1 second'",
        seconds,
    )
    await admin.execute("UPDATE qflare.rotation_policy SET counted_at = counted_at - $1 * interval '1 second'", seconds)


@asynccontextmanager
async def world(database_dsn, folder, count=1, **changes):
    async with managers(database_dsn, folder, count, clock=TurnedClock(), **changes) as opened:
        # The workers' own loops would mark between the steps of a test.
        for manager in opened:
            tasks = engine_of(manager).foundation.background._tasks
            task = next(task for task in tasks if task.get_name().endswith("maintenance"))
            task.cancel()
            await asyncio.wait({task})
        yield opened


async def entries(manager, what):
    found = await manager.monitor.list_events(limit=1000)
    return [entry for entry in found if json.loads(entry.data).get("what") == what]


async def exchange_control(edge, sid, manager, body):
    """Send a control body and return the body of the answer."""
    opened = await manager.open_record(edge.seal(sid, body, kind=KIND_CONTROL))
    sealed = await manager.answer_control(opened)
    with edge.open(sid, sealed, read_header(sealed)) as plaintext, plaintext.view() as view:
        return bytes(view)


async def urgency(edge, sid, manager):
    answer = await exchange_control(edge, sid, manager, encode_due_asked(edge.device.key_version))
    return accept_due(answer, key_version=edge.device.key_version)


async def rotate(edge, sid, manager):
    """Rotate inside the session, as a device does."""
    keys = DeviceKeys.generate()
    version = edge.device.key_version + 1
    answer = await exchange_control(edge, sid, manager, make_rotation(edge.device, keys))
    accept_rotated(answer, key_version=version)
    edge.device = keys.identity(
        server_id=edge.device.server_id,
        tenant_id=edge.device.tenant_id,
        device_id=edge.device.device_id,
        key_version=version,
        psk=None,
    )


async def test_nothing_is_due_without_a_policy(database_dsn, tmp_path, admin):
    """Without a policy no key becomes due, however old it is."""
    async with world(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        await pass_time(admin, 3650 * DAY_S)
        await manager.turn()
        assert await manager.rotation_policy() is None
        assert 0 == (await manager.rotation_progress()).waiting
        sid = (await edge.connect(manager)).sid
        assert Urgency.NONE is await urgency(edge, sid, manager)
        with pytest.raises(KeyNotFoundError, match="no rotation policy"):
            await manager.plan_rotations()
        with pytest.raises(KeyNotFoundError, match="no rotation policy"):
            await manager.set_rotation_policy(None)


async def test_due_keys_are_marked_told_and_rotated_once(database_dsn, tmp_path, admin):
    """A key of its age is marked by maintenance with an audit entry, the device is told, rotates, and is done."""
    async with world(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        await manager.set_rotation_policy(DAILY)
        assert await manager.rotation_policy() == DAILY
        await manager.turn()
        assert Urgency.NONE is await urgency(edge, sid, manager)
        await pass_time(admin, DAY_S)
        plan = await manager.plan_rotations()
        assert (1, 1, 0, 1, 1, (edge.name,)) == (
            plan.devices, plan.due, plan.marked, plan.minute_max, plan.minutes, plan.first
        )  # fmt: skip
        assert [] == await entries(manager, "keys due"), "a plan marks nothing"
        await manager.turn()
        (entry,) = await entries(manager, "keys due")
        assert edge.name == entry.device_id
        assert "age" == json.loads(entry.data)["reason"]
        assert Urgency.DUE is await urgency(edge, sid, manager)
        progress = await manager.rotation_progress()
        assert (1, 1, 0, 0) == (progress.devices_active, progress.waiting, progress.overdue, progress.rotated)
        await rotate(edge, sid, manager)
        assert Urgency.NONE is await urgency(edge, sid, manager)
        for _ in range(3):
            await manager.turn()
        progress = await manager.rotation_progress()
        assert (0, 1) == (progress.waiting, progress.rotated)
        assert 1 == len(await entries(manager, "keys due"))


REFUSE_REMOVALS = """
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
    CREATE TRIGGER refused BEFORE DELETE ON qflare.response FOR EACH STATEMENT EXECUTE FUNCTION public.refuse();
"""


async def test_keys_are_marked_though_old_responses_cannot_be_removed(database_dsn, tmp_path, admin, caplog):
    """What fails to go from incidents and responses is logged, and keeps no device from renewing its keys."""
    async with world(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        await manager.set_rotation_policy(DAILY)
        await pass_time(admin, DAY_S)
        await admin.execute(REFUSE_REMOVALS)
        # As if the bucket had just turned: it is cleaned once.
        engine_of(manager).maintenance._cleaned = -1
        await manager.turn()
        assert 1 == len(await entries(manager, "keys due"))
    assert "old incidents and responses were not removed (StoreError)" in caplog.text


async def test_the_published_mistake_cannot_happen(database_dsn, tmp_path, admin):
    """
    A maintenance that runs every five minutes, as the published system's did, rotates a device once an age, not each time.

    Not even who writes around the policy's checks and asks the database to mark everything does any better.
    """
    async with world(database_dsn, tmp_path, 2) as workers:
        edge = await Edge.provision(workers[0])
        sid = (await edge.connect(workers[0])).sid
        await workers[0].set_rotation_policy(RotationPolicy(max_age_s=2 * HOUR_S, jitter_percent=0, minute_ppm=10**6))
        store = engine_of(workers[0]).foundation.store
        rotated = []
        for number in range(12 * 24):
            await pass_time(admin, 300)
            for manager in workers:
                await manager.turn()
            page = await store.list_rotatable_keys(workers[0].tenant, after=b"", limit=10)
            if page.keys[0].marked_s is not None:
                await rotate(edge, sid, workers[number % 2])
                rotated.append(number)
        assert 12 == len(rotated)
        assert all(later - earlier >= 24 for earlier, later in itertools.pairwise(rotated))
        # The database's own floor, without a policy's arithmetic in front of it.
        (key,) = (await store.list_rotatable_keys(workers[0].tenant, after=b"", limit=10)).keys
        age_s = await admin.fetchval("SELECT floor(extract(epoch FROM now()))::bigint") - key.created_s
        await pass_time(admin, MIN_INTERVAL_S - 60 - age_s)
        due = DueKey(key=key, reason=RotationReason.AGE, due_s=0)
        assert (False,) == await store.mark_rotations(workers[0].tenant, [due], events=[new_event()])
        await pass_time(admin, 61)
        assert (True,) == await store.mark_rotations(workers[0].tenant, [due], events=[new_event()])
        assert (False,) == await store.mark_rotations(workers[0].tenant, [due], events=[new_event()])


async def test_a_policy_change_acts_on_what_exists(database_dsn, tmp_path, admin):
    """Lowering the age or the use of a policy makes the keys that exist due at once; raising it makes none due."""
    async with world(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        await manager.set_rotation_policy(RotationPolicy(max_age_s=90 * DAY_S, jitter_percent=0))
        await pass_time(admin, 10 * DAY_S)
        await manager.turn()
        assert Urgency.NONE is await urgency(edge, sid, manager)
        await manager.set_rotation_policy(DAILY)
        await manager.turn()
        assert Urgency.DUE is await urgency(edge, sid, manager)
        await rotate(edge, sid, manager)
        await manager.set_rotation_policy(RotationPolicy(max_records=1, jitter_percent=0))
        await pass_time(admin, HOUR_S + 1)
        await manager.turn()
        assert Urgency.NONE is await urgency(edge, sid, manager), "what the old keys carried is theirs"
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        (await manager.open_record(edge.seal(sid, b"x"))).plaintext.wipe()
        await manager.turn()
        await pass_time(admin, HOUR_S + 1)
        await manager.turn()
        assert Urgency.DUE is await urgency(edge, sid, manager)
        sets = await entries(manager, "rotation policy set")
        assert [90 * DAY_S, DAY_S, None] == [json.loads(entry.data)["max_age_s"] for entry in sets]
        await manager.set_rotation_policy(None)
        assert 1 == len(await entries(manager, "rotation policy removed"))
        assert Urgency.DUE is await urgency(edge, sid, manager), "a mark stands without the policy that made it"


async def test_at_most_the_share_is_marked_a_minute_over_all_workers(database_dsn, tmp_path, admin):
    """Many workers that mark at once mark no more devices a minute than the share, and all of them in the end."""
    async with world(database_dsn, tmp_path, 3) as workers:
        store = engine_of(workers[0]).foundation.store
        await register(store, count=40)
        await pass_time(admin, 30 * DAY_S)
        await workers[0].set_rotation_policy(RotationPolicy(max_age_s=DAY_S, jitter_percent=0, minute_ppm=100_000))
        marked = 0
        for minute in range(1, 11):
            for _ in range(2):
                await asyncio.gather(*(manager.turn() for manager in workers))
            progress = await workers[0].rotation_progress()
            assert (4, 4) == (progress.waiting - marked, progress.minute_max), minute
            assert 4 == progress.marked_last_minute
            marked = progress.waiting
            await pass_time(admin, 61)
        assert 40 == marked
        assert 40 == len(await entries(workers[0], "keys due"))


async def test_a_year_over_the_database(database_dsn, tmp_path, admin):
    """
    In a year of random steps with workers that restart and policies that change, nobody rotates too often.

    Each device rotates at most once an age and once more, and never twice within the shortest interval.
    """
    draw = random.Random(5)
    store = await open_store(database_dsn, settings=PoolSettings(max_size=2))
    try:
        devices = {device.ref: device for device in await register(store, count=6)}
        times = {ref: [] for ref in devices}
        now_s, year_s, changed = 0, 365 * DAY_S, 0
        async with world(database_dsn, tmp_path) as (manager,):
            engine = engine_of(manager)
            await manager.set_rotation_policy(RotationPolicy(max_age_s=30 * DAY_S, minute_ppm=400_000))
            while now_s < year_s:
                step_s = draw.randrange(60, 4 * DAY_S)
                now_s += step_s
                await pass_time(admin, step_s)
                if draw.random() < 0.05:
                    changed += 1
                    await manager.set_rotation_policy(
                        RotationPolicy(max_age_s=draw.randrange(30, 60) * DAY_S, jitter_percent=10, minute_ppm=400_000)
                    )
                for _worker in range(2):
                    engine.policies._after.clear()  # a worker that has just started
                    await engine.policies.step()
                marks = await store.find_rotation_marks(manager.tenant, list(devices))
                for ref in draw.sample(sorted(marks), k=draw.randrange(len(marks) + 1)):
                    await store.rotate_device_keys(
                        manager.tenant,
                        new_device(devices[ref].device_id),
                        key_version=len(times[ref]) + 2,
                        event=new_event(),
                    )
                    times[ref].append(now_s)
        assert changed > 3
        assert all(5 <= len(each) <= -(-year_s // (30 * DAY_S)) + 1 for each in times.values())
        for each in times.values():
            assert all(later - earlier >= 27 * DAY_S for earlier, later in itertools.pairwise(each))
    finally:
        await store.close()


async def test_use_is_counted_both_ways_and_survives_a_restart(database_dsn, tmp_path, admin):
    """Records opened and sealed are counted by session and by key version, with their sealed bytes, over restarts."""
    async with world(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        size = 0
        for _ in range(3):
            record = edge.seal(sid, urandom(100))
            size += len(record)
            (await manager.open_record(record)).plaintext.wipe()
        with pytest.raises(RefusedError):
            await manager.open_record(record)
        size += len(await manager.seal_record(sid, b"back"))
    query = "SELECT records, bytes FROM qflare.session"
    assert (4, size) == tuple(await admin.fetchrow(query)), "closing flushes"
    assert (4, size) == tuple(await admin.fetchrow("SELECT records, bytes FROM qflare.device_use"))
    async with world(database_dsn, tmp_path, 2) as workers:
        for manager in workers:
            await manager.seal_record(sid, b"more")
            await manager.turn()
        assert 6 == await admin.fetchval("SELECT records FROM qflare.session")


async def test_a_session_that_is_used_up_names_the_remedy(database, tmp_path):
    """A session carries no more records than the bound, in either direction; a new handshake goes on."""
    async with world(database, tmp_path, session_records_max=3) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        for _ in range(2):
            (await manager.open_record(edge.seal(sid, b"x"))).plaintext.wipe()
        await manager.seal_record(sid, b"y")
        with pytest.raises(SessionUsedUpError, match="handshake"):
            await manager.seal_record(sid, b"y")
        with pytest.raises(RefusedError) as refused:
            await manager.open_record(edge.seal(sid, b"x"))
        assert Refusal.SESSION_USED_UP == refused.value.reason
        again = (await edge.connect(manager)).sid
        await manager.seal_record(again, b"y")
    async with world(database, tmp_path, session_bytes_max=64) as (manager,):
        # It carried more already, before this worker was there: its first flush says so.
        (await manager.open_record(edge.seal(again, b"x"))).plaintext.wipe()
        with pytest.raises(RefusedError):
            await manager.open_record(edge.seal(again, b"x"))


async def test_the_bound_holds_across_workers_and_restarts(database, tmp_path):
    """What another worker has flushed counts here from this worker's next flush on."""
    async with world(database, tmp_path, 2, session_records_max=6) as (one, two):
        edge = await Edge.provision(one)
        sid = (await edge.connect(one)).sid
        for _ in range(5):
            await one.seal_record(sid, b"x")
        await one.turn()
        await two.seal_record(sid, b"x")
        await two.turn()
        with pytest.raises(SessionUsedUpError):
            await two.seal_record(sid, b"x")


async def test_an_overdue_device_may_rotate_and_nothing_else(database_dsn, tmp_path, admin):
    """After the grace data are refused and control is not; rotation makes data welcome again, on every worker."""
    policy = RotationPolicy(max_age_s=DAY_S, jitter_percent=0, minute_ppm=10**6, grace_s=HOUR_S)
    async with world(database_dsn, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        sid = (await edge.connect(one)).sid
        await one.set_rotation_policy(policy)
        await pass_time(admin, DAY_S)
        await one.turn()
        for manager in (one, two):
            (await manager.open_record(edge.seal(sid, b"x"))).plaintext.wipe()
            await manager.turn()
            (await manager.open_record(edge.seal(sid, b"in grace"))).plaintext.wipe()
        await pass_time(admin, HOUR_S + 1)
        for manager in (one, two):
            await manager.turn()
            with pytest.raises(RefusedError) as refused:
                await manager.open_record(edge.seal(sid, b"late"))
            assert Refusal.ROTATION_OVERDUE == refused.value.reason
        assert 1 == (await one.rotation_progress()).overdue
        assert Urgency.OVERDUE is await urgency(edge, sid, two)
        await rotate(edge, sid, one)
        (await one.open_record(edge.seal(sid, b"welcome"))).plaintext.wipe()
        await two.turn()
        (await two.open_record(edge.seal(sid, b"welcome"))).plaintext.wipe()


async def test_a_rotation_that_comes_again_opens_nothing(database_dsn, tmp_path, admin):
    """Overdue keys stay so when the rotation that made them is sent once more, which is answered as before."""
    policy = RotationPolicy(max_age_s=DAY_S, jitter_percent=0, minute_ppm=10**6, grace_s=HOUR_S)
    async with world(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        keys = DeviceKeys.generate()
        body = make_rotation(edge.device, keys)
        keys.wipe()
        accept_rotated(await exchange_control(edge, sid, manager, body), key_version=2)
        await manager.set_rotation_policy(policy)
        await pass_time(admin, DAY_S)
        await manager.turn()
        await pass_time(admin, HOUR_S + 1)
        # What the session carries now belongs to the keys that the device has.
        (await manager.open_record(edge.seal(sid, b"in grace"))).plaintext.wipe()
        await manager.turn()
        for _ in range(2):
            with pytest.raises(RefusedError) as refused:
                await manager.open_record(edge.seal(sid, b"late"))
            assert Refusal.ROTATION_OVERDUE == refused.value.reason
            accept_rotated(await exchange_control(edge, sid, manager, body), key_version=2)


async def test_counts_are_kept_while_the_database_is_away(database_dsn, tmp_path, admin):
    """A flush that fails loses nothing: the same counts go with the next one."""
    async with world(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        await manager.seal_record(sid, b"x")
        await admin.execute("ALTER FUNCTION qflare.count_use RENAME TO count_use_away")
        with pytest.raises(Exception, match="schema"):
            await manager.turn()
        await admin.execute("ALTER FUNCTION qflare.count_use_away RENAME TO count_use")
        await manager.seal_record(sid, b"x")
        await manager.turn()
        assert 2 == await admin.fetchval("SELECT records FROM qflare.session")


async def test_policies_are_the_tenants_own(database_dsn, tmp_path, admin):
    """A tenant's policy marks that tenant's devices and no other's, and is not seen from another."""
    async with world(database_dsn, tmp_path) as (manager,):
        other = manager.for_tenant(await manager.create_tenant("other"))
        mine, theirs = await Edge.provision(manager), await other.generate_device_keypair("theirs")
        await other.set_rotation_policy(DAILY)
        await pass_time(admin, 2 * DAY_S)
        await manager.turn()
        assert (0, 1) == ((await manager.rotation_progress()).waiting, (await other.rotation_progress()).waiting)
        assert await manager.rotation_policy() is None
        assert mine.name not in {entry.device_id for entry in await entries(manager, "keys due")}
        theirs.wipe()
        mine.pair.wipe()


async def test_the_database_refuses_a_policy_of_minutes(admin, store):
    """The bounds of a policy stand in the database too, by name: one that rotates every five minutes is refused."""
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await admin.execute(
            "INSERT INTO qflare.rotation_policy (tenant_id, max_age_s, jitter_percent, minute_ppm)"
            " VALUES ('00000000-0000-0000-0000-000000000000', 300, 0, 1)"
        )
    assert "rotation_policy_max_age_range" == refused.value.constraint_name
    with pytest.raises(KeyNotFoundError):
        await store.save_rotation_policy(TenantId(urandom(16)), DAILY, event=new_event())
