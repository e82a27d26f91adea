"""Rekey (PROTOCOL R7): lost, repeated, interrupted and raced at every point, on whatever worker."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from carried_device import CarriedDevice, LostError
from manager_turns import stand
from manager_world import TurnedClock, engine_of, managers
from qflare.errors import AuthenticationError, QflareError, RefusedError, StoreUnavailableError
from qflare.manager.pages import PAGE_MIN
from qflare.manager.sessions import Asked
from qflare.model.event import SecurityEventType
from qflare.model.refusal import Refusal
from qflare.model.session import SessionState
from qflare.protocol.envelope import encode_envelope
from qflare.protocol.record import KIND_CONTROL, read_header
from qflare.protocol.rekey import encode_rekey, encode_rekeyed

WIDTH_S = 300


@asynccontextmanager
async def world(dsn, folder, count=2, **changes):
    """Managers over one database and clock, and a device with a session."""
    clock = TurnedClock()
    async with managers(dsn, folder, count, clock=clock, **changes) as opened:
        device = await CarriedDevice.provision(opened[0], clock, folder)
        try:
            await device.connect(*opened)
            device.sent.clear()
            yield clock, opened, device
        finally:
            device.device.close()


async def turn(clock, opened, buckets=1):
    """Let buckets go by; every worker notices each."""
    for _ in range(buckets):
        clock.turn(WIDTH_S)
        for manager in opened:
            await manager.turn()


async def cut_connections(admin):
    """End every other connection to the database."""
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def refused(manager, record):
    with pytest.raises(RefusedError) as caught:
        await manager.open_record(record)
    return caught.value.reason


async def server_epoch(manager, device):
    return (await manager.find_session(device.device.session.sid)).epoch


async def test_rekey_moves_both_sides_to_the_next_epoch(database, tmp_path):
    """R7: after REKEYED both sides write the next epoch, the keys differ, and the event stands in the log; again too."""
    async with world(database, tmp_path) as (clock, (one, two), device):
        await device.echo(one, two)
        sid = device.device.session.sid
        with device.device.derive_session_key("model") as before:
            for epoch in (1, 2, 3):
                terms = await device.rekey(one)
                assert epoch == terms.epoch == await server_epoch(two, device)
                with device.device.derive_session_key("model") as own:
                    with await two.derive_session_key(sid, "model") as theirs:
                        assert own.equals(theirs)
                    assert not own.equals(before)
                reply = await device.echo(two)
                assert reply is not None
            assert sid == device.device.session.sid
        await turn(clock, (one, two))
        await device.echo(one)
        events = [entry for entry in await one.monitor.list_events() if b'"rekey"' in entry.data]
        assert [SecurityEventType.KEY_ROTATION] * 3 == [entry.event_type for entry in events]
        assert [device.pair.device_id] * 3 == [entry.device_id for entry in events]


@pytest.mark.parametrize("fault", ["sent", "answer"])
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("buckets", [0, 1])
async def test_a_rekey_that_is_lost_goes_on_with_the_same_body(database, tmp_path, fault, crash, buckets):
    """R7: REKEY or REKEYED lost, the device crashed, another worker, a turn between: the same body in a new record."""
    async with world(database, tmp_path) as (clock, (one, two), device):
        device.faults = [fault] * 9
        with pytest.raises(LostError):
            await device.rekey(one)
        body = device.state.rekey.body
        first = device.records_sent()
        assert len(first) == len(set(first)) == 4
        assert (0, 1 if fault == "answer" else 0) == (device.epoch, await server_epoch(two, device))
        if crash:
            device.restart()
        device.faults = []
        await turn(clock, (one, two), buckets)
        assert body == device.state.rekey.body
        terms = await device.rekey(two)
        assert 1 == terms.epoch == await server_epoch(one, device)
        assert device.state.rekey is None
        assert first[0][:52] != device.records_sent()[-1][:52]
        await device.echo(one)
        await device.echo(two)


async def test_a_rekey_that_is_lost_goes_on_before_the_next_record(database, tmp_path):
    """R7: with a rekey pending an exchange first repeats it, then sends in the new epoch."""
    async with world(database, tmp_path) as (_, (one, two), device):
        device.faults = ["answer"] * 4
        with pytest.raises(LostError):
            await device.rekey(one)
        await device.echo(two)
        assert 1 == device.epoch


async def test_a_rekey_across_two_turns_ends_in_a_new_handshake(database, tmp_path):
    """R7: committed, but not heard of until the old epoch is read no longer: refused, the device shakes hands anew."""
    async with world(database, tmp_path) as (clock, (one, two), device):
        sid = device.device.session.sid
        device.faults = ["answer"] * 4
        with pytest.raises(LostError):
            await device.rekey(one)
        await turn(clock, (one, two), 2)
        terms = await device.rekey(two)
        assert (0, False) == (terms.epoch, terms.sid == sid)
        assert Refusal.EPOCH in device.reasons
        await device.echo(one)


async def test_a_rekey_that_the_server_never_saw_is_voided(database, tmp_path):
    """R7: a record of the old epoch from two buckets later voids what is pending; the next rekey has a body of its own."""
    async with world(database, tmp_path) as (clock, (one, two), device):
        device.faults = ["sent"] * 4
        with pytest.raises(LostError):
            await device.rekey(one)
        body = device.state.rekey.body
        await turn(clock, (one, two))
        # One bucket later it is still pending: such a record of the server's voids nothing.
        sid = device.device.session.sid
        with device.device.engine.open(await one.seal_record(sid, b"early"), aad=b"").plaintext:
            assert body == device.state.rekey.body
        await turn(clock, (one, two))
        await device.refresh(one)
        await device.echo(one)
        assert device.state.rekey is None
        terms = await device.rekey(two)
        assert (1, sid) == (terms.epoch, terms.sid)
        await device.echo(one)


async def test_a_race_of_one_body_makes_one_epoch(database, tmp_path):
    """R7: 64 records of one body at two workers at once: one epoch, one event, and every answer opens in it."""
    async with world(database, tmp_path) as (_, (one, two), device):
        await device.refresh(one)
        envelopes = [device.device.begin_rekey() for _ in range(64)]

        async def ask(manager, record):
            with await manager.open_record(record) as opened:
                return await manager.answer_control(opened)

        answers = await asyncio.gather(
            *(ask((one, two)[number % 2], record) for number, record in enumerate(envelopes))
        )
        assert 1 == await server_epoch(one, device)
        assert 1 == sum(b'"rekey"' in entry.data for entry in await one.monitor.list_events())
        for answer in answers:
            assert (1, KIND_CONTROL) == (read_header(answer).epoch, read_header(answer).kind)
            bucket = read_header(answer).bucket
            with device.device.open_record(answer) as body:
                assert body.equals(encode_rekeyed(bucket, 1))
        await device.echo(two)


async def test_a_rekey_is_made_again_where_the_bucket_turned_under_it(database, tmp_path, monkeypatch):
    """R7: another worker turns between claim and commit: the old epoch is read to the end of the bucket after it still."""
    async with world(database, tmp_path) as (clock, (one, two), device):
        await device.refresh(one)
        store, turned = engine_of(one).foundation.store, []
        rekey_session = store.rekey_session

        async def late(tenant_id, claim, *, event):
            if not turned:
                # It has raised the mark, and its turn has not come to this session yet.
                clock.turn(WIDTH_S)
                turned.append(await store.raise_bucket_mark(clock.now_s() // WIDTH_S))
            return await rekey_session(tenant_id, claim, event=event)

        monkeypatch.setattr(store, "rekey_session", late)
        with await one.open_record(device.device.begin_rekey()) as opened:
            await one.answer_control(opened)
        assert 1 == await server_epoch(two, device)
        assert 1 == sum(b'"rekey"' in entry.data for entry in await one.monitor.list_events())
        # The device has not heard the answer: it writes the old epoch, here and in the bucket after the commit.
        for manager in (one, two):
            await manager.turn()
        for _ in range(2):
            device.device.take_announcement(await two.announcement())
            for manager in (one, two):
                engine_of(manager).sessions.forget(opened.session.sid)
                with await manager.open_record(device.device.seal(b"old")) as record:
                    assert 0 == record.header.epoch
            await turn(clock, (one, two))
        assert Refusal.EPOCH == await refused(one, device.device.seal(b"late"))


async def control(manager, device, body):
    """Send *body* as control in the device's present epoch; the reason of its refusal, or the answer."""
    record = device.device.seal(body, kind=KIND_CONTROL)
    with await manager.open_record(record) as opened:
        try:
            return await manager.answer_control(opened)
        except RefusedError as caught:
            return caught.reason


