"""A revocation reaches every worker: by message, by polling, and at the next bucket at the latest."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest

from given_time import GivenTime
from manager_world import Edge, TurnedClock, engine_of, make_manager
from qflare.errors import KeyRevokedError, RefusedError, SessionExpiredError, StoreUnavailableError
from qflare.model.change import Change
from qflare.model.refusal import Refusal
from qflare.service.key_manager import QuantumKeyManager
from qflare.stores.postgres.changes import LISTENER_NAME, decode_change

BOUND_S = 1.0
"""What docs/operations.md promises."""
NEVER_S = 600.0
PATIENCE_S = 60.0
SECRETS = 64


@asynccontextmanager
async def two(dsn, folder, **changes):
    """Two workers over one database."""
    async with make_manager(dsn, folder, **changes) as first, make_manager(dsn, folder, **changes) as second:
        yield first, second


async def until(manager, claim, *, seconds=BOUND_S):
    """Wait until *claim* holds on a worker, looking again at each news it hears, for no longer than is promised."""
    changes, given = engine_of(manager).changes, GivenTime()
    async with asyncio.timeout(seconds + PATIENCE_S):
        while True:
            news = asyncio.ensure_future(changes.news())
            try:
                if claim():
                    assert given.is_within(seconds)
                    return
                await news
            finally:
                news.cancel()


async def hearing(manager):
    """Wait until a worker's listener is known to hear."""
    await until(manager, lambda: engine_of(manager).changes.is_hearing, seconds=20)


async def held(first, second):
    """Return a device and a session whose keys the second worker holds in memory."""
    edge = await Edge.provision(first)
    established = await edge.connect(first)
    opened = await second.open_record(edge.seal(established.sid, b"x"))
    opened.plaintext.wipe()
    assert established.sid in engine_of(second).sessions._held
    assert engine_of(second).sessions._held[established.sid].chain_ids
    return edge, established.sid


async def cut(admin):
    """Cut the listening connections of every worker, and return how many there were."""
    killed = await admin.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = $1",
        LISTENER_NAME,
    )
    return len(killed)


def is_forgotten(manager, sid):
    return lambda: sid not in engine_of(manager).sessions._held


REVOCATIONS = {
    "revoked": lambda manager, edge, _: manager.revoke_device(edge.name, reason="lost"),
    "suspended": lambda manager, edge, _: manager.suspend_device(edge.name, reason="away"),
    "compromised": lambda manager, edge, _: manager.compromise_device(edge.name, reason="stolen"),
    "ended": lambda manager, _, sid: manager.end_session(sid),
}


@pytest.mark.parametrize("how", REVOCATIONS)
async def test_a_message_reaches_the_other_worker_at_once(database_dsn, tmp_path, how):
    """Keys of a session that ended on one worker leave the memory of another within a second, by message alone."""
    async with two(database_dsn, tmp_path, change_poll_s=NEVER_S) as (first, second):
        await hearing(second)
        edge, sid = await held(first, second)
        kept = engine_of(second).sessions._held[sid]
        await REVOCATIONS[how](first, edge, sid)
        await until(second, is_forgotten(second, sid))
        assert not kept.chain_ids, "the keys were not wiped"
        with pytest.raises(RefusedError):
            await second.open_record(edge.seal(sid, b"x"))
        with pytest.raises(SessionExpiredError):
            await second.seal_record(sid, b"x")


async def test_polling_reaches_a_worker_that_cannot_listen(database_dsn, tmp_path):
    """Over a pool of the caller's, where nothing listens, polling alone holds the second."""
    pool = await asyncpg.create_pool(database_dsn, min_size=1, max_size=4)
    try:
        async with make_manager(database_dsn, tmp_path) as first:
            other = make_manager(database_dsn, tmp_path)
            async with QuantumKeyManager(pool, data_dir=tmp_path / "data", config=other.settings) as second:
                edge, sid = await held(first, second)
                await first.revoke_device(edge.name, reason="lost")
                await until(second, is_forgotten(second, sid))
                assert not engine_of(second).changes.is_hearing
    finally:
        await pool.close()


