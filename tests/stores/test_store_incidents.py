"""Incidents: one record for all that is the same, opened with its event, moved by people; and the detector's state."""

from os import urandom

import pytest

from qflare.clock import utc
from qflare.errors import BatchError, ConflictError, IllegalTransitionError, KeyNotFoundError
from qflare.model.device import KeyState
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.incident import IncidentState
from qflare.model.signal import Signal
from store_records import NOW_S, new_event, new_operator, new_sighting, register

pytestmark = pytest.mark.contract

T = DEFAULT_TENANT
OTHER = TenantId(bytes(range(16)))
CLOSED = IncidentState.CLOSED
OPENED, RAISED = SecurityEventType.TAMPER_DETECTED, SecurityEventType.POLICY_VIOLATION


async def report(store, *sightings, tenant_id=T, call_id=None):
    return await store.report_incidents(
        tenant_id,
        sightings,
        opened=[new_event(OPENED) for _ in sightings],
        raised=[new_event(RAISED) for _ in sightings],
        call_id=call_id or urandom(16),
    )


async def logged(store):
    return [entry.event_type for entry in await store.list_entries(T, first=0, limit=100)]


async def test_the_same_again_is_one_incident_and_one_event(store):
    """Sightings of one signal and device are added up, in one row, whose opening alone stands in the log."""
    ref = urandom(32)
    first = new_sighting(ref=ref, device_id="d", evidence=b'{"n":1}')
    (opened,) = await report(store, first)
    assert (first.incident_id, True, False) == (opened.incident_id, opened.is_opened, opened.is_raised)
    (added,) = await report(store, new_sighting(ref=ref, seen_s=NOW_S + 60, count=4, evidence=b'{"n":2}'))
    assert (first.incident_id, False, False) == (added.incident_id, added.is_opened, added.is_raised)
    (incident,) = await store.list_incidents(T, limit=10)
    assert (5, utc(NOW_S), utc(NOW_S + 60)) == (incident.count, incident.first_seen_at, incident.last_seen_at)
    assert (ref, "d", b'{"n":2}', IncidentState.OPEN) == (
        incident.ref,
        incident.device_id,
        incident.evidence,
        incident.state,
    )
    assert [OPENED] == await logged(store)


async def test_a_graver_sighting_raises_and_a_lesser_one_does_not(store):
    """The highest severity stands, with its evidence, and the rise is an event of its own."""
    await report(store, new_sighting())
    (raised,) = await report(store, new_sighting(severity=EventSeverity.CRITICAL, evidence=b'{"grave":true}'))
    assert raised.is_raised
    (lesser,) = await report(store, new_sighting(severity=EventSeverity.INFO, evidence=b'{"grave":false}'))
    assert not lesser.is_raised
    (incident,) = await store.list_incidents(T, limit=10)
    assert (EventSeverity.CRITICAL, b'{"grave":true}', 3) == (incident.severity, incident.evidence, incident.count)
    assert [OPENED, RAISED] == await logged(store)


async def test_signals_devices_and_the_fleet_are_apart(store):
    """Another signal, another device and the fleet each have an incident of their own; results come in order."""
    sightings = [
        new_sighting(Signal.SCAN),
        new_sighting(Signal.REPLAYS, ref=urandom(32)),
        new_sighting(Signal.REPLAYS),
        new_sighting(Signal.REPLAYS, ref=urandom(32)),
    ]
    changes = await report(store, *sightings)
    assert [each.incident_id for each in sightings] == [change.incident_id for change in changes]
    assert all(change.is_opened for change in changes)
    assert {("replays", "warning", "open"): 3, ("scan", "warning", "open"): 1} == await store.count_incidents(T)


async def test_a_repeated_report_counts_once(store):
    """A report whose answer was lost is sent again with its id and changes nothing."""
    call_id = urandom(16)
    sighting = new_sighting()
    assert 1 == len(await report(store, sighting, call_id=call_id))
    assert () == await report(store, sighting, call_id=call_id)
    (incident,) = await store.list_incidents(T, limit=10)
    assert 1 == incident.count
    assert [OPENED] == await logged(store)


async def test_states_move_as_they_may(store):
    """Open, acknowledged, open again, closed for good; each change with its event, the same state again with none."""
    sighting = new_sighting()
    await report(store, sighting)
    await store.add_operator(new_operator(), event=new_event())
    key = sighting.incident_id
    for state in (IncidentState.ACKNOWLEDGED, IncidentState.OPEN, IncidentState.ACKNOWLEDGED, IncidentState.CLOSED):
        moved = await store.move_incident(T, key, state, by="ann", note=f"now {state}", event=new_event())
        assert (state, f"now {state}", "ann") == (moved.state, moved.note, moved.changed_by)
    assert moved == await store.move_incident(T, key, CLOSED, by="ann", note="again", event=new_event())
    with pytest.raises(IllegalTransitionError, match="closed cannot become open"):
        await store.move_incident(T, key, IncidentState.OPEN, by="ann", note="", event=new_event())
    with pytest.raises(KeyNotFoundError, match="no such incident"):
        await store.move_incident(T, urandom(16), IncidentState.OPEN, by="ann", note="", event=new_event())
    assert [OPENED, *[SecurityEventType.SYSTEM] * 5] == await logged(store)
    assert {} == await store.count_incidents(T)