async def test_what_is_no_rekey_of_now_is_refused(database, tmp_path):
    """R7: another length, an epoch that does not come next, a bucket outside the window: refused, the session stands."""
    async with world(database, tmp_path) as (_, (one, two), device):
        bucket, ct = device.device.session.bucket, bytes(1568)
        for body, reason in (
            (encode_rekey(bucket, 1, ct)[:-1], Refusal.LENGTH),
            (encode_rekey(bucket, 1, ct) + b"\0", Refusal.LENGTH),
            (b"\x01", Refusal.LENGTH),
            (encode_rekey(bucket, 0, ct), Refusal.EPOCH),
            (encode_rekey(bucket, 2, ct), Refusal.EPOCH),
            (encode_rekey(bucket - 2, 1, ct), Refusal.BUCKET),
            (encode_rekey(bucket + 2, 1, ct), Refusal.BUCKET),
            (encode_rekey(2**64 - 1, 1, ct), Refusal.BUCKET),
        ):
            assert reason == await control(two, device, body)
        assert 0 == await server_epoch(one, device)
        assert not [entry for entry in await one.monitor.list_events() if b'"rekey"' in entry.data]
        await device.echo(one)


async def test_another_body_for_the_same_epoch_is_refused(database, tmp_path):
    """R7: once an epoch is committed no other body makes it, on whatever worker; the first one's answer comes again."""
    async with world(database, tmp_path) as (_, (one, two), device):
        await device.refresh(one)
        record = device.device.begin_rekey()
        with await one.open_record(record) as opened:
            await one.answer_control(opened)
        bucket = device.device.session.bucket
        for manager in (one, two):
            assert Refusal.CONFLICT == await control(manager, device, encode_rekey(bucket, 1, bytes(1568)))
        # A replay of the very record is refused (R4), a new record of the same body is answered.
        assert Refusal.EPOCH == await refused(two, record)
        await device.rekey(two)
        assert 1 == device.epoch == await server_epoch(one, device)


