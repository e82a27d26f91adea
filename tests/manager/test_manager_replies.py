"""Late replies (PROTOCOL R6): hours later, on another worker, after restarts; once, in time, and nobody else's."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from carried_device import CarriedDevice, LostError
from manager_world import TurnedClock, engine_of, managers
from qflare.errors import (
    AuthenticationError,
    KeyNotFoundError,
    LengthError,
    OverloadedError,
    QflareError,
    RefusedError,
    SessionExpiredError,
    UnexpectedMessageError,
    UsageError,
)
from qflare.manager.replies import DROPPED_MAX
from qflare.model.ids import StreamId
from qflare.model.refusal import Refusal
from qflare.protocol.envelope import encode_envelope, split_envelope
from qflare.protocol.record import KIND_REPLY, KIND_REQUEST, RecordHeader, read_header, seal_record
from qflare.protocol.wire import DIRECTION_TO_SERVER

WIDTH_S = 300
HOURS = 7


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


async def refused(manager, record, aad=b""):
    with pytest.raises(RefusedError) as caught:
        await manager.open_record(record, aad=aad)
    return caught.value.reason


async def opened_text(manager, record, aad=b""):
    with await manager.open_record(record, aad=aad) as opened:
        return opened, bytes(opened.plaintext.view())


async def test_a_device_that_slept_answers_a_request(database, tmp_path):
    """R6: the server asks, the device wakes hours later and answers another worker, once; the server may have restarted."""
    async with world(database, tmp_path) as (clock, opened, device):
        sid = device.device.session.sid
        request = await opened[0].seal_request(sid, b"train on this", aad=b"round 7")
        asked = device.device.open_request(request.record, aad=b"round 7")
        with asked.plaintext as plaintext:
            assert plaintext.equals(b"train on this")
        assert (request.request_id, KIND_REQUEST) == (asked.request_id, asked.kind)
        device.restart()
        await turn(clock, opened, HOURS)
        reply = device.device.seal_reply(asked.request_id, b"trained", aad=b"late")
        header = read_header(reply)
        assert (KIND_REPLY, request.request_id, device.device.session.start) == (
            header.kind,
            header.request_id,
            header.bucket,
        )
    async with managers(database, tmp_path, 2, clock=clock) as (one, two):
        await turn(clock, (one, two), 2)
        record, text = await opened_text(two, reply, b"late")
        assert (b"trained", request.request_id, sid) == (text, record.request_id, record.session.sid)
        for manager in (one, two):
            assert Refusal.NO_REQUEST == await refused(manager, reply, b"late")
        device.restart()
        with pytest.raises(KeyNotFoundError):
            device.device.seal_reply(asked.request_id, b"again")
        device.device.close()


async def test_the_server_answers_a_device_hours_later(database, tmp_path):
    """R6: the device asks, another worker answers hours later, once, also after restarts of both sides."""
    async with world(database, tmp_path) as (clock, opened, device):
        asked = []

        async def note(_manager, record):
            asked.append((record.session.sid, record.request_id, record.header.kind))
            return b""

        device.on_record = note
        request_id, answer = await device.run(opened, device.device.engine.request(b"a model?", aad=b"", lifetime=288))
        assert answer is None
        assert [(device.device.session.sid, request_id, KIND_REQUEST)] == asked
        sid = asked[0][0]
        device.restart()
        await turn(clock, opened, HOURS)
    async with managers(database, tmp_path, 2, clock=clock) as (one, two):
        await turn(clock, (one, two), 2)
        reply = await two.seal_reply(sid, request_id, b"a model", aad=b"v3")
        for manager in (one, two):
            with pytest.raises(KeyNotFoundError):
                await manager.seal_reply(sid, request_id, b"another")
        device.restart()
        for at in (3, 20, 30, 40, 50, 64, len(reply) - 1):
            bad = bytearray(reply)
            bad[at] ^= 1
            with pytest.raises(QflareError):
                device.device.open_reply(bad, aad=b"v3")
        with pytest.raises(AuthenticationError):
            device.device.open_reply(reply, aad=b"v4")
        device.restart()
        taken = device.device.open_reply(reply, aad=b"v3")
        with taken.plaintext as plaintext:
            assert plaintext.equals(b"a model")
        assert request_id == taken.request_id
        with pytest.raises(KeyNotFoundError):
            device.device.open_reply(reply, aad=b"v3")
        device.restart()
        with pytest.raises(KeyNotFoundError):
            device.device.open_reply(reply, aad=b"v3")
        device.device.close()


async def test_a_device_asleep_for_a_whole_lifetime_answers_in_its_last_bucket(database, tmp_path):
    """R5, R6: asleep to the last bucket the chain hashes forward and the reply is taken; one more and nothing is."""
    async with world(database, tmp_path, 1, lifetime=24) as (clock, (one,), device):
        sid = device.device.session.sid
        requests = [await one.seal_request(sid, b"%d" % number) for number in range(2)]
        for request in requests:
            device.device.open_request(request.record).plaintext.wipe()
        await turn(clock, (one,), 23)
        await device.refresh(one)
        await device.echo(one)
        assert b"done" == (await opened_text(one, device.device.seal_reply(requests[0].request_id, b"done")))[1]
        reply = device.device.seal_reply(requests[1].request_id, b"too late")
        await turn(clock, (one,))
        assert await refused(one, reply) in {Refusal.NO_REQUEST, Refusal.SESSION_ENDED}


async def test_a_backlog_is_read_in_the_order_of_its_buckets(database, tmp_path):
    """R5, R6: requests of many buckets that waited for a sleeping device open in order, and each is answered."""
    async with world(database, tmp_path) as (clock, opened, device):
        sid = device.device.session.sid
        backlog = []
        for number in range(5):
            backlog.append(await opened[number % 2].seal_request(sid, b"%d" % number))
            await turn(clock, opened)
        for number, request in enumerate(backlog):
            with device.device.open_request(request.record).plaintext as plaintext:
                assert plaintext.equals(b"%d" % number)
        await device.refresh(*opened)
        for number in (3, 0, 4, 1, 2):
            reply = device.device.seal_reply(backlog[number].request_id, b"%d" % number)
            assert b"%d" % number == (await opened_text(opened[number % 2], reply))[1]


async def test_a_reply_raced_at_two_workers_is_taken_once(database, tmp_path):
    """R6: 64 copies, and other replies to the same request, at two workers at once: exactly one is handed on."""
    async with world(database, tmp_path) as (_, opened, device):
        request = await opened[0].seal_request(device.device.session.sid, b"?")
        device.device.open_request(request.record).plaintext.wipe()
        kept = device.state.reply_keys.list_all()[0]
        from qflare.protocol.record import seal_record
        from qflare.protocol.reply import new_reply_header

        replies = []
        for number in range(8):
            header = new_reply_header(
                sid=kept.sid,
                request_id=kept.request_id,
                request_bucket=kept.request_bucket,
                request_epoch=kept.request_epoch,
                direction=1,
            )
            replies.append(seal_record(kept.key, header, b"%d" % number))
        ended = await asyncio.gather(
            *(opened[number % 2].open_record(replies[number % 8]) for number in range(64)), return_exceptions=True
        )
        taken = [end for end in ended if not isinstance(end, Exception)]
        assert 1 == len(taken)
        taken[0].plaintext.wipe()
        assert {Refusal.NO_REQUEST, Refusal.REPLAY} >= {end.reason for end in ended if isinstance(end, Exception)}


async def test_two_workers_that_reply_at_once_make_one_reply(database, tmp_path):
    """R6: of many calls of seal_reply for one request one gets a record, in one batch and across workers."""
    async with world(database, tmp_path) as (_, opened, device):
        request_id, record = device.device.seal_request(b"?")
        (await opened[0].open_record(record)).plaintext.wipe()
        sid = device.device.session.sid
        ended = await asyncio.gather(
            *(opened[number % 2].seal_reply(sid, request_id, b"%d" % number) for number in range(32)),
            return_exceptions=True,
        )
        assert 1 == sum(isinstance(end, bytes) for end in ended)
        assert {KeyNotFoundError} == {type(end) for end in ended if not isinstance(end, bytes)}


async def test_replies_end_with_their_time(database, tmp_path):
    """R6: after the buckets that were asked for a reply is taken by neither side, and its key is gone from the database."""
    async with world(database, tmp_path, reply_lifetime=2) as (clock, opened, device):
        sid = device.device.session.sid
        request = await opened[0].seal_request(sid, b"?", reply_lifetime=2)
        device.device.open_request(request.record).plaintext.wipe()
        request_id, record = device.device.seal_request(b"?", lifetime=2)
        (await opened[0].open_record(record)).plaintext.wipe()
        await turn(clock, opened, 2)
        reply = device.device.seal_reply(request.request_id, b"late")
        assert Refusal.NO_REQUEST == await refused(opened[1], reply)
        with pytest.raises(KeyNotFoundError):
            await opened[1].seal_reply(sid, request_id, b"late")
        await device.refresh(*opened)
        assert 0 == len(device.state.reply_keys)
        store = engine_of(opened[0]).foundation.store
        bucket = await opened[0].current_bucket()
        for at in range(bucket - 3, bucket + 1):
            assert () == await store.list_reply_keys(at, limit=9)


async def test_replies_are_the_sessions_and_the_tenants_own(database, tmp_path):
    """R6: another session, another device and another tenant neither take nor give a reply; the true one still counts."""
    async with world(database, tmp_path) as (clock, (one, two), device):
        other = await CarriedDevice.provision(one, clock, name="other")
        await other.connect(one)
        sid = device.device.session.sid
        request = await one.seal_request(sid, b"?")
        device.device.open_request(request.record).plaintext.wipe()
        reply = device.device.seal_reply(request.request_id, b"yes")
        forged = reply[:3] + other.device.session.sid + reply[19:]
        assert Refusal.NO_REQUEST == await refused(two, forged)
        for at, byte in ((26, reply[26] ^ 1), (30, 1)):
            moved = bytearray(reply)
            moved[at] = byte
            assert Refusal.BUCKET == await refused(two, moved)
        wrong = bytearray(reply)
        wrong[60] ^= 1
        assert Refusal.NO_REQUEST == await refused(two, wrong)
        wrong = bytearray(reply)
        wrong[-1] ^= 1
        assert Refusal.TAG == await refused(two, wrong)
        with pytest.raises(QflareError):
            other.device.open_request(request.record)
        request_id, record = device.device.seal_request(b"?")
        (await one.open_record(record)).plaintext.wipe()
        tenant = await one.create_tenant("elsewhere")
        for manager, its_sid in ((one.for_tenant(tenant), sid), (one, other.device.session.sid)):
            with pytest.raises(KeyNotFoundError):
                await manager.seal_reply(its_sid, request_id, b"no")
        assert b"yes" == (await opened_text(two, reply))[1]
        await two.seal_reply(sid, request_id, b"yes")
        other.device.close()


async def test_a_revoked_device_neither_answers_nor_is_answered(database, tmp_path):
    """R6: a revocation ends what is outstanding, on every worker."""
    async with world(database, tmp_path) as (_, (one, two), device):
        sid = device.device.session.sid
        request = await one.seal_request(sid, b"?")
        device.device.open_request(request.record).plaintext.wipe()
        request_id, record = device.device.seal_request(b"?")
        (await one.open_record(record)).plaintext.wipe()
        reply = device.device.seal_reply(request.request_id, b"yes")
        await one.revoke_device(device.pair.device_id, reason="stolen")
        for manager in (two, one):
            assert Refusal.DEVICE_STATE == await refused(manager, reply)
            with pytest.raises(SessionExpiredError):
                await manager.seal_reply(sid, request_id, b"no")


async def test_outstanding_replies_are_bounded_on_both_sides(database, tmp_path):
    """R6: beyond the bound requests are refused on both sides, and are accepted when there is room again."""
    async with world(database, tmp_path, 1, replies_outstanding_max=2) as (_, (one,), device):
        sid = device.device.session.sid
        requests = [await one.seal_request(sid, b"?") for _ in range(2)]
        with pytest.raises(OverloadedError):
            await one.seal_request(sid, b"?")
        request_id, record = device.device.seal_request(b"?")
        assert Refusal.OVERLOADED == await refused(one, record)
        device.device.open_request(requests[0].record).plaintext.wipe()
        (await one.open_record(device.device.seal_reply(requests[0].request_id, b"!"))).plaintext.wipe()
        (await one.open_record(record)).plaintext.wipe()
        await one.seal_reply(sid, request_id, b"!")
        while len(device.state.reply_keys) < 64:
            device.device.seal_request(b"?")
        with pytest.raises(OverloadedError):
            device.device.seal_request(b"?")
        with pytest.raises(OverloadedError):
            device.device.open_request(requests[1].record)
        device.state.reply_keys.wipe()
        device.device.open_request(requests[1].record).plaintext.wipe()


async def test_a_rekey_leaves_outstanding_replies_alone(database, tmp_path):
    """R6, R7: requests of an epoch that has ended are answered all the same, both ways."""
    async with world(database, tmp_path) as (clock, (one, two), device):
        sid = device.device.session.sid
        request = await one.seal_request(sid, b"?")
        device.device.open_request(request.record).plaintext.wipe()
        request_id, record = device.device.seal_request(b"?")
        (await one.open_record(record)).plaintext.wipe()
        await device.rekey(two)
        later = await two.seal_request(sid, b"?")
        device.device.open_request(later.record).plaintext.wipe()
        await turn(clock, (one, two), 3)
        for asked in (request, later):
            assert b"!" == (await opened_text(one, device.device.seal_reply(asked.request_id, b"!")))[1]
        device.device.open_reply(await two.seal_reply(sid, request_id, b"!")).plaintext.wipe()


async def test_a_lost_request_or_reply_leaves_both_sides_usable(database, tmp_path):
    """R6: a request that never came is answered by nobody, a lost reply may be sent again as it is."""
    async with world(database, tmp_path, 1) as (_, (one,), device):
        device.faults = ["sent"]
        with pytest.raises(LostError):
            await device.run((one,), device.device.engine.request(b"?", aad=b"", lifetime=9))
        assert 1 == len(device.state.reply_keys)
        sid = device.device.session.sid
        request = await one.seal_request(sid, b"?")
        device.device.open_request(request.record).plaintext.wipe()
        device.faults = ["sent"]
        with pytest.raises(LostError):
            await device.run((one,), device.device.engine.reply(request.request_id, b"!", aad=b""))
        lost = split_envelope(device.records_sent()[-1])[1]
        assert b"!" == (await opened_text(one, lost))[1]


async def test_a_request_is_an_answer_and_a_reply_travels_as_one(database, tmp_path):
    """R6: over a transport the server's answer to one record may be a request, and to another a late reply."""
    async with world(database, tmp_path, 1) as (_, (one,), device):
        pending = []

        async def on_record(manager, record):
            sid = record.session.sid
            if record.header.kind == KIND_REPLY:
                return b""
            if record.header.kind == KIND_REQUEST:
                pending.append(record.request_id)
                return encode_envelope(b"", (await manager.seal_request(sid, b"train")).record)
            return encode_envelope(b"", await manager.seal_reply(sid, pending.pop(), b"at last"))

        device.on_record = on_record
        request_id, asked = await device.run((one,), device.device.engine.request(b"?", aad=b"", lifetime=9))
        assert KIND_REQUEST == asked.kind
        assert None is await device.run((one,), device.device.engine.reply(asked.request_id, b"trained", aad=b""))
        late = await device.run((one,), device.device.engine.exchange(b"anything?", aad=b""))
        assert (KIND_REPLY, request_id) == (late.kind, late.request_id)
        assert late.plaintext.equals(b"at last")


