"""Rate limits by operators: of a device, a tenant, an address; undone, ended, on every worker; no weapon."""

import asyncio
from dataclasses import replace
from os import urandom

import pytest

from manager_world import Edge, TurnedClock, engine_of, managers
from qflare.errors import RefusedError, UsageError
from qflare.model.refusal import Refusal
from qflare.model.response import ResponseState
from qflare.protocol.hello_device import start_hello
from qflare.service.aggregator import Aggregator
from service.served import serving
from service.test_aggregator_limits import head, speak


async def operators(manager, *names):
    for name in names:
        await manager.add_operator(name)


async def taken(manager, record):
    """None if a record is taken, else why not."""
    try:
        (await manager.open_record(record)).plaintext.wipe()
    except RefusedError as refusal:
        return refusal.reason
    return None


async def by_two(manager, action, **what):
    asked = await manager.respond(action, by="ann", reason="too loud", **what)
    assert (ResponseState.PROPOSED, 1) == (asked.state, asked.lacks)
    return await manager.confirm_response(asked.response_id, by="bob")


async def test_a_device_beyond_its_limit_waits_and_loses_nothing(database_dsn, tmp_path):
    """The third record of a minute is refused, is taken later as it is, and nobody else is slower."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock) as (manager,):
        await operators(manager, "ann")
        loud, quiet = await Edge.provision(manager), await Edge.provision(manager)
        sid, other = (await loud.connect(manager)).sid, (await quiet.connect(manager)).sid
        done = await manager.respond("limit-device", by="ann", reason="too loud", device_id=loud.name, per_minute=2)
        records = [loud.seal(sid, b"%d" % number) for number in range(4)]
        assert [None, None, Refusal.RATE_LIMITED] == [await taken(manager, each) for each in records[:3]]
        assert [None] * 4 == [await taken(manager, quiet.seal(other, b"x")) for _ in range(4)]
        with pytest.raises(RefusedError) as refused:
            await loud.hello(manager)
        assert Refusal.RATE_LIMITED == refused.value.reason
        pending = await loud.answer(manager)
        with pytest.raises(RefusedError) as refused:
            await manager.confirm(pending.message)
        assert Refusal.RATE_LIMITED == refused.value.reason
        clock.turn(30)
        assert [None, Refusal.RATE_LIMITED] == [await taken(manager, each) for each in records[2:]]
        await manager.undo_response(done.response_id, by="ann", reason="over")
        assert None is await taken(manager, records[3])
        await loud.connect(manager)


async def test_forgeries_and_replays_use_nothing_up(database_dsn, tmp_path):
    """Whoever sends in a limited device's name, or its own again, leaves it what it may."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock) as (manager,):
        await operators(manager, "ann")
        edge, attacker = await Edge.provision(manager), await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        await manager.respond("limit-device", by="ann", reason="x", device_id=edge.name, per_minute=3)
        first = edge.seal(sid, b"first")
        assert None is await taken(manager, first)
        forged = replace(edge.device, signing_key=attacker.device.signing_key)
        announcement = await edge.announcement(manager)
        for _ in range(6):
            assert Refusal.REPLAY == await taken(manager, first)
            assert Refusal.TAG == await taken(manager, edge.seal(sid, b"x")[:-16] + urandom(16))
            with pytest.raises(RefusedError) as refused:
                await manager.answer_hello(start_hello(forged, announcement).message)
            assert Refusal.SIGNATURE == refused.value.reason
        reasons = [await taken(manager, edge.seal(sid, b"x")) for _ in range(3)]
        assert [None, None, Refusal.RATE_LIMITED] == reasons


async def test_a_tenant_is_limited_by_two_operators_on_every_worker(database_dsn, tmp_path):
    """All its devices together, nobody else's; other workers follow, and it ends by itself."""
    async with managers(database_dsn, tmp_path, 2, clock=TurnedClock()) as (first, second):
        other = first.for_tenant(await first.create_tenant("other"))
        await operators(other, "ann", "bob")
        mine, theirs = await Edge.provision(first), [await Edge.provision(other) for _ in range(2)]
        sids = [(await edge.connect(first)).sid for edge in theirs]
        my_sid = (await mine.connect(first)).sid
        done = await by_two(other, "limit-tenant", per_minute=1, lasts_s=3600)
        assert done.until_at is not None

        async def until_limited():
            # Each worker lets through what it may before it refuses.
            async with asyncio.timeout(60):
                while await taken(second, theirs[0].seal(sids[0], b"x")) is None:
                    await asyncio.sleep(0.05)

        await until_limited()
        assert Refusal.RATE_LIMITED == await taken(second, theirs[1].seal(sids[1], b"x"))
        assert [None] * 3 == [await taken(second, mine.seal(my_sid, b"x")) for _ in range(3)]


