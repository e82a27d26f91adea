"""Responses through the public API: dry runs change nothing, two persons, once, undone exactly, on every worker."""

import asyncio
import json
from os import urandom

import asyncpg
import pytest

from manager_world import Edge, TurnedClock, engine_of, make_manager, managers
from qflare.errors import (
    ConflictError,
    IllegalTransitionError,
    KeyNotFoundError,
    RefusedError,
    SecondPersonError,
    UsageError,
)
from qflare.model.device import KeyState
from qflare.model.response import ResponseState
from qflare.model.session import SessionState
from qflare.service.key_manager import QuantumKeyManager
from service.test_changes import hearing, held, is_forgotten, two, until

NEVER_S = 600.0
RESTLESS = {"store_pulse", "worker_beat"}
"""Written every second, whatever happens."""
TABLES = """
    SELECT c.relname AS name FROM pg_class AS c
     WHERE c.relnamespace = 'qflare'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""


async def operators(manager, *names):
    for name in names:
        await manager.add_operator(name)


async def whole(admin):
    """Everything in the database, by table."""
    tables = sorted({row["name"] for row in await admin.fetch(TABLES)} - RESTLESS)
    return {
        table: await admin.fetchval(
            f"SELECT coalesce(string_agg(t::text, chr(10) ORDER BY t::text), '') FROM qflare.{table} AS t"  # noqa: S608
        )
        for table in tables
    }


async def events_about(manager, response):
    """What the log says about a response, in order."""
    entries = await manager.monitor.list_events(limit=1000)
    told = [entry.data.decode() for entry in entries if response.response_id.hex().encode() in entry.data]
    return [text.split('"what":"')[1].split('"')[0] for text in told]


async def test_a_dry_run_changes_nothing(database_dsn, admin, tmp_path):
    """Planning every action says what it would do, and leaves every row of every table as it was."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await operators(manager, "ann")
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        # Heads are stored in the background, but this one now.
        await manager.monitor.checkpoint()
        before = await whole(admin)
        plans = {
            action: await manager.plan_response(action, device_id=edge.name)
            for action in ("quarantine", "lift", "rekey", "rotate-device", "revoke")
        }
        for action, more in (
            ("limit-device", {"device_id": edge.name}),
            ("limit-tenant", {}),
            ("limit-source", {"source": "192.0.2.7"}),
        ):
            plans[action] = await manager.plan_response(action, per_minute=5, **more)
        plans["turn"] = await manager.plan_response("turn")
        plans["rotate-identity"] = await manager.plan_response("rotate-identity")
        assert before == await whole(admin)
        obstacles = {name: plan.obstacle for name, plan in plans.items() if plan.obstacle}
        assert {"lift": "the device is active"} == obstacles
        limits = {"limit-device", "limit-tenant", "limit-source"}
        needing = {"revoke", "turn", "rotate-identity", "limit-tenant", "limit-source"}
        assert needing == {name for name, plan in plans.items() if plan.needs_two}
        assert {"quarantine", "lift"} | limits == {name for name, plan in plans.items() if plan.is_reversible}
        assert 1 == plans["rekey"].count
        assert "1 live sessions" in plans["quarantine"].would


async def test_a_quarantine_reaches_the_other_worker_within_a_second(database_dsn, tmp_path):
    """By message alone the session's keys leave the other worker; its records and new hellos are refused there."""
    async with two(database_dsn, tmp_path, change_poll_s=NEVER_S) as (first, second):
        await operators(first, "ann")
        await hearing(second)
        edge, sid = await held(first, second)
        await first.respond("quarantine", by="ann", reason="odd", device_id=edge.name)
        await until(second, is_forgotten(second, sid))
        with pytest.raises(RefusedError):
            await second.open_record(edge.seal(sid, b"x"))
        with pytest.raises(RefusedError):
            await edge.connect(second)


