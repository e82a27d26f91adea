"""Connections cut around COMMIT, at chosen points of the wire protocol: each change ends exactly once (C3)."""

import asyncio
import contextlib
import re
from importlib.resources import files
from os import urandom

import pytest

from postgres_database import SETTINGS
from proxy import Point, proxied
from qflare.errors import AlreadyExistsError, ConflictError, IllegalTransitionError, StoreUnavailableError
from qflare.model.call import NotedCall
from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.rotation import RotationPolicy
from qflare.model.session import SessionState
from qflare.model.token import EnrolmentClaim, TokenRecord, TokenState
from qflare.stores.postgres import PoolSettings, open_store
from qflare.stores.postgres.columns import as_time
from store_records import (
    NOW_S,
    begin_session,
    heading,
    new_bucket,
    new_claim,
    new_device,
    new_event,
    new_stream,
    publish,
    register,
)

pytestmark = pytest.mark.contract

REPEATED = {
    "accept_streams",
    "bucket_mark",
    "count_responses",
    "database_time_ms",
    "drop_changes",
    "drop_reply_keys",
    "enrol_devices",
    "find_buckets",
    "head_sessions",
    "find_chains",
    "find_devices",
    "find_identity",
    "find_leaf_pairs",
    "find_hashes",
    "find_pages",
    "find_pending_keys",
    "find_reply_keys",
    "find_rotation_marks",
    "find_session_tenants",
    "find_sessions",
    "find_turn",
    "identity_serial",
    "latest_checkpoint",
    "list_certificates",
    "list_changes",
    "list_checkpoints",
    "list_limits",
    "list_reply_keys",
    "list_rotatable_keys",
    "list_rotation_policies",
    "list_server_keys",
    "list_tenants",
    "log_head",
    "mark_rotations",
    "rekey_session",
    "reseal_reply_keys",
    "store_pulse",
    "rotate_device_keys",
    "save_chains",
}
"""Queries that end once however often they run: look-ups, and changes with a key of their own (decision 0031)."""
CUTS = (
    (Point.BEFORE, None),
    (Point.FORWARDED, None),
    (Point.FORWARDED, None),
    (Point.ANSWERED, None),
    (Point.ANSWERED, None),
    (Point.COMPLETE, None),
    (Point.ANSWERED, 0),
    (Point.ANSWERED, 1),
    (Point.ANSWERED, 7),
    (Point.ANSWERED, 60),
)
"""Ten cuts for each of ten kinds of change: a hundred in all."""
T = DEFAULT_TENANT


@pytest.fixture
async def proxy(database_dsn):
    async with proxied(database_dsn) as opened:
        yield opened


@pytest.fixture
async def far(proxy):
    """A store whose connections go through the proxy."""
    opened = await open_store(proxy.dsn, settings=SETTINGS)
    yield opened
    await opened.close()


@pytest.fixture
async def hasty(proxy):
    """The same without attempts of its own: its caller repeats."""
    opened = await open_store(proxy.dsn, settings=PoolSettings(max_size=4, retry_for_s=0))
    yield opened
    await opened.close()


def new_token(device_id):
    return TokenRecord(
        token_id=urandom(16), tenant_id=T, device_id=device_id, secret_hash=urandom(64), expires_at=as_time(2 * NOW_S)
    )