async def test_what_cannot_be_is_refused_before_any_work(database, tmp_path):
    """Lifetimes, ids and kinds out of range are the caller's mistake, on both sides."""
    async with world(database, tmp_path, 1) as (_, (one,), device):
        sid = device.device.session.sid
        for lifetime in (0, 289):
            with pytest.raises(UsageError):
                await one.seal_request(sid, b"?", reply_lifetime=lifetime)
            with pytest.raises(UsageError):
                device.device.seal_request(b"?", lifetime=lifetime)
        with pytest.raises(LengthError):
            await one.seal_reply(sid, b"short", b"!")
        with pytest.raises(UsageError):
            await one.seal_reply(sid, "text", b"!")
        for kind in (2, 3):
            with pytest.raises(UsageError):
                await one.seal_record(sid, b"x", kind=kind)
            with pytest.raises(UsageError):
                device.device.seal(b"x", kind=kind)
        data = await one.seal_record(sid, b"x")
        for open_it in (device.device.open_request, device.device.open_reply):
            with pytest.raises(UnexpectedMessageError):
                open_it(data)
        device.device.open_record(data).wipe()


async def test_reply_keys_cannot_be_swapped_at_rest(database_dsn, tmp_path, admin):
    """R8: who writes the database puts one request's sealed key in another's row: it opens nothing there."""
    async with world(database_dsn, tmp_path, 1) as (_, (one,), device):
        sid = device.device.session.sid
        requests = [await one.seal_request(sid, b"?") for _ in range(2)]
        for request in requests:
            device.device.open_request(request.record).plaintext.wipe()
        replies = [device.device.seal_reply(request.request_id, b"!") for request in requests]
        await admin.execute(
            "UPDATE qflare.reply_key SET sealed_reply_key = (SELECT min(sealed_reply_key) FROM qflare.reply_key)"
        )
        ends = [await asyncio.gather(one.open_record(reply), return_exceptions=True) for reply in replies]
        assert 1 == sum(isinstance(end[0], RefusedError) and end[0].reason is Refusal.NO_REQUEST for end in ends)


