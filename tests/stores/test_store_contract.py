"""What every store promises beyond the tests by noun: tokens, identity, policies, turns, changes, restores, failures."""

import asyncio
import contextlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from os import urandom
from pathlib import Path

import pytest

from qflare.errors import (
    BatchError,
    ConflictError,
    IllegalTransitionError,
    KeyNotFoundError,
    LengthError,
    StoreUnavailableError,
    UsageError,
)
from qflare.model import ports
from qflare.model.call import NotedCall
from qflare.model.change import Change
from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.rotation import DueKey, RotationPolicy, RotationReason, SessionUse, TenantPolicy
from qflare.model.server_key import PendingServerKey, ServerKeyKind
from qflare.model.session import ClaimResult, RekeyResult, SessionState
from qflare.model.token import EnrolmentClaim, TokenRecord, TokenState
from qflare.model.turn import TurnedRange, TurnStage
from store_records import (
    BUCKET,
    NOW_S,
    begin_session,
    confirm,
    new_bucket,
    new_claim,
    new_device,
    new_event,
    new_identity,
    new_page,
    new_rekey,
    new_reply_key,
    new_stream,
    publish,
    register,
    step_turn,
    turned_chain,
)

pytestmark = pytest.mark.contract
T = DEFAULT_TENANT
POLICY = RotationPolicy(max_records=10, grace_s=3600)


def new_token(device_id, *, valid=True):
    return TokenRecord(
        token_id=urandom(16),
        tenant_id=T,
        device_id=device_id,
        secret_hash=urandom(64),
        expires_at=datetime.now(UTC) + timedelta(hours=1 if valid else -1),
    )


async def size_of(store):
    return (await store.log_head()).size


def test_every_method_of_the_port_is_asked_by_the_contract():
    """No method of the store's port is without a test that runs on every store."""
    parts = [part for part in ports.Store.__mro__ if part.__module__.startswith("qflare.model.")]
    methods = {name for part in parts for name in vars(part) if not name.startswith("_")}
    files = [path for path in Path(__file__).parent.glob("test_store_*.py") if "mark.contract" in path.read_text()]
    records = Path(__file__).parents[1] / "store_records.py"
    asked = set(re.findall(r"store\.(\w+)\(", "\n".join(path.read_text() for path in [*files, records])))
    assert set() == methods - asked


async def test_a_store_that_keeps_connections_counts_them(store):
    """In use or idle, and never more than there may be; a store without any says so."""
    await store.check()
    pool = store.pool_statistics()
    assert pool is None or 1 <= pool.used + pool.idle <= pool.size_max


