"""Keys of sealed entries: with their entries, found by subject, destroyed together with the event that says so."""

import json
from os import urandom

import pytest

from qflare.errors import ConflictError
from qflare.model.device import KeyState
from qflare.model.event import FIELDS_ENTRY
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.response import ResponseAction, ResponseBounds, ResponseState, ResponseTarget
from qflare.model.signal import Signal
from store_records import new_event, new_operator, new_response, new_sealed_event, new_sighting, register

pytestmark = pytest.mark.contract

T = DEFAULT_TENANT
OTHER = TenantId(b"o" * 16)
SUBJECT = b"s" * 32


async def test_a_sealed_entry_comes_back_with_its_key(store):
    """What is stored, the key beside it, and no device; plain and sealed events mixed in one append."""
    sealed = new_sealed_event()
    await store.append_events(T, [new_event(), sealed, new_event(), new_sealed_event()])
    found = await store.list_entries(T, first=0, limit=9)
    assert [2, FIELDS_ENTRY, 2, FIELDS_ENTRY] == [each.entry_type for each in found]
    assert (sealed.stored, None, sealed.sealed_key) == (found[1].data, found[1].device_id, found[1].sealed_key)
    assert [False, True, False, True] == [each.sealed_key is not None for each in found]
    assert found[3] == (await store.list_entries(None, first=3, limit=1))[0]


async def test_a_subject_is_erased_with_its_event_and_nobody_else(store):
    """The subject's keys go, the rows and the tree stay, and the event stands; another subject's and tenant's keep."""
    await store.save_tenant(OTHER, "other", event=new_event())
    first = (await store.append_events(T, [new_sealed_event(SUBJECT), new_sealed_event()])).first_index
    await store.append_events(OTHER, [new_sealed_event(SUBJECT)])
    await store.append_events(T, [new_sealed_event(SUBJECT)])
    before = await store.list_entries(T, first=first, limit=9)
    assert (first, first + 3) == await store.find_subject_entries(T, SUBJECT, limit=9)
    assert (first,) == await store.find_subject_entries(T, SUBJECT, limit=1)
    every = [*range(first, first + 4), 999]
    assert {each.index: each.sealed_key for each in before} == await store.find_entry_keys(T, every)
    event = new_event()
    await store.erase_entries(T, SUBJECT, [first, first + 3], event=event)
    assert [first + 1] == list(await store.find_entry_keys(T, every))
    assert [first + 2] == list(await store.find_entry_keys(OTHER, every))
    assert () == await store.find_subject_entries(T, SUBJECT, limit=9)
    assert (first + 2,) == await store.find_subject_entries(OTHER, SUBJECT, limit=9)
    after = await store.list_entries(T, first=first, limit=9)
    assert [None, before[1].sealed_key, None] == [each.sealed_key for each in after[:3]]
    assert [each.leaf_data for each in before] == [each.leaf_data for each in after[:3]]
    assert event.leaf_data == after[3].leaf_data


async def test_an_erasure_is_whole_or_nothing(store):
    """One entry that is not the subject's, or was erased: no key goes, and no event says so."""
    await store.save_tenant(OTHER, "other", event=new_event())
    first = (await store.append_events(T, [new_sealed_event(SUBJECT), new_sealed_event()])).first_index
    size = (await store.log_head()).size
    for tenant, indexes in ((T, [first, first + 1]), (T, [first, 999]), (OTHER, [first])):
        with pytest.raises(ConflictError):
            await store.erase_entries(tenant, SUBJECT, indexes, event=new_event())
    assert (first,) == await store.find_subject_entries(T, SUBJECT, limit=9)
    assert size == (await store.log_head()).size
    await store.erase_entries(T, SUBJECT, [first], event=new_event())
    with pytest.raises(ConflictError):
        await store.erase_entries(T, SUBJECT, [first], event=new_event())


async def test_entries_that_name_a_device_are_counted(store):
    """Entries of type 2 name their device for good: how many there are is known."""
    await store.append_events(T, [new_event(device_id="d"), new_event(), new_event(device_id="e"), new_sealed_event()])
    assert [1, 0] == [await store.count_named_entries(T, each) for each in ("d", "f")]


async def test_mentions_go_from_incidents_and_responses(store):
    """A name in a row, in text and in JSON, of this tenant alone; counted first, erased once with its event."""
    name = "caf\u00e9"
    await store.save_tenant(OTHER, "other", event=new_event())
    for tenant_id in (T, OTHER):
        await store.add_operator(new_operator(tenant_id), event=new_event())
        (device,) = await register(store, tenant_id=tenant_id)
        for sighting in (
            new_sighting(Signal.CLONE, ref=device.ref, device_id=name),
            new_sighting(Signal.SCAN, evidence=json.dumps({"devices": [name]}).encode()),
            new_sighting(Signal.REPLAYS, device_id="caf\u00e9s", evidence=b'{"n":1}'),
        ):
            await store.report_incidents(
                tenant_id, [sighting], opened=[new_event()], raised=[new_event()], call_id=urandom(16)
            )
        target = ResponseTarget(ref=device.ref, device_id=name)
        for response in (new_response(target=target), new_response(ResponseAction.TURN, reason=f"for {name}.")):
            await store.ask_response(tenant_id, response, needs_two=True, event=new_event())
    size = (await store.log_head()).size
    assert [4, 0] == [await store.count_mentions(T, each) for each in (name, "caf")]
    assert 4 == await store.erase_mentions(T, name, alias="erased-1", event=new_event())
    assert 0 == await store.erase_mentions(T, name, alias="erased-2", event=new_event())
    assert size + 1 == (await store.log_head()).size
    assert [0, 4] == [await store.count_mentions(each, name) for each in (T, OTHER)]
    incidents, responses = await store.list_incidents(T, limit=9), await store.list_responses(T, limit=9)
    assert {"erased-1", None, "caf\u00e9s"} == {each.device_id for each in incidents}
    assert {b'{"erased":true}', b'{"n":1}'} == {each.evidence for each in incidents}
    assert {("erased-1", "erased"), (None, "erased")} == {(each.target.device_id, each.reason) for each in responses}


async def test_a_reason_that_names_another_device_is_erased_and_undone(store):
    """A response about one device may name another: after the other's erasure it is undone all the same."""
    await store.add_operator(new_operator(T), event=new_event())
    (device,) = await register(store)
    response = new_response(device=device, reason="it copies camera-7")
    await store.ask_response(T, response, needs_two=False, event=new_event())
    await store.carry_out_response(
        T, response.response_id, bounds=ResponseBounds(), event=new_event(), held=new_event()
    )
    assert 1 == await store.erase_mentions(T, "camera-7", alias="erased-1", event=new_event())
    undone = await store.undo_response(T, response.response_id, by="ann", because="no", event=new_event())
    assert (ResponseState.UNDONE, device.device_id) == (undone.state, undone.target.device_id)
    assert KeyState.ACTIVE is (await store.find_devices(T, [device.ref]))[device.ref].state
