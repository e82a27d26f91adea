"""A worker killed at each point of a rekey (R7) and of a late reply (R6): the device and another worker go on."""

import asyncio
import signal
from contextlib import asynccontextmanager

import pytest

import dying_with_records as points
from carried_device import CarriedDevice
from dying import ended, start
from manager_turns import stand
from manager_world import TurnedClock, managers
from qflare.errors import KeyNotFoundError, RefusedError
from qflare.model.refusal import Refusal

WIDTH_S = 300


@asynccontextmanager
async def world(dsn, folder):
    """Two workers that live on, and a device with a session."""
    clock = TurnedClock(5_900_000 * WIDTH_S + 10)
    async with managers(dsn, folder, 2, clock=clock) as (one, two):
        device = await CarriedDevice.provision(one, clock, folder)
        try:
            await device.connect(one)
            yield clock, one, two, device
        finally:
            device.device.close()


async def killed(target, *arguments):
    """Whether a worker was killed at its point, not before and not after."""
    return -signal.SIGKILL == await ended(start(target, *arguments))


async def epoch_of(manager, device):
    return (await manager.find_session(device.device.session.sid)).epoch


async def rekeys_logged(manager):
    return sum(b'"rekey"' in entry.data for entry in await manager.monitor.list_events(limit=1000))


async def both_hold(device, manager, epoch):
    """Whether device and worker are in *epoch*, with the same keys, and carry records both ways."""
    assert (epoch, epoch, None) == (device.epoch, await epoch_of(manager, device), device.state.rekey)
    theirs = await manager.derive_session_key(device.device.session.sid, "model")
    with theirs, device.device.derive_session_key("model") as own:
        return own.equals(theirs) and await device.echo(manager) is not None


async def test_a_worker_killed_at_each_point_of_a_rekey(database_dsn, tmp_path, admin):
    """R7: wherever it dies the same body goes on at another worker: one epoch, one event, one chain key, both agree."""
    async with world(database_dsn, tmp_path) as (clock, one, two, device):
        sid = device.device.session.sid
        for epoch, (point, (_, stands)) in enumerate(points.REKEY_POINTS.items(), start=1):
            await device.refresh(one)
            record = device.device.begin_rekey()
            body = device.state.rekey.body
            arguments = (database_dsn, tmp_path, clock.now_s(), ("rekey", point), record)
            assert await killed(points.carry_and_die, *arguments), point
            assert epoch - 1 + stands == await epoch_of(two, device), point
            # The device heard nothing, and may have been started again: the same body, to another worker.
            device.restart()
            assert body == device.state.rekey.body, point
            assert epoch == (await device.rekey(two)).epoch, point
            assert epoch == await rekeys_logged(one), point
            for manager in (one, two):
                assert await both_hold(device, manager, epoch), point
            bucket = device.device.session.bucket
            standing = {its: times for its, times in (await stand(admin, bucket)).items() if its == (sid, epoch)}
            assert {(sid, epoch): 1} == standing, point
        clock.turn(WIDTH_S)
        for manager in (one, two):
            await manager.turn()
            await device.refresh(manager)
            assert await both_hold(device, manager, epoch)


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_worker_killed_while_its_rekey_is_under_way(database_dsn, tmp_path, admin, is_first):
    """R7: the statement of a dead worker may commit before or after another's: one epoch, one event all the same."""
    async with world(database_dsn, tmp_path) as (clock, one, two, device):
        await device.refresh(one)
        record = device.device.begin_rekey()
        process = start(points.carry_and_die, database_dsn, tmp_path, clock.now_s(), None, record)
        held = admin.transaction()
        await held.start()
        try:
            # Rekeys wait for this lock; the record before them does not need it.
            await admin.execute("SELECT FROM qflare.log_head FOR UPDATE")
            async with asyncio.timeout(60):
                waiting = 0
                while not waiting:
                    # Inside a transaction it would be read once.
                    await admin.execute("SELECT pg_stat_clear_snapshot()")
                    waiting = await admin.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND wait_event_type = 'Lock' AND query LIKE '%rekey_session%'"
                    )
                    assert process.is_alive()
                    await asyncio.sleep(0.02)
            process.kill()
            assert -signal.SIGKILL == await ended(process)
            going_on = asyncio.create_task(device.rekey(two))
            if is_first:
                await asyncio.sleep(0.2)
        finally:
            await held.rollback()
        assert 1 == (await going_on).epoch
        assert 1 == await rekeys_logged(one)
        for manager in (one, two):
            assert await both_hold(device, manager, 1)


