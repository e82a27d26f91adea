import asyncio

import pytest

from manager_world import Edge, engine_of, managers, settle
from qflare.errors import (
    AuthenticationError,
    KeyNotFoundError,
    RefusedError,
    SessionExpiredError,
    StaleBucketError,
    UsageError,
)
from qflare.model.event import SecurityEventType
from qflare.model.refusal import Refusal
from qflare.model.session import SessionState
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.record import KIND_CONTROL, read_header
from qflare.protocol.rotation import accept_rotated, make_rotation


async def refusal_of(call):
    with pytest.raises(RefusedError) as caught:
        await call
    return caught.value.reason


@pytest.mark.parametrize("size", [0, 1, 2**18, 2**18 + 1, 1_000_000])
async def test_records_travel_both_ways(database, tmp_path, size):
    """Messages of every size open on the other side, with their associated data and nothing else."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        plaintext = bytes(range(256)) * (size // 256) + bytes(size % 256)
        with await manager.open_record(memoryview(edge.seal(sid, plaintext, aad=b"round 7")), aad=b"round 7") as opened:
            assert opened.plaintext.equals(plaintext)
            assert edge.name == opened.session.device_id
        down = await manager.seal_record(sid, plaintext, aad=b"round 8")
        with edge.open(sid, down, read_header(down), aad=b"round 8") as received:
            assert received.equals(plaintext)
        assert Refusal.TAG == await refusal_of(manager.open_record(edge.seal(sid, b"x", aad=b"other"), aad=b"round 7"))


async def test_record_is_accepted_once(database, tmp_path):
    """A record opens once: not again on the same worker, on another one, in the same batch, or after a restart."""
    async with managers(database, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        sid = (await edge.connect(one)).sid
        record = edge.seal(sid, b"an update")
        ended = await asyncio.gather(
            *(manager.open_record(record) for _ in range(16) for manager in (one, two)), return_exceptions=True
        )
        assert 1 == sum(not isinstance(end, Exception) for end in ended)
        assert {Refusal.REPLAY} == {end.reason for end in ended if isinstance(end, Exception)}
        await settle(one)
        kinds = [entry.event_type for entry in await one.monitor.list_events()]
        assert SecurityEventType.REPLAY_DETECTED in kinds
    async with managers(database, tmp_path) as (three,):
        assert Refusal.REPLAY == await refusal_of(three.open_record(record))
        with await three.open_record(edge.seal(sid, b"another")):
            pass


async def test_altered_record_is_refused_and_does_not_burn_its_stream(database, tmp_path):
    """Tampering is refused and logged; the true record still opens afterwards."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        record = edge.seal(sid, b"an update")
        for place in (48, len(record) - 1):
            bad = bytearray(record)
            bad[place] ^= 1
            assert Refusal.TAG == await refusal_of(manager.open_record(bad))
        assert Refusal.TAG == await refusal_of(manager.open_record(record[:-1]))
        assert Refusal.LENGTH == await refusal_of(manager.open_record(record[:50]))
        await settle(manager)
        kinds = [entry.event_type for entry in await manager.monitor.list_events()]
        assert SecurityEventType.TAMPER_DETECTED in kinds
        with await manager.open_record(record) as opened:
            assert opened.plaintext.equals(b"an update")


async def test_headers_are_checked_before_anything_is_looked_up(database, tmp_path):
    """Direction, epoch, bucket, size and session are refused each for its reason."""
    async with managers(database, tmp_path, record_bytes_max=4096) as (manager,):
        edge = await Edge.provision(manager)
        session = await edge.connect(manager)
        record = edge.seal(session.sid, b"x")
        bucket = session.start

        def with_field(at, value):
            return record[:at] + value + record[at + len(value) :]

        for message, reason in (
            (with_field(31, b"\x02"), Refusal.UNEXPECTED),
            (with_field(2, b"\x04"), Refusal.UNEXPECTED),
            (with_field(2, b"\x02"), Refusal.LENGTH),  # a reply's header is longer
            (with_field(27, b"\x00\x00\x00\x01"), Refusal.EPOCH),
            (with_field(19, (bucket + 2).to_bytes(8, "big")), Refusal.BUCKET),
            (with_field(19, (bucket - 2).to_bytes(8, "big")), Refusal.BUCKET),
            (with_field(3, bytes(16)), Refusal.UNKNOWN_SESSION),
            (edge.seal(session.sid, bytes(5000)), Refusal.SIZE),
            (manager.__class__.__name__.encode(), Refusal.LENGTH),
        ):
            assert reason == await refusal_of(manager.open_record(message))


