"""The server's identity changes under way: rotation, offline root, workers and devices that follow (PROTOCOL A1)."""

import asyncio
from datetime import timedelta

import pytest

from manager_world import Edge, Link, TurnedClock, engine_of, make_device, managers
from qflare.device import AsyncDevice, Device, Step
from qflare.errors import (
    AuthenticationError,
    EvidenceError,
    IllegalTransitionError,
    KeyNotFoundError,
    KeyStateError,
    RefusedError,
    ServerIdentityError,
    UsageError,
)
from qflare.model.device import KeyState
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.server_key import ServerKeyKind
from qflare.monitor.held import HeldReceipt
from qflare.primitives.sig import SIG87
from qflare.protocol.announcement import verify_announcement
from qflare.protocol.evidence import verify_evidence
from qflare.protocol.identity import decode_identity, sign_certificate
from qflare.secret import SecretBytes

WIDTH_S = 300
ROOT_BYTES = SIG87.PK_BYTES


def clock_at(offset_s=10):
    return TurnedClock(5_900_000 * WIDTH_S + offset_s)


def states(report):
    """Return (serial, kind): state of every key."""
    return {(key.serial, key.kind.value): key.state.value for key in report.keys}


def certificate_of(served, server_id):
    return decode_identity(served, server_id=server_id).certificate


async def sign(manager, body):
    """Sign a request with the exported root, as the offline side does."""
    with await manager.export_root() as root, offline(root) as root_sk:
        return sign_certificate(root_sk, root.root_key, body).encoded


def offline(root):
    if len(root.stored) == SIG87.SEED_BYTES:
        return SIG87.generate_from_seed(root.stored).signing_key
    return SecretBytes.copy_of(root.stored)


async def test_rotation_replaces_both_keys_and_keeps_server_and_log(database, tmp_path):
    """A rotation gives serial + 1 with fresh announce and log keys under the same root, server_id and log origin."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        server_id = await manager.server_id()
        before = certificate_of(await manager.identity(), server_id)
        announced = {which: await manager.announcement(which) for which in ("current", "next")}
        issued = await manager.rotate_identity(reason="yearly")
        after = certificate_of(await manager.identity(), server_id)
        assert issued == after
        assert (before.serial + 1, before.log_origin, server_id) == (after.serial, after.log_origin, after.server_id)
        assert before.announce_key != after.announce_key
        assert before.log_key != after.log_key
        for which, old in announced.items():
            # A3: the same body and so the same transcripts, under another signature.
            new = await manager.announcement(which)
            assert verify_announcement(new, after).body_hash == verify_announcement(old, before).body_hash
            with pytest.raises(AuthenticationError):
                verify_announcement(new, before)
        events = await manager.monitor.list_events()
        (told,) = [event for event in events if b"server certificate in force" in event.data]
        assert (SecurityEventType.KEY_ROTATION, EventSeverity.INFO) == (told.event_type, told.severity)
        assert b"yearly" in told.data
        await manager.monitor.verify_log()


async def test_keys_carry_state_reason_and_time(database, tmp_path):
    """Keys are active in the overlap, deactivated after it without their signing halves; each says why and since when."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        assert {(1, "root"): "active", (1, "announce"): "active", (1, "log"): "active"} == states(
            await manager.get_identity_report()
        )
        await manager.rotate_identity(reason="yearly")
        report = await manager.get_identity_report()
        assert "active" == states(report)[1, "announce"] == states(report)[2, "announce"]
        assert all(key.has_signing_key for key in report.keys)
        for number in range(3):
            # The overlap: this bucket and the two after it.
            assert "active" == states(await manager.get_identity_report())[1, "log"], number
            clock.turn(WIDTH_S)
            await manager.turn()
        report = await manager.get_identity_report()
        for key in report.keys:
            ended = key.serial == 1 and key.kind is not ServerKeyKind.ROOT
            assert (KeyState.DEACTIVATED if ended else KeyState.ACTIVE) == key.state
            assert ended == (not key.has_signing_key)
            assert ended == (key.changed_at > key.created_at + timedelta(milliseconds=1))
            assert key.reason == ("superseded by serial 2" if ended else f"certificate of serial {key.serial}")
        assert any(b"server keys deactivated" in event.data for event in await manager.monitor.list_events())


