import asyncio

import pytest

from manager_world import Edge, engine_of, managers, settle
from qflare.errors import (
    KeyNotFoundError,
    KeyRevokedError,
    LengthError,
    RefusedError,
    StoreUnavailableError,
    UsageError,
)
from qflare.model.device import KeyState
from qflare.model.event import SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.refusal import Refusal
from qflare.model.session import SessionState
from qflare.primitives.random import random_secret
from qflare.protocol.hello_device import start_hello
from qflare.protocol.wire import ANSWER_BYTES, M3_BYTES


async def refusal_of(call):
    with pytest.raises(RefusedError) as caught:
        await call
    return caught.value.reason


@pytest.mark.parametrize("form", ["hello", "offer"])
async def test_both_sides_agree(database, tmp_path, form):
    """After either form device and server derive the same keys, and the device holds a receipt that verifies."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        session = await edge.connect(manager, form=form)
        for purpose, direction in (("encryption", 1), ("signing", 1), ("encryption", 2)):
            with (
                await manager.derive_session_key(session.sid, purpose, direction=direction) as server_key,
                edge.chain(session.sid).derive_session_key(
                    purpose, bucket=await manager.current_bucket(), direction=direction
                ) as device_key,
            ):
                assert server_key.equals(device_key)
        assert SessionState.LIVE is (await manager.find_session(session.sid)).state
        assert session.log_mark.size > (await manager.find_session(session.sid)).log_index


@pytest.mark.parametrize("form", ["hello", "offer"])
async def test_psk_is_part_of_the_keys(database, tmp_path, form):
    """With the psk on both sides a session stands; a device without it is refused."""
    async with managers(database, tmp_path) as (manager,):
        with random_secret(64) as psk:
            edge = await Edge.provision(manager, psk=psk)
        await edge.connect(manager, form=form)
        stranger = Edge(edge.pair)
        if form == "hello":
            announcement = await stranger.announcement(manager)
            started = start_hello(stranger.device, announcement)
            m2 = await manager.answer_hello(started.message)
            from qflare.errors import AuthenticationError
            from qflare.protocol.hello_device import accept_hello

            with pytest.raises(AuthenticationError):
                accept_hello(started, m2, stranger.device)
        else:
            pending = await stranger.answer(manager)
            assert Refusal.TAG == await refusal_of(manager.confirm(pending.message))


async def test_concurrent_hellos_become_few_batches(database, tmp_path):
    """64 concurrent hellos and confirmations fly in few batches; a bad one among them fails alone."""
    async with managers(database, tmp_path) as (manager,):
        edges = [Edge(pair) for pair in await manager.generate_device_keypairs_many([f"d{i}" for i in range(64)])]
        announcement = await edges[0].announcement(manager)
        started = [start_hello(edge.device, announcement) for edge in edges]
        messages = [each.message for each in started]
        messages[17] = messages[17][:-1] + bytes((messages[17][-1] ^ 1,))
        queue, finish_queue = engine_of(manager).hellos.queue, engine_of(manager).handshakes.finishes
        before = queue.batches
        answers = await asyncio.gather(*(manager.answer_hello(message) for message in messages), return_exceptions=True)
        assert queue.batches - before <= 3
        assert [17] == [place for place, answer in enumerate(answers) if isinstance(answer, Exception)]
        assert Refusal.TAG == answers[17].reason
        from qflare.protocol.hello_device import accept_hello

        pendings = [
            accept_hello(started[place], answer, edges[place].device)
            for place, answer in enumerate(answers)
            if not isinstance(answer, Exception)
        ]
        finishes = [pending.message for pending in pendings]
        finishes[5] = bytes(M3_BYTES)
        before = finish_queue.batches
        ended = await asyncio.gather(*(manager.confirm(message) for message in finishes), return_exceptions=True)
        assert finish_queue.batches - before <= 3
        assert [5] == [place for place, end in enumerate(ended) if isinstance(end, Exception)]
        assert 62 == (await manager.get_key_statistics()).sessions_live
        figures = await manager.queue_statistics()
        assert (64, 0) == (figures["hello"].items, figures["hello"].in_flight)
        assert (63, 0) == (figures["confirm"].items, figures["confirm"].waiting)
        for edge in edges:
            edge.identity = await edges[0].trust(manager)
        others = [edge for place, edge in enumerate(edges) if place != 17]
        for edge, pending, end in zip(others, pendings, ended, strict=True):
            if not isinstance(end, Exception):
                edge.accept(pending, end.confirmation)


async def test_cancelling_one_confirmation_harms_no_other(database, tmp_path):
    """One of many callers is cancelled; the sessions of the others stand, and its own can be had again."""
    async with managers(database, tmp_path) as (manager,):
        edges = [await Edge.provision(manager) for _ in range(6)]
        pendings = [await edge.hello(manager) for edge in edges]
        calls = [asyncio.create_task(manager.confirm(pending.message)) for pending in pendings]
        await asyncio.sleep(0.001)
        calls[2].cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [2] == [place for place, end in enumerate(ended) if isinstance(end, BaseException)]
        for edge, pending, end in zip(edges, pendings, ended, strict=True):
            done = end if not isinstance(end, BaseException) else await manager.confirm(pending.message)
            edge.accept(pending, done.confirmation)
        assert 6 == (await manager.get_key_statistics()).sessions_live


@pytest.mark.parametrize("form", ["hello", "offer"])
async def test_race_on_one_message_makes_one_session(database, tmp_path, form):
    """64 copies of one M3 or ANSWER over two managers make exactly one session, and every copy gets an M4 that holds."""
    async with managers(database, tmp_path, 2) as pair:
        edge = await Edge.provision(pair[0])
        pending = await (edge.hello(pair[0]) if form == "hello" else edge.answer(pair[0]))
        ended = await asyncio.gather(*(pair[number % 2].confirm(pending.message) for number in range(64)))
        assert 1 == len({end.session_id for end in ended})
        assert 1 == len({end.log_index for end in ended})
        assert 1 == sum(not end.is_repeated for end in ended)
        for end in ended:
            edge.accept(pending, end.confirmation)
        statistics = await pair[1].get_key_statistics()
        assert (1, 1) == (statistics.sessions_live, statistics.sessions_total)


@pytest.mark.parametrize("form", ["hello", "offer"])
async def test_repeated_message_gets_its_confirmation_again(database, tmp_path, form):
    """A lost M4 is had again from another worker and after a restart: same session, no second one."""
    async with managers(database, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        pending = await (edge.hello(one) if form == "hello" else edge.answer(one))
        first = await one.confirm(pending.message)
        again = await two.confirm(pending.message)
    async with managers(database, tmp_path) as (three,):
        last = await three.confirm(pending.message)
        assert first.session_id == again.session_id == last.session_id
        assert (False, True, True) == (first.is_repeated, again.is_repeated, last.is_repeated)
        for end in (first, again, last):
            edge.accept(pending, end.confirmation)
        assert 1 == (await three.get_key_statistics()).sessions_total


async def test_confirmation_of_an_ended_session_is_refused(database, tmp_path):
    """Once its session has ended, the same M3 is a replay: refused, counted, and in the log."""
    async with managers(database, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        pending = await edge.hello(one)
        done = await one.confirm(pending.message)
        assert await one.end_session(done.session_id, reason="test")
        assert not await one.end_session(done.session_id, reason="test")
        assert Refusal.CONFLICT == await refusal_of(two.confirm(pending.message))
        assert 1 == two.refusals["confirm", Refusal.CONFLICT]
        await settle(two)
        kinds = [entry.event_type for entry in await two.monitor.list_events()]
        assert SecurityEventType.REPLAY_DETECTED in kinds
        assert SecurityEventType.SESSION_ENDED in kinds


async def test_byte_equal_hello_is_answered_three_times(database, tmp_path):
    """The same M1 is answered three times in all by a worker, then refused as seen (H3)."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        started = start_hello(edge.device, await edge.announcement(manager))
        for _ in range(3):
            await manager.answer_hello(started.message)
        assert Refusal.SEEN == await refusal_of(manager.answer_hello(started.message))