async def test_tokens_are_listed_in_pages_and_told_with_their_states(store):
    """An operator sees each token's state, reason and times, page by page, and no other tenant's."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    tokens = {name: new_token(name, valid=name != "late") for name in ("used", "late", "revoked", "active")}
    for token in tokens.values():
        await store.add_token(token, event=new_event())
    await store.revoke_token(T, tokens["revoked"].token_id, reason="lost", event=new_event())
    claim = EnrolmentClaim(token_id=tokens["used"].token_id, key_hash=urandom(64), device=new_device("used"))
    await store.enrol_devices(T, [claim], events=[new_event()], now_s=NOW_S)
    first = await store.list_tokens(T, limit=3)
    rest = await store.list_tokens(T, limit=3, after=first[-1].token_id)
    listed = (*first, *rest)
    assert sorted(token.token_id for token in tokens.values()) == [token.token_id for token in listed]
    assert {
        "used": ("used", "a device enrolled with it"),
        "late": ("expired", ""),
        "revoked": ("revoked", "lost"),
        "active": ("active", ""),
    } == {token.device_id: (str(token.state), token.reason) for token in listed}
    assert {"used", "revoked"} == {token.device_id for token in listed if token.changed_at is not None}
    assert () == await store.list_tokens(other, limit=9)
    assert TokenState.ACTIVE is (await store.get_token(T, tokens["active"].token_id)).state
    with pytest.raises(KeyNotFoundError):
        await store.get_token(other, tokens["active"].token_id)


async def test_a_token_is_taken_back_once_and_before_its_use(store):
    """A used or revoked token cannot be revoked, an absent one is named, a revoked one enrols nobody."""
    spent, taken = new_token("spent"), new_token("taken")
    for token in (spent, taken):
        await store.add_token(token, event=new_event())
    claims = [
        EnrolmentClaim(token_id=t.token_id, key_hash=urandom(64), device=new_device(t.device_id))
        for t in (spent, taken)
    ]
    await store.enrol_devices(T, claims[:1], events=[new_event()], now_s=NOW_S)
    await store.revoke_token(T, taken.token_id, reason="x", event=new_event())
    size = await size_of(store)
    for token in (spent, taken):
        with pytest.raises(IllegalTransitionError):
            await store.revoke_token(T, token.token_id, reason="x", event=new_event())
    with pytest.raises(KeyNotFoundError):
        await store.revoke_token(T, urandom(16), reason="x", event=new_event())
    outcomes, append = await store.enrol_devices(T, claims[1:], events=[new_event()], now_s=NOW_S)
    assert (["token-unknown"], None) == ([str(outcome.result) for outcome in outcomes], append)
    with pytest.raises(BatchError):
        await store.enrol_devices(T, claims, events=[], now_s=NOW_S)
    assert size == await size_of(store)


def pending_of(identity):
    """The two keys of a certificate, as they waited for it."""
    certificate = identity.certificate
    return [
        PendingServerKey(
            serial=identity.serial, kind=kind, public_key=certificate[at : at + 1312], sealed_key=urandom(61)
        )
        for kind, at in ((ServerKeyKind.ANNOUNCE, 50), (ServerKeyKind.LOG, 1362))
    ]


async def test_an_identity_is_followed_by_the_keys_that_waited_for_it(store):
    """Pre-active keys become active with their certificate, the ones before them end, and each says since when and why."""
    assert 0 == await store.identity_serial()
    first, second = new_identity(1), new_identity(2)
    second = replace(second, root_key=first.root_key, server_id=first.server_id)
    await store.save_identity(first, event=new_event())
    keys = pending_of(second)
    await store.save_pending_keys(pending_of(new_identity(2)), after=1, reason="asked", event=new_event())
    await store.save_pending_keys(keys, after=1, reason="asked again", event=new_event())
    assert tuple(keys) == await store.find_pending_keys()
    await store.follow_identity(second, after=1, compromised=None, event=new_event())
    assert 2 == await store.identity_serial()
    assert (second.certificate, first.certificate) == await store.list_certificates()
    assert () == await store.find_pending_keys()
    size = await size_of(store)
    assert 2 == await store.deactivate_server_keys(before=2, reason="overlap is over", event=new_event())
    assert 0 == await store.deactivate_server_keys(before=2, reason="overlap is over", event=new_event())
    assert size + 1 == await size_of(store)
    listed = [
        (key.serial, str(key.kind), str(key.state), key.has_signing_key) for key in await store.list_server_keys()
    ]
    live = [entry for entry in listed if entry[2] != "destroyed"]
    assert live == [
        (2, "announce", "active", True),
        (2, "log", "active", True),
        (1, "announce", "deactivated", False),
        (1, "log", "deactivated", False),
        (1, "root", "active", True),
    ]
    assert 2 == len(listed) - len(live)
    lasting = [record for record in await store.list_server_records(limit=9) if str(record.state) != "destroyed"]
    moves = {(record.number, record.kind): record for record in lasting if record.moves}
    assert ("active", "certificate of serial 2") == (str(moves[2, "log"].state), moves[2, "log"].reason)
    assert ("deactivated", "overlap is over") == (str(moves[1, "announce"].state), moves[1, "announce"].reason)
    await store.remove_root(event=new_event())
    assert [None, None] == [row.sealed_root for row in [await store.find_identity()] * 2]
    assert not any(key.has_signing_key for key in await store.list_server_keys() if key.kind is ServerKeyKind.ROOT)


async def test_an_identity_that_was_overtaken_changes_nothing(store):
    """A certificate, or a request for one, after a serial that is in force no more is refused whole."""
    first, other = new_identity(1), new_identity(3)
    await store.save_identity(first, event=new_event())
    await store.save_identity(new_identity(2), event=new_event())
    size = await size_of(store)
    with pytest.raises(IllegalTransitionError, match="not in force"):
        await store.follow_identity(other, after=1, compromised=None, event=new_event())
    with pytest.raises(IllegalTransitionError, match="not in force"):
        await store.save_pending_keys(pending_of(other), after=1, reason="x", event=new_event())
    await store.save_pending_keys(pending_of(other), after=2, reason="x", event=new_event())
    # Keys that stand under another serial are not taken over.
    with pytest.raises(ConflictError):
        await store.follow_identity(replace(other, serial=4), after=2, compromised=None, event=new_event())
    assert (2, size + 1) == (await store.identity_serial(), await size_of(store))
    assert 2 == len(await store.find_pending_keys())
    await store.follow_identity(other, after=2, compromised="stolen", event=new_event())
    states = {
        str(key.state)
        for key in await store.list_server_keys()
        if key.serial < 3 and key.kind is not ServerKeyKind.ROOT
    }
    assert {"compromised"} == states


async def test_an_announcement_is_signed_again_once(store):
    """Of two workers that sign an announcement again, the first one's stands; a bucket that is gone is an error (A3)."""
    row = await store.save_bucket(new_bucket())
    again = await store.sign_bucket_again(row, urandom(4042))
    assert again != row
    assert again == await store.sign_bucket_again(row, urandom(4042))
    assert (again,) == await store.find_buckets(BUCKET, BUCKET)
    await store.forget_bucket(BUCKET)
    with pytest.raises(Exception, match="was dropped"):
        await store.sign_bucket_again(row, urandom(4042))


