"""Attacks on the end of a handshake: what one message of a batch can do to another, and what may be glued to one."""

import asyncio

import pytest

from manager_world import Edge, engine_of, managers
from qflare.errors import RefusedError
from qflare.model.refusal import Refusal
from qflare.protocol import labels, wire
from qflare.protocol.chain import SessionChain
from qflare.protocol.record import new_header, seal_record
from qflare.protocol.schedule import expand_th3


async def test_two_answers_to_one_offer_in_one_batch_make_one_session(database_dsn, tmp_path):
    """Of two ANSWERs with one ticket and different keys that share a batch one is refused, not given the other's M4 (H8)."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        offer = (await manager.initiate_temporal_key_exchange(edge.name, edge.pair.public_key)).offer
        first, second = await edge.answer(manager, offer), await edge.answer(manager, offer)
        assert first.message != second.message
        ended = await asyncio.gather(
            manager.confirm(first.message), manager.confirm(second.message), return_exceptions=True
        )
        assert engine_of(manager).handshakes.finishes.batches == 1
        stand = [
            (pending, end)
            for pending, end in zip((first, second), ended, strict=True)
            if not isinstance(end, Exception)
        ]
        assert 1 == len(stand)
        assert [Refusal.CONFLICT] == [end.reason for end in ended if isinstance(end, RefusedError)]
        edge.accept(stand[0][0], stand[0][1].confirmation)


def glue(pending, plaintext, *, sid=None, bucket=None):
    """A record under the session that *pending* leads to."""
    chain_key = expand_th3(1, pending.ck2, labels.EXPAND_CHAIN, pending.th3, wire.SECRET_BYTES)
    chain = SessionChain.begin(chain_key, sid=pending.sid, start=pending.start, lifetime=pending.lifetime)
    header = new_header(sid=sid or pending.sid, bucket=bucket or pending.start, direction=1)
    with chain.message_key(header.bucket, direction=1, purpose=header.purpose) as key:
        return seal_record(key, header, plaintext)


@pytest.mark.parametrize("form", ["hello", "offer"])
async def test_glued_record_of_another_session_is_not_taken(database_dsn, tmp_path, form):
    """Somebody else's record glued to one's own M3 or ANSWER is refused, and still opens where it belongs (H10)."""
    async with managers(database_dsn, tmp_path) as (manager,):
        victim, thief = await Edge.provision(manager), await Edge.provision(manager)
        sid = (await victim.connect(manager)).sid
        record = victim.seal(sid, b"the victim's update")
        pending = await (thief.hello(manager) if form == "hello" else thief.answer(manager))
        done = await manager.confirm(pending.message + record)
        assert done.record is None
        assert Refusal.UNKNOWN_SESSION is done.record_refusal
        thief.accept(pending, done.confirmation)
        with await manager.open_record(record) as opened:
            assert opened.session.ref == victim.device.ref


async def test_many_confirmations_come_back_in_order(database_dsn, tmp_path):
    """Good, bad, repeated and glued messages of both forms in one batch: each caller gets the answer to its own."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edges = [await Edge.provision(manager) for _ in range(8)]
        pending = [
            await (edge.hello(manager) if number % 2 else edge.answer(manager)) for number, edge in enumerate(edges)
        ]
        messages = []
        for number, each in enumerate(pending):
            message = each.message
            if number in {2, 5}:
                message = message[:-1] + bytes((message[-1] ^ 1,))
            elif number == 4:
                message += glue(each, b"early")
            messages.append(message)
        messages += [messages[0], b"", messages[1] + b"x"]
        ended = await asyncio.gather(*(manager.confirm(message) for message in messages), return_exceptions=True)
        assert {2, 5, 9, 10} == {place for place, end in enumerate(ended) if isinstance(end, Exception)}
        for number in (0, 1, 3, 4, 6, 7):
            edges[number].accept(pending[number], ended[number].confirmation)
            assert ended[number].ref == edges[number].device.ref
        assert (ended[0].session_id, True) == (ended[8].session_id, ended[8].is_repeated or ended[0].is_repeated)
        with ended[4].record as opened:
            assert opened.plaintext.equals(b"early")
            assert opened.session.ref == edges[4].device.ref


async def test_damaged_psk_fails_its_own_device_alone(database_dsn, tmp_path, admin):
    """A device whose sealed psk does not open is refused; the handshakes that share its batch go through, in both forms."""
    async with managers(database_dsn, tmp_path, device_cached_s=0) as (manager,):
        bad, good, psk = await Edge.provision(manager), await Edge.provision(manager), bytes(range(64))
        third = await Edge.provision(manager, psk=psk_of(psk))
        await manager.set_device_psk(bad.name, psk)
        answers = [await edge.answer(manager) for edge in (bad, good, third)]
        hello = await good.hello(manager)
        # The database's own trigger refuses it: this is what lies past the trigger.
        await admin.execute("SET session_replication_role = replica")
        await admin.execute(
            "UPDATE qflare.device SET sealed_psk = set_byte(sealed_psk, 20, get_byte(sealed_psk, 20) # 1) WHERE device_id = $1",
            bad.name,
        )
        ended = await asyncio.gather(
            *(manager.confirm(pending.message) for pending in (*answers, hello)), return_exceptions=True
        )
        assert [True, False, False, False] == [isinstance(end, RefusedError) for end in ended]
        assert [False] * 3 == [isinstance(end, Exception) for end in ended[1:]]
        both = await asyncio.gather(bad.hello(manager), good.hello(manager), return_exceptions=True)
        assert isinstance(both[0], RefusedError)
        good.accept(both[1], (await manager.confirm(both[1].message)).confirmation)


def psk_of(data):
    from qflare.secret import SecretBytes

    return SecretBytes.copy_of(data)
