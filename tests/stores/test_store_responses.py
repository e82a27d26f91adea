"""Responses: asked for once, wanted by different operators, done with their event, undone exactly, bounded."""

import asyncio
from os import urandom

import asyncpg
import pytest

from qflare.errors import ConflictError, IllegalTransitionError, KeyNotFoundError, StoreError
from qflare.model.device import KeyState
from qflare.model.event import SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.incident import IncidentState
from qflare.model.response import ResponseAction, ResponseBounds, ResponseFigures, ResponseState, ResponseTarget
from qflare.model.rotation import RotationReason
from qflare.model.session import SessionState
from store_records import begin_session, new_event, new_operator, new_response, new_sighting, publish, register

pytestmark = pytest.mark.contract

T = DEFAULT_TENANT
OTHER = TenantId(bytes(range(16)))
BOUNDS = ResponseBounds()
ASKED, DONE, HELD = (
    SecurityEventType.POLICY_VIOLATION,
    SecurityEventType.OPERATOR_ACTION,
    SecurityEventType.TENANT_CREATED,
)


async def operators(store, *names, tenant_id=T):
    for name in names:
        await store.add_operator(new_operator(tenant_id, name), event=new_event())


async def ask(store, response, *, needs_two=False, tenant_id=T):
    return await store.ask_response(tenant_id, response, needs_two=needs_two, event=new_event(ASKED))


async def carry_out(store, response, *, bounds=BOUNDS, **more):
    return await store.carry_out_response(
        T, response.response_id, bounds=bounds, event=new_event(DONE), held=new_event(HELD), **more
    )


async def state_of(store, device):
    return (await store.find_devices(T, [device.ref]))[device.ref].state


async def logged(store, kind):
    return sum(entry.event_type is kind for entry in await store.list_entries(T, first=0, limit=1000))


async def test_a_response_is_asked_for_once(store):
    """The same id again is the same response, with one event; another response under it is refused."""
    await operators(store, "ann")
    (device,) = await register(store)
    response = new_response(device=device)
    first = await ask(store, response)
    assert (ResponseState.PROPOSED, "ann", None, 0) == (first.state, first.first_by, first.second_by, first.lacks)
    assert first == await ask(store, response)
    assert 1 == await logged(store, ASKED)
    other = new_response(ResponseAction.REKEY, device=device, response_id=response.response_id)
    with pytest.raises(ConflictError, match="another response"):
        await ask(store, other)
    assert (first,) == await store.list_responses(T, limit=10)
    assert first == await store.find_response(T, response.response_id)
    assert KeyState.ACTIVE is await state_of(store, device)


async def test_a_quarantine_is_done_with_its_event_and_undone_exactly(store):
    """The device is suspended, its session ends, and undoing leaves state, keys and counts as they were; each once."""
    await operators(store, "ann", "bob")
    await publish(store)
    (device,) = await register(store)
    claim = await begin_session(store, device)
    before = (await store.find_devices(T, [device.ref]), await store.count_keys(T, bucket=claim.start))
    response = new_response(device=device)
    await ask(store, response)
    done = await carry_out(store, response)
    assert (ResponseState.APPLIED, "active", 1) == (done.state, done.before, done.changed)
    assert done == await carry_out(store, response)
    assert KeyState.SUSPENDED is await state_of(store, device)
    assert SessionState.REVOKED is (await store.find_sessions(T, [claim.sid]))[claim.sid].state
    assert 1 == await logged(store, DONE)
    undo = {"by": "bob", "because": "it was us", "event": new_event(HELD)}
    undone = await store.undo_response(T, response.response_id, **undo)
    assert (ResponseState.UNDONE, "bob", "it was us") == (undone.state, undone.ended_by, undone.ended_because)
    assert undone == await store.undo_response(T, response.response_id, **undo)
    assert 1 == await logged(store, HELD)
    after = (await store.find_devices(T, [device.ref]), await store.count_keys(T, bucket=claim.start))
    assert before[0] == after[0]
    assert before[1].devices_active == after[1].devices_active
    with pytest.raises(IllegalTransitionError, match="undone cannot become applied"):
        await carry_out(store, response)


