import asyncio
from datetime import UTC, datetime, timedelta
from os import urandom

import asyncpg
import pytest

from qflare.errors import (
    AlreadyExistsError,
    BatchError,
    ConflictError,
    IllegalTransitionError,
    KeyNotFoundError,
    KeyRevokedError,
    LengthError,
)
from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT, CallId, TenantId
from qflare.model.token import EnrolmentClaim, TokenRecord
from store_records import NOW_S, begin_session, new_device, new_event, publish, register

pytestmark = pytest.mark.contract

EXPIRY = datetime.fromtimestamp(NOW_S, UTC) + timedelta(hours=1)


def new_token(device_id, **changes):
    values = {
        "token_id": urandom(16),
        "tenant_id": DEFAULT_TENANT,
        "device_id": device_id,
        "secret_hash": urandom(64),
        "expires_at": EXPIRY,
    }
    return TokenRecord(**(values | changes))


async def enrol(store, *claims, now_s=NOW_S):
    outcomes, append = await store.enrol_devices(
        DEFAULT_TENANT, claims, events=[new_event() for _ in claims], now_s=now_s
    )
    return [str(outcome.result) for outcome in outcomes], append


async def test_add_devices_round_trips_every_field(store):
    """What is registered is what is found."""
    device = new_device(is_kem_proven=True)
    added, append = await store.add_devices(DEFAULT_TENANT, [device], events=[new_event()])
    assert (True,) == added
    assert 0 == append.first_index
    found = (await store.find_devices(DEFAULT_TENANT, [device.ref]))[device.ref]
    assert device.device_id == found.device_id
    assert device.verification_key == found.verification_key
    assert device.encapsulation_key == found.encapsulation_key
    assert (KeyState.ACTIVE, KeyState.ACTIVE, 1) == (found.state, found.kem_state, found.key_version)


async def test_add_devices_refuses_one_name_alone(store):
    """A name that exists fails by itself, also twice in one batch, and only the added ones are in the log."""
    first, second = new_device("one"), new_device("two")
    await store.add_devices(DEFAULT_TENANT, [first], events=[new_event()])
    events = [new_event(), new_event(), new_event()]
    added, append = await store.add_devices(DEFAULT_TENANT, [first, second, second], events=events)
    assert (False, True, False) == added
    assert 1 == len(append.leaf_hashes)
    assert 2 == (await store.log_head()).size
    assert events[1].leaf_data == (await store.find_entry(DEFAULT_TENANT, 1)).leaf_data


async def test_add_devices_writes_nothing_if_a_row_is_malformed(store):
    """A key of a wrong size refuses the batch as a whole; nothing half done."""
    good, bad = new_device(), new_device()
    object.__setattr__(bad, "encapsulation_key", b"x" * 1567)
    with pytest.raises(ConflictError, match="device_key_public_key_size"):
        await store.add_devices(DEFAULT_TENANT, [good, bad], events=[new_event(), new_event()])
    assert {} == await store.find_devices(DEFAULT_TENANT, [good.ref, bad.ref])
    assert 0 == (await store.log_head()).size


async def test_add_devices_needs_an_event_a_device(store):
    """Events and devices must be as many."""
    with pytest.raises(BatchError):
        await store.add_devices(DEFAULT_TENANT, [new_device()], events=[])


async def test_add_devices_to_an_unknown_tenant_is_refused(store):
    """A tenant must exist before its devices."""
    with pytest.raises(KeyNotFoundError, match="tenant"):
        await store.add_devices(TenantId(urandom(16)), [new_device()], events=[new_event()])


async def test_a_tenant_of_a_wrong_size_is_refused_before_sql(store):
    """An identifier has 16 bytes."""
    with pytest.raises(LengthError):
        await store.find_devices(b"short", [urandom(32)])


async def test_list_devices_pages_in_order_of_name(store):
    """Pages follow each other by name in code point order."""
    names = ["b", "a", "é", "Z", "ab"]
    devices = [new_device(name) for name in names]
    await store.add_devices(DEFAULT_TENANT, devices, events=[new_event() for _ in devices])
    first = await store.list_devices(DEFAULT_TENANT, limit=2)
    rest = await store.list_devices(DEFAULT_TENANT, limit=9, after=first[-1].device_id)
    assert sorted(names, key=str.encode) == [device.device_id for device in (*first, *rest)]