async def test_cancelled_callers_leave_replies_whole(database, tmp_path):
    """R6: cancelled at any moment, a reply is either taken or still outstanding."""
    async with world(database, tmp_path, 1) as (_, (one,), device):
        sid = device.device.session.sid
        store = engine_of(one).foundation.store
        for wait in range(6):
            request = await one.seal_request(sid, b"?")
            device.device.open_request(request.record).plaintext.wipe()
            reply = device.device.seal_reply(request.request_id, b"!")
            task = asyncio.create_task(one.open_record(reply))
            await asyncio.sleep(0.001 * wait)
            task.cancel()
            (end,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(end, BaseException):
                end.plaintext.wipe()
            while engine_of(one).records.opens._flights:
                await asyncio.sleep(0.01)
            found = await store.find_reply_keys(one.tenant, [(sid, request.request_id)])
            if found:
                assert b"!" == (await opened_text(one, reply))[1]
            else:
                assert Refusal.NO_REQUEST == await refused(one, reply)


async def test_a_clean_up_deletes_all_keys_of_replies_that_never_came(database_dsn, tmp_path, admin):
    """However many reply keys are over, one clean-up deletes them all, in bounded statements; the others stay."""
    async with managers(database_dsn, tmp_path) as (manager,):
        bucket = await manager.current_bucket()
        await admin.execute(
            "INSERT INTO qflare.reply_key (tenant_id, sid, request_id, direction, request_bucket, request_epoch,"
            " expires_bucket, bucket, sealed_reply_key)"
            " SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 2, $1 - 9, 0,"
            " $1 - 2 + n % 3, $1 - n % 2 * 9, decode(repeat('00', 93), 'hex') FROM generate_series(1, $2::bigint) AS n",
            bucket,
            8 * DROPPED_MAX,
        )
        kept = await admin.fetchval(
            "SELECT count(*) FROM qflare.reply_key WHERE expires_bucket >= $1 AND bucket >= $1 - 1", bucket
        )
        assert kept > 0
        await engine_of(manager).replies.clean(bucket)
        assert kept == await admin.fetchval("SELECT count(*) FROM qflare.reply_key")


async def test_requests_of_one_id_outlive_a_turn_together(database_dsn, tmp_path):
    """Devices that choose one id for their requests keep no reply from being sealed again, however small a page is."""
    async with world(database_dsn, tmp_path, 1, turn_page=1) as (clock, (one,), device):
        devices = [device, *[await CarriedDevice.provision(one, clock, name=f"same-{n}") for n in range(3)]]
        request_id, sids = StreamId(bytes(range(16))), []
        for each in devices:
            await each.connect(one)
            terms, chain = each.device.session, each.state.chain
            header = RecordHeader(
                kind=KIND_REQUEST,
                sid=terms.sid,
                bucket=terms.bucket,
                epoch=0,
                direction=DIRECTION_TO_SERVER,
                stream_id=request_id,
            )
            with chain.message_key(terms.bucket, direction=DIRECTION_TO_SERVER, purpose=header.purpose) as key:
                record = seal_record(key, header, b"x")
            with await one.open_record(record) as opened:
                sids.append(opened.session.sid)
        for _ in range(2):
            clock.turn(WIDTH_S)
            await one.turn()
        for sid in sids:
            assert await one.seal_reply(sid, request_id, b"late")
        for each in devices[1:]:
            each.device.close()