async def test_undoing_leaves_alone_what_somebody_has_changed_since(store):
    """A device that an operator resumed, or suspended for another reason, is not moved by an old response's end."""
    await operators(store, "ann")
    (device,) = await register(store)
    response = new_response(device=device)
    await ask(store, response)
    await carry_out(store, response)
    undo = {"by": "ann", "because": "over", "event": new_event()}
    for state in (KeyState.ACTIVE, KeyState.SUSPENDED):
        await store.set_device_state(T, device.ref, state, reason="by hand", event=new_event())
        with pytest.raises(ConflictError, match="somebody else") as refused:
            await store.undo_response(T, response.response_id, **undo)
        assert "response_stands" == refused.value.constraint
        assert state is await state_of(store, device)
    assert ResponseState.APPLIED is (await store.find_response(T, response.response_id)).state


async def test_two_different_operators_must_want_what_nothing_takes_back(store):
    """Neither one operator alone, nor one of them twice, nor a revoked one, revokes a device; two do, for good."""
    await operators(store, "ann", "bob", "cid")
    (device,) = await register(store)
    response = new_response(ResponseAction.REVOKE, device=device)
    asked = await ask(store, response, needs_two=True)
    assert 1 == asked.lacks
    with pytest.raises(IllegalTransitionError, match="another operator"):
        await carry_out(store, response)
    with pytest.raises(ConflictError) as refused:
        await store.confirm_response(T, response.response_id, by="ann", event=new_event())
    assert "response_two_persons" == refused.value.constraint
    with pytest.raises(KeyNotFoundError, match="no such operator"):
        await store.confirm_response(T, response.response_id, by="eve", event=new_event())
    assert KeyState.ACTIVE is await state_of(store, device)
    wanted = await store.confirm_response(T, response.response_id, by="bob", event=new_event(HELD))
    assert ("ann", "bob", 0) == (wanted.first_by, wanted.second_by, wanted.lacks)
    assert wanted == await store.confirm_response(T, response.response_id, by="bob", event=new_event(HELD))
    assert 1 == await logged(store, HELD)
    await store.revoke_operator(T, "bob", reason="left", event=new_event())
    with pytest.raises(IllegalTransitionError, match="revoked since"):
        await carry_out(store, response)
    again = new_response(ResponseAction.REVOKE, device=device)
    await ask(store, again, needs_two=True)
    await store.confirm_response(T, again.response_id, by="cid", event=new_event())
    assert ResponseState.APPLIED is (await carry_out(store, again)).state
    assert KeyState.DEACTIVATED is await state_of(store, device)
    with pytest.raises(IllegalTransitionError, match="nothing takes revoke back"):
        await store.undo_response(T, again.response_id, by="ann", because="", event=new_event())


PAST_THE_CODE = {
    "UPDATE qflare.response SET second_by = 'ann' WHERE action = 'revoke'": "response_two_persons",
    "UPDATE qflare.response SET first_by = NULL, second_by = 'bob' WHERE action = 'revoke'": "response_two_persons",
    "UPDATE qflare.response SET state = 'applied' WHERE action = 'revoke'": "response_wanted",
    "UPDATE qflare.response SET needs_two = false WHERE action = 'revoke'": "response_destructive_needs_two",
    "UPDATE qflare.response SET state = 'applied' WHERE action = 'quarantine'": "response_wanted",
    "UPDATE qflare.response SET second_by = 'nobody' WHERE action = 'revoke'": "response_second_by_operator",
    """
    INSERT INTO qflare.response (tenant_id, response_id, action, ref, device_id, rule, is_automatic, proven, needs_two,
                                 reason)
    SELECT tenant_id, gen_random_uuid(), 'quarantine', ref, device_id, 'r', true, 0, false, 'x' FROM qflare.response
     WHERE action = 'revoke'
    """: "response_automatic_proven",
}


