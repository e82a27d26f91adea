"""Detection in a real manager: what really happens to messages becomes incidents, and nothing waits for it."""

import asyncio
import json
import os
from dataclasses import replace

import pytest

from forging import forged_hello, refused
from manager_world import Edge, engine_of, managers, settle
from memory_world import make_memory_store
from qflare.clock import SystemClock
from qflare.errors import IllegalTransitionError, KeyNotFoundError, RefusedError, StoreUnavailableError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, DeviceRef, TenantId
from qflare.model.incident import IncidentState
from qflare.model.observation import RECORD, Observation
from qflare.model.refusal import Refusal
from qflare.model.signal import Signal
from qflare.monitor import parameters
from qflare.primitives.random import drawing_from
from qflare.protocol import wire
from qflare.protocol.hello_device import start_hello
from qflare.protocol.new_event import new_event
from qflare.testing import TurnableClock

WARNING, ERROR = EventSeverity.WARNING, EventSeverity.ERROR


def detection_of(manager):
    return engine_of(manager).detection


async def incidents(manager):
    """Report what is suspected, and return all incidents by (signal, device)."""
    await detection_of(manager).settle()
    return {(each.signal, each.device_id): each for each in await manager.monitor.list_incidents()}


async def reason_of(awaitable):
    with pytest.raises(RefusedError) as refusal:
        await awaitable
    return refusal.value.reason


async def test_an_honest_device_is_no_incident(database, tmp_path):
    """Handshakes of both forms, records, a repetition and a rotation of sessions are seen, and suspected of nothing."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        edge = await Edge.provision(manager)
        for form in ("hello", "offer", "hello"):
            established = await edge.connect(manager, form=form)
            for number in range(3):
                (await manager.open_record(edge.seal(established.sid, b"update %d" % number))).plaintext.wipe()
        assert {} == await incidents(manager)
        dashboard = await manager.monitor.get_security_dashboard_data()
        # Hello and confirm twice, confirm of the offer, nine records, and announcements.
        assert dashboard.detector.taken >= 2 * 2 + 1 + 9 + 3
        assert (0, 0, 0) == (dashboard.detector.dropped, dashboard.detector.waiting, dashboard.detector.unreported)
        assert {} == dashboard.incidents


async def test_forged_hellos_open_one_incident_with_one_event(database, tmp_path):
    """Hellos signed with another key: an incident of the device, its opening in the log, with a proof that holds."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        edge, forger = await Edge.provision(manager, "victim"), await Edge.provision(manager)
        for _ in range(5):
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        found = await incidents(manager)
        assert [(Signal.FORGED_MESSAGES, "victim")] == list(found)
        incident = found[Signal.FORGED_MESSAGES, "victim"]
        assert (WARNING, 3, IncidentState.OPEN) == (incident.severity, incident.count, incident.state)
        assert {"hello signature": 3} == json.loads(incident.evidence)["seen"]
        for _ in range(2):
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        assert 5 == (await incidents(manager))[Signal.FORGED_MESSAGES, "victim"].count
        await settle(manager)
        opened = [
            entry
            for entry in await manager.monitor.list_events(limit=1000)
            if json.loads(entry.data).get("what") == "incident opened"
        ]
        assert [incident.incident_id.hex()] == [json.loads(entry.data)["incident_id"] for entry in opened]
        assert "victim" == opened[0].device_id
        await manager.monitor.verify_event_integrity(opened[0].index)
        dashboard = await manager.monitor.get_security_dashboard_data()
        assert {("forged-messages", "warning", "open"): 1} == dashboard.incidents
        assert incident.incident_id == dashboard.incidents_latest[0].incident_id