async def test_devices_are_found_by_how_their_names_begin(store):
    """In order of name and page by page: what a pattern would mean is text, and no other tenant's are among them."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    names = [
        "pump-1",
        "pump-10",
        "pump-2",
        "pump",
        "pumq",
        "Pump-1",
        "p%mp",
        "pump-\U0010ffff",
        "pump-\U0010ffff\U0010ffffx",
        "é1",
    ]
    for tenant_id in (DEFAULT_TENANT, other):
        await store.add_devices(tenant_id, [new_device(name) for name in names], events=[new_event() for _ in names])
    for prefix in ("", "pump", "pump-", "pump-1", "p%", "p_", "é", "x", "pump-\U0010ffff", "Pump"):
        wanted = sorted((name for name in names if name.startswith(prefix)), key=str.encode)
        whole = await store.list_devices(DEFAULT_TENANT, limit=99, prefix=prefix)
        assert [(name, DEFAULT_TENANT) for name in wanted] == [(each.device_id, each.tenant_id) for each in whole]
        paged, after = [], None
        while page := await store.list_devices(DEFAULT_TENANT, limit=2, after=after, prefix=prefix):
            paged += [each.device_id for each in page]
            after = page[-1].device_id
        assert wanted == paged


async def test_revoked_device_loses_its_sessions_and_its_keys(store):
    """Revocation, the end of the sessions and the audit entry are one transaction."""
    await publish(store)
    (device,) = await register(store)
    claim = await begin_session(store, device)
    size = (await store.log_head()).size
    revoked = await store.set_device_state(
        DEFAULT_TENANT, device.ref, KeyState.DEACTIVATED, reason="lost", event=new_event()
    )
    assert (KeyState.DEACTIVATED, KeyState.DEACTIVATED) == (revoked.state, revoked.kem_state)
    session = (await store.find_sessions(DEFAULT_TENANT, [claim.sid]))[claim.sid]
    assert "revoked" == session.state
    assert size + 1 == (await store.log_head()).size


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ([], "active"),
        ([], "destroyed"),
        (["deactivated"], "active"),
        (["deactivated"], "suspended"),
        (["compromised"], "active"),
        (["compromised"], "deactivated"),
        (["suspended"], "suspended"),
        (["deactivated", "destroyed"], "active"),
    ],
)
async def test_illegal_moves_of_a_device_are_refused(store, path, refused):
    """States move as SP 800-57 has it; a refused move leaves state and log as they were."""
    (device,) = await register(store)
    for state in path:
        await store.set_device_state(DEFAULT_TENANT, device.ref, KeyState(state), reason="", event=new_event())
    before = (await store.find_devices(DEFAULT_TENANT, [device.ref]), (await store.log_head()).size)
    with pytest.raises(IllegalTransitionError):
        await store.set_device_state(DEFAULT_TENANT, device.ref, KeyState(refused), reason="", event=new_event())
    assert before == (await store.find_devices(DEFAULT_TENANT, [device.ref]), (await store.log_head()).size)


async def test_suspension_can_be_lifted(store):
    """A suspended device becomes active again with its keys."""
    (device,) = await register(store, is_kem_proven=True)
    await store.set_device_state(DEFAULT_TENANT, device.ref, KeyState.SUSPENDED, reason="", event=new_event())
    back = await store.set_device_state(DEFAULT_TENANT, device.ref, KeyState.ACTIVE, reason="", event=new_event())
    assert (KeyState.ACTIVE, KeyState.ACTIVE) == (back.state, back.kem_state)


async def test_unknown_device_is_named_as_such(store):
    """A device that is not registered cannot be moved, rotated or given a psk."""
    ref = urandom(32)
    with pytest.raises(KeyNotFoundError):
        await store.set_device_state(DEFAULT_TENANT, ref, KeyState.SUSPENDED, reason="", event=new_event())
    with pytest.raises(KeyNotFoundError):
        await store.rotate_device_keys(DEFAULT_TENANT, new_device(), key_version=2, event=new_event())
    with pytest.raises(KeyNotFoundError):
        await store.set_device_psk(DEFAULT_TENANT, ref, urandom(93), psk_version=1, event=new_event())
    assert 0 == (await store.log_head()).size


async def test_rotation_makes_the_next_version_current(store):
    """Rotation counts by one; a stale or skipping version is refused."""
    device = new_device("d")
    await store.add_devices(DEFAULT_TENANT, [device], events=[new_event()])
    fresh = new_device("d")
    rotated = await store.rotate_device_keys(DEFAULT_TENANT, fresh, key_version=2, event=new_event())
    assert (2, fresh.verification_key, fresh.encapsulation_key) == (
        rotated.key_version,
        rotated.verification_key,
        rotated.encapsulation_key,
    )
    for version in (2, 4):
        with pytest.raises(ConflictError):
            await store.rotate_device_keys(DEFAULT_TENANT, new_device("d"), key_version=version, event=new_event())
    await store.set_device_state(DEFAULT_TENANT, device.ref, KeyState.SUSPENDED, reason="", event=new_event())
    with pytest.raises(KeyRevokedError):
        await store.rotate_device_keys(DEFAULT_TENANT, new_device("d"), key_version=3, event=new_event())


async def test_a_rotation_of_one_call_is_made_once(store):
    """Under one call id a device's keys are rotated once, whatever version is asked for; another device's are too."""
    device, other = await register(store, 2)
    call_id = CallId(urandom(16))
    for each in (device, other):
        rotated = await store.rotate_device_keys(
            DEFAULT_TENANT, new_device(each.device_id), key_version=2, event=new_event(), call_id=call_id
        )
        assert 2 == rotated.key_version
    size = (await store.log_head()).size
    for version in (2, 3):
        with pytest.raises(AlreadyExistsError, match="version 2 "):
            await store.rotate_device_keys(
                DEFAULT_TENANT, new_device(device.device_id), key_version=version, event=new_event(), call_id=call_id
            )
    assert size == (await store.log_head()).size
    assert (
        3
        == (
            await store.rotate_device_keys(
                DEFAULT_TENANT,
                new_device(device.device_id),
                key_version=3,
                event=new_event(),
                call_id=CallId(urandom(16)),
            )
        ).key_version
    )


async def test_psk_is_stored_and_removed(store):
    """A sealed psk comes back as it was, and goes; each time as the version that follows."""
    (device,) = await register(store)
    sealed = urandom(93)
    for version, psk in enumerate((sealed, None, sealed), 1):
        await store.set_device_psk(DEFAULT_TENANT, device.ref, psk, psk_version=version, event=new_event())
        found = (await store.find_devices(DEFAULT_TENANT, [device.ref]))[device.ref]
        assert (psk, version) == (found.sealed_psk, found.psk_version)
        for stale in (version - 1, version, version + 2):
            with pytest.raises(ConflictError, match="at the same time"):
                await store.set_device_psk(DEFAULT_TENANT, device.ref, psk, psk_version=stale, event=new_event())


async def test_the_database_takes_no_older_psk(store, admin):
    """A psk under the version that stands or an older one is refused, whoever writes it; workers before versions may."""
    (device,) = await register(store)
    write = "UPDATE qflare.device SET sealed_psk = $1"
    await admin.execute(write, urandom(93))
    await admin.execute(write, urandom(93))
    await store.set_device_psk(DEFAULT_TENANT, device.ref, urandom(93), psk_version=1, event=new_event())
    for more in ("", ", psk_version = 1", ", psk_version = 0"):
        with pytest.raises(asyncpg.CheckViolationError, match="follows the one before"):
            await admin.execute(write + more, urandom(93))


async def test_tenants_are_listed_and_unique(store):
    """The default tenant exists from the start; ids and names are unique."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    assert {DEFAULT_TENANT: "default", other: "other"} == dict(await store.list_tenants())
    for tenant_id, name in ((other, "third"), (TenantId(urandom(16)), "other")):
        with pytest.raises(AlreadyExistsError):
            await store.save_tenant(tenant_id, name, event=new_event())