async def test_a_key_that_was_announced_again_ends_as_any(store):
    """The life of a bucket's key is one, however often its announcement was signed, and ends with the bucket."""
    row = await store.save_bucket(new_bucket())
    await store.sign_bucket_again(row, urandom(4042))
    for bucket in (BUCKET, BUCKET + 2):
        await store.raise_bucket_mark(bucket)
    await store.drop_buckets(before=BUCKET + 1)
    (record,) = await store.list_bucket_records(limit=9)
    assert ["active", "deactivated", "destroyed"] == [str(move.to_state) for move in record.moves]


async def test_lives_of_keys_are_listed_newest_first(store):
    """Devices' and buckets' keys are told with their moves and reasons, a page at a time, inside the tenant."""
    (device,) = await register(store, device_id="d")
    await store.set_device_state(T, device.ref, KeyState.SUSPENDED, reason="away", event=new_event())
    await store.set_device_state(T, device.ref, KeyState.ACTIVE, reason="back", event=new_event())
    await store.rotate_device_keys(T, new_device("d"), key_version=2, event=new_event())
    records = await store.list_device_records(T, device.ref, limit=9)
    assert [(2, "signature"), (2, "kem"), (1, "signature"), (1, "kem")] == [(r.number, r.kind) for r in records]
    assert [("suspended", "away"), ("active", "back"), ("deactivated", "followed by key version 2")] == [
        (str(move.to_state), move.reason) for move in records[2].moves
    ]
    assert records[2:] == await store.list_device_records(T, device.ref, limit=9, before=2)
    assert records[:1] == await store.list_device_records(T, device.ref, limit=1)
    assert () == await store.list_device_records(TenantId(urandom(16)), device.ref, limit=9)
    await store.raise_bucket_mark(BUCKET)
    await publish(store)
    await store.drop_buckets(before=BUCKET)
    await store.forget_bucket(BUCKET + 1)
    told = await store.list_bucket_records(limit=9)
    assert [
        (BUCKET + 1, "destroyed", "removed before its bucket was over"),
        (BUCKET, "active", "its bucket is current"),
        (BUCKET - 1, "destroyed", "its bucket is over"),
    ] == [(record.number, str(record.state), record.reason) for record in told]
    assert told[2:] == await store.list_bucket_records(limit=9, before=BUCKET)


async def test_psks_have_lives_as_other_keys(store):
    """Set, replaced, removed, suspended and compromised: each psk's states stand with times and reasons, no psk does."""
    (device,) = await register(store)
    event = new_event()

    async def put(psk, version, reason=""):
        await store.set_device_psk(T, device.ref, psk, psk_version=version, event=event, reason=reason)

    async def lives():
        found = await store.list_device_records(T, device.ref, limit=9)
        return {
            record.number: [str(record.state), *(move.reason for move in record.moves)]
            for record in found
            if record.kind == "psk"
        }

    assert {} == await lives()
    await put(urandom(93), 1)
    assert {1: ["active"]} == await lives()
    await put(urandom(93), 2, "yearly")
    await put(None, 3)
    assert {1: ["deactivated", "yearly"], 2: ["deactivated", "removed"]} == await lives()
    await put(urandom(93), 4)
    await put(urandom(93), 5)
    assert ["deactivated", "followed by psk version 5"] == (await lives())[4]
    for state, reason in ((KeyState.SUSPENDED, "away"), (KeyState.ACTIVE, "back")):
        await store.set_device_state(T, device.ref, state, reason=reason, event=event)
    assert ["active", "away", "back"] == (await lives())[5]
    await store.set_device_state(T, device.ref, KeyState.SUSPENDED, reason="away", event=event)
    await put(urandom(93), 6)
    assert ["suspended", "its device is suspended"] == (await lives())[6]
    assert ["deactivated", "away", "back", "away", "followed by psk version 6"] == (await lives())[5]
    with pytest.raises(ConflictError):
        await put(urandom(93), 7, "x" * 1001)
    await store.set_device_state(T, device.ref, KeyState.COMPROMISED, reason="stolen", event=event)
    assert {"compromised"} == {states[0] for states in (await lives()).values()}
    assert {"stolen"} == {states[-1] for states in (await lives()).values()}
    page = await store.list_device_records(T, device.ref, limit=2, before=5)
    assert [(4, "psk"), (2, "psk")] == [(record.number, record.kind) for record in page]
    assert page[1].created_at <= page[1].since