async def outstanding(admin):
    return await admin.fetchval("SELECT count(*) FROM qflare.reply_key")


async def refusal_of(manager, record):
    with pytest.raises(RefusedError) as caught:
        await manager.open_record(record)
    return caught.value.reason


async def text_of(manager, record):
    with await manager.open_record(record) as opened, opened.plaintext.view() as view:
        return bytes(view)


async def test_a_worker_killed_at_each_point_of_taking_a_reply(database_dsn, tmp_path, admin):
    """R6: wherever it dies the reply is handed on by one worker at most, and the next request is answered."""
    async with world(database_dsn, tmp_path) as (clock, one, two, device):
        sid = device.device.session.sid
        for point, (_, is_taken) in points.REPLY_POINTS.items():
            request = await one.seal_request(sid, b"?")
            device.device.open_request(request.record).plaintext.wipe()
            reply = device.device.seal_reply(request.request_id, b"!")
            arguments = (database_dsn, tmp_path, clock.now_s(), ("reply", point), reply)
            assert await killed(points.carry_and_die, *arguments), point
            assert (0 if is_taken else 1) == await outstanding(admin), point
            if not is_taken:
                assert b"!" == await text_of(two, reply), point
            # Taken it is not handed on again, not by a worker that knows nothing of it either.
            for manager in (one, two):
                assert Refusal.NO_REQUEST == await refusal_of(manager, reply), point
            assert 0 == await outstanding(admin), point


async def test_a_worker_killed_at_each_point_of_replying(database_dsn, tmp_path, admin):
    """R6: a device's request is replied to once; where the reply went down with its worker, the next one is."""
    async with world(database_dsn, tmp_path) as (clock, one, two, device):
        sid = device.device.session.sid
        for point in points.REQUEST_POINTS:
            request_id, record = device.device.seal_request(b"?")
            arguments = (database_dsn, tmp_path, clock.now_s(), ("request", point), record)
            assert await killed(points.carry_and_die, *arguments), point
            if point == "request about to be accepted":
                assert b"?" == await text_of(two, record), point
            # The request is known from then on, and taken once.
            assert Refusal.REPLAY == await refusal_of(one, record), point
            if point != "reply key taken":
                reply = await two.seal_reply(sid, request_id, b"!")
                with device.device.open_reply(reply).plaintext as plaintext:
                    assert plaintext.equals(b"!"), point
            for manager in (one, two):
                with pytest.raises(KeyNotFoundError):
                    await manager.seal_reply(sid, request_id, b"again")
            assert 0 == await outstanding(admin), point
        assert 1 == len(device.state.reply_keys)
        request_id, record = device.device.seal_request(b"once more")
        assert b"once more" == await text_of(one, record)
        with device.device.open_reply(await two.seal_reply(sid, request_id, b"at last")).plaintext as plaintext:
            assert plaintext.equals(b"at last")


async def test_a_worker_killed_at_each_point_of_asking(database_dsn, tmp_path, admin):
    """R6: a request that went down with its worker was never sent: another one is answered, the key waits its time."""
    async with world(database_dsn, tmp_path) as (clock, one, two, device):
        sid = device.device.session.sid
        for point, (_, waiting) in points.ASK_POINTS.items():
            assert await killed(points.ask_and_die, database_dsn, tmp_path, clock.now_s(), ("ask", point), sid), point
            assert waiting == await outstanding(admin), point
            request = await one.seal_request(sid, b"?")
            device.device.open_request(request.record).plaintext.wipe()
            reply = device.device.seal_reply(request.request_id, b"!")
            assert b"!" == await text_of(two, reply), point
            assert waiting == await outstanding(admin), point