@pytest.mark.parametrize("ahead", [-1, 1])
async def test_the_new_chain_begins_in_the_rekeys_bucket(database, tmp_path, ahead):
    """R7: REKEY under the announcement of b-1 or of the published b+1 is taken, and both sides agree in every bucket."""
    async with world(database, tmp_path) as (clock, (one, two), device):
        await device.refresh(one)
        bucket = device.device.session.bucket
        if ahead > 0:
            device.device.take_announcement(await one.announcement("next"))
        else:
            device.device.begin_rekey()
            await turn(clock, (one, two))
        record = device.device.begin_rekey()
        assert bucket + max(ahead, 0) == device.state.rekey.bucket
        with await two.open_record(record) as opened:
            answer = await two.answer_control(opened)
        with device.device.open_record(answer):
            pass
        assert 1 == device.epoch
        for _ in range(3):
            record = device.device.seal(b"up")
            with await one.open_record(record) as opened:
                assert opened.plaintext.equals(b"up")
            with device.device.open_record(await two.seal_record(opened.session.sid, b"down")) as plaintext:
                assert plaintext.equals(b"down")
            await turn(clock, (one, two))
            await device.refresh(one)


async def test_the_old_epoch_is_read_to_the_end_of_the_next_bucket(database, tmp_path):
    """R7: records of the old epoch open in the bucket of the commit and the next one, on workers that know and do not."""
    async with world(database, tmp_path) as (clock, (one, two), device):
        await device.echo(two)
        await device.refresh(one)
        with await one.open_record(device.device.begin_rekey()) as opened:
            await one.answer_control(opened)
        sid = device.device.session.sid
        for _ in range(2):
            for manager in (one, two):
                with await manager.open_record(device.device.seal(b"old")) as opened:
                    assert 0 == opened.header.epoch
                assert 1 == read_header(await manager.seal_record(sid, b"new")).epoch
            await turn(clock, (one, two))
            late = device.device.seal(b"late")
            device.device.take_announcement(await one.announcement())
        # The second turn is over: the bucket before would still be open to the present epoch.
        for manager in (one, two):
            assert Refusal.EPOCH == await refused(manager, late)
            assert Refusal.EPOCH == await refused(manager, device.device.seal(b"late"))