async def test_a_session_says_when_and_why_it_ended(store):
    """Ended, revoked with its device, superseded, over or restored: the reason stands, and none while it lives."""
    await publish(store)
    device, other = await register(store, 2)
    claims = [await begin_session(store, device) for _ in range(5)]

    async def told(sid):
        return (await store.find_sessions(T, [sid]))[sid]

    assert [(SessionState.SUPERSEDED, "newer sessions of its device took its place"), (SessionState.LIVE, "")] == [
        (session.state, session.reason) for session in [await told(claim.sid) for claim in claims[:2]]
    ]
    assert None is (await told(claims[1].sid)).ended_at
    for claim, reason in ((claims[1], "left"), (claims[2], "")):
        await store.end_sessions(T, [claim.sid], SessionState.ENDED, events=[new_event()], reason=reason)
    assert ["left", "no reason given"] == [(await told(claim.sid)).reason for claim in claims[1:3]]
    assert None is not (await told(claims[1].sid)).ended_at
    await store.set_device_state(T, device.ref, KeyState.SUSPENDED, reason="away", event=new_event())
    listed = {session.sid: session for session in await store.list_sessions(T, limit=9)}
    assert (SessionState.REVOKED, "away") == (listed[claims[3].sid].state, listed[claims[3].sid].reason)
    claim = await begin_session(store, other)
    restored = await begin_session(store, other)
    with pytest.raises(ConflictError):
        await store.end_sessions(T, [claim.sid], SessionState.ENDED, events=[new_event()], reason="x" * 1001)
    await store.begin_anew(bucket=BUCKET)
    assert "the database was restored" == (await told(restored.sid)).reason


async def test_a_session_whose_time_is_over_says_so(store):
    """What expired was ended by nobody: it has a reason and no time of its end."""
    await publish(store)
    (device,) = await register(store)
    claim = await begin_session(store, device)
    await store.expire_sessions(before_bucket=claim.start + claim.lifetime)
    (session,) = await store.list_sessions(T, limit=9)
    assert (SessionState.EXPIRED, "its last bucket is over", None) == (session.state, session.reason, session.ended_at)