async def test_illegal_move_of_a_server_key_is_refused_by_the_database(database_dsn, tmp_path, admin):
    """What was active never waits again, what is destroyed stays so, and no key is active without its certificate."""
    async with managers(database_dsn, tmp_path) as (manager,):
        store = engine_of(manager).foundation.store
        await manager.rotate_identity(reason="x")
        await store.deactivate_server_keys(before=2, reason="done", event=_event(manager))
        import asyncpg

        for state in ("pre-active", "active", "suspended"):
            with pytest.raises(asyncpg.CheckViolationError, match=r"server.key cannot go"):
                await admin.execute("UPDATE qflare.server_key SET state = $1 WHERE state = 'deactivated'", state)


def _event(manager):
    from qflare.protocol.new_event import new_event

    return new_event(
        SecurityEventType.SYSTEM, EventSeverity.INFO, {"what": "test"}, tenant_id=manager.tenant, occurred_at_ms=1
    )


async def test_every_worker_follows_without_restart(database, tmp_path):
    """Workers take over a certificate at their next look: same CERT, same announcement bytes, receipts under its key."""
    clock = clock_at()
    async with managers(database, tmp_path, 4, clock=clock) as (one, *others):
        await one.rotate_identity(reason="yearly")
        served = await one.identity()
        for worker in others:
            await worker.turn()
            assert served == await worker.identity()
            for which in ("current", "next"):
                assert await one.announcement(which) == await worker.announcement(which)
            edge = await Edge.provision(worker)
            await edge.connect(worker)
        clock.turn(WIDTH_S)
        for worker in (one, *others):
            await worker.turn()
        for which in ("current", "next"):
            assert 1 == len({await worker.announcement(which) for worker in (one, *others)})


async def test_workers_follow_by_themselves(database_dsn, tmp_path):
    """Nobody has to ask: a worker, and a monitor without a manager, look for a new certificate by themselves."""
    from manager_world import settings
    from qflare import SecurityMonitor

    async with managers(database_dsn, tmp_path, 2, tick_max_s=0.2) as (one, two):
        config = settings(tmp_path, tick_max_s=0.2)
        async with SecurityMonitor(database_dsn, data_dir=tmp_path / "data", config=config) as monitor:
            await one.rotate_identity(reason="yearly")
            served = await one.identity()
            async with asyncio.timeout(60):
                while not served == await two.identity() == await monitor.identity():
                    await asyncio.sleep(0.05)
            logged = await monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": 1})
            await monitor.verify_event_integrity(logged)


async def test_a_bucket_made_by_a_slow_worker_is_announced_again(database, tmp_path):
    """A bucket that a worker announced before it heard of the rotation is signed again, once, for everybody."""
    clock = clock_at()
    async with managers(database, tmp_path, 2, clock=clock) as (one, two):
        store = engine_of(two).foundation.store
        # Two hears of nothing for a while: it makes the next bucket under the key before.
        hear, store.identity_serial = store.identity_serial, _deaf
        await one.rotate_identity(reason="yearly")
        clock.turn(WIDTH_S)
        await two.turn()
        store.identity_serial = hear
        await one.turn()
        await two.turn()
        assert await one.identity() == await two.identity()
        certificate = certificate_of(await one.identity(), await one.server_id())
        for which in ("current", "next"):
            announcement = await one.announcement(which)
            assert announcement == await two.announcement(which)
            verify_announcement(announcement, certificate)


async def _deaf():
    return 0


async def test_racing_rotations_make_one_serial_at_a_time(database, tmp_path):
    """Of rotations at the same moment one comes into force and the others say so; nothing is left half done."""
    async with managers(database, tmp_path, 4) as workers:
        results = await asyncio.gather(
            *(worker.rotate_identity(reason="race") for worker in workers), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(each, IllegalTransitionError) for each in refused), refused
        serial = 1 + len(workers) - len(refused)
        report = await workers[0].get_identity_report()
        assert serial == report.certificate.serial
        assert 1 + 2 * serial == len(report.keys)
        await workers[0].monitor.verify_log()