async def test_a_response_is_done_once_and_undone_exactly(database_dsn, tmp_path):
    """Repeated with its id it is the same; undone, the device is as it was, connects again, and the log has it all."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await operators(manager, "ann", "bob")
        edge = await Edge.provision(manager)
        before = await manager.find_device(edge.name)
        asked = {"by": "ann", "reason": "odd", "device_id": edge.name, "call_id": urandom(16)}
        done = await manager.respond("quarantine", **asked)
        assert (ResponseState.APPLIED, "active") == (done.state, done.before)
        assert done == await manager.respond("quarantine", **asked)
        assert KeyState.SUSPENDED is (await manager.find_device(edge.name)).state
        with pytest.raises(ConflictError, match="another response"):
            await manager.respond("rekey", **asked)
        undone = await manager.undo_response(done.response_id, by="bob", reason="it was our test")
        assert undone == await manager.undo_response(done.response_id, by="bob", reason="it was our test")
        assert before == await manager.find_device(edge.name)
        await edge.connect(manager)
        told = ["response proposed", "response carried out", "response undone"]
        assert told == await events_about(manager, done)


async def test_undoing_what_somebody_changed_since_changes_nothing(database_dsn, tmp_path):
    """An operator's own resumption and suspension stand: the response's end touches neither."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await operators(manager, "ann")
        edge = await Edge.provision(manager)
        done = await manager.respond("quarantine", by="ann", reason="odd", device_id=edge.name)
        await manager.resume_device(edge.name)
        await manager.suspend_device(edge.name, reason="for my own reason")
        with pytest.raises(ConflictError, match="somebody else"):
            await manager.undo_response(done.response_id, by="ann", reason="over")
        assert KeyState.SUSPENDED is (await manager.find_device(edge.name)).state
        with pytest.raises(IllegalTransitionError):
            await manager.respond("quarantine", by="ann", reason="again", device_id=edge.name)


async def test_a_revocation_takes_two_operators(database_dsn, tmp_path):
    """One alone, the same one twice, a stranger and a revoked one change nothing; a second one's word does it."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await operators(manager, "ann", "bob", "cid")
        edge = await Edge.provision(manager)
        asked = await manager.respond("revoke", by="ann", reason="stolen", device_id=edge.name)
        assert (ResponseState.PROPOSED, 1) == (asked.state, asked.lacks)
        with pytest.raises(UsageError, match="another operator"):
            await manager.confirm_response(asked.response_id, by="ann")
        with pytest.raises(KeyNotFoundError, match="no such operator"):
            await manager.confirm_response(asked.response_id, by="eve")
        await manager.revoke_operator("cid", reason="left")
        with pytest.raises(IllegalTransitionError, match="revoked since"):
            await manager.confirm_response(asked.response_id, by="cid")
        await edge.connect(manager)
        again = await manager.respond("revoke", by="ann", reason="stolen", device_id=edge.name)
        done = await manager.confirm_response(again.response_id, by="bob")
        assert (ResponseState.APPLIED, "ann", "bob") == (done.state, done.first_by, done.second_by)
        assert done == await manager.confirm_response(again.response_id, by="bob")
        assert KeyState.DEACTIVATED is (await manager.find_device(edge.name)).state
        with pytest.raises(IllegalTransitionError, match="nothing takes revoke back"):
            await manager.undo_response(again.response_id, by="ann", reason="oh")
        dismissed = await manager.dismiss_response(asked.response_id, by="ann", reason="done under another id")
        assert ResponseState.DISMISSED is dismissed.state
        told = ["response proposed", "response confirmed", "response carried out"]
        assert told == await events_about(manager, again)


async def test_with_two_person_control_one_hand_ends_nothing(database_dsn, tmp_path):
    """Revocations and rotations by hand are refused with the remedy and change nothing; what two confirm is done."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await operators(manager, "ann", "bob")
        edge = await Edge.provision(manager)
        assert not (await manager.get_two_person_control()).is_on
        assert (await manager.require_two_persons(by="ann")).is_on
        for by_hand in (
            manager.revoke_device(edge.name, reason="stolen"),
            manager.compromise_device(edge.name, reason="stolen"),
            manager.rotate_identity(reason="suspicion"),
        ):
            with pytest.raises(SecondPersonError, match="incident apply"):
                await by_hand
        await edge.connect(manager)
        assert 1 == (await manager.get_identity_report()).certificate.serial
        for action, target in (("revoke", {"device_id": edge.name}), ("rotate-identity", {})):
            asked = await manager.respond(action, by="ann", reason="stolen", **target)
            assert ResponseState.APPLIED is (await manager.confirm_response(asked.response_id, by="bob")).state
        assert KeyState.DEACTIVATED is (await manager.find_device(edge.name)).state
        assert 2 == (await manager.get_identity_report()).certificate.serial
        assert (await manager.allow_one_person(by="bob")).is_on
        assert not (await manager.allow_one_person(by="ann")).is_on
        await manager.rotate_identity(reason="by one again")
        events = [json.loads(entry.data) for entry in await manager.monitor.list_events(limit=100)]
        said = [(each["what"], each["by"]) for each in events if str(each.get("what")).startswith("two-person")]
        assert [
            ("two-person control on", "ann"),
            ("two-person control is to end", "bob"),
            ("two-person control off", "ann"),
        ] == said


