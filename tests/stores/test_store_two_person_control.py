"""Two-person control: one operator turns it on, two turn it off, and while it is on the database refuses one hand."""

import asyncpg
import pytest

from qflare.errors import ConflictError, IllegalTransitionError, KeyNotFoundError, SecondPersonError
from qflare.model.device import KeyState
from qflare.model.event import SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.response import ResponseAction, ResponseState
from qflare.model.two_person_control import NEVER_ON
from store_records import new_event, new_identity, new_response, register
from stores.test_store_responses import ask, carry_out, operators

pytestmark = pytest.mark.contract

T = DEFAULT_TENANT
OTHER = TenantId(bytes(range(16)))
ON, ASKED, ENDED = (
    SecurityEventType.POLICY_VIOLATION,
    SecurityEventType.OPERATOR_ACTION,
    SecurityEventType.TENANT_CREATED,
)


async def turn_on(store, by="ann"):
    return await store.require_two_persons(T, by=by, event=new_event(ON))


async def turn_off(store, by):
    return await store.allow_one_person(T, by=by, asked=new_event(ASKED), ended=new_event(ENDED))


async def told(store):
    kinds = (ON, ASKED, ENDED)
    return [each.event_type for each in await store.list_entries(T, first=0, limit=100) if each.event_type in kinds]


async def test_one_turns_it_on_and_two_turn_it_off(store):
    """Each change once with its event; one operator alone, a stranger and a revoked one end nothing."""
    assert NEVER_ON == await store.find_two_person_control(T) == await turn_off(store, "ann")
    await operators(store, "ann")
    with pytest.raises(IllegalTransitionError, match="two active operators"):
        await turn_on(store)
    await operators(store, "bob", "cid")
    on = await turn_on(store)
    assert (True, "ann", None) == (on.is_on, on.changed_by, on.off_by)
    assert on == await turn_on(store, "bob") == await store.find_two_person_control(T)
    asked = await turn_off(store, "ann")
    assert (True, "ann") == (asked.is_on, asked.off_by)
    assert asked == await turn_off(store, "ann")
    # Somebody does not want that.
    assert None is (await turn_on(store, "bob")).off_by
    await turn_off(store, "ann")
    with pytest.raises(KeyNotFoundError, match="no such operator"):
        await turn_off(store, "nobody")
    await store.revoke_operator(T, "cid", reason="left", event=new_event())
    with pytest.raises(IllegalTransitionError, match="revoked"):
        await turn_off(store, "cid")
    off = await turn_off(store, "bob")
    assert (False, "bob", "ann") == (off.is_on, off.changed_by, off.off_by)
    assert off == await turn_off(store, "ann")
    assert [ON, ASKED, ON, ASKED, ENDED] == await told(store)


async def test_who_asked_for_its_end_and_lost_access_counts_no_more(store):
    """A wish of an operator who was revoked since does not end it."""
    await operators(store, "ann", "bob", "cid")
    await turn_on(store)
    await turn_off(store, "ann")
    await store.revoke_operator(T, "ann", reason="left", event=new_event())
    with pytest.raises(ConflictError, match="asked_before"):
        await turn_off(store, "bob")
    await turn_on(store, "bob")
    await turn_off(store, "cid")
    assert not (await turn_off(store, "bob")).is_on


async def revoke_by_hand(store, device, state=KeyState.DEACTIVATED, tenant_id=T):
    return await store.set_device_state(tenant_id, device.ref, state, reason="stolen", event=new_event())