async def test_a_policy_is_the_tenants_own_and_marks_no_young_key(store):
    """Policies are set, replaced, listed and dropped with their events; whoever asks, no key under an hour is marked."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    (device,) = await register(store)
    (key,) = (await store.list_rotatable_keys(T, after=b"", limit=9)).keys
    due = DueKey(key=key, reason=RotationReason.RECORDS, due_s=NOW_S)
    size = await size_of(store)
    assert (False,) == await store.mark_rotations(T, [due], events=[new_event()])
    for policy in (RotationPolicy(max_age_s=7200), POLICY):
        await store.save_rotation_policy(T, policy, event=new_event())
    assert (POLICY, None) == (await store.find_rotation_policy(T), await store.find_rotation_policy(other))
    assert (TenantPolicy(tenant_id=T, policy=POLICY),) == await store.list_rotation_policies()
    assert (False,) == await store.mark_rotations(T, [due], events=[new_event()])
    with pytest.raises(BatchError):
        await store.mark_rotations(T, [due], events=[])
    assert size + 2 == await size_of(store)
    assert {} == await store.find_rotation_marks(T, [device.ref])
    progress = await store.count_rotations(T)
    assert (1, 0, 0, 0, 0, 1) == (
        progress.devices_active,
        progress.waiting,
        progress.overdue,
        progress.rotated,
        progress.marked_last_minute,
        progress.minute_max,
    )
    await store.drop_rotation_policy(T, event=new_event())
    with pytest.raises(KeyNotFoundError):
        await store.drop_rotation_policy(T, event=new_event())
    with pytest.raises(KeyNotFoundError):
        await store.save_rotation_policy(TenantId(urandom(16)), POLICY, event=new_event())
    assert (size + 3, 0) == (await size_of(store), (await store.count_rotations(T)).minute_max)


async def test_an_operators_request_marks_a_key_version_once(store):
    """No policy and no age is needed; a version is marked once, with its event, and only the current one of who is active."""
    (device,) = await register(store)
    size = await size_of(store)
    for ref, version in ((urandom(32), 1), (device.ref, 2)):
        assert not await store.request_rotation(T, ref, key_version=version, event=new_event())
    assert not await store.request_rotation(TenantId(urandom(16)), device.ref, key_version=1, event=new_event())
    assert [True, False] == [
        await store.request_rotation(T, device.ref, key_version=1, event=new_event()) for _ in range(2)
    ]
    assert size + 1 == await size_of(store)
    mark = (await store.find_rotation_marks(T, [device.ref]))[device.ref]
    assert (1, RotationReason.OPERATOR, False) == (mark.key_version, mark.reason, mark.is_overdue)
    fresh = new_device(device.device_id)
    await store.rotate_device_keys(T, fresh, key_version=2, event=new_event())
    assert {} == await store.find_rotation_marks(T, [device.ref])
    assert await store.request_rotation(T, device.ref, key_version=2, event=new_event())
    await store.set_device_state(T, device.ref, KeyState.DEACTIVATED, reason="gone", event=new_event())
    assert not await store.request_rotation(T, device.ref, key_version=2, event=new_event())
    assert size + 4 == await size_of(store)


async def test_what_sessions_carry_is_summed_for_their_device(store):
    """Use adds up by session and by key version; sessions of others are left out, and pages end where asked."""
    await publish(store)
    devices = sorted(await register(store, 3), key=lambda device: device.ref)
    one, two = [(await begin_session(store, devices[0])).sid for _ in range(2)]
    uses = [SessionUse(sid=one, records=2, bytes=20), SessionUse(sid=two, records=1, bytes=5)]
    await store.count_use(T, uses)
    totals = await store.count_use(T, [*uses[:1], *uses[:1], SessionUse(sid=urandom(16), records=1, bytes=1)])
    assert [(one, devices[0].ref, 6, 60, False)] == [(t.sid, t.ref, t.records, t.bytes, t.is_overdue) for t in totals]
    assert () == await store.count_use(TenantId(urandom(16)), uses)
    page = await store.list_rotatable_keys(T, after=b"", limit=2)
    assert [(7, 65), (0, 0)] == [(key.records, key.bytes) for key in page.keys]
    rest = await store.list_rotatable_keys(T, after=page.keys[-1].ref, limit=2)
    assert [device.ref for device in devices] == [key.ref for key in (*page.keys, *rest.keys)]
    assert all(key.marked_s is None and key.created_s <= page.now_s for key in page.keys)
    assert 0 == (await store.list_rotatable_keys(T, after=b"\xff" * 33, limit=2)).now_s


@pytest.mark.parametrize("in_pages", [False, True])
async def test_a_turn_carries_each_live_session_once(store, in_pages):
    """R8: steps carry what lives and reaches the bucket, whatever stands already; the late sweep finds what came between."""
    await publish(store)
    devices = await register(store, 4)
    lives, ends, short, touched = [
        await begin_session(store, device, lifetime=1 if number == 2 else 288) for number, device in enumerate(devices)
    ]
    await store.end_sessions(T, [ends.sid], SessionState.ENDED, events=[new_event()])
    (chain,) = await store.find_chains(T, [touched.sid], first=BUCKET, last=BUCKET)
    assert 1 == await store.save_chains([replace(chain, bucket=BUCKET + 1)])
    assert (TurnStage.EARLY, None) == await step_turn(store, is_late=True)
    stage, found = await step_turn(store, in_pages=in_pages)
    assert TurnStage.LED is stage
    resting = await store.find_chains(T, [lives.sid, touched.sid], first=BUCKET, last=BUCKET)
    assert {((T, row.sid, 0), row.sealed_chain_key) for row in resting} == set(found.chains)
    assert 2 == len(found.chains)
    assert {(T, touched.sid, 0)} == found.turned
    assert (TurnStage.DONE, None) == await step_turn(store)
    progress = await store.find_turn()
    assert (BUCKET + 1, 1, 1, 0, 1) == (
        progress.bucket,
        progress.ranges,
        progress.done,
        progress.settled,
        progress.carried,
    )
    assert progress.ended_at is not None
    assert progress.settled_at is None
    late = await begin_session(store, devices[0])
    await store.await_writers(BUCKET + 1)
    stage, found = await step_turn(store, is_late=True)
    assert (TurnStage.LED, {late.sid}) == (stage, {sid for (_, sid, _), _ in found.chains})
    assert (await store.find_turn()).settled_at is not None
    sids = [lives.sid, ends.sid, short.sid, touched.sid, late.sid]
    rows = await store.find_chains(T, sids, first=BUCKET + 1, last=BUCKET + 1)
    pages = await store.find_pages(T, sids, first=BUCKET + 1, last=BUCKET + 1)
    assert sorted([lives.sid, touched.sid, late.sid]) == sorted(
        [row.sid for row in rows] + [sid for page in pages for sid in page.sids]
    )
    assert in_pages == bool(pages)
    assert () == await store.find_pages(TenantId(urandom(16)), sids, first=BUCKET + 1, last=BUCKET + 1)


async def test_a_turn_carries_no_row_of_a_session_that_ended_meanwhile(store):
    """R8: what ends, or is rekeyed, between the step's reading and its writing is looked at once more."""
    await publish(store, *range(BUCKET - 1, BUCKET + 3))
    await store.raise_bucket_mark(BUCKET)
    devices = await register(store, 3)
    lives, ends, rekeyed = [await begin_session(store, device) for device in devices]

    async def work(found):
        await store.end_sessions(T, [ends.sid], SessionState.ENDED, events=[new_event()])
        assert RekeyResult.REKEYED is await store.rekey_session(T, new_rekey(rekeyed.sid), event=new_event())
        return TurnedRange(chains=tuple(turned_chain(*owner, BUCKET + 1) for owner, _ in found.chains))

    assert TurnStage.LED is await store.step_turn(BUCKET + 1, is_late=False, range_size=9, work=work)
    assert 1 == (await store.find_turn()).carried
    sids = [lives.sid, ends.sid, rekeyed.sid]
    carried = await store.find_chains(T, sids, first=BUCKET + 1, last=BUCKET + 1)
    assert [(lives.sid, 0)] == [(chain.sid, chain.epoch) for chain in carried]
    await store.await_writers(BUCKET + 1)
    stage, found = await step_turn(store, is_late=True)
    assert (TurnStage.LED, {(T, rekeyed.sid, 1)}) == (stage, {owner for owner, _ in found.chains})