async def test_handshakes_under_way_finish_across_a_rotation(database, tmp_path):
    """Hello and offer that began before a rotation finish after it; the device follows when the receipt needs it."""
    clock = clock_at()
    async with managers(database, tmp_path, 2, clock=clock) as (one, two):
        for form in ("hello", "offer"):
            device = await make_device(one)
            link = device._transport
            is_done = []

            async def rotate(step, answer, link=link, is_done=is_done):
                if step in {Step.HELLO, Step.OFFER} and not is_done:
                    is_done.append(True)
                    await one.rotate_identity(reason=f"in a {step}")
                    await two.turn()
                    link.manager = two
                return answer

            link.alter = lambda step, answer, rotate=rotate: rotate(step, answer)
            async with device:
                terms = await device.connect(form, attempts=1)
                assert form == terms.form
                assert is_done
                assert Step.IDENTITY == link.steps[link.steps.index(Step.CONFIRM) + 1]


async def test_receipt_under_the_key_before_is_taken_in_the_overlap(database, tmp_path):
    """An M4 that an old worker signed reaches a device that has followed already: good in the overlap, and not later."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        for late in (False, True):
            pair = await manager.generate_device_keypair(f"late-{late}")
            with Device.from_identity(pair.identity(), served=await manager.identity()) as device:
                device.take_announcement(await manager.announcement())
                m3 = device.answer_hello(await manager.answer_hello(device.begin_hello()))
                m4 = (await manager.confirm(m3)).confirmation
                await manager.rotate_identity(reason="between", is_compromised=late)
                assert device.take_identity(await manager.identity())
                if late:
                    # A compromised key is good for nothing: a serial was left out.
                    with pytest.raises(AuthenticationError):
                        device.finish(m4)
                    again = (await manager.confirm(m3)).confirmation
                    assert device.finish(again)
                else:
                    assert device.finish(m4)


async def test_a_device_follows_by_itself_and_across_a_restart(database, tmp_path):
    """A device that held the CERT before fetches the new one when a signature does not verify, and keeps both."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        state = tmp_path / "edge.state"
        device = await make_device(manager, state=state)
        link = device._transport
        async with device:
            await device.connect()
            old = await manager.announcement()
            await manager.rotate_identity(reason="yearly")
            link.steps.clear()
            await device.refresh()
            assert [Step.ANNOUNCEMENT, Step.IDENTITY] == link.steps[:2]
            await device.connect("offer")
        with Device.open(state) as again:
            # A cache still shows what the key before had signed; it is the same body, and in the overlap.
            assert again.take_announcement(old)
            assert not again.take_identity(await manager.identity())
        clock.turn(3 * WIDTH_S)
        await manager.turn()
        async with AsyncDevice(Device.open(state), Link(manager)) as later:
            await later.connect()


async def test_a_new_device_enrols_after_a_rotation(database, tmp_path):
    """A token of before the rotation is good after it: the root is pinned, not the keys under it."""
    async with managers(database, tmp_path) as (manager,):
        token = await manager.issue_enrolment_token("edge")
        await manager.rotate_identity(reason="yearly")
        device = await AsyncDevice.enrol(Link(manager), token, device_id="edge", state=tmp_path / "edge.state")
        async with device:
            await device.connect()


async def test_a_device_says_why_it_does_not_follow(database, tmp_path):
    """Lower serial, other bytes under one serial, another server: each refused with its own reason and the remedy."""
    clock = clock_at()
    (tmp_path / "other").mkdir()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        first = await manager.identity()
        device = await make_device(manager)
        async with device:
            await manager.rotate_identity(reason="yearly")
            second = await manager.identity()
            await device.refresh()
            engine = device._device.engine
            held = engine.state.server
            with pytest.raises(RefusedError, match="serial 1, serial 2 was seen before: an old copy"):
                engine.take_identity(first)
            with await manager.export_root() as root, offline(root) as root_sk:
                # ML-DSA is hedged: the same body signed again has other bytes.
                twice = (
                    root.root_key
                    + sign_certificate(root_sk, root.root_key, second[ROOT_BYTES : -SIG87.SIG_BYTES]).encoded
                )
            with pytest.raises(RefusedError, match="two certificates of serial 2"):
                engine.take_identity(twice)
            flipped = bytearray(second)
            flipped[-1] ^= 1
            with pytest.raises(AuthenticationError):
                engine.take_identity(bytes(flipped))
            other_root = SIG87.generate()
            with pytest.raises(ServerIdentityError, match=r"the pinned one is .* devices enrol again"):
                engine.take_identity(other_root.verification_key + second[ROOT_BYTES:])
            other_root.signing_key.wipe()
            assert held is engine.state.server