async def test_a_device_is_revoked_by_two_alone(store):
    """By hand nothing happens, proposed or not; by the response that two want it does; other tenants are as before."""
    await operators(store, "ann", "bob")
    await store.save_tenant(OTHER, "other", event=new_event())
    device, other = await register(store, count=2)
    (theirs,) = await register(store, tenant_id=OTHER)
    await turn_on(store)
    response = new_response(ResponseAction.REVOKE, device=device)
    await ask(store, response, needs_two=True)
    size = (await store.log_head()).size
    for state in (KeyState.DEACTIVATED, KeyState.COMPROMISED):
        with pytest.raises(SecondPersonError, match="incident apply - revoke"):
            await revoke_by_hand(store, device, state)
    assert size == (await store.log_head()).size
    # What can be taken back takes one.
    await revoke_by_hand(store, device, KeyState.SUSPENDED)
    with pytest.raises(SecondPersonError):
        await revoke_by_hand(store, device)
    await store.confirm_response(T, response.response_id, by="bob", event=new_event())
    with pytest.raises(SecondPersonError):
        await revoke_by_hand(store, other)
    assert ResponseState.APPLIED is (await carry_out(store, response)).state
    # It is out already: that its keys are known to others may be said by anybody.
    await revoke_by_hand(store, device, KeyState.COMPROMISED)
    await revoke_by_hand(store, theirs, tenant_id=OTHER)


async def test_an_operator_who_was_revoked_meanwhile_is_no_second_person(store):
    """A confirmed proposal of somebody who has no access any more lets nothing through."""
    await operators(store, "ann", "bob", "cid")
    (device,) = await register(store)
    await turn_on(store)
    response = new_response(ResponseAction.REVOKE, device=device)
    await ask(store, response, needs_two=True)
    await store.confirm_response(T, response.response_id, by="bob", event=new_event())
    await store.revoke_operator(T, "bob", reason="left", event=new_event())
    with pytest.raises(SecondPersonError):
        await revoke_by_hand(store, device)


async def test_the_identity_is_rotated_by_two_alone(store):
    """The first identity needs nobody; the next one the response that two began, or a root that is kept offline."""
    await operators(store, "ann", "bob")
    await turn_on(store)
    await store.save_identity(new_identity(1), event=new_event())

    async def follow(serial, after):
        made = new_identity(serial)
        return await store.follow_identity(made, after=after, compromised=None, event=new_event())

    with pytest.raises(SecondPersonError, match="rotate-identity"):
        await follow(2, 1)
    response = new_response(ResponseAction.ROTATE_IDENTITY)
    await ask(store, response, needs_two=True)
    await store.confirm_response(T, response.response_id, by="bob", event=new_event())
    with pytest.raises(SecondPersonError):
        await follow(2, 1)
    await carry_out(store, response, before="1")
    assert 2 == await follow(2, 1)
    await store.end_response(T, response.response_id, ResponseState.APPLIED, by=None, because="", event=new_event())
    with pytest.raises(SecondPersonError):
        await follow(3, 2)
    await store.remove_root(event=new_event())
    assert 3 == await follow(3, 2)


FORGED = {
    "UPDATE qflare.two_person_control SET is_on = false, changed_by = 'bob'": "two_person_control_two_persons",
    "UPDATE qflare.two_person_control SET is_on = false, changed_by = 'bob', off_by = 'ann'": "two_person_control_asked_before",
    "UPDATE qflare.device SET state = 'deactivated'": "device_two_persons",
    "UPDATE qflare.device SET state = 'compromised'": "device_two_persons",
}


async def test_the_database_itself_refuses_one_hand(store, admin):
    """Neither the application's login nor a superuser ends control or a device with one statement; none deletes the row."""
    await operators(store, "ann", "bob")
    await register(store)
    await turn_on(store)
    await turn_off(store, "bob")
    for statement, constraint in FORGED.items():
        for role in ("qflare_app", None):
            async with admin.transaction():
                if role is not None:
                    await admin.execute(f"SET LOCAL ROLE {role}")
                await admin.execute("SELECT set_config('qflare.tenant', $1, true)", str(T.hex()))
                with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
                    async with admin.transaction():
                        await admin.execute(statement)
            assert constraint == refused.value.constraint_name, statement
    async with admin.transaction():
        await admin.execute("SET LOCAL ROLE qflare_app")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with admin.transaction():
                await admin.execute("DELETE FROM qflare.two_person_control")