async def test_a_turn_reads_pages_and_goes_on_by_ranges(store):
    """R8: what lies on pages is carried on place by place, each place in one step, into the bucket after."""
    await publish(store, *range(BUCKET - 1, BUCKET + 3))
    devices = await register(store, 4)
    claims = [await begin_session(store, device) for device in devices]
    await step_turn(store, BUCKET + 1, in_pages=True)
    await store.end_sessions(T, [claims[0].sid], SessionState.ENDED, events=[new_event()])
    carried = []
    while (step := await step_turn(store, BUCKET + 2, range_size=1))[0] is TurnStage.LED:
        carried += [page.sids[place] for page, places in step[1].pages for place in places]
    assert TurnStage.DONE is step[0]
    assert sorted(claim.sid for claim in claims[1:]) == sorted(carried)
    assert 3 == (await store.find_turn()).ranges
    # The turn after a turn ends it, and so does the end of a bucket.
    assert (TurnStage.OVER, None) == await step_turn(store, BUCKET + 1)
    await store.drop_buckets(before=BUCKET + 2)
    assert (TurnStage.OVER, None) == await step_turn(store, BUCKET + 2)


async def test_a_step_is_whole_or_nothing_and_led_by_one(store):
    """R8: a step whose work fails, or whose pages do not fit, leaves no trace; while one leads, others follow."""
    await publish(store)
    (device,) = await register(store)
    await begin_session(store, device)

    async def fail(_found):
        raise ZeroDivisionError

    async def overlap(found):
        page = new_page([found.chains[0][0][1]], bucket=BUCKET + 1)
        return TurnedRange(pages=(page, page))

    async def follow(_found):
        assert TurnStage.FOLLOWED is await store.step_turn(BUCKET + 1, is_late=False, range_size=9, work=fail)
        return TurnedRange()

    for work, error in ((fail, ZeroDivisionError), (overlap, ConflictError)):
        with pytest.raises(error):
            await store.step_turn(BUCKET + 1, is_late=False, range_size=9, work=work)
        assert await store.find_turn() is None
    assert TurnStage.LED is await store.step_turn(BUCKET + 1, is_late=False, range_size=9, work=follow)
    assert 0 == (await store.find_turn()).carried


async def test_writers_into_a_bucket_are_awaited_for_a_moment(store):
    """R8: what is still being written into a bucket is waited for, and not for long."""
    await publish(store)

    async def look(_found):
        with pytest.raises(StoreUnavailableError):
            await store.await_writers(BUCKET + 1)
        return TurnedRange()

    assert TurnStage.LED is await store.step_turn(BUCKET + 1, is_late=False, range_size=9, work=look)
    await store.await_writers(BUCKET + 1)