async def test_the_old_epoch_is_read_from_a_page_behind_the_new_ones_rows(database_dsn, tmp_path, admin):
    """R7, R8: REKEY under b-1 while the old chain key of b-1 is on a page: a record of then opens, REKEY comes again."""
    async with world(database_dsn, tmp_path, turn_page=64) as (clock, (one, two), device):
        others = [await CarriedDevice.provision(one, clock, name=f"other-{n}") for n in range(PAGE_MIN)]
        for other in others:
            await other.connect(one)
            other.device.close()
        await turn(clock, (one, two))
        await device.refresh(one)
        late = [device.device.seal(b"late") for _ in range(2)]
        device.device.begin_rekey()
        await turn(clock, (one, two))
        body, bucket = device.state.rekey.body, device.state.rekey.bucket
        sid = device.device.session.sid
        assert {(sid, 0): 1} == {its: 1 for its in await stand(admin, bucket) if its[0] == sid}
        with await one.open_record(device.device.begin_rekey()) as opened:
            await one.answer_control(opened)
        for manager, record in zip((one, two), late, strict=True):
            engine_of(manager).sessions.forget(sid)
            with await manager.open_record(record) as opened:
                assert (0, bucket) == (opened.header.epoch, opened.header.bucket)
            with await manager.open_record(device.device.begin_rekey()) as opened:
                assert opened.plaintext.equals(body)
                await manager.answer_control(opened)
        await device.rekey(two)
        await device.echo(one)


@pytest.mark.parametrize("cause", ["rekey", "changes"])
async def test_sessions_read_anew_leave_records_under_way_alone(database, tmp_path, cause):
    """A worker that commits a rekey, or drops all that it remembers, still opens records of batches begun before."""
    async with world(database, tmp_path, 1) as (clock, (one,), device):
        other = await CarriedDevice.provision(one, clock, name="other")
        await other.connect(one)
        for each in (device, other):
            await each.echo(one)
        old = device.device.seal(b"old")
        engine, bucket = engine_of(one), await one.current_bucket()
        await one.announcement("next")
        # The other session has to be stepped, off the loop: meanwhile the rekey commits.
        asked = [Asked(device.device.session.sid, bucket, 0), Asked(other.device.session.sid, bucket + 1)]
        with engine.buckets.lend() as ring:
            resolving = asyncio.create_task(engine.sessions.resolve(ring, asked))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not resolving.done()
            if cause == "rekey":
                engine.sessions.renew(device.device.session.sid)
            else:
                engine.changes.forget_all()
            with await resolving as resolved:
                assert [device.device.session.sid, other.device.session.sid] == [its.sid for its in resolved.sessions]
        with await one.open_record(old) as opened:
            assert opened.plaintext.equals(b"old")
        other.device.close()


async def test_a_rekeyed_session_outlives_restarts_and_turns(database, tmp_path):
    """R7, R8: the new epoch's chain goes through turns like any other, and a fresh worker finds it, page or row."""
    async with world(database, tmp_path, turn_page=4) as (clock, opened, device):
        await device.rekey(*opened)
        others = [await CarriedDevice.provision(opened[0], clock, name=f"other-{n}") for n in range(20)]
        for other in others:
            await other.connect(*opened)
        for other in others[::2]:
            await other.rekey(*opened)
        await turn(clock, opened, 3)
        for other in (device, *others):
            await other.refresh(*opened)
            await other.echo(*opened)
    async with managers(database, tmp_path, clock=clock) as fresh:
        for other in others:
            await other.echo(*fresh)
            await turn(clock, fresh) if other is others[10] else None
            await other.refresh(*fresh)
            await other.echo(*fresh)
            other.device.close()