async def until(is_met):
    async with asyncio.timeout(60):
        while not is_met():
            await asyncio.sleep(0.02)


async def test_all_workers_together_keep_to_the_limit(database_dsn, tmp_path):
    """Records that come to two workers in turn get through as often as the limit says; a worker alone has all of it."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock) as (first,):
        async with managers(database_dsn, tmp_path, clock=clock) as (second,):
            await operators(first, "ann")
            edge = await Edge.provision(first)
            sid = (await edge.connect(first)).sid
            assert [None, None] == [await taken(each, edge.seal(sid, b"x")) for each in (first, second)]
            limits = [engine_of(each).limits for each in (first, second)]
            await until(lambda: all(each._beaten_ns is not None for each in limits))
            await first.respond("limit-device", by="ann", reason="too loud", device_id=edge.name, per_minute=4)
            await until(lambda: all(each._workers == 2 and each._allowances for each in limits))
            said = [[await taken(each, edge.seal(sid, b"x")) for each in (first, second)] for _ in range(4)]
            assert [[None] * 2] * 2 + [[Refusal.RATE_LIMITED] * 2] * 2 == said
            clock.turn(15)
            assert [Refusal.RATE_LIMITED] * 2 == [await taken(each, edge.seal(sid, b"x")) for each in (first, second)]
            clock.turn(15)
            assert [None] * 2 == [await taken(each, edge.seal(sid, b"x")) for each in (first, second)]
        # The other one has said that it ends.
        await until(lambda: limits[0]._workers == 1)
        clock.turn(60)
        said = [await taken(first, edge.seal(sid, b"x")) for _ in range(5)]
        assert [None] * 4 + [Refusal.RATE_LIMITED] == said


async def test_a_limit_below_the_number_of_workers_lets_something_through(database_dsn, tmp_path):
    """One a minute among two workers is one every other minute at each, not none."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock) as (manager,):
        await operators(manager, "ann")
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        store, limits = engine_of(manager).foundation.store, engine_of(manager).limits
        await store.beat_worker(urandom(16), lately_s=3600)
        await manager.respond("limit-device", by="ann", reason="too loud", device_id=edge.name, per_minute=1)
        assert 2 == limits._workers
        assert [None, Refusal.RATE_LIMITED] == [await taken(manager, edge.seal(sid, b"x")) for _ in range(2)]
        clock.turn(60)
        assert Refusal.RATE_LIMITED == await taken(manager, edge.seal(sid, b"x"))
        clock.turn(60)
        assert None is await taken(manager, edge.seal(sid, b"x"))


async def test_an_address_is_limited_before_its_body_is_read(database_dsn, tmp_path):
    """The request beyond the limit gets 503 and its body is not read; without the limit it is read again."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        await operators(manager, "ann", "bob")
        app = Aggregator(manager)
        request = head("hello", "Content-Length: 4", "Connection: close"), b"junk"
        async with serving(app) as server:
            assert (await speak(server.port, *request, wait_s=30)).startswith(b"HTTP/1.1 403")
            done = await by_two(manager, "limit-source", source="127.0.0.1", per_minute=1)
            assert (await speak(server.port, *request, wait_s=30)).startswith(b"HTTP/1.1 403")
            assert (await speak(server.port, *request, wait_s=30)).startswith(b"HTTP/1.1 503")
            assert 1 == app.http_refusals["hello", "limited"]
            await by_two(manager, "limit-source", source="192.0.2.7", per_minute=1)
            await manager.undo_response(done.response_id, by="ann", reason="over")
            assert (await speak(server.port, *request, wait_s=30)).startswith(b"HTTP/1.1 403")
        for wrong in ({"source": "nowhere", "per_minute": 1}, {"source": "::1", "per_minute": 0}, {"source": "::1"}):
            with pytest.raises(UsageError):
                await manager.respond("limit-source", by="ann", reason="x", **wrong)
        assert engine_of(manager).limits.admit_source("not an address")