async def test_polling_goes_on_when_the_listener_is_killed(database_dsn, tmp_path, admin):
    """A listening connection that is cut costs nothing: polling holds the second, and it is opened again."""
    async with two(database_dsn, tmp_path) as (first, second):
        await hearing(second)
        edge, sid = await held(first, second)
        assert 2 == await cut(admin)
        await first.revoke_device(edge.name, reason="lost")
        await until(second, is_forgotten(second, sid))
        await hearing(second)


async def test_what_came_while_nobody_listened_is_looked_for(database_dsn, tmp_path, admin):
    """A worker that begins to hear again looks at once: what was committed meanwhile is not lost without polling."""
    async with two(database_dsn, tmp_path, change_poll_s=NEVER_S) as (first, second):
        await hearing(second)
        edge, sid = await held(first, second)
        # Nobody new gets in: the revocation is committed while nothing listens.
        await admin.execute("UPDATE pg_database SET datallowconn = false WHERE datname = current_database()")
        await cut(admin)
        await until(second, lambda: not engine_of(second).changes.is_hearing, seconds=20)
        await first.revoke_device(edge.name, reason="lost")
        await admin.execute("UPDATE pg_database SET datallowconn = true WHERE datname = current_database()")
        await hearing(second)
        await until(second, is_forgotten(second, sid))


@pytest.mark.parametrize("is_answering", [True, False])
async def test_at_the_next_bucket_nothing_is_remembered_of_the_revoked(
    database_dsn, tmp_path, monkeypatch, is_answering
):
    """Without messages and without polling a turn of the bucket is the last moment, whether the database answers."""
    clock = TurnedClock()
    async with two(database_dsn, tmp_path, clock=clock, change_poll_s=NEVER_S) as (first, second):
        changes = engine_of(second).changes
        await hearing(second)
        edge, sid = await held(first, second)
        missed = []
        monkeypatch.setattr(changes, "_forget", missed.append)
        await first.revoke_device(edge.name, reason="lost")
        await until(second, lambda: len(missed) == len(("the device", "its session")))
        assert not is_forgotten(second, sid)()
        monkeypatch.undo()
        if not is_answering:

            async def away(*_arguments, **_more):
                raise StoreUnavailableError("the database is away")

            monkeypatch.setattr(changes, "poll", away)
        clock.turn(300)
        await second.current_bucket()
        await until(second, is_forgotten(second, sid))


async def test_a_rotated_device_is_read_anew_on_other_workers(database_dsn, tmp_path):
    """A rotation on one worker drops the remembered row on another, and leaves the sessions."""
    async with two(database_dsn, tmp_path, change_poll_s=NEVER_S, device_cached_s=3600) as (first, second):
        await hearing(second)
        edge, sid = await held(first, second)
        await engine_of(second).credentials.find_devices([(second.tenant, edge.pair.ref)])
        key = (second.tenant, edge.pair.ref)
        assert key in engine_of(second).credentials._cached
        (await first.rotate_device_keys(edge.name)).wipe()
        await until(second, lambda: key not in engine_of(second).credentials._cached)
        assert not is_forgotten(second, sid)()


async def test_more_changes_than_a_page_drop_everything(database_dsn, tmp_path, monkeypatch):
    """A worker that cannot read every change relies on nothing it remembers."""
    monkeypatch.setattr("qflare.manager.changes.PAGE_MAX", 1)
    async with two(database_dsn, tmp_path, change_poll_s=NEVER_S) as (first, second):
        await hearing(second)
        _, sid = await held(first, second)
        others = [await Edge.provision(first) for _ in range(2)]
        for other in others:
            await first.suspend_device(other.name, reason="away")
        assert not is_forgotten(second, sid)()
        await engine_of(second).changes.poll()
        assert is_forgotten(second, sid)()