async def test_a_rekey_ends_sessions_and_locks_nobody_out(database_dsn, tmp_path):
    """The device's live sessions end, and its next handshake, at once, stands under fresh keys."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await operators(manager, "ann")
        edge = await Edge.provision(manager)
        old = await edge.connect(manager)
        done = await manager.respond("rekey", by="ann", reason="a leak", device_id=edge.name)
        assert 1 == done.changed
        with pytest.raises(RefusedError):
            await manager.open_record(edge.seal(old.sid, b"x"))
        new = await edge.connect(manager)
        (await manager.open_record(edge.seal(new.sid, b"x"))).plaintext.wipe()
        assert SessionState.ENDED is (await manager.find_session(old.sid)).state
        marked = await manager.respond("rotate-device", by="ann", reason="a leak", device_id=edge.name)
        assert (1, 1) == (marked.changed, (await manager.rotation_progress()).waiting)


async def test_an_early_turn_destroys_the_bucket_before_and_keeps_sessions(database_dsn, tmp_path):
    """Sessions live on into the new bucket, devices follow it, and a second turn before the clock's is refused."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock) as (manager,):
        await operators(manager, "ann", "bob")
        edge = await Edge.provision(manager)
        established = await edge.connect(manager)
        bucket = await manager.current_bucket()
        asked = await manager.respond("turn", by="ann", reason="a worker's memory was read")
        assert bucket == await manager.current_bucket()
        done = await manager.confirm_response(asked.response_id, by="bob")
        assert (bucket + 1, 1) == (await manager.current_bucket(), done.changed)
        assert done == await manager.confirm_response(asked.response_id, by="bob")
        with pytest.raises(KeyNotFoundError):
            await manager.announcement(bucket - 1)
        (await manager.open_record(edge.seal(established.sid, b"x", bucket=bucket + 1))).plaintext.wipe()
        await edge.connect(manager)
        assert "ahead of the clock" in (await manager.plan_response("turn")).obstacle
        again = await manager.respond("turn", by="ann", reason="once more")
        with pytest.raises(IllegalTransitionError, match="ahead of the clock"):
            await manager.confirm_response(again.response_id, by="bob")
        assert bucket + 1 == await manager.current_bucket()


async def turned_early(first, second):
    """Turn early on one worker, and wait for the other."""
    await operators(first, "ann", "bob")
    bucket = await second.current_bucket()
    asked = await first.respond("turn", by="ann", reason="a leak")
    await first.confirm_response(asked.response_id, by="bob")
    async with asyncio.timeout(60):
        while engine_of(second).buckets.current != bucket + 1:
            await asyncio.sleep(0.02)
    with pytest.raises(KeyNotFoundError):
        await second.announcement(bucket - 1)


async def test_an_early_turn_reaches_the_other_worker(database_dsn, tmp_path):
    """By message alone, whatever the look at the clock and the polling: the other worker is in the new bucket too."""
    how = {"clock": TurnedClock(), "tick_max_s": NEVER_S, "change_poll_s": NEVER_S}
    async with managers(database_dsn, tmp_path, 2, **how) as (first, second):
        await hearing(second)
        await turned_early(first, second)


async def test_an_early_turn_reaches_a_worker_that_cannot_listen(database_dsn, tmp_path):
    """Over a pool of the caller's, where nothing listens, polling brings it into the new bucket."""
    clock = TurnedClock()
    pool = await asyncpg.create_pool(database_dsn, min_size=1, max_size=4)
    try:
        async with make_manager(database_dsn, tmp_path, clock=clock, tick_max_s=NEVER_S) as first:
            config = first.settings
            async with QuantumKeyManager(pool, data_dir=tmp_path / "data", config=config, clock=clock) as second:
                await turned_early(first, second)
                assert not engine_of(second).changes.is_hearing
    finally:
        await pool.close()