async def test_replayed_records_are_the_devices(database, tmp_path):
    """One record sent again and again is an incident of the device whose session it is."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        edge = await Edge.provision(manager, "d")
        established = await edge.connect(manager)
        record = edge.seal(established.sid, b"update")
        (await manager.open_record(record)).plaintext.wipe()
        for _ in range(14):
            await refused(manager.open_record(record))
        assert [(Signal.REPLAYS, "d")] == list(await incidents(manager))


async def test_two_holders_of_one_identity_are_a_clone(database, tmp_path):
    """Two copies of a device that use their own sessions in turn are found by the third step back."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        edge = await Edge.provision(manager, "d")
        copy = Edge(edge.pair)
        sessions = [(each, (await each.connect(manager)).sid) for each in (edge, copy)]
        for _ in range(5):
            for each, sid in sessions:
                (await manager.open_record(each.seal(sid, b"update"))).plaintext.wipe()
        found = await incidents(manager)
        assert {(Signal.CLONE, "d"): ERROR} == {key: each.severity for key, each in found.items()}


async def test_equal_keys_and_ciphertexts_of_two_devices_are_a_broken_source(database, tmp_path):
    """Two devices with one random source in one bucket are the fleet's incident; one device's repetition is a replay."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        one, two = await Edge.provision(manager, "one"), await Edge.provision(manager, "two")
        announcement = await one.announcement(manager)
        drawn = os.urandom(4096)
        hellos = []
        for edge in (one, two):
            with drawing_from(drawn):
                hellos.append(start_hello(edge.device, announcement).message)
        head = slice(0, wire.M1_HEADER_BYTES)
        assert hellos[0][head] == hellos[1][head]
        await manager.answer_hello(hellos[0])
        assert Refusal.DRAWN_TWICE is await reason_of(manager.answer_hello(hellos[1]))
        found = await incidents(manager)
        assert {(Signal.BROKEN_RANDOMNESS, None): ERROR} == {key: each.severity for key, each in found.items()}
        assert {"hello drawn twice, by two devices": 1} == json.loads(found[Signal.BROKEN_RANDOMNESS, None].evidence)[
            "seen"
        ]
        for _ in range(2):
            await manager.answer_hello(hellos[0])
        for _ in range(300):
            assert Refusal.SEEN is await reason_of(manager.answer_hello(hellos[0]))
        found = await incidents(manager)
        assert {(Signal.BROKEN_RANDOMNESS, None): 1, (Signal.REPLAYS, None): found[Signal.REPLAYS, None].count} == {
            key: each.count for key, each in found.items()
        }


async def test_use_after_revocation_is_told_with_the_devices_name(database, tmp_path):
    """A revoked device that goes on is an incident of that device."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        edge = await Edge.provision(manager, "gone")
        announcement = await edge.announcement(manager)
        await manager.revoke_device("gone", reason="stolen")
        for _ in range(3):
            await refused(manager.answer_hello(start_hello(edge.device, announcement).message))
        assert {(Signal.USE_AFTER_REVOCATION, "gone")} == set(await incidents(manager))


async def test_damaged_messages_and_guesses_are_the_fleets(tmp_path):
    """Hellos whose tag does not open, bad tickets, unknown devices and made up enrolments, each under its own signal."""
    async with managers(make_memory_store(), tmp_path, detection=True) as (manager,):
        edge, other = await Edge.provision(manager), await Edge.provision(manager)
        announcement = await edge.announcement(manager)
        hello = bytearray(start_hello(edge.device, announcement).message)
        hello[-1] ^= 1
        await asyncio.gather(*(refused(manager.answer_hello(bytes(hello))) for _ in range(40)))
        pending = await edge.hello(manager)
        finish = bytearray(pending.message)
        finish[60] ^= 1
        await asyncio.gather(*(refused(manager.confirm(bytes(finish))) for _ in range(40)))
        stranger = replace(other.device, ref=DeviceRef(os.urandom(32)))
        for _ in range(80):
            await refused(manager.answer_hello(start_hello(stranger, announcement).message))
        await asyncio.gather(*(refused(manager.answer_enrolment(os.urandom(wire.ENROL_BYTES))) for _ in range(5)))
        found = await incidents(manager)
        assert {(Signal.BROKEN_MESSAGES, None), (Signal.BAD_TICKETS, None), (Signal.SCAN, None)} == set(found)