async def test_token_enrols_once_and_repeats_for_the_same_keys(store):
    """A token is consumed with its device; the same keys again are answered afresh, others refused (E3)."""
    device = new_device("d")
    token = new_token("d")
    await store.add_token(token, event=new_event())
    assert {token.token_id: token} == await store.find_tokens(DEFAULT_TENANT, [token.token_id])
    claim = EnrolmentClaim(token_id=token.token_id, key_hash=urandom(64), device=device)
    results, append = await enrol(store, claim, claim)
    assert ["enrolled", "repeated"] == results
    assert 1 == len(append.leaf_hashes)
    results, append = await enrol(
        store, claim, EnrolmentClaim(token_id=token.token_id, key_hash=urandom(64), device=new_device("d"))
    )
    assert ["repeated", "token-used"] == results
    assert append is None


async def test_bad_tokens_are_refused_each_by_itself(store):
    """Unknown, expired, foreign and spent tokens, and names that exist, fail alone."""
    await register(store, device_id="exists")
    good, late, foreign, taken = (new_token(name) for name in ("a", "b", "c", "exists"))
    object.__setattr__(late, "expires_at", datetime.fromtimestamp(NOW_S, UTC))
    for token in (good, late, foreign, taken):
        await store.add_token(token, event=new_event())

    def claim(token, name):
        return EnrolmentClaim(token_id=token.token_id, key_hash=urandom(64), device=new_device(name))

    results, _ = await enrol(
        store,
        claim(new_token("x"), "x"),
        claim(late, "b"),
        claim(foreign, "other"),
        claim(taken, "exists"),
        claim(good, "a"),
    )
    assert ["token-unknown", "token-expired", "token-unknown", "device-exists", "enrolled"] == results
    with pytest.raises(AlreadyExistsError):
        await store.add_token(good, event=new_event())


async def test_a_token_raced_enrols_one_device(store):
    """Of many enrolments that race for one token, one wins."""
    token = new_token("d")
    await store.add_token(token, event=new_event())
    claims = [EnrolmentClaim(token_id=token.token_id, key_hash=urandom(64), device=new_device("d")) for _ in range(16)]
    answers = await asyncio.gather(*(enrol(store, claim) for claim in claims))
    assert ["enrolled"] + ["token-used"] * 15 == sorted(results[0] for results, _ in answers)