class Kinds:
    """One change of each kind: prepared past the proxy by `near`, made through it by `far`, returning what it said."""

    def __init__(self, near, far):
        self.near, self.far = near, far

    async def events(self):
        event = new_event()
        append = await self.far.append_events(T, [event, new_event()])
        return append.indexes[1] - append.indexes[0]

    async def sessions(self):
        (device,) = await register(self.near)
        claim = new_claim(device)
        outcomes, _ = await self.far.confirm_sessions(T, [claim], heading=heading(), now_s=NOW_S, live_bucket=999)
        assert outcomes[0].result in {"created", "repeated"}
        found = await self.near.find_sessions(T, [claim.sid])
        return int(found[claim.sid].log_index == outcomes[0].log_index)

    async def streams(self):
        (device,) = await register(self.near)
        claim = await begin_session(self.near, device)
        streams = [new_stream(claim.sid) for _ in range(3)]
        assert [True] == list(await self.near.accept_streams(T, streams[:1], now_s=NOW_S))
        taken = await self.far.accept_streams(T, [*streams, streams[1]], now_s=NOW_S)
        assert (False, True, True, False) == taken
        assert (False,) * 3 == await self.far.accept_streams(T, streams, now_s=NOW_S)
        return 1

    async def devices(self):
        device = new_device()
        (is_added,), _ = await self.far.add_devices(T, [device], events=[new_event()])
        (is_added_again,), _ = await self.far.add_devices(T, [device], events=[new_event()])
        assert not is_added_again
        return int(is_added) * len(await self.near.find_devices(T, [device.ref]))

    async def named_devices(self):
        devices, calls = [new_device() for _ in range(2)], [NotedCall(urandom(16), 5), None]
        added, _ = await self.far.add_devices(T, devices, events=[new_event()] * 2, calls=calls)
        return int(all(added) and {calls[0].call_id: 5} == await self.near.find_calls(T, [calls[0].call_id]))

    async def revocations(self):
        token = new_token("somebody")
        await self.near.add_token(token, event=new_event())
        await self.far.revoke_token(T, token.token_id, reason="lost", event=new_event())
        return int((await self.near.get_token(T, token.token_id)).state is TokenState.REVOKED)

    async def policies(self):
        await self.far.save_rotation_policy(T, RotationPolicy(max_records=1), event=new_event())
        return 1

    async def enrolments(self):
        token, device = new_token("enrolled"), new_device()
        token = new_token(device.device_id)
        await self.near.add_token(token, event=new_event())
        claim = EnrolmentClaim(token_id=token.token_id, key_hash=urandom(64), device=device)
        outcomes, _ = await self.far.enrol_devices(T, [claim], events=[new_event()], now_s=NOW_S)
        return outcomes[0].key_version

    async def states(self):
        (device,) = await register(self.near)
        row = await self.far.set_device_state(T, device.ref, KeyState.SUSPENDED, reason="x", event=new_event())
        return int(row.state is KeyState.SUSPENDED)

    async def rotations(self):
        (device,) = await register(self.near)
        fresh = new_device(device.device_id)
        row = await self.far.rotate_device_keys(T, fresh, key_version=2, event=new_event())
        return row.key_version - 1

    async def psks(self):
        (device,) = await register(self.near)
        await self.far.set_device_psk(T, device.ref, urandom(93), psk_version=1, event=new_event())
        return 1

    async def tokens(self):
        token = new_token("somebody")
        await self.far.add_token(token, event=new_event())
        return len(await self.near.find_tokens(T, [token.token_id]))

    async def ends(self):
        (device,) = await register(self.near)
        claim = await begin_session(self.near, device)
        return await self.far.end_sessions(T, [claim.sid], SessionState.ENDED, events=[new_event()])


@pytest.mark.parametrize(
    "change_of",
    [
        ("events", "append_entries", 2),
        ("sessions", "head_sessions", 3),
        ("streams", "accept_streams", 3),
        ("devices", "add_devices", 1),
        ("named_devices", "add_devices", 2),
        ("revocations", "revoke_token", 2),
        ("policies", "note_calls", 1),
        ("enrolments", "enrol_devices", 2),
        ("states", "set_device_state", 2),
        ("rotations", "rotate_device_keys", 2),
        ("psks", "note_calls", 2),
        ("tokens", "note_calls", 1),
        ("ends", "end_sessions", 4),
    ],
)
async def test_a_connection_cut_around_commit_ends_the_call_once(store, far, proxy, change_of):
    """Ten cuts for each kind: every change succeeds, changes what it should once, and is logged once (C3)."""
    kind, needle, entries = change_of
    await publish(store)
    make = getattr(Kinds(store, far), kind)
    for point, after_bytes in CUTS:
        size = (await store.log_head()).size
        proxy.cut(needle, point, after_bytes=after_bytes)
        assert 1 == await make(), (point, after_bytes)
        assert size + entries == (await store.log_head()).size, (point, after_bytes)
    assert (len(CUTS), 0) == (proxy.made, len(proxy.cuts))


@pytest.mark.parametrize("point", [Point.BEFORE, Point.FORWARDED, Point.ANSWERED])
async def test_an_unknown_outcome_says_so_and_may_be_repeated(store, hasty, proxy, point):
    """Where the store cannot know, its error does not pretend to; the same call ids end once all the same."""
    (device,) = await register(store)
    size = (await store.log_head()).size
    calls = (
        (
            "append_entries",
            lambda change: hasty.append_events(T, [event], call_ids=[change]),
        ),
        (
            "set_device_state",
            lambda change: hasty.set_device_state(
                T, device.ref, KeyState.SUSPENDED, reason="x", event=event, call_id=change
            ),
        ),
        (
            "note_calls",
            lambda change: hasty.set_device_psk(T, device.ref, urandom(93), psk_version=1, event=event, call_id=change),
        ),
    )
    for needle, call in calls:
        event, change = new_event(), urandom(16)
        proxy.cut(needle, point)
        with pytest.raises(StoreUnavailableError) as caught:
            await call(change)
        assert caught.value.outcome_unknown
        for _ in range(3):
            await call(change)
        size += 1
        assert size == (await store.log_head()).size
    proxy.is_refusing = True
    await asyncio.gather(*(hasty._pool.expire_connections() for _ in range(1)))
    with pytest.raises(StoreUnavailableError) as caught:
        await hasty.append_events(T, [new_event()])
    assert not caught.value.outcome_unknown
    assert size == (await store.log_head()).size