async def test_stale_messages_are_told_as_clock_or_replay(tmp_path):
    """Old hellos sent again after their bucket are told as what they may be: replays, or a clock that is wrong."""
    clock = TurnableClock()
    async with managers(make_memory_store(clock), tmp_path, clock=clock, detection=True) as (manager,):
        edge = await Edge.provision(manager)
        old = start_hello(edge.device, await edge.announcement(manager)).message
        clock.turn(1200)
        await manager.turn()
        await asyncio.gather(*(refused(manager.answer_hello(old)) for _ in range(300)))
        assert {(Signal.DEAD_BUCKETS, None)} == set(await incidents(manager))


async def test_incidents_are_moved_with_an_event(database, tmp_path):
    """Acknowledged, closed, with what was said about it; a closed one stays, the same again opens another."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        edge, forger = await Edge.provision(manager, "victim"), await Edge.provision(manager)
        await manager.add_operator("ann")

        async def attack():
            for _ in range(5):
                await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
            await detection_of(manager).settle()

        await attack()
        monitor = manager.monitor
        (incident,) = await monitor.list_incidents()
        key = incident.incident_id
        moved = await monitor.move_incident(key, IncidentState.ACKNOWLEDGED, by="ann", note="looking")
        assert (IncidentState.ACKNOWLEDGED, "looking") == (moved.state, moved.note)
        assert "ann" == moved.changed_by
        await monitor.move_incident(key, IncidentState.CLOSED, by="ann")
        with pytest.raises(IllegalTransitionError):
            await monitor.move_incident(key, IncidentState.OPEN, by="ann")
        with pytest.raises(UsageError, match="note has"):
            await monitor.move_incident(key, IncidentState.CLOSED, by="ann", note="x" * 1001)
        with pytest.raises(UsageError):
            await monitor.move_incident(key, "closed", by="ann")
        with pytest.raises(UsageError, match="operator's name"):
            await monitor.move_incident(key, IncidentState.CLOSED, by="")
        with pytest.raises(KeyNotFoundError):
            await monitor.move_incident(os.urandom(16), IncidentState.CLOSED, by="ann")
        await attack()
        # Seen in one second, perhaps: then their order is that of their ids.
        assert ["closed", "open"] == sorted(each.state for each in await monitor.list_incidents())
        said = [json.loads(entry.data) for entry in await monitor.list_events(limit=1000)]
        assert ("looking", "ann") in [(each.get("note"), each.get("by")) for each in said]


async def test_another_tenant_sees_nothing_of_it(database, tmp_path):
    """An incident is its tenant's alone."""
    other = TenantId(bytes(range(16)))
    async with managers(database, tmp_path, detection=True) as (manager,):
        await manager.create_tenant("other", tenant_id=other)
        edge, forger = await Edge.provision(manager), await Edge.provision(manager)
        for _ in range(5):
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        assert 1 == len(await incidents(manager))
        assert () == await manager.for_tenant(other).monitor.list_incidents()


async def test_norms_of_updates_become_a_hint(database, tmp_path):
    """What the application computed is compared with the device's own history; what is no norm is refused whole."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        monitor = manager.monitor
        await Edge.provision(manager, "d")
        for number in range(20):
            await monitor.note_update_norms({"d": 1.0 + number % 3 / 10, "e": 7.0})
        with pytest.raises(UsageError, match="'e'"):
            await monitor.note_update_norms({"d": 100.0, "e": float("nan")})
        assert {} == await incidents(manager)
        await monitor.note_update_norms({"d": 100.0, "e": 7.0})
        found = await incidents(manager)
        assert {(Signal.UPDATE_NORM, "d"): WARNING} == {key: each.severity for key, each in found.items()}


# Failures, restarts, workers ------------------------------------------------------------------------------------------


async def test_a_database_that_is_gone_loses_no_sighting_and_counts_none_twice(tmp_path):
    """Reports that fail are repeated under their id; what comes meanwhile is reported with them."""
    store = make_memory_store()
    async with managers(store, tmp_path, detection=True) as (manager,):
        edge, forger = await Edge.provision(manager, "d"), await Edge.provision(manager)
        write = store.report_incidents
        lost = 0

        async def half_lost(*arguments, **named):
            nonlocal lost
            if lost == 0:
                # Committed, and the answer lost.
                await write(*arguments, **named)
            lost += 1
            raise StoreUnavailableError("gone")

        store.report_incidents = half_lost
        for _ in range(5):
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await detection_of(manager).settle()
        assert 1 == detection_of(manager).figures.unreported
        await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        store.report_incidents = write
        found = await incidents(manager)
        assert 4 == found[Signal.FORGED_MESSAGES, "d"].count
        assert (2, 0) == (detection_of(manager).figures.reported, detection_of(manager).figures.unreported)


async def test_state_survives_a_restart(database, tmp_path):
    """Two forgeries before a restart and one after it are three."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        edge, forger = await Edge.provision(manager, "d"), await Edge.provision(manager)
        for _ in range(2):
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        assert {} == await incidents(manager)
    async with managers(database, tmp_path, detection=True) as (manager,):
        await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        assert {(Signal.FORGED_MESSAGES, "d")} == set(await incidents(manager))


