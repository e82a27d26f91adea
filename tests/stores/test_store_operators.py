"""Operators of tenants: names that are used once, hashes that no listing shows, and access that ends for good."""

from os import urandom

import pytest

from qflare.errors import AlreadyExistsError, ConflictError, IllegalTransitionError, KeyNotFoundError
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.operator import OperatorState
from store_records import new_event, new_operator

pytestmark = pytest.mark.contract
T = DEFAULT_TENANT


async def size_of(store):
    return (await store.log_head()).size


async def test_operators_are_kept_by_tenant_and_listed_in_pages(store):
    """Each tenant sees its own operators, page by page in order of name, and the same name may be another's too."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    mine, theirs = new_operator(), new_operator(other)
    for operator in (mine, theirs, new_operator(name="bob"), new_operator(name="Zoë")):
        await store.add_operator(operator, event=new_event())
    first = await store.list_operators(T, limit=2)
    rest = await store.list_operators(T, limit=2, after=first[-1].name)
    assert ["Zoë", "ann", "bob"] == [each.name for each in (*first, *rest)]
    assert ["ann"] == [each.name for each in await store.list_operators(other, limit=9)]
    assert mine.verifier == await store.find_verifier(T, "ann")
    assert theirs.verifier == await store.find_verifier(other, "ann")
    assert None is await store.find_operator(other, "bob")
    assert None is await store.find_verifier(other, "bob")
    assert mine.verifier.secret_hash.hex() not in repr(mine)


async def test_access_ends_once_and_the_name_stays_taken(store):
    """A revoked operator has no verifier any more, cannot be revoked again, and nobody gets the name."""
    await store.add_operator(new_operator(), event=new_event())
    assert OperatorState.ACTIVE is (await store.find_operator(T, "ann")).state
    await store.revoke_operator(T, "ann", reason="left", event=new_event())
    found = await store.find_operator(T, "ann")
    assert (OperatorState.REVOKED, "left", True) == (found.state, found.reason, found.changed_at is not None)
    assert None is await store.find_verifier(T, "ann")
    size = await size_of(store)
    with pytest.raises(IllegalTransitionError):
        await store.revoke_operator(T, "ann", reason="again", event=new_event())
    with pytest.raises(KeyNotFoundError):
        await store.revoke_operator(T, "nobody", reason="x", event=new_event())
    with pytest.raises(AlreadyExistsError):
        await store.add_operator(new_operator(), event=new_event())
    assert size == await size_of(store)


async def test_another_secret_takes_the_place_of_the_one_before(store):
    """A renewal replaces the verifier of that operator alone, with its event; neither absent nor revoked ones have one."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    before, theirs = new_operator(), new_operator(other)
    for operator in (before, theirs, new_operator(name="bob")):
        await store.add_operator(operator, event=new_event())
    size, again = await size_of(store), new_operator()
    await store.renew_operator(again, event=new_event())
    assert (again.verifier, size + 1) == (await store.find_verifier(T, "ann"), await size_of(store))
    assert before.verifier != again.verifier
    assert theirs.verifier == await store.find_verifier(other, "ann")
    await store.revoke_operator(T, "bob", reason="left", event=new_event())
    size = await size_of(store)
    with pytest.raises(IllegalTransitionError, match="revoked, for good"):
        await store.renew_operator(new_operator(name="bob"), event=new_event())
    with pytest.raises(KeyNotFoundError, match="no operator 'eve'"):
        await store.renew_operator(new_operator(name="eve"), event=new_event())
    with pytest.raises(ConflictError):
        await store.renew_operator(new_operator(salt=b"short"), event=new_event())
    assert (None, again.verifier) == (await store.find_verifier(T, "bob"), await store.find_verifier(T, "ann"))
    assert size == await size_of(store)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"salt": b"short"}, "operator_salt_size"),
        ({"secret_hash": b""}, "operator_secret_hash_size"),
        ({"log2_n": 9}, "operator_cost_range"),
        ({"p": 17}, "operator_cost_range"),
    ],
)
async def test_what_no_operator_can_have_is_refused(store, changes, constraint):
    """Hash, salt and cost are in their ranges, whoever writes."""
    with pytest.raises(ConflictError) as refusal:
        await store.add_operator(new_operator(**changes), event=new_event())
    assert constraint == refusal.value.constraint
    with pytest.raises(KeyNotFoundError):
        await store.add_operator(new_operator(TenantId(urandom(16))), event=new_event())