async def test_events_of_one_change_stand_once_whoever_logs_them(store):
    """The same ids in one batch, in another and from eight callers at once give one entry each, at one place."""
    shared, own = urandom(16), urandom(16)
    first = await store.append_events(T, [new_event(), new_event(), new_event()], call_ids=[shared, None, shared])
    assert (0, 1, 0) == first.indexes
    assert 2 == len(first.leaf_hashes)
    again = await store.append_events(T, [new_event(), new_event()], call_ids=[own, shared])
    assert (2, 0) == again.indexes
    raced = urandom(16)
    appends = await asyncio.gather(
        *(store.append_events(T, [new_event(), new_event()], call_ids=[raced, None]) for _ in range(8))
    )
    assert 1 == len({append.indexes[0] for append in appends})
    assert 8 == len({append.indexes[1] for append in appends})
    assert 3 + 1 + 8 == (await store.log_head()).size
    whole = await store.append_events(T, [new_event()], call_ids=[raced])
    assert ((), appends[0].indexes[:1]) == (whole.leaf_hashes, whole.indexes)


async def test_one_call_id_for_two_devices_leaves_neither_undone(store):
    """An id names one change about one device and state: used for another it is another change."""
    one, other = await register(store, 2)
    change = urandom(16)
    how = {"reason": "x", "call_id": change}
    for device in (one, other, one):
        row = await store.set_device_state(T, device.ref, KeyState.SUSPENDED, event=new_event(), **how)
        assert KeyState.SUSPENDED == row.state
    assert 2 + 2 == (await store.log_head()).size
    with pytest.raises(IllegalTransitionError):
        await store.set_device_state(T, one.ref, KeyState.SUSPENDED, reason="x", event=new_event())


async def test_a_change_of_another_tenant_is_another_change(store):
    """Ids are looked up inside the tenant: nobody learns or takes over another tenant's."""
    other, change = urandom(16), urandom(16)
    await store.save_tenant(other, "other", event=new_event())
    for tenant_id in (T, other):
        append = await store.append_events(tenant_id, [new_event()], call_ids=[change])
        assert 1 == len(append.leaf_hashes)


async def test_keys_tokens_and_tenants_are_not_taken_over_by_repeating(store, far, proxy):
    """What exists already by somebody else's change stays refused, also when the connection is cut meanwhile."""
    (device,) = await register(store)
    await store.rotate_device_keys(T, new_device(device.device_id), key_version=2, event=new_event())
    proxy.cut("rotate_device_keys", Point.ANSWERED)
    with pytest.raises(ConflictError):
        await far.rotate_device_keys(T, new_device(device.device_id), key_version=2, event=new_event())
    await store.save_tenant(urandom(16), "taken", event=new_event())
    proxy.cut("BEGIN", Point.BEFORE)
    with pytest.raises(AlreadyExistsError):
        await far.save_tenant(urandom(16), "taken", event=new_event())
    token = new_token("somebody")
    await store.add_token(token, event=new_event())
    with pytest.raises(AlreadyExistsError):
        await far.add_token(token, event=new_event())


async def test_a_bucket_is_published_once_through_cut_connections(far, proxy):
    """The first insert of a bucket stands, whatever becomes of the connection that brought it."""
    for number in range(3):
        bucket = new_bucket(2000 + number)
        proxy.cut("find_buckets" if number else "bucket_key", Point.FORWARDED)
        with contextlib.suppress(StoreUnavailableError):
            await far.save_bucket(bucket)
        stands = await far.save_bucket(bucket)
        assert bucket.announcement == stands.announcement


def test_only_what_ends_once_is_repeated():
    """A query that the store repeats by itself was looked at: it stands in the list, or it runs in one attempt."""
    called = re.compile(r'_connections\.(?:fetch|fetch_row|get_row)\(\s*"(\w+)"')
    package = files("qflare") / "stores" / "postgres"
    found = {
        name for item in package.iterdir() if item.name.endswith(".py") for name in called.findall(item.read_text())
    }
    assert REPEATED == found


async def test_attempts_end_in_bounded_time(proxy):
    """A database that stays away is an error after `retry_for_s`, and at once where the caller's own time is up."""
    store = await open_store(proxy.dsn, settings=PoolSettings(max_size=2, retry_for_s=2.0))
    try:
        proxy.is_refusing = True
        await store._pool.expire_connections()
        with pytest.raises(StoreUnavailableError):
            await store.log_head()
        assert proxy.refused >= 3
        store._connections._attempts._for_s = 3600.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await store.log_head()
        proxy.is_refusing = False
        assert 0 == (await store.log_head()).size
    finally:
        await store.close()


async def test_what_is_remembered_of_changes_is_emptied_by_age(store, admin):
    """Changes of a day ago and before go with their partition; those of today stay, also while it is emptied."""
    await store.append_events(T, [new_event()], call_ids=[urandom(16)])
    turn = await admin.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) / 43200)::bigint")
    await admin.execute(
        "INSERT INTO qflare.call (tenant_id, call_id, slot, kind) VALUES ($1, gen_random_uuid(), $2, 'old')",
        T.hex(),
        (turn + 1) % 4,
    )
    assert 3 == await admin.fetchval("SELECT count(*) FROM qflare.call")
    assert await store.forget_calls()
    assert 2 == await admin.fetchval("SELECT count(*) FROM qflare.call")