async def test_two_answers_to_one_hello_make_one_session_each(database, tmp_path):
    """M1 replayed to another worker gives another ticket, useless to whoever has no keys; the device's own M3 stands."""
    async with managers(database, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        started = start_hello(edge.device, await edge.announcement(one))
        from qflare.protocol.hello_device import accept_hello

        pending = accept_hello(started, await one.answer_hello(started.message), edge.device)
        replayed = await two.answer_hello(started.message)
        forged = b"\x03\x01" + replayed[-263:] + pending.message[-32:]
        assert Refusal.TAG == await refusal_of(two.confirm(forged))
        edge.accept(pending, (await two.confirm(pending.message)).confirmation)
        assert 1 == (await one.get_key_statistics()).sessions_total


async def test_revocation_before_the_last_message_wins(database, tmp_path):
    """A device revoked between M2 and M3 gets no session, whichever worker finishes it."""
    async with managers(database, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        hello, answer = await edge.hello(one), await edge.answer(one)
        await two.revoke_device(edge.name, reason="stolen")
        for pending in (hello, answer):
            assert Refusal.DEVICE_STATE == await refusal_of(one.confirm(pending.message))
        assert 0 == (await one.get_key_statistics()).sessions_total


async def test_revocation_racing_the_last_message_orders_before_or_after(database, tmp_path):
    """Raced many times: either no session stands, or one that the revocation ended. Never a live one."""
    async with managers(database, tmp_path, 2) as (one, two):
        edges = [await Edge.provision(one) for _ in range(12)]
        pendings = [await edge.hello(one) for edge in edges]
        calls = []
        for number, (edge, pending) in enumerate(zip(edges, pendings, strict=True)):
            race = [one.confirm(pending.message), two.revoke_device(edge.name, reason="race")]
            calls += race if number % 2 else race[::-1]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        failures = [end for end in ended if isinstance(end, Exception)]
        assert all(isinstance(end, RefusedError) for end in failures), failures
        statistics = await one.get_key_statistics()
        assert 0 == statistics.sessions_live
        assert 12 == statistics.devices_revoked


async def test_suspended_device_comes_back(database, tmp_path):
    """A suspended device is refused at the hello; resumed, it begins sessions again on every worker."""
    async with managers(database, tmp_path, 2) as (one, two):
        edge = await Edge.provision(one)
        await edge.connect(one)
        await one.suspend_device(edge.name, reason="being looked at")
        announcement = await edge.announcement(one)
        assert Refusal.DEVICE_STATE == await refusal_of(
            one.answer_hello(start_hello(edge.device, announcement).message)
        )
        with pytest.raises(KeyRevokedError):
            await one.initiate_temporal_key_exchange(edge.name, edge.pair.public_key)
        await two.resume_device(edge.name)
        await edge.connect(one, other=two)


async def test_exchange_with_an_unknown_key_names_the_remedies(database, tmp_path):
    """A key that is not the device's registered one is refused, and the error says what to do (O1)."""
    async with managers(database, tmp_path) as (manager,):
        edge, other = await Edge.provision(manager), await Edge.provision(manager)
        with pytest.raises(KeyNotFoundError, match=r"(?s)enrol.*hello"):
            await manager.initiate_temporal_key_exchange(edge.name, other.pair.public_key)
        with pytest.raises(KeyNotFoundError, match=r"(?s)enrol.*hello"):
            await manager.initiate_temporal_key_exchange("nobody", other.pair.public_key)
        with pytest.raises(LengthError):
            await manager.initiate_temporal_key_exchange(edge.name, b"short")


async def test_offer_for_an_unknown_ref_looks_like_any_other(database, tmp_path):
    """Who asks for an offer by ref learns nothing of who exists; the dummy opens for nobody."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        real = await manager.offer_for(edge.device.ref)
        dummy = await manager.offer_for(bytes(32))
        assert len(real) == len(dummy)
        edge.accept(pending := await edge.answer(manager, real), (await manager.confirm(pending.message)).confirmation)
        pending = await edge.answer(manager, dummy)
        assert Refusal.TAG == await refusal_of(manager.confirm(pending.message))


async def test_completion_of_another_session_is_refused_before_it_stands(database, tmp_path):
    """`complete_key_exchange` with one session's id and another's answer writes nothing."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        first = await manager.initiate_temporal_key_exchange(edge.name, edge.pair.public_key)
        second = await manager.initiate_temporal_key_exchange(edge.name, edge.pair.public_key)
        pending = await edge.answer(manager, second.offer)
        assert Refusal.UNKNOWN_SESSION == await refusal_of(
            manager.complete_key_exchange(first.session_id, pending.message)
        )
        assert 0 == (await manager.get_key_statistics()).sessions_total
        done = await manager.complete_key_exchange(second.session_id, pending.message)
        assert second.session_id == done.session_id == edge.accept(pending, done.confirmation).sid


async def test_bad_messages_are_refused_each_for_its_reason(database, tmp_path):
    """Junk of any kind is refused, counted by its reason, and leaves nothing."""
    async with managers(database, tmp_path) as (manager,):
        for call, reason in (
            (manager.confirm(b""), Refusal.LENGTH),
            (manager.confirm(bytes(M3_BYTES)), Refusal.TYPE),
            (manager.confirm(b"\x03\x01" + bytes(M3_BYTES - 3)), Refusal.LENGTH),
            (manager.confirm(b"\x03\x01" + bytes(M3_BYTES - 2)), Refusal.TICKET),
            (manager.confirm(b"\x07\x02" + bytes(ANSWER_BYTES - 2)), Refusal.VERSION),
            (manager.confirm(b"\x03\x01" + bytes(M3_BYTES - 2) + b"tail"), Refusal.LENGTH),
            (manager.answer_hello(b"\x01"), Refusal.LENGTH),
            (manager.answer_enrolment(b"\x09"), Refusal.LENGTH),
        ):
            assert reason == await refusal_of(call)
        assert 8 == manager.refusals.total()
        for call in (manager.confirm("text"), manager.answer_hello(None), manager.open_record(7)):
            with pytest.raises(UsageError):
                await call


async def test_fifth_session_supersedes_an_older_one(database, tmp_path):
    """A device has at most four live sessions; one that never carried a record ends first (H8)."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        sids = [(await edge.connect(manager)).sid for _ in range(4)]
        with await manager.open_record(edge.seal(sids[0], b"carried")):
            pass
        sids.append((await edge.connect(manager)).sid)
        states = [(await manager.find_session(sid)).state for sid in sids]
        assert SessionState.LIVE is states[0]
        assert SessionState.SUPERSEDED is states[1]
        assert [SessionState.LIVE] * 3 == states[2:]


async def test_no_answer_without_the_audit_entry(database_dsn, tmp_path, admin):
    """With the log unable to take entries no handshake, enrolment or event succeeds; when it can again, all do (D2)."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        pending = await edge.hello(manager)
        before = await manager.get_key_statistics()
        await admin.execute("ALTER TABLE qflare.audit_entry ADD CONSTRAINT audit_entry_full CHECK (false) NOT VALID")
        from qflare.errors import StoreError
        from qflare.model.event import EventSeverity

        with pytest.raises(StoreError):
            await manager.confirm(pending.message)
        with pytest.raises(StoreError):
            await manager.issue_enrolment_token("somebody")
        with pytest.raises(StoreError):
            await manager.generate_device_keypair("somebody")
        with pytest.raises(StoreError):
            await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": 1})
        with pytest.raises(StoreError):
            await manager.revoke_device(edge.name, reason="cannot be logged")
        assert before == await manager.get_key_statistics()
        # The figures say which error it was, at the handshake and in the log's own work.
        figures = (await manager.figures()).values
        failed = {labels for labels in figures["qflare_handshakes_total"] if labels[1] == "failed"}
        assert failed == {("hello", "failed", "ConflictError/23514")}
        assert figures["qflare_audit_failures_total"]["append", "ConflictError/23514"] == (1,)
        await admin.execute("ALTER TABLE qflare.audit_entry DROP CONSTRAINT audit_entry_full")
        edge.accept(pending, (await manager.confirm(pending.message)).confirmation)


async def test_no_answer_without_the_signature(database, tmp_path, monkeypatch):
    """When the log's signer fails, M4 is not sent; the session that stands is confirmed when the device asks again."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        pending = await edge.hello(manager)
        log = engine_of(manager).foundation.log

        def failing(*_):
            message = "the signer is gone"
            raise StoreUnavailableError(message)

        with monkeypatch.context() as patch:
            patch.setattr(log, "_sign", failing)
            with pytest.raises(StoreUnavailableError):
                await manager.confirm(pending.message)
        assert log.failures.counts["sign", "StoreUnavailableError"] == 1
        done = await manager.confirm(pending.message)
        assert done.is_repeated
        edge.accept(pending, done.confirmation)


async def test_a_kem_key_is_said_to_be_shown_until_the_roster_says_so(database, tmp_path):
    """E3: answers make a pre-active KEM key active; those after it do not ask the database to, nor do hellos."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        engine = engine_of(manager)
        store, claimed = engine.foundation.store, []
        confirm_sessions = store.confirm_sessions

        async def confirm(tenant_id, claims, **named):
            claimed.extend(claim.proves_kem for claim in claims)
            return await confirm_sessions(tenant_id, claims, **named)

        engine.handshakes._claims._store = _With(store, confirm_sessions=confirm)
        assert KeyState.PRE_ACTIVE is (await manager.find_device(edge.name)).kem_state
        await edge.connect(manager, form="hello")
        assert KeyState.PRE_ACTIVE is (await manager.find_device(edge.name)).kem_state
        await edge.connect(manager, form="offer")
        assert KeyState.ACTIVE is (await manager.find_device(edge.name)).kem_state
        await edge.connect(manager, form="offer")  # the offer reads the row anew
        await edge.connect(manager, form="offer")
        assert [False, True, False, False] == claimed
        engine.credentials.forget_all()
        assert not engine.credentials.has_proven_kem(DEFAULT_TENANT, edge.pair.ref, 1)


class _With:
    """The real store with one call replaced."""

    def __init__(self, store, **calls):
        self._store, self._calls = store, calls

    def __getattr__(self, name):
        return self._calls.get(name) or getattr(self._store, name)