async def test_changes_are_told_to_who_listens_and_to_who_looks(store):
    """A device's move, keys and psk and a session's end are told once committed; what failed or superseded is not."""
    await publish(store)
    heard, is_listening = [], asyncio.Event()

    def hear(change):
        if change is None:
            is_listening.set()
        else:
            heard.append(change)

    mark = (await store.list_changes(None, limit=9)).mark
    task = asyncio.create_task(store.listener().listen(hear)) if store.listener() else None
    if task:
        async with asyncio.timeout(60):
            await is_listening.wait()
    (device,) = await register(store, device_id="d")
    claim = await begin_session(store, device)
    for _ in range(4):
        await begin_session(store, device)
    with pytest.raises(IllegalTransitionError):
        await store.set_device_state(T, device.ref, KeyState.DESTROYED, reason="x", event=new_event())
    assert SessionState.SUPERSEDED is (await store.find_sessions(T, [claim.sid]))[claim.sid].state
    assert () == (await store.list_changes(mark, limit=9)).changes
    await store.set_device_psk(T, device.ref, urandom(93), psk_version=1, event=new_event())
    sids = [session.sid for session in await store.list_sessions(T, limit=9, ref=device.ref)]
    await store.end_sessions(T, sids[:1], SessionState.ENDED, events=[new_event()])
    await store.rotate_device_keys(T, new_device("d"), key_version=2, event=new_event())
    await store.set_device_state(T, device.ref, KeyState.DEACTIVATED, reason="x", event=new_event())
    expected = {Change(tenant_id=T, ref=device.ref), *(Change(tenant_id=T, sid=sid) for sid in sids)}
    page = await store.list_changes(mark, limit=99)
    assert (expected, False) == (set(page.changes), page.is_cut)
    assert (True, 2) == ((cut := await store.list_changes(mark, limit=2)).is_cut, len(cut.changes))
    if task:
        async with asyncio.timeout(60):
            while set(heard) != expected:
                await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert 0 == await store.drop_changes()


async def test_sessions_are_listed_in_pages(store):
    """A tenant's sessions come in order of id, a device's live ones alone where asked."""
    await publish(store)
    one, two = await register(store, 2)
    claims = [await begin_session(store, device) for device in (one, one, two)]
    await store.end_sessions(T, [claims[0].sid], SessionState.ENDED, events=[new_event()])
    first = await store.list_sessions(T, limit=2)
    rest = await store.list_sessions(T, limit=2, after=first[-1].sid)
    assert sorted(claim.sid for claim in claims) == [session.sid for session in (*first, *rest)]
    assert [claims[1].sid] == [session.sid for session in await store.list_sessions(T, limit=9, ref=one.ref)]
    assert () == await store.list_sessions(TenantId(urandom(16)), limit=9)


async def test_groups_of_sessions_go_when_all_of_them_are_over(store):
    """Expiry forgets sessions of old groups whole and keeps those that may live; the totals stay."""
    claims = []
    for bucket in (100, 700):
        await store.save_bucket(new_bucket(bucket))
        (device,) = await register(store)
        claims.append(await begin_session(store, device, bucket=bucket))
    await store.raise_bucket_mark(700)
    await store.drop_buckets(before=699)
    assert 1 == await store.expire_sessions(before_bucket=699)
    assert {claims[1].sid} == set(await store.find_session_tenants([claim.sid for claim in claims]))
    figures = await store.count_keys(T, bucket=700)
    assert (1, 2, 1, 700, 700) == (
        figures.sessions_live,
        figures.sessions_total,
        figures.handshakes_recent,
        figures.bucket,
        figures.oldest_live_bucket,
    )


async def test_a_batch_with_a_row_that_does_not_fit_leaves_nothing(store):
    """One malformed value takes the whole call with it, in the log, the counts and the rows."""
    await publish(store)
    (device,) = await register(store)
    bad = new_claim(device, sealed_chain_key=b"x" * 10)
    before = (await size_of(store), await store.count_keys(T, bucket=BUCKET))
    good = new_claim(device)
    with pytest.raises(ConflictError, match="session_state_sealed_chain_key_size"):
        await confirm(store, good, bad)
    assert before == (await size_of(store), await store.count_keys(T, bucket=BUCKET))
    assert {} == await store.find_sessions(T, [good.sid])
    (outcome,) = await confirm(store, good)
    assert ClaimResult.CREATED is outcome.result
    with pytest.raises(ConflictError, match="stream_direction_known"):
        await store.accept_streams(T, [new_stream(good.sid), new_stream(good.sid, direction=3)], now_s=NOW_S)
    key = new_reply_key(good.sid)
    with pytest.raises(ConflictError, match="reply_key_pkey"):
        await store.save_reply_keys(T, [key, key], outstanding_max=9)
    assert () == await store.find_reply_keys(T, [(key.sid, key.request_id)])
    with pytest.raises(ConflictError, match="device_sealed_psk_size"):
        await store.set_device_psk(T, device.ref, b"short", psk_version=1, event=new_event())
    with pytest.raises(LengthError):
        await store.find_sessions(T, [b"short"])


