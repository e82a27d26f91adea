"""Attacks on records and the caches behind them: lost acceptances, keys that outlive their bucket, tenants mixed up."""

import asyncio

import pytest

from manager_world import Edge, TurnedClock, engine_of, managers
from qflare.errors import KeyNotFoundError, OverloadedError, QflareError, RefusedError
from qflare.model.refusal import Refusal
from qflare.protocol.announcement import verify_announcement
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.record import read_header


async def test_stuck_tenant_does_not_lose_the_records_of_another(database_dsn, tmp_path, admin):
    """While one tenant's rows are locked, records of others in the same batch are handed on, not accepted and lost (R4)."""
    async with managers(database_dsn, tmp_path, store_timeout_s=3.0) as (manager,):
        other = manager.for_tenant(await manager.create_tenant("other"))
        edges = [await Edge.provision(manager), await Edge.provision(other)]
        sids = [(await edge.connect(manager)).sid for edge in edges]
        records = [edge.seal(sid, b"update") for edge, sid in zip(edges, sids, strict=True)]
        async with admin.transaction():
            await admin.execute("SELECT 1 FROM qflare.session WHERE tenant_id = $1 FOR UPDATE", _uuid(other.tenant))
            ended = await asyncio.gather(*(manager.open_record(record) for record in records), return_exceptions=True)
        assert engine_of(manager).records.opens.batches == 1
        with ended[0] as opened:
            assert opened.plaintext.equals(b"update")
        assert isinstance(ended[1], QflareError)
        assert not isinstance(ended[1], RefusedError)
        with await manager.open_record(records[1]) as opened:
            assert opened.plaintext.equals(b"update")


def _uuid(data):
    from uuid import UUID

    return UUID(bytes=bytes(data))


async def test_more_records_than_fit_are_refused_before_any_is_taken(database_dsn, tmp_path):
    """A call with more items than the queue takes is refused as a whole: none of them is accepted and then lost."""
    async with managers(database_dsn, tmp_path, waiting_max=4) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        records = [edge.seal(sid, b"update") for _ in range(5)]
        with pytest.raises(OverloadedError):
            await manager.open_records_many(records)
        await asyncio.sleep(0.1)
        for record in records:
            with await manager.open_record(record) as opened:
                assert opened.plaintext.equals(b"update")


async def test_chain_key_that_arrives_late_dies_with_its_bucket(database_dsn, tmp_path):
    """A chain key that is read while its bucket ends is not kept beyond that end (R1, R8)."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, 2, clock=clock) as (one, two):
        edge = await Edge.provision(one)
        session = await edge.connect(one)
        record = edge.seal(session.sid, b"update")
        clock.turn(300)
        for manager in (one, two):
            await manager.turn()
        engine = engine_of(two)
        store, reached, go_on = engine.foundation.store, asyncio.Event(), asyncio.Event()
        find_chains = store.find_chains

        async def slow(*args, **named):
            found = await find_chains(*args, **named)
            reached.set()
            await go_on.wait()
            return found

        engine.sessions._store = _With(store, find_chains=slow)
        call = asyncio.create_task(two.open_record(record))
        await reached.wait()
        clock.turn(300)
        await two.turn()
        go_on.set()
        await asyncio.gather(call, return_exceptions=True)
        if not call.exception():
            call.result().plaintext.wipe()
        held = {its.bucket for each in engine.sessions._held.values() for its in each.chain_ids}
        assert session.start not in held


class _With:
    """The real store with one call replaced."""

    def __init__(self, store, **calls):
        self._store, self._calls = store, calls

    def __getattr__(self, name):
        return self._calls.get(name) or getattr(self._store, name)


async def test_session_that_is_gone_from_the_database_is_not_served_from_memory(database_dsn, tmp_path, admin):
    """Nothing is sealed or derived for a session whose row is gone, though this worker still holds its keys."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        with await manager.open_record(edge.seal(sid, b"x")):
            pass
        await manager.seal_record(sid, b"x")
        await admin.execute("DELETE FROM qflare.session WHERE sid = $1", _uuid(sid))
        await admin.execute("DELETE FROM qflare.session_route WHERE sid = $1", _uuid(sid))
        with pytest.raises(KeyNotFoundError):
            await manager.seal_record(sid, b"late")
        with pytest.raises(KeyNotFoundError):
            await manager.derive_session_key(sid, "encryption")
        with pytest.raises(RefusedError):
            await manager.open_record(edge.seal(sid, b"late"))


@pytest.mark.parametrize("is_touched", [False, True])
async def test_session_that_begins_in_the_next_bucket_can_be_answered_at_once(database_dsn, tmp_path, is_touched):
    """A session made under the next announcement starts in the next bucket, and the server writes to it there (R9)."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        edge = await Edge.provision(manager)
        identity = await edge.trust(manager)
        announcement = verify_announcement(await manager.announcement("next"), identity.certificate)
        pending = start_hello(edge.device, announcement)
        pending = accept_hello(pending, await manager.answer_hello(pending.message), edge.device)
        session = edge.accept(pending, (await manager.confirm(pending.message)).confirmation)
        assert session.start == announcement.bucket == await manager.current_bucket() + 1
        if is_touched:
            with await manager.open_record(edge.seal(session.sid, b"up")):
                pass
        record = await manager.seal_record(session.sid, b"down")
        with edge.open(session.sid, record, read_header(record)) as opened:
            assert opened.equals(b"down")


async def test_sessions_of_another_tenant_are_as_if_absent(database_dsn, tmp_path):
    """Inside one tenant no call by session id says or does anything about a session of another."""
    async with managers(database_dsn, tmp_path) as (manager,):
        tenants = [manager.for_tenant(await manager.create_tenant(name)) for name in ("one", "two")]
        edge = await Edge.provision(tenants[0])
        sid = (await edge.connect(manager)).sid
        for stranger in (manager, tenants[1]):
            with pytest.raises(KeyNotFoundError):
                await stranger.find_session(sid)
            with pytest.raises(KeyNotFoundError):
                await stranger.seal_record(sid, b"x")
            with pytest.raises(KeyNotFoundError):
                await stranger.derive_session_key(sid, "encryption")
            with pytest.raises(KeyNotFoundError):
                await stranger.verify_session_key(sid, bytes(64), purpose="encryption")
            assert not await stranger.end_session(sid)
            with pytest.raises(KeyNotFoundError):
                await stranger.revoke_device(edge.name, reason="not mine")
        mixed = await tenants[0].seal_records_many([(sid, b"mine"), (bytes(16), b"nobody's")])
        assert [False, True] == [isinstance(each, KeyNotFoundError) for each in mixed]
        with await manager.open_record(edge.seal(sid, b"still live")) as opened:
            assert opened.session.tenant_id == tenants[0].tenant


async def test_altered_records_neither_block_nor_burn_their_stream(database_dsn, tmp_path):
    """A true record among copies that were altered in the same batch opens, whatever stands before it."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        record = edge.seal(sid, b"true")
        false = [record[:60] + bytes((record[60] ^ bit,)) + record[61:] for bit in (1, 2, 4)]
        ended = await asyncio.gather(
            *(manager.open_record(each) for each in (*false, record, *false)), return_exceptions=True
        )
        assert [Refusal.TAG] * 6 == [end.reason for end in ended if isinstance(end, RefusedError)]
        with ended[3] as opened:
            assert opened.plaintext.equals(b"true")