async def test_a_bucket_outside_the_certificate_is_refused_with_the_remedy(database, tmp_path):
    """Neither server nor device goes beyond CERT's last bucket; both say which it covers and what to do."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        device = await make_device(manager)
        bucket = await manager.current_bucket()
        async with device:
            body = bytearray(await manager.request_certificate(reason="short"))
            at = 2682  # docs/protocol.md, A1: last b
            body[at : at + 8] = (bucket + 1).to_bytes(8, "big")
            await manager.import_certificate(await sign(manager, bytes(body)))
            await device.connect()
            for _ in range(2):
                await manager.turn()
            (said,) = [each for each in await manager.monitor.list_events() if b"certificate ends soon" in each.data]
            assert EventSeverity.WARNING == said.severity
            clock.turn(WIDTH_S)
            with pytest.raises(KeyStateError, match=f"to {bucket + 1}, not {bucket + 2}.*qflare identity rotate"):
                await manager.turn()


async def test_devices_refuse_an_announcement_outside_the_certificate(database, tmp_path):
    """An announcement that the announce key signed for a bucket beyond CERT is refused, and the error says why."""
    from qflare.primitives import kem
    from qflare.protocol.announcement import sign_announcement

    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        device = await make_device(manager)
        link = device._transport
        beyond = certificate_of(await manager.identity(), await manager.server_id()).last_bucket + 1
        with engine_of(manager).foundation.identity.lend() as keys:
            pair = kem.generate()
            forged = sign_announcement(
                keys.announce,
                server_id=keys.public.server_id,
                width_s=WIDTH_S,
                bucket=beyond,
                encapsulation_key=pair.encapsulation_key,
            ).encoded
            pair.decapsulation_key.wipe()
        link.alter = lambda step, answer: forged if step is Step.ANNOUNCEMENT else answer
        async with device:
            with pytest.raises(
                ServerIdentityError, match=f"of bucket {beyond}, the server's certificate of serial 1 covers"
            ):
                await device.refresh()


async def test_request_sign_import(database, tmp_path):
    """The offline root signs for keys that wait pre-active; the import makes them active and ends those before."""
    clock = clock_at()
    async with managers(database, tmp_path, 2, clock=clock) as (one, two):
        body = await one.request_certificate(reason="ceremony")
        waiting = states(await two.get_identity_report())
        assert {"pre-active"} == {waiting[2, "announce"], waiting[2, "log"]}
        certificate = await sign(one, body)
        await one.remove_root()
        report = await one.get_identity_report()
        assert report.is_root_offline
        with pytest.raises(KeyStateError, match="qflare identity request"):
            await one.rotate_identity(reason="online")
        with pytest.raises(KeyStateError, match="offline already"):
            await one.export_root()
        # Another worker than the one that asked may import.
        issued = await two.import_certificate(certificate)
        assert (2, certificate) == (issued.serial, issued.encoded)
        assert {"active"} == set(states(await one.get_identity_report()).values())
        await one.turn()
        assert await one.identity() == await two.identity()
        edge = await Edge.provision(one)
        await edge.connect(one, other=two)


async def test_import_refuses_what_the_root_did_not_sign_for_these_keys(database, tmp_path):
    """Altered, foreign, old, not asked for, out of range, of another log: refused with the reason, and nothing changes."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        before = await manager.identity()
        # Asked for again, what is in force changes nothing.
        assert 1 == (await manager.import_certificate(before[ROOT_BYTES:])).serial
        earlier = await manager.request_certificate(reason="first")
        body = await manager.request_certificate(reason="second")
        assert earlier != body
        good = await sign(manager, body)
        for at in (0, 50, 2700, len(good) - 1):
            with pytest.raises(ServerIdentityError, match="did not sign these bytes"):
                await manager.import_certificate(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
        for cut in (b"", good[:-1], good + b"\0"):
            with pytest.raises(ServerIdentityError, match="did not sign these bytes"):
                await manager.import_certificate(cut)
        with pytest.raises(UsageError, match="latest request"):
            await manager.import_certificate(await sign(manager, earlier))
        bucket = await manager.current_bucket()
        for first, last in ((bucket + 1, bucket + 9), (0, bucket)):
            ranged = body[:2674] + first.to_bytes(8, "big") + last.to_bytes(8, "big") + body[2690:]
            with pytest.raises(UsageError, match=f"covers the buckets {first} to {last}, the server is in {bucket}"):
                await manager.import_certificate(await sign(manager, ranged))
        with pytest.raises(UsageError, match="goes on under its name"):
            await manager.import_certificate(await sign(manager, body[:2690] + b"\x05other"))
        assert before == await manager.identity()
        assert "pre-active" == states(await manager.get_identity_report())[2, "log"]
        await manager.import_certificate(good)
        with pytest.raises(KeyStateError, match="serial 1, serial 2 is in force"):
            await manager.import_certificate(before[ROOT_BYTES:])
        await manager.request_certificate(reason="again")
        await manager.rotate_identity(reason="the root is here after all")
        with pytest.raises(KeyNotFoundError, match="make a request first"):
            await manager.import_certificate(await sign(manager, _raised(good, 4)))


def _raised(certificate, serial):
    """Return CERT's body with another serial."""
    return certificate[:42] + serial.to_bytes(8, "big") + certificate[50 : -SIG87.SIG_BYTES]


async def test_another_request_destroys_the_keys_that_waited(database_dsn, tmp_path, admin):
    """Keys of a request that was overtaken are destroyed with their sealed halves, and the listing says why."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await manager.request_certificate(reason="first")
        await manager.request_certificate(reason="second")
        keys = [key for key in (await manager.get_identity_report()).keys if key.serial == 2]
        assert ["destroyed"] * 2 == [
            key.state.value for key in keys if key.reason == "another certificate was asked for"
        ]
        assert ["pre-active"] * 2 == [key.state.value for key in keys if key.reason == "second"]
        assert 2 == await admin.fetchval("SELECT count(*) FROM qflare.server_key WHERE sealed_key IS NOT NULL")


async def test_compromise_ends_the_keys_at_once(database_dsn, tmp_path, admin):
    """After a compromise a serial is left out, the keys before are compromised, and no overlap is granted."""
    clock = clock_at()
    async with managers(database_dsn, tmp_path, clock=clock) as (manager,):
        device = await make_device(manager)
        async with device:
            await device.connect()
            old = await manager.announcement("next")
            certificate = await manager.rotate_identity(reason="laptop stolen", is_compromised=True)
            assert 3 == certificate.serial
            report = states(await manager.get_identity_report())
            assert ("compromised", "compromised", "active") == (
                report[1, "announce"],
                report[1, "log"],
                report[3, "log"],
            )
            assert 0 == await admin.fetchval(
                "SELECT count(*) FROM qflare.server_identity WHERE serial = 1 AND sealed_announce IS NOT NULL"
            )
            await device.refresh()
            with pytest.raises(AuthenticationError):
                device._device.take_announcement(old)
            await device.connect()


async def test_evidence_of_before_a_rotation_still_holds(database, tmp_path):
    """What a device holds under the log key of its time verifies against the log as it is now, under that CERT."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (manager,):
        edge = await Edge.provision(manager)
        session = await edge.connect(manager)
        early = await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": 1})
        identity = edge.identity
        await manager.rotate_identity(reason="yearly")
        verify_evidence(session.evidence, identity)
        report = await manager.monitor.verify_log(receipts=[HeldReceipt.of(session.evidence)])
        assert 1 == report.receipts
        await manager.monitor.verify_event_integrity(early)
        stranger = HeldReceipt(HeldReceipt.of(session.evidence).leaf_hash, bytes(2445))
        with pytest.raises(EvidenceError):
            await manager.monitor.verify_log(receipts=[stranger])


async def test_restart_loads_the_certificate_in_force(database, tmp_path):
    """A worker that starts after rotations has the newest keys, opens old buckets and serves the same bytes."""
    clock = clock_at()
    async with managers(database, tmp_path, clock=clock) as (one,):
        await one.rotate_identity(reason="first")
        await one.rotate_identity(reason="second")
        served, announcement = await one.identity(), await one.announcement()
    async with managers(database, tmp_path, clock=clock) as (two,):
        assert (served, announcement) == (await two.identity(), await two.announcement())
        assert 3 == certificate_of(served, await two.server_id()).serial
        edge = await Edge.provision(two)
        await edge.connect(two)


async def test_reason_is_bounded(database, tmp_path):
    """A change of the identity needs a reason that the log can hold."""
    async with managers(database, tmp_path) as (manager,):
        for reason in ("", "x" * 201):
            with pytest.raises(UsageError, match="1 to 200 bytes"):
                await manager.rotate_identity(reason=reason)
