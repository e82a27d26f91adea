"""What the page looks up: the newest events and the sessions by bucket, of one tenant, at a bounded cost."""

from os import urandom

import pytest

from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, TenantId
from store_records import begin_session, new_event, publish, register

pytestmark = pytest.mark.contract
T = DEFAULT_TENANT


async def test_the_newest_events_are_found_among_the_last_entries(store):
    """Newest first, without the entries of sessions, without other tenants', and only so far back."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    await publish(store)
    (device,) = await register(store)
    first = (await store.append_events(T, [new_event() for _ in range(3)])).first_index
    await begin_session(store, device)
    await store.append_events(other, [new_event()])
    last = (await store.append_events(T, [new_event()])).first_index
    every = set(EventSeverity)
    assert (last, first + 2, first + 1, first) == await store.latest_events(T, severities=every, limit=4, among=100)
    assert (last, first + 2) == await store.latest_events(T, severities=every, limit=2, among=100)
    # The last two entries of the tenant are the event and the session.
    assert (last,) == await store.latest_events(T, severities=every, limit=9, among=2)
    assert 2 == len(await store.latest_events(other, severities=every, limit=9, among=100))
    assert () == await store.latest_events(T, severities={EventSeverity.CRITICAL}, limit=9, among=100)


async def test_acts_are_found_between_two_entries(store):
    """Entries of the types asked for, in order, of one tenant, from the first index to the one before the last."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    acts, turns = SecurityEventType.OPERATOR_ACTION, SecurityEventType.BUCKET_TURN
    kinds = [acts, turns, acts, turns]
    first = (await store.append_events(T, [new_event(kind) for kind in kinds])).first_index
    await store.append_events(other, [new_event(acts)])
    last = (await store.append_events(T, [new_event(acts)])).first_index
    found = await store.list_acts(T, first=first, last=last + 1, types=[acts])
    assert [first, first + 2, last] == [entry.index for entry in found]
    assert (found[0],) == await store.list_acts(T, first=first, last=first + 2, types=[acts])
    assert (found[2],) == await store.list_acts(T, first=first + 3, last=last + 1, types=[acts])
    assert 5 == len(await store.list_acts(T, first=first, last=last + 1, types=[acts, turns]))
    assert () == await store.list_acts(T, first=first, last=last + 1, types=[])


async def test_sessions_are_counted_by_their_last_bucket(store):
    """Each tenant's own, within the buckets asked for; a bucket without any is not named."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    await publish(store)
    (device,) = await register(store)
    claims = [await begin_session(store, device) for _ in range(2)]
    last = claims[0].start + claims[0].lifetime - 1
    assert {last: 2} == await store.count_sessions(T, first=last - 5, last=last + 5)
    assert {} == await store.count_sessions(T, first=last + 1, last=last + 5)
    assert {} == await store.count_sessions(other, first=0, last=last)