@pytest.mark.parametrize("role", ["qflare_app", None])
async def test_the_database_itself_refuses_one_person_twice(store, admin, role):
    """Whoever writes past the code: one name twice, a destructive act of one, an accusation without proof, a change."""
    await operators(store, "ann", "bob")
    (device,) = await register(store)
    response = new_response(ResponseAction.REVOKE, device=device)
    await ask(store, response, needs_two=True)
    await ask(store, new_response(device=device, by=None, rule="r"))
    for change, constraint in PAST_THE_CODE.items():
        transaction = admin.transaction()
        await transaction.start()
        await admin.execute("SELECT set_config('qflare.tenant', $1, true)", T.hex())
        if role:
            await admin.execute(f"SET LOCAL ROLE {role}")
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
            await admin.execute(change)
        assert constraint == refused.value.constraint_name
        await transaction.rollback()
    if role:
        async with admin.transaction():
            await admin.execute(f"SET LOCAL ROLE {role}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with admin.transaction():
                    await admin.execute("UPDATE qflare.response SET action = 'lift'")


async def test_rules_shut_out_no_more_devices_than_they_may(store):
    """Beyond the share that stands, or the number an hour, a rule's quarantine is not done; undoing gives room again."""
    await operators(store, "ann")
    devices = await register(store, count=4)
    bounds = ResponseBounds(automatic_hour_max=2, automatic_ppm=200_000)

    async def accuse(device):
        response = new_response(device=device, by=None, rule="r", is_automatic=True, proven=3)
        await ask(store, response)
        await carry_out(store, response, bounds=bounds)
        return response

    first = await accuse(devices[0])
    with pytest.raises(ConflictError, match="1 of 4 devices") as refused:
        await accuse(devices[1])
    assert "response_bounds" == refused.value.constraint
    assert KeyState.ACTIVE is await state_of(store, devices[1])
    await store.undo_response(T, first.response_id, by="ann", because="no", event=new_event())
    await store.undo_response(T, (await accuse(devices[2])).response_id, by="ann", because="no", event=new_event())
    with pytest.raises(ConflictError, match="2 devices within the hour"):
        await accuse(devices[3])
    use = await store.count_response_use(T)
    assert (4, 2, 0, 0) == (use.devices, use.automatic_last_hour, use.automatic_standing, use.single_last_hour)


async def test_rules_at_once_shut_out_no_more_than_one_after_the_other(store):
    """Twelve workers at the same moment: what is counted stays true until it is committed."""
    devices = await register(store, count=6)
    accused = [new_response(device=each, by=None, rule="r", is_automatic=True, proven=1) for each in devices]
    for response in accused:
        await ask(store, response)
    bounds = ResponseBounds(automatic_hour_max=2, automatic_ppm=200_000)
    for _ in range(2):
        ended = await asyncio.gather(
            *(carry_out(store, response, bounds=bounds) for response in accused * 2), return_exceptions=True
        )
        assert {ConflictError} == {type(each) for each in ended if isinstance(each, Exception)}
        states = [await state_of(store, device) for device in devices]
        # One of six stands at a time, whatever the hour allows.
        assert 1 == states.count(KeyState.SUSPENDED)
    assert 1 == await logged(store, DONE)


async def test_a_single_operator_beyond_the_bound_needs_another(store):
    """One stolen login shuts out only so many devices an hour: the next waits for a second operator."""
    await operators(store, "ann", "bob")
    devices = await register(store, count=2)
    bounds = ResponseBounds(single_hour_max=1)
    first, second = (new_response(device=device) for device in devices)
    await ask(store, first)
    assert ResponseState.APPLIED is (await carry_out(store, first, bounds=bounds)).state
    await ask(store, second)
    held = await carry_out(store, second, bounds=bounds)
    assert (ResponseState.PROPOSED, True, 1) == (held.state, held.needs_two, held.lacks)
    assert KeyState.ACTIVE is await state_of(store, devices[1])
    assert (1, 1) == (await logged(store, DONE), await logged(store, HELD))
    await store.confirm_response(T, second.response_id, by="bob", event=new_event())
    assert ResponseState.APPLIED is (await carry_out(store, second, bounds=bounds)).state


async def test_rekeys_rotations_turns_and_limits_are_done(store):
    """Sessions end, keys are marked, the bucket's mark rises, a limit is listed until it is undone."""
    await operators(store, "ann", "bob")
    await publish(store)
    (device,) = await register(store)
    claim = await begin_session(store, device)

    async def do(response, *, needs_two=False, **more):
        await ask(store, response, needs_two=needs_two)
        if needs_two:
            await store.confirm_response(T, response.response_id, by="bob", event=new_event())
        return await carry_out(store, response, **more)

    assert 1 == (await do(new_response(ResponseAction.REKEY, device=device))).changed
    assert SessionState.ENDED is (await store.find_sessions(T, [claim.sid]))[claim.sid].state
    assert 0 == (await do(new_response(ResponseAction.REKEY, device=device))).changed
    assert 1 == (await do(new_response(ResponseAction.ROTATE_DEVICE, device=device))).changed
    assert RotationReason.OPERATOR is (await store.find_rotation_marks(T, [device.ref]))[device.ref].reason
    assert 0 == (await do(new_response(ResponseAction.ROTATE_DEVICE, device=device))).changed
    mark = await store.bucket_mark()
    turned = await do(new_response(ResponseAction.TURN), needs_two=True, turn_to=mark + 1)
    assert (str(mark), mark + 1) == (turned.before, await store.bucket_mark())
    assert 5 == await logged(store, DONE)
    limit = new_response(
        ResponseAction.LIMIT_SOURCE, target=ResponseTarget(source="192.0.2.7"), per_minute=5, lasts_s=3600
    )
    assert 3600 == round(((done := await do(limit)).until_at - done.changed_at).total_seconds())
    (listed,) = await store.list_limits()
    assert (T, "192.0.2.7", 5) == (listed.tenant_id, listed.source, listed.per_minute)
    await store.undo_response(T, limit.response_id, by="ann", because="over", event=new_event())
    assert () == await store.list_limits()


async def test_what_is_done_elsewhere_is_begun_and_ended(store):
    """A rotation of the identity notes what was before, and ends once; a dismissed proposal is over."""
    await operators(store, "ann", "bob")
    response = new_response(ResponseAction.ROTATE_IDENTITY)
    await ask(store, response, needs_two=True)
    await store.confirm_response(T, response.response_id, by="bob", event=new_event())
    begun = await carry_out(store, response, before="1")
    assert (ResponseState.BEGUN, "1") == (begun.state, begun.before)
    assert begun == await carry_out(store, response, before="2")
    ending = {"by": None, "because": "", "event": new_event(HELD)}
    ended = await store.end_response(T, response.response_id, ResponseState.APPLIED, **ending)
    assert (ResponseState.APPLIED, 1) == (ended.state, ended.changed)
    assert ended == await store.end_response(T, response.response_id, ResponseState.APPLIED, **ending)
    assert 1 == await logged(store, HELD)
    other = new_response(ResponseAction.TURN)
    await ask(store, other, needs_two=True)
    dismissed = await store.end_response(
        T, other.response_id, ResponseState.DISMISSED, by="bob", because="no", event=new_event()
    )
    assert (ResponseState.DISMISSED, "bob") == (dismissed.state, dismissed.ended_by)
    with pytest.raises(IllegalTransitionError, match="dismissed cannot become applied"):
        await store.confirm_response(T, other.response_id, by="ann", event=new_event())


async def test_figures_count_every_tenant_and_name_none(store):
    """Incidents by severity and state, responses of the last day, and whom proposals wait for, with the oldest's time."""
    none = ResponseFigures(incidents={}, responses={}, waiting={}, waiting_since=None)
    assert none == await store.count_responses()
    await store.save_tenant(OTHER, "other", event=new_event())
    await operators(store, "ann", "bob")
    await operators(store, "ann", "bob", tenant_id=OTHER)
    sighting = new_sighting()
    for tenant_id in (T, OTHER):
        await store.report_incidents(
            tenant_id, [sighting], opened=[new_event()], raised=[new_event()], call_id=urandom(16)
        )
    await store.move_incident(
        OTHER, sighting.incident_id, IncidentState.ACKNOWLEDGED, by="ann", note="", event=new_event()
    )
    (device,) = await register(store)
    one, two = new_response(device=device), new_response(ResponseAction.REVOKE, device=device)
    await ask(store, one)
    asked = await ask(store, two, needs_two=True)
    await ask(store, new_response(device=device, by=None, rule="r"))
    await ask(store, new_response(ResponseAction.TURN), needs_two=True, tenant_id=OTHER)
    figures = await store.count_responses()
    assert {("warning", "open"): 1, ("warning", "acknowledged"): 1} == figures.incidents
    proposed = {(action, "proposed") for action in ("quarantine", "revoke", "turn")}
    assert (proposed, {"first": 1, "second": 2}) == (set(figures.responses), figures.waiting)
    assert asked.asked_at == figures.waiting_since
    await carry_out(store, one)
    await store.confirm_response(T, two.response_id, by="bob", event=new_event())
    figures = await store.count_responses()
    assert (1, 1) == (figures.responses["quarantine", "applied"], figures.responses["quarantine", "proposed"])
    assert {"first": 1, "second": 1} == figures.waiting


async def test_workers_that_serve_are_counted_until_they_end(store):
    """Each says so again and again under its id; who ended, or has said nothing for long, is not counted."""
    mine, other = urandom(16), urandom(16)
    assert 0 == await store.count_workers(mine, lately_s=3600)
    for worker_id in (mine, other, other):
        await store.beat_worker(worker_id, lately_s=3600)
    assert (1, 2) == (
        await store.count_workers(mine, lately_s=3600),
        await store.count_workers(urandom(16), lately_s=3600),
    )
    assert 0 == await store.count_workers(mine, lately_s=0)
    await store.forget_worker(other, lately_s=3600)
    assert 0 == await store.count_workers(mine, lately_s=3600)
    await store.beat_worker(other, lately_s=0)
    assert 0 == await store.count_workers(other, lately_s=3600)


async def test_what_is_finished_is_removed_and_what_stands_is_kept(store):
    """Nothing that is young, open, begun, or can be undone or confirmed goes; the rest some at a time, with an event."""
    await operators(store, "ann", "bob")
    device, other = await register(store, count=2)
    open_one, closed, answered = new_sighting(), new_sighting(ref=device.ref), new_sighting(ref=other.ref)
    for sighting in (open_one, closed, answered):
        await store.report_incidents(T, [sighting], opened=[new_event()], raised=[new_event()], call_id=urandom(16))
    for sighting in (closed, answered):
        await store.move_incident(T, sighting.incident_id, IncidentState.CLOSED, by="ann", note="", event=new_event())
    standing = new_response(device=device, incident_id=answered.incident_id)
    done, undone = new_response(ResponseAction.REKEY, device=other), new_response(ResponseAction.LIFT, device=device)
    waiting = new_response(device=other)
    for each in (standing, done, undone, waiting):
        await ask(store, each)
    for each in (standing, done, undone):
        await carry_out(store, each)
    await store.undo_response(T, undone.response_id, by="ann", because="no", event=new_event(ASKED))
    assert 0 == await store.drop_finished(keep_s=3600, limit=9, event=new_event(HELD))
    assert 0 == await logged(store, HELD)
    # All that was changed by now: a clock may stand for as long as this takes.
    assert 2 == await store.drop_finished(keep_s=-1, limit=1, event=new_event(HELD))
    assert 1 == await store.drop_finished(keep_s=-1, limit=9, event=new_event(HELD))
    assert 0 == await store.drop_finished(keep_s=-1, limit=9, event=new_event(HELD))
    assert 2 == await logged(store, HELD)
    left = {each.response_id for each in await store.list_responses(T, limit=9)}
    assert {standing.response_id, waiting.response_id} == left
    incidents = {each.incident_id for each in await store.list_incidents(T, limit=9)}
    assert {open_one.incident_id, answered.incident_id} == incidents


async def test_what_answers_an_incident_that_is_not_closed_is_kept(store):
    """Without its response an open incident's rule would respond again; closed, both go, the response first."""
    await operators(store, "ann")
    (device,) = await register(store)
    sighting = new_sighting(ref=device.ref)
    await store.report_incidents(T, [sighting], opened=[new_event()], raised=[new_event()], call_id=urandom(16))
    undone = new_response(device=device, incident_id=sighting.incident_id)
    done = new_response(ResponseAction.REKEY, device=device, incident_id=sighting.incident_id)
    for each in (undone, done):
        await ask(store, each)
        await carry_out(store, each)
    await store.undo_response(T, undone.response_id, by="ann", because="no", event=new_event())
    for state in (IncidentState.ACKNOWLEDGED, IncidentState.CLOSED):
        assert 0 == await store.drop_finished(keep_s=-1, limit=9, event=new_event())
        assert 2 == len(await store.list_responses(T, limit=9))
        await store.move_incident(T, sighting.incident_id, state, by="ann", note="", event=new_event())
    assert 3 == await store.drop_finished(keep_s=-1, limit=9, event=new_event())
    assert ((), ()) == (await store.list_responses(T, limit=9), await store.list_incidents(T, limit=9))


REFUSE_ENTRIES = """
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the log is full'; END $$;
    CREATE TRIGGER refused BEFORE INSERT ON qflare.audit_entry FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""


async def test_nothing_is_done_that_the_log_does_not_take(store, admin):
    """Where the entry cannot be written, nothing is asked for, wanted, carried out or undone."""
    await operators(store, "ann", "bob")
    await publish(store)
    devices = await register(store, count=2)
    claim = await begin_session(store, devices[0])
    waiting, done = (new_response(device=device) for device in devices)
    for response in (waiting, done):
        await ask(store, response)
    await carry_out(store, done)
    rekey = new_response(ResponseAction.REKEY, device=devices[0])
    await ask(store, rekey)
    before = await store.list_responses(T, limit=10)
    await admin.execute(REFUSE_ENTRIES)
    for call in (
        ask(store, new_response(device=devices[0])),
        store.confirm_response(T, waiting.response_id, by="bob", event=new_event()),
        carry_out(store, waiting),
        carry_out(store, rekey),
        store.end_response(T, waiting.response_id, ResponseState.DISMISSED, by="ann", because="", event=new_event()),
        store.undo_response(T, done.response_id, by="ann", because="no", event=new_event()),
    ):
        with pytest.raises(StoreError):
            await call
    assert before == await store.list_responses(T, limit=10)
    assert [KeyState.ACTIVE, KeyState.SUSPENDED] == [await state_of(store, device) for device in devices]
    assert SessionState.LIVE is (await store.find_sessions(T, [claim.sid]))[claim.sid].state


async def test_what_is_too_old_is_not_done_and_limits_end(store, admin):
    """A proposal of yesterday is not confirmed or carried out, and a limit ends by itself."""
    await operators(store, "ann", "bob")
    (device,) = await register(store)
    response = new_response(device=device)
    await ask(store, response)
    limit = new_response(ResponseAction.LIMIT_TENANT, per_minute=1, lasts_s=60)
    await ask(store, limit)
    await carry_out(store, limit)
    assert 1 == len(await store.list_limits())
    await admin.execute("UPDATE qflare.response SET expires_at = now(), until_at = until_at - interval '60 seconds'")
    assert () == await store.list_limits()
    with pytest.raises(IllegalTransitionError, match="older than a day"):
        await carry_out(store, response)
    with pytest.raises(IllegalTransitionError, match="ask for it anew"):
        await store.confirm_response(T, response.response_id, by="bob", event=new_event())
    assert KeyState.ACTIVE is await state_of(store, device)


async def test_responses_are_listed_by_incident_and_tenant(store):
    """Pages follow one another, the last asked for first; another tenant's responses are not seen or moved."""
    await operators(store, "ann")
    sighting = new_sighting()
    await store.report_incidents(T, [sighting], opened=[new_event()], raised=[new_event()], call_id=urandom(16))
    devices = await register(store, count=3)
    asked = [
        await ask(store, new_response(device=device, incident_id=sighting.incident_id if place else None))
        for place, device in enumerate(devices)
    ]
    asked.sort(key=lambda each: (each.asked_at, each.response_id))
    assert tuple(reversed(asked)) == await store.list_responses(T, limit=10)
    assert (asked[1], asked[0]) == await store.list_responses(T, limit=2, after=asked[2].response_id)
    of_incident = [each for each in reversed(asked) if each.incident_id]
    assert tuple(of_incident) == await store.list_responses(T, incident_id=sighting.incident_id, limit=10)
    assert 2 == len(of_incident)
    assert () == await store.list_responses(T, states=[ResponseState.UNDONE], limit=10)
    await store.save_tenant(OTHER, "other", event=new_event())
    assert () == await store.list_responses(OTHER, limit=10)
    assert None is await store.find_response(OTHER, asked[0].response_id)
    with pytest.raises(KeyNotFoundError, match="no such response"):
        await store.confirm_response(OTHER, asked[0].response_id, by="ann", event=new_event())


async def test_what_cannot_stand_is_refused(store):
    """Targets that do not fit, bad limits, unknown operators and incidents leave nothing behind."""
    await operators(store, "ann")
    (device,) = await register(store)
    for wrong, constraint in (
        (new_response(), "response_target_of_action"),
        (new_response(ResponseAction.LIMIT_TENANT, device=device, per_minute=1), "response_target_of_action"),
        (new_response(device=device, reason=""), "response_reason_size"),
        (new_response(device=device, per_minute=5), "response_limit_of_action"),
        (new_response(ResponseAction.LIMIT_DEVICE, device=device), "response_limit_of_action"),
        (new_response(ResponseAction.LIMIT_TENANT, per_minute=-1), "response_per_minute_range"),
        (new_response(ResponseAction.TURN), "response_destructive_needs_two"),
        (new_response(device=device, is_automatic=True), "response_automatic_of_rule"),
        (new_response(device=device, by=None, rule="r", is_automatic=True), "response_automatic_proven"),
    ):
        with pytest.raises(ConflictError) as refused:
            await ask(store, wrong)
        assert constraint == refused.value.constraint
    with pytest.raises(KeyNotFoundError, match="no such operator"):
        await ask(store, new_response(device=device, by="eve"))
    with pytest.raises(KeyNotFoundError, match="no such incident"):
        await ask(store, new_response(device=device, incident_id=urandom(16)))
    assert () == await store.list_responses(T, limit=10)
    assert 0 == await logged(store, ASKED)