async def test_revocation_refuses_the_next_record_on_every_worker(database, tmp_path):
    """After a revocation the next record is refused at once, here and elsewhere, and nothing is sealed any more."""
    async with managers(database, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        sid = (await edge.connect(one)).sid
        for manager in (one, two):
            with await manager.open_record(edge.seal(sid, b"fine")):
                pass
        await one.revoke_device(edge.name, reason="stolen")
        for manager in (two, one):
            assert Refusal.DEVICE_STATE == await refusal_of(manager.open_record(edge.seal(sid, b"late")))
            with pytest.raises(SessionExpiredError):
                await manager.seal_record(sid, b"late")
            with pytest.raises(SessionExpiredError):
                await manager.derive_session_key(sid, "encryption")
        assert SessionState.REVOKED is (await two.find_session(sid)).state


async def test_glued_record_is_accepted_with_its_handshake(database, tmp_path):
    """A record glued to M3 opens with it; when M3 is repeated the record is a replay, and the M4 is due all the same."""
    async with managers(database, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        pending = await edge.hello(one)
        from qflare.protocol import labels, wire
        from qflare.protocol.chain import SessionChain
        from qflare.protocol.record import new_header, seal_record
        from qflare.protocol.schedule import expand_th3

        chain_key = expand_th3(1, pending.ck2, labels.EXPAND_CHAIN, pending.th3, wire.SECRET_BYTES)
        chain = SessionChain.begin(chain_key, sid=pending.sid, start=pending.start, lifetime=pending.lifetime)
        header = new_header(sid=pending.sid, bucket=pending.start, direction=1)
        with chain.message_key(header.bucket, direction=1, purpose=header.purpose) as key:
            record = seal_record(key, header, b"early")
        done = await one.confirm(pending.message + record)
        with done.record as opened:
            assert opened.plaintext.equals(b"early")
        again = await two.confirm(pending.message + record)
        assert again.is_repeated
        assert again.record is None
        assert Refusal.REPLAY is again.record_refusal
        edge.accept(pending, again.confirmation)


async def test_many_records_are_one_batch(database, tmp_path):
    """Concurrent records of many sessions are opened in few batches, one bad one failing alone."""
    async with managers(database, tmp_path) as (manager,):
        edges = [await Edge.provision(manager) for _ in range(8)]
        sids = [(await edge.connect(manager)).sid for edge in edges]
        records = [edge.seal(sid, b"update %d" % n) for edge, sid in zip(edges, sids, strict=True) for n in range(8)]
        records[9] = records[9][:-1] + bytes((records[9][-1] ^ 1,))
        queue = engine_of(manager).records.opens
        before = queue.batches
        ended = await asyncio.gather(*(manager.open_record(record) for record in records), return_exceptions=True)
        assert queue.batches - before <= 2
        assert [9] == [place for place, end in enumerate(ended) if isinstance(end, Exception)]
        sealed = await manager.seal_records_many([(sid, b"model") for sid in sids])
        for edge, sid, record in zip(edges, sids, sealed, strict=True):
            with edge.open(sid, record, read_header(record)) as plaintext:
                assert plaintext.equals(b"model")


async def test_verify_session_key_tells_right_from_wrong(database, tmp_path):
    """The right key returns the session, any other raises."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        with await manager.derive_session_key(sid, "encryption") as key:
            assert sid == (await manager.verify_session_key(sid, key, purpose="encryption")).sid
            with pytest.raises(AuthenticationError):
                await manager.verify_session_key(sid, key, purpose="signing")
        with pytest.raises(AuthenticationError):
            await manager.verify_session_key(sid, bytes(64), purpose="encryption")
        with pytest.raises(KeyNotFoundError):
            await manager.verify_session_key(bytes(16), bytes(64), purpose="encryption")


async def test_derive_refuses_what_it_cannot_give(database, tmp_path):
    """Purposes, directions and buckets are checked before any work."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        session = await edge.connect(manager)
        for purpose in ("qfx.record", "UPPER", "", "a" * 65):
            with pytest.raises(UsageError):
                await manager.derive_session_key(session.sid, purpose)
        with pytest.raises(UsageError):
            await manager.derive_session_key(session.sid, "encryption", direction=3)
        for bucket in (session.start - 2, session.start + 5):
            with pytest.raises(StaleBucketError):
                await manager.derive_session_key(session.sid, "encryption", bucket=bucket)


async def test_device_rotates_its_keys_in_a_session(database, tmp_path):
    """ROTATE in a control record makes the new keys current; repeated it is answered again, forged it is refused (E4)."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sid = (await edge.connect(manager)).sid
        with DeviceKeys.generate() as keys:
            body = make_rotation(edge.device, keys)
            for _ in range(2):
                with await manager.open_record(edge.seal(sid, body, kind=KIND_CONTROL)) as record:
                    answer = await manager.answer_control(record)
                with edge.open(sid, answer, read_header(answer)) as plaintext, plaintext.view() as view:
                    accept_rotated(bytes(view), key_version=2)
            public = await manager.get_device_public_key(edge.name)
            assert (2, keys.encapsulation_key) == (public.key_version, public.public_key)
            with DeviceKeys.generate() as others:
                forged = make_rotation(edge.device, others)
            with await manager.open_record(edge.seal(sid, forged, kind=KIND_CONTROL)) as record:
                assert Refusal.KEY_VERSION == await refusal_of(manager.answer_control(record))
            with await manager.open_record(edge.seal(sid, b"data")) as record:
                assert Refusal.UNEXPECTED == await refusal_of(manager.answer_control(record))
            edge.device = keys.identity(
                server_id=edge.device.server_id,
                tenant_id=edge.device.tenant_id,
                device_id=edge.name,
                key_version=2,
                psk=None,
            )
            await edge.connect(manager)


async def test_ended_session_is_refused_everywhere(database, tmp_path):
    """After `end_session` records are refused and nothing is sealed, here and on the other worker."""
    async with managers(database, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        sid = (await edge.connect(one)).sid
        with await two.open_record(edge.seal(sid, b"fine")):
            pass
        await one.end_session(sid, reason="round over")
        for manager in (two, one):
            assert Refusal.SESSION_ENDED == await refusal_of(manager.open_record(edge.seal(sid, b"late")))
            with pytest.raises(SessionExpiredError):
                await manager.seal_record(sid, b"late")