async def test_a_late_commit_is_not_passed_over(store, database_dsn, admin):
    """A change whose transaction began before a look and committed after it is found by the next look."""
    late = await asyncpg.connect(database_dsn)
    try:
        slow = late.transaction()
        await slow.start()
        insert = (
            "INSERT INTO qflare.change (tenant_id, sid) VALUES (gen_random_uuid(), gen_random_uuid()) RETURNING sid"
        )
        missed = await late.fetchval(insert)
        mark = (await store.list_changes(None, limit=9)).mark
        seen = await admin.fetchval(insert)
        page = await store.list_changes(mark, limit=9)
        assert [seen.bytes] == [change.sid for change in page.changes]
        await slow.commit()
        again = await store.list_changes(page.mark, limit=9)
        assert missed.bytes in [change.sid for change in again.changes]
        await admin.fetchval(insert)
        last = await store.list_changes(again.mark, limit=9)
        assert 1 == len((await store.list_changes(again.mark, limit=1)).changes)
        assert missed.bytes not in [change.sid for change in last.changes]
    finally:
        await late.close()


async def test_a_message_holds_no_secret(database_dsn, tmp_path, admin):
    """Messages are a kind, a tenant and a ref or session id: what is public among workers, and nothing else."""
    heard = []
    await admin.add_listener("qflare_change", lambda *told: heard.append(told[3]))
    async with make_manager(database_dsn, tmp_path) as manager:
        edge = await Edge.provision(manager)
        established = await edge.connect(manager)
        await manager.set_device_psk(edge.name, b"k" * SECRETS)
        (await manager.rotate_device_keys(edge.name)).wipe()
        await manager.revoke_device(edge.name, reason="secret words")
    await admin.fetchval("SELECT 1")
    ref = Change(tenant_id=manager.tenant, ref=edge.pair.ref)
    sid = Change(tenant_id=manager.tenant, sid=established.sid)
    assert [ref, ref, ref, sid] == sorted(
        (decode_change(each) for each in heard), key=lambda told: told.sid is not None
    )
    for told in heard:
        assert 3 == len(told.split(" "))


@pytest.mark.parametrize("payload", ["", "device", "device 00 00", "session zz", "key " + "00" * 16 + " " + "00" * 16])
def test_a_strange_message_is_passed_over(payload):
    """Anybody who may connect can send on the channel: what is none of ours does nothing."""
    assert decode_change(payload) is None


async def test_a_compromised_key_is_an_alarm_and_ends_everything(database_dsn, tmp_path, admin):
    """Compromise ends sessions, marks every key the device had with the reason, and stands in the log as critical."""
    async with make_manager(database_dsn, tmp_path) as manager:
        edge = await Edge.provision(manager)
        established = await edge.connect(manager)
        (await manager.rotate_device_keys(edge.name)).wipe()
        device = await manager.compromise_device(edge.name, reason="dumped from flash")
        assert ("compromised", "compromised") == (device.state, device.kem_state)
        assert "revoked" == (await manager.find_session(established.sid)).state
        keys = await admin.fetch("SELECT state FROM qflare.device_key")
        assert ["compromised"] * 4 == [row["state"] for row in keys]
        reasons = await admin.fetch("SELECT reason FROM qflare.device_key_move WHERE to_state = 'compromised'")
        assert ["dumped from flash"] * 4 == [row["reason"] for row in reasons]
        event = (await manager.monitor.list_events(first=0, limit=100))[-1]
        assert ("key_revocation", "critical", edge.name) == (event.event_type, event.severity, event.device_id)
        with pytest.raises(KeyRevokedError):
            await manager.rotate_device_keys(edge.name)
        with pytest.raises(RefusedError) as refused:
            await edge.hello(manager)
        assert Refusal.DEVICE_STATE == refused.value.reason