async def test_cancelled_rekeys_end_whole_or_not_at_all(database, tmp_path):
    """R7: a caller that is cancelled at any moment leaves a session that the device can rekey and use."""
    async with world(database, tmp_path) as (_, (one, two), device):
        await device.refresh(one)
        for wait in range(12):
            with await one.open_record(device.device.begin_rekey()) as opened:
                task = asyncio.create_task(one.answer_control(opened))
                for _ in range(wait):
                    await asyncio.sleep(0)
                if wait % 3 == 2:
                    await asyncio.sleep(0.002 * wait)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        epoch = await server_epoch(two, device)
        assert 0 <= epoch <= 1
        await device.rekey(two)
        assert 1 == device.epoch == await server_epoch(one, device)
        await device.echo(one)


async def test_connections_that_die_in_a_rekey_leave_it_whole(database_dsn, tmp_path, admin):
    """R7: the worker's connections are cut while it commits, again and again: committed or not, the same body ends it."""
    async with world(database_dsn, tmp_path) as (_, (one, two), device):
        await device.refresh(one)
        for wait in range(6):
            record = device.device.begin_rekey()
            try:
                with await one.open_record(record) as opened:
                    task = asyncio.create_task(one.answer_control(opened))
                    await asyncio.sleep(0.001 * wait)
                    await cut_connections(admin)
                    await asyncio.gather(task, return_exceptions=True)
            except (StoreUnavailableError, RefusedError):
                pass
        async with asyncio.timeout(60):
            while True:
                try:
                    await device.rekey(two)
                    break
                except QflareError:
                    await asyncio.sleep(0.05)
        assert 1 == device.epoch == await server_epoch(one, device)
        assert 1 == sum(b'"rekey"' in entry.data for entry in await one.monitor.list_events())


async def test_a_revoked_device_does_not_rekey(database, tmp_path):
    """R7: a revocation that comes between the record and the commit wins."""
    async with world(database, tmp_path) as (_, (one, two), device):
        await device.refresh(one)
        with await one.open_record(device.device.begin_rekey()) as opened:
            await two.revoke_device(device.pair.device_id, reason="stolen")
            with pytest.raises(RefusedError) as caught:
                await one.answer_control(opened)
        assert Refusal.SESSION_ENDED is caught.value.reason
        session = await one.find_session(device.device.session.sid)
        assert (0, SessionState.REVOKED) == (session.epoch, session.state)


async def test_chain_keys_of_two_epochs_cannot_be_swapped_at_rest(database_dsn, tmp_path, admin):
    """R8: who writes the database puts the old epoch's chain key in the place of the new one's: it does not open there."""
    async with world(database_dsn, tmp_path, 1) as (_, (one,), device):
        await device.rekey(one)
        sid = device.device.session.sid
        rows = await admin.fetch(
            "SELECT epoch, sealed_chain_key FROM qflare.session_state WHERE sid = encode($1, 'hex')::uuid ORDER BY epoch",
            sid,
        )
        assert [0, 1] == [row["epoch"] for row in rows]
        await admin.execute(
            "UPDATE qflare.session_state SET sealed_chain_key = $2 WHERE sid = encode($1, 'hex')::uuid AND epoch = 1",
            sid,
            rows[0]["sealed_chain_key"],
        )
        engine_of(one).sessions.forget(sid)
        assert Refusal.SESSION_ENDED == await refused(one, device.device.seal(b"x"))
        with pytest.raises(QflareError):
            await one.seal_record(sid, b"x")


async def test_a_forged_answer_to_a_rekey_changes_nothing(database, tmp_path):
    """R7: REKEYED altered in any part is not authentic; both chains stay until the true one comes."""
    async with world(database, tmp_path, 1) as (_, (one,), device):
        await device.refresh(one)
        with await one.open_record(device.device.begin_rekey()) as opened:
            answer = await one.answer_control(opened)
        for at in (3, 26, 30, 31, 40, 48, len(answer) - 1):
            bad = bytearray(answer)
            bad[at] ^= 1
            with pytest.raises(QflareError):
                device.device.open_record(bad)
        assert (0, 1) == (device.epoch, device.state.rekey.epoch)
        other = await one.seal_record(opened.session.sid, b"no")
        with pytest.raises(AuthenticationError):
            device.device.engine.finish_rekey(encode_envelope(b"", other), bucket=1, epoch=1)
        # It was of the new epoch all the same, so that is where the device is now.
        assert 1 == device.epoch
        await device.echo(one)