async def test_a_message_alone_turns_no_bucket(database_dsn, admin, tmp_path):
    """Whoever may connect can send messages; a worker that hears of a bucket asks the database, and stays in its own."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock(), change_poll_s=NEVER_S) as (manager,):
        await hearing(manager)
        changes, bucket = engine_of(manager).changes, await manager.current_bucket()
        changes._looked_ns = never = -1
        await admin.execute("SELECT pg_notify('qflare_change', $1)", f"bucket {bytes(16).hex()} {bucket + 1:016x}")
        async with asyncio.timeout(60):
            while changes._looked_ns == never:
                await asyncio.sleep(0.02)
        assert bucket == await manager.current_bucket()


async def test_a_lift_is_undone_too(database_dsn, tmp_path):
    """A device that an operator suspended is let in again by a response, and out again by its end."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await operators(manager, "ann")
        edge = await Edge.provision(manager)
        await manager.suspend_device(edge.name, reason="by hand")
        done = await manager.respond("lift", by="ann", reason="a mistake", device_id=edge.name)
        await edge.connect(manager)
        await manager.undo_response(done.response_id, by="ann", reason="none after all")
        assert KeyState.SUSPENDED is (await manager.find_device(edge.name)).state
        with pytest.raises(RefusedError):
            await edge.connect(manager)


async def test_an_identity_is_rotated_once(database_dsn, tmp_path):
    """Two operators rotate announce and log key; confirmed again, to whatever worker, it is the same rotation."""
    async with managers(database_dsn, tmp_path, 2) as (first, second):
        await operators(first, "ann", "bob")
        edge = await Edge.provision(first)
        asked = await first.respond("rotate-identity", by="ann", reason="suspicion")
        done = await asyncio.gather(
            first.confirm_response(asked.response_id, by="bob"), second.confirm_response(asked.response_id, by="bob")
        )
        assert {ResponseState.APPLIED} == {each.state for each in done}
        assert 2 == (await first.get_identity_report()).certificate.serial
        await edge.connect(first)


async def test_what_is_the_servers_is_asked_for_in_its_own_tenant(database_dsn, tmp_path):
    """A tenant's operators can neither turn buckets nor see or confirm another tenant's responses."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await operators(manager, "ann", "bob")
        other = manager.for_tenant(await manager.create_tenant("other"))
        await operators(other, "ann", "bob")
        with pytest.raises(UsageError, match="whole server"):
            await other.respond("turn", by="ann", reason="x")
        asked = await manager.respond("turn", by="ann", reason="x")
        with pytest.raises(KeyNotFoundError):
            await other.confirm_response(asked.response_id, by="bob")
        assert () == await other.list_responses()


async def test_bad_requests_are_told_before_anything_happens(database_dsn, admin, tmp_path):
    """Wrong names, targets, reasons and ids each have an error of their own, and leave the database as it was."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await operators(manager, "ann")
        edge = await Edge.provision(manager)
        # The signed head of what was answered is stored in the background.
        await manager.monitor.checkpoint()
        before = await whole(admin)
        for wrong, error in (
            ({"action": "explode"}, UsageError),
            ({"action": "quarantine"}, UsageError),
            ({"action": "turn", "device_id": edge.name}, UsageError),
            ({"action": "notify"}, UsageError),
            ({"action": "quarantine", "device_id": "nobody"}, KeyNotFoundError),
            ({"action": "quarantine", "device_id": edge.name, "reason": ""}, UsageError),
            ({"action": "quarantine", "device_id": edge.name, "reason": "x" * 501}, UsageError),
            ({"action": "quarantine", "device_id": edge.name, "by": "eve"}, KeyNotFoundError),
            ({"action": "quarantine", "device_id": edge.name, "by": ""}, UsageError),
            ({"action": "quarantine", "device_id": edge.name, "call_id": b"short"}, UsageError),
            ({"action": "quarantine", "device_id": edge.name, "incident_id": urandom(16)}, KeyNotFoundError),
        ):
            with pytest.raises(error):
                await manager.respond(**({"by": "ann", "reason": "odd"} | wrong))
        with pytest.raises(KeyNotFoundError):
            await manager.undo_response(urandom(16), by="ann", reason="x")
        assert before == await whole(admin)