async def test_only_an_operator_of_the_tenant_moves_an_incident(store):
    """A stranger, another tenant's operator and a revoked one change nothing, and the log says nothing of them."""
    sighting = new_sighting()
    await report(store, sighting)
    await store.save_tenant(OTHER, "other", event=new_event())
    await store.add_operator(new_operator(OTHER, "eve"), event=new_event())
    await store.add_operator(new_operator(name="cid"), event=new_event())
    await store.revoke_operator(T, "cid", reason="left", event=new_event())
    before = await store.find_incident(T, sighting.incident_id), await logged(store)
    for by, error in (("nobody", KeyNotFoundError), ("eve", KeyNotFoundError), ("cid", IllegalTransitionError)):
        with pytest.raises(error, match="operator"):
            await store.move_incident(T, sighting.incident_id, CLOSED, by=by, note="", event=new_event())
    assert before == (await store.find_incident(T, sighting.incident_id), await logged(store))
    assert None is before[0].changed_by


async def test_what_comes_after_the_end_is_another_incident(store):
    """A closed incident stays as it is; an acknowledged one takes what comes."""
    first, second = new_sighting(), new_sighting(seen_s=NOW_S + 10)
    await report(store, first)
    await store.add_operator(new_operator(), event=new_event())
    await store.move_incident(T, first.incident_id, IncidentState.ACKNOWLEDGED, by="ann", note="", event=new_event())
    (change,) = await report(store, new_sighting())
    assert first.incident_id == change.incident_id
    await store.move_incident(T, first.incident_id, CLOSED, by="ann", note="", event=new_event())
    (change,) = await report(store, second)
    assert change.is_opened
    listed = await store.list_incidents(T, limit=10)
    assert [(second.incident_id, 1), (first.incident_id, 2)] == [(each.incident_id, each.count) for each in listed]
    (closed,) = await store.list_incidents(T, states=[IncidentState.CLOSED], limit=10)
    assert closed == await store.find_incident(T, first.incident_id)


async def test_pages_follow_one_another(store):
    """A page goes on after the last of the one before, the last seen first, equal times included."""
    for number in range(7):
        await report(store, new_sighting(ref=urandom(32), seen_s=NOW_S + number // 2))
    whole = await store.list_incidents(T, limit=10)
    paged, after = [], None
    while page := await store.list_incidents(T, limit=3, after=after):
        paged.extend(page)
        after = page[-1].incident_id
    assert (list(whole), 7) == (paged, len(paged))
    assert sorted((each.last_seen_at for each in whole), reverse=True) == [each.last_seen_at for each in whole]
    assert () == await store.list_incidents(T, limit=3, after=urandom(16))


async def test_tenants_see_their_own(store):
    """Another tenant's incidents and state are not found, listed, moved or counted."""
    await store.save_tenant(OTHER, "other", event=new_event())
    mine, others = new_sighting(), new_sighting()
    await report(store, mine)
    await report(store, others, tenant_id=OTHER)
    assert None is await store.find_incident(T, others.incident_id)
    assert [mine.incident_id] == [each.incident_id for each in await store.list_incidents(T, limit=10)]
    with pytest.raises(KeyNotFoundError):
        await store.move_incident(T, others.incident_id, CLOSED, by="ann", note="", event=new_event())
    assert await store.save_detector_state(OTHER, b"x", after=0)
    assert None is await store.find_detector_state(T)


async def test_what_cannot_stand_is_refused_and_leaves_nothing(store):
    """Bad sizes, counts and tenants are errors that name the constraint; nothing of the report stands."""
    for wrong, constraint in (
        ({"evidence": b"x" * 4097}, "incident_evidence_size"),
        ({"count": 0}, "incident_seen_range"),
        ({"first_seen_s": NOW_S + 1}, "incident_seen_in_order"),
        ({"ref": b"short"}, "incident_subject_size"),
    ):
        with pytest.raises(ConflictError) as refused:
            await report(store, new_sighting(Signal.SCAN), new_sighting(**wrong))
        assert constraint == refused.value.constraint
    with pytest.raises(KeyNotFoundError, match="no such tenant"):
        await report(store, new_sighting(), tenant_id=OTHER)
    with pytest.raises(BatchError):
        await store.report_incidents(T, [new_sighting()], opened=[], raised=[], call_id=urandom(16))
    assert () == await report(store)
    assert () == await store.list_incidents(T, limit=10)
    assert [] == await logged(store)


async def test_the_detectors_state_is_saved_by_whoever_read_the_last(store):
    """A worker that read an older version saves nothing and is told so."""
    assert None is await store.find_detector_state(T)
    assert await store.save_detector_state(T, b"one", after=0)
    assert not await store.save_detector_state(T, b"two", after=0)
    found = await store.find_detector_state(T)
    assert (1, b"one") == (found.version, found.state)
    assert await store.save_detector_state(T, b"two", after=1)
    assert (2, b"two") == ((found := await store.find_detector_state(T)).version, found.state)


async def test_devices_out_of_service_are_counted_in_their_tenant(store):
    """Suspended, deactivated and compromised devices count, in their tenant alone, until they are back."""
    await store.save_tenant(OTHER, "other", event=new_event())
    away, revoked, stolen, *_ = await register(store, 4)
    for device, state in (
        (away, KeyState.SUSPENDED),
        (revoked, KeyState.DEACTIVATED),
        (stolen, KeyState.COMPROMISED),
    ):
        await store.set_device_state(T, device.ref, state, reason="gone", event=new_event())
    assert (3, 0) == (await store.count_out_of_service(T), await store.count_out_of_service(OTHER))
    await store.set_device_state(T, away.ref, KeyState.ACTIVE, reason="back", event=new_event())
    assert 2 == await store.count_out_of_service(T)


async def test_the_stores_clock_is_told(store):
    """The time that all workers share goes on."""
    first = await store.database_time_ms()
    assert first > 1_600_000_000_000
    assert await store.database_time_ms() >= first