async def test_workers_merge_what_they_remember(database, tmp_path):
    """Each worker's end keeps what the other saved; a state that cannot be read is begun anew."""
    async with managers(database, tmp_path, 2, detection=True) as (one, two):
        edges = [await Edge.provision(one, name) for name in ("a", "b")]
        forger = await Edge.provision(one)
        for manager, edge in ((one, edges[0]), (two, edges[1])):
            for _ in range(2):
                await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
    async with managers(database, tmp_path, detection=True) as (manager,):
        for edge in edges:
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        assert {(Signal.FORGED_MESSAGES, "a"), (Signal.FORGED_MESSAGES, "b")} == set(await incidents(manager))
        store = engine_of(manager).foundation.store
        saved = await store.find_detector_state(DEFAULT_TENANT)
        assert await store.save_detector_state(DEFAULT_TENANT, b"QFD1 damaged", after=saved.version)
    async with managers(database, tmp_path, detection=True) as (manager,):
        await refused(manager.answer_hello(await forged_hello(manager, edges[0], forger)))
        assert 2 == len(await incidents(manager))


async def test_the_loop_reports_by_itself(database, tmp_path, monkeypatch):
    """Nobody asks, and the incident stands all the same."""
    monkeypatch.setattr("qflare.service.detection.FLUSH_S", 0.05)
    async with managers(database, tmp_path, detection=True) as (manager,):
        edge, forger = await Edge.provision(manager), await Edge.provision(manager)
        for _ in range(5):
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        async with asyncio.timeout(60):
            while not await manager.monitor.list_incidents():
                await asyncio.sleep(0.05)


async def test_a_flood_of_observations_is_bounded_and_counted(tmp_path):
    """A million observations at once cost no memory beyond the bound, and the loop gets its turn between slices."""
    async with managers(make_memory_store(), tmp_path, detection=True) as (manager,):
        detector = detection_of(manager).detector
        batch = [Observation(RECORD, Refusal.LENGTH)] * 10_000
        for _ in range(100):
            detector.note(batch)
        assert parameters.WAITING_MAX == detector.waiting
        turns = 0

        async def count_turns():
            nonlocal turns
            while detector.waiting:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        await detection_of(manager).settle()
        await counting
        # Two work it off here: this call, and the detector's own loop.
        assert turns >= parameters.WAITING_MAX // parameters.SLICE_MAX // 4
        figures = (await manager.monitor.get_security_dashboard_data()).detector
        assert (1_000_000 - parameters.WAITING_MAX, 0) == (figures.dropped, figures.waiting)