async def test_a_store_that_begins_anew_has_ended_what_lived(store):
    """Of a restored copy no session, token, reply or bucket lives on; roster and log do, and the pulse counts on."""
    await publish(store)
    (device,) = await register(store)
    claim, other = await begin_session(store, device), await begin_session(store, device)
    await store.end_sessions(T, [other.sid], SessionState.ENDED, events=[new_event()])
    token = new_token("e")
    await store.add_token(token, event=new_event())
    key = new_reply_key(claim.sid)
    await store.save_reply_keys(T, [key], outstanding_max=9)
    assert [0, 1, 2, 2] == [
        await store.pulse(),
        (await store.raise_pulse()).count,
        (before := await store.raise_pulse()).count,
        await store.pulse(),
    ]
    size = await size_of(store)
    mark = (await store.list_changes(None, limit=9)).mark
    assert (await store.raise_pulse()).follows(before)
    assert 1 == await store.begin_anew(bucket=BUCKET + 9)
    # Whoever saw the one before sees that this is another.
    after = await store.raise_pulse()
    assert (4, False) == (after.count, after.follows(before))
    assert () == (await store.list_changes(mark, limit=9)).changes
    assert (BUCKET + 9, ()) == (await store.bucket_mark(), await store.find_buckets(0, 2**40))
    assert SessionState.ENDED is (await store.find_sessions(T, [claim.sid]))[claim.sid].state
    assert 0 == (await store.count_keys(T, bucket=0)).sessions_live
    assert () == await store.find_reply_keys(T, [(key.sid, key.request_id)])
    assert TokenState.EXPIRED is (await store.get_token(T, token.token_id)).state
    assert (size, {device.ref}) == (await size_of(store), set(await store.find_devices(T, [device.ref])))
    assert 0 == await store.begin_anew(bucket=0)


async def test_a_call_id_makes_a_psk_and_an_end_of_sessions_once(store):
    """Repeated with its id a change answers as the first time, writes nothing and is remembered through a clean-up."""
    await publish(store)
    (device,) = await register(store)
    sids = [(await begin_session(store, device)).sid for _ in range(2)]
    change = urandom(16)
    for _ in range(2):
        await store.set_device_psk(T, device.ref, urandom(93), psk_version=1, event=new_event(), call_id=change)
        ended = await store.end_sessions(T, sids, SessionState.ENDED, events=[new_event()], call_id=change)
        assert 2 == ended
        assert await store.forget_calls()
    # Two sessions' entries with a heading each, one device, one psk, one end.
    assert 2 * 2 + 1 + 1 + 1 == await size_of(store)
    with pytest.raises(BatchError):
        await store.append_events(T, [new_event()], call_ids=[])


async def test_a_registration_notes_the_calls_of_those_it_adds(store):
    """What was added can be found by its call, what was not cannot, and devices without a call go on."""
    first, second, third = (new_device() for _ in range(3))
    calls = [NotedCall(urandom(16), number) for number in (7, 2**63 - 1, -1)]
    added, _ = await store.add_devices(T, [first, second], events=[new_event()] * 2, calls=[calls[0], None])
    assert (True, True) == added
    added, _ = await store.add_devices(
        T, [first, third, first], events=[new_event()] * 3, calls=[calls[1], calls[2], None]
    )
    assert (False, True, False) == added
    names = [call.call_id for call in calls]
    assert {names[0]: 7, names[2]: -1} == await store.find_calls(T, names)
    assert {} == await store.find_calls(T, [])
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    assert {} == await store.find_calls(other, names)
    with pytest.raises(BatchError):
        await store.add_devices(T, [first], events=[new_event()], calls=[])


async def test_a_store_that_works_says_so_and_what_it_cannot_read(store):
    """A look at the store is silent while it can be used, and a number beyond its columns is the caller's mistake."""
    await store.check()
    with pytest.raises(UsageError):
        await store.raise_bucket_mark(2**63)
    await store.close()