async def test_without_detection_nothing_is_observed(database, tmp_path):
    """Where it is off, no observation is made, and the dashboard says so."""
    async with managers(database, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        assert None is detection_of(manager)
        assert not engine_of(manager).foundation.refusals.observations.is_observed
        assert None is (await manager.monitor.get_security_dashboard_data()).detector


# Gauges ---------------------------------------------------------------------------------------------------------------


async def test_a_look_at_a_healthy_server_finds_nothing_and_signs_the_head(database, tmp_path):
    """Clocks, keys and log are in order; entries that nobody held a receipt for are covered by a signed head."""
    async with managers(database, tmp_path, detection=True) as (manager,):
        await Edge.provision(manager)
        for _ in range(3):
            await detection_of(manager).look()
        assert {} == await incidents(manager)
        store = engine_of(manager).foundation.store
        assert (await store.log_head()).size == (await store.latest_checkpoint()).size


async def test_an_altered_row_of_the_log_is_critical(database_dsn, admin, tmp_path):
    """A row that somebody edits is found by the next look, with its index."""
    async with managers(database_dsn, tmp_path, detection=True) as (manager,):
        await Edge.provision(manager)
        index = (await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": 1})).index
        await admin.execute("UPDATE qflare.audit_entry SET data = '{}' WHERE log_index = $1", index)
        await detection_of(manager).look()
        found = await incidents(manager)
        incident = found[Signal.LOG_ALTERED, None]
        assert (EventSeverity.CRITICAL, index) == (incident.severity, json.loads(incident.evidence)["index"])
        assert [(Signal.LOG_ALTERED, None)] == list(found)


async def test_old_rows_are_read_again_in_turn(database_dsn, admin, tmp_path, monkeypatch):
    """An old row that is altered is found within a pass, also one that cannot even be read; then the pass begins anew."""
    monkeypatch.setattr("qflare.service.detection.ENTRIES_CHECKED", 5)
    async with managers(database_dsn, tmp_path, detection=True) as (manager,):
        await manager.add_operator("ann")
        events = [(SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": number}, None) for number in range(30)]
        await manager.monitor.log_security_events_many(events)
        for index, change in ((12, "recorded_at = recorded_at + interval '1 hour'"), (3, "event_type = 'invented'")):
            await admin.execute(f"UPDATE qflare.audit_entry SET {change} WHERE log_index = $1", index)  # noqa: S608
            for _ in range(20):
                await detection_of(manager).look()
                await detection_of(manager).settle()
                if opened := await manager.monitor.list_incidents(states=[IncidentState.OPEN]):
                    break
            (found,) = opened
            assert (Signal.LOG_ALTERED, index) == (found.signal, json.loads(found.evidence)["index"])
            await admin.execute(
                f"UPDATE qflare.audit_entry SET {change.replace(' + ', ' - ').replace('invented', 'system')}"  # noqa: S608
                " WHERE log_index = $1",
                index,
            )
            await manager.monitor.move_incident(found.incident_id, IncidentState.CLOSED, by="ann")
            await detection_of(manager).settle()


async def test_a_database_that_hangs_holds_up_no_observation(tmp_path, monkeypatch):
    """While a report hangs, what is seen is looked at all the same."""
    monkeypatch.setattr("qflare.service.detection.FLUSH_S", 0.01)
    store = make_memory_store()
    hanging, go_on = asyncio.Event(), asyncio.Event()
    write = store.report_incidents

    async def hang(*arguments, **named):
        hanging.set()
        await go_on.wait()
        return await write(*arguments, **named)

    store.report_incidents = hang
    async with managers(store, tmp_path, detection=True) as (manager,):
        edge, forger = await Edge.provision(manager, "d"), await Edge.provision(manager)
        for _ in range(5):
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        detection = detection_of(manager)
        async with asyncio.timeout(60):
            await hanging.wait()
            taken = detection.detector.taken
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
            while detection.detector.waiting:
                await asyncio.sleep(0.01)
        assert detection.detector.taken > taken
        go_on.set()
        assert {(Signal.FORGED_MESSAGES, "d")} == set(await incidents(manager))


async def test_a_database_that_hangs_holds_up_no_closing(tmp_path):
    """Whatever the detector has still to write, the manager closes in bounded time."""
    store = make_memory_store()
    async with managers(store, tmp_path, detection=True) as (manager,):
        edge, forger = await Edge.provision(manager), await Edge.provision(manager)
        for _ in range(5):
            await refused(manager.answer_hello(await forged_hello(manager, edge, forger)))
        hanging = asyncio.Event()

        async def hang(*_, **__):
            hanging.set()
            await asyncio.Event().wait()

        store.report_incidents = store.save_detector_state = hang
        detection = detection_of(manager)
        async with asyncio.timeout(60):
            await detection.close(0.2)
        assert hanging.is_set()
        assert not engine_of(manager).foundation.refusals.observations.is_observed


class _SkewedClock(SystemClock):
    """A clock that goes on, so that a slow machine is no skew."""

    skew_s = 0

    def now_s(self):
        return super().now_s() + self.skew_s

    def now_ms(self):
        return super().now_ms() + 1000 * self.skew_s


async def test_a_clock_that_is_wrong_is_told(database_dsn, tmp_path):
    """A worker whose clock differs from the database's by 10 s is a warning, by two minutes an error."""
    for skew_s, severity in ((10, WARNING), (-120, ERROR)):
        clock = _SkewedClock()
        async with managers(database_dsn, tmp_path, clock=clock, detection=True) as (manager,):
            clock.skew_s = skew_s
            await detection_of(manager).look()
            incident = (await incidents(manager))[Signal.CLOCK_SKEW, None]
            assert severity == incident.severity
            assert abs(json.loads(incident.evidence)["skew_ms"] - 1000 * skew_s) < 3000 + 1000


async def test_a_log_that_cannot_be_signed_is_told_at_the_second_look(tmp_path):
    """Heads that stay behind the entries are a warning, then an error; once they catch up it begins anew."""
    store = make_memory_store()
    async with managers(store, tmp_path, detection=True) as (manager,):
        detection, log = detection_of(manager), engine_of(manager).foundation.log
        sign = log.checkpoint

        async def fail():
            raise StoreUnavailableError("no signer")

        log.checkpoint = fail
        event = new_event(SecurityEventType.SYSTEM, WARNING, {}, tenant_id=DEFAULT_TENANT, occurred_at_ms=1)
        await store.append_events(DEFAULT_TENANT, [event])
        await detection.look()
        assert {} == await incidents(manager)
        await detection.look()
        assert WARNING == (await incidents(manager))[Signal.AUDIT_LAG, None].severity
        for _ in range(8):
            await detection.look()
        assert ERROR == (await incidents(manager))[Signal.AUDIT_LAG, None].severity
        log.checkpoint = sign
        await detection.look()
        count = (await incidents(manager))[Signal.AUDIT_LAG, None].count
        await detection.look()
        assert count == (await incidents(manager))[Signal.AUDIT_LAG, None].count


async def test_a_key_that_was_not_destroyed_is_told(tmp_path):
    """A keeper that keeps a bucket's key beyond its time is an error, and critical after an hour."""
    clock = TurnableClock()
    async with managers(make_memory_store(clock), tmp_path, clock=clock, detection=True) as (manager,):
        keeper = engine_of(manager).foundation.keeper
        destroy = keeper.destroy_bucket_keys
        keeper.destroy_bucket_keys = lambda **_: 0
        for buckets, severity in ((3, ERROR), (11, EventSeverity.CRITICAL)):
            for _ in range(buckets):
                clock.turn(300)
                await manager.turn()
            await detection_of(manager).look()
            assert severity == (await incidents(manager))[Signal.KEY_NOT_DESTROYED, None].severity
        keeper.destroy_bucket_keys = destroy


async def test_devices_taken_out_at_once_are_an_unusual_act(database, tmp_path):
    """One revocation is an operator's day; thirty at once are worth a look, whichever process made them."""
    async with managers(database, tmp_path, 2, detection=True) as (manager, other):
        await other.generate_device_keypairs_many([f"d{number}" for number in range(31)])
        detection = detection_of(manager)
        await detection.look()
        await other.revoke_device("d30", reason="retired")
        await detection.look()
        assert {} == await incidents(manager)
        for number in range(30):
            await other.revoke_device(f"d{number}", reason="all")
        await detection.look()
        assert {(Signal.OPERATOR_ACTS, None): WARNING} == {
            key: each.severity for key, each in (await incidents(manager)).items()
        }


async def test_a_failure_is_told_once_until_it_is_over(tmp_path, caplog):
    """A database that is away for long is one warning, not one every two seconds; the next time is another."""
    store = make_memory_store()
    async with managers(store, tmp_path, detection=True) as (manager,):
        detection = detection_of(manager)

        async def look():
            raise StoreUnavailableError("gone")

        async def look_well():
            pass

        look_well.__name__ = "look"
        for work in (look, look, look, look_well, look):
            await detection._attempt(work)
        assert 2 == [record.levelname for record in caplog.records if "look failed" in record.message].count("WARNING")
