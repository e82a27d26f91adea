import asyncio
from os import urandom

import pytest

from qflare.errors import UsageError
from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.session import ClaimResult, SealedChain, SessionState
from qflare.protocol.log import Frontier, inclusion_paths, verify_inclusion
from store_records import (
    BUCKET,
    NOW_S,
    begin_session,
    confirm,
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


def results(outcomes):
    return [str(outcome.result) for outcome in outcomes]


async def accept(store, *claims):
    return await store.accept_streams(DEFAULT_TENANT, claims, now_s=NOW_S)


async def test_a_confirmed_session_can_be_read_back(store):
    """Session, route, chain key and audit entry of a claim stand after one call."""
    await publish(store)
    (device,) = await register(store)
    claim = new_claim(device, form=2, lifetime=7)
    outcomes, append = await store.confirm_sessions(
        DEFAULT_TENANT, [claim], heading=heading(), now_s=NOW_S, live_bucket=BUCKET - 1
    )
    assert ["created"] == results(outcomes)
    assert 2 == len(append.leaf_hashes)
    assert claim.leaf_hash == append.leaf_hashes[1]
    session = (await store.find_sessions(DEFAULT_TENANT, [claim.sid]))[claim.sid]
    assert (claim.ref, device.device_id, 2, BUCKET, 7, SessionState.LIVE, 0) == (
        session.ref,
        session.device_id,
        session.form,
        session.start,
        session.lifetime,
        session.state,
        session.epoch,
    )
    assert outcomes[0].log_index == session.log_index == append.first_index + 1
    assert {claim.sid: DEFAULT_TENANT} == await store.find_session_tenants([claim.sid, urandom(16)])
    (chain,) = await store.find_chains(DEFAULT_TENANT, [claim.sid], first=BUCKET - 5, last=BUCKET + 5)
    assert (claim.sealed_chain_key, BUCKET) == (chain.sealed_chain_key, chain.bucket)
    entry = await store.find_entry(DEFAULT_TENANT, session.log_index)
    assert (1, claim.leaf_data, claim.leaf_hash, "key_exchange") == (
        entry.entry_type,
        entry.leaf_data,
        entry.leaf_hash,
        entry.event_type,
    )


async def test_one_bad_claim_never_fails_its_batch(store):
    """Each claim ends by itself, in the order given, at every position."""
    await publish(store)
    good, suspended, other = await register(store, 3)
    await store.set_device_state(DEFAULT_TENANT, suspended.ref, KeyState.SUSPENDED, reason="", event=new_event())
    earlier = await begin_session(store, other)
    claims = [
        new_claim(new_device()),
        new_claim(good),
        new_claim(suspended),
        new_claim(other, key_version=2),
        new_claim(good, bucket=BUCKET + 7),
        earlier,
        new_claim(other, sid=earlier.sid),
        new_claim(good, bucket=BUCKET - 1),
        new_claim(good, state_bucket=BUCKET + 7),
    ]
    expected = [
        "unknown-device",
        "created",
        "device-state",
        "key-version",
        "expired",
        "repeated",
        "conflict",
        "created",
        "expired",
    ]
    outcomes, append = await store.confirm_sessions(
        DEFAULT_TENANT, claims, heading=heading(), now_s=NOW_S, live_bucket=BUCKET - 1
    )
    assert expected == results(outcomes)
    assert (claims[1].leaf_hash, claims[7].leaf_hash) == append.leaf_hashes[1:]
    assert [append.first_index + 1, append.first_index + 2] == [outcomes[1].log_index, outcomes[7].log_index]
    assert [None] * 6 == [outcomes[i].log_index for i in (0, 2, 3, 4, 6, 8)]


async def test_proofs_follow_from_what_an_append_returns(store):
    """Receipts are made from the append alone and verify against the committed head."""
    await publish(store)
    devices = await register(store, 13)
    for count in (1, 2, 3, 7, 13):
        claims = [new_claim(device) for device in devices[:count]]
        _, append = await store.confirm_sessions(
            DEFAULT_TENANT, claims, heading=heading(), now_s=NOW_S, live_bucket=BUCKET - 1
        )
        head = await store.log_head()
        root = Frontier(head.size, head.frontier).root()
        paths = inclusion_paths(append.old_frontier, append.first_index, append.leaf_hashes)
        for number, (path, leaf_hash) in enumerate(zip(paths, append.leaf_hashes, strict=True)):
            verify_inclusion(leaf_hash, append.first_index + number, head.size, path, root)


async def test_the_same_claim_twice_in_a_batch_makes_one_session(store):
    """A claim that stands twice in one batch is created once and repeated once."""
    await publish(store)
    (device,) = await register(store)
    claim = new_claim(device)
    outcomes = await confirm(store, claim, claim)
    assert ["created", "repeated"] == results(outcomes)
    assert outcomes[0].log_index == outcomes[1].log_index


async def test_a_race_on_one_claim_makes_exactly_one_session(store, admin):
    """64 workers that confirm the same M3 at once make one session and one audit entry (B1)."""
    await publish(store)
    (device,) = await register(store)
    claim = new_claim(device)
    size = (await store.log_head()).size
    outcomes = [outcome for (outcome,) in await asyncio.gather(*(confirm(store, claim) for _ in range(64)))]
    assert ["created"] + ["repeated"] * 63 == sorted(results(outcomes))
    assert 1 == len({outcome.log_index for outcome in outcomes})
    assert size + 2 == (await store.log_head()).size  # and its heading
    assert 1 == await admin.fetchval("SELECT count(*) FROM qflare.session")


async def test_a_repeat_for_an_ended_session_is_refused(store):
    """The handshake row outlives its session: a replayed M3 never brings it back."""
    await publish(store)
    (device,) = await register(store)
    claim = await begin_session(store, device)
    assert 1 == await store.end_sessions(DEFAULT_TENANT, [claim.sid], SessionState.ENDED, events=[new_event()])
    assert ["conflict"] == results(await confirm(store, claim))


async def test_session_ids_are_unique_across_tenants(store):
    """A session id that another tenant has is refused, and nothing of it is seen."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    await publish(store)
    (mine,), (theirs,) = await register(store), await register(store, tenant_id=other)
    claim = await begin_session(store, mine)
    outcomes = await confirm(store, new_claim(theirs, tenant_id=other, sid=claim.sid), tenant_id=other)
    assert ["conflict"] == results(outcomes)
    assert {claim.sid: DEFAULT_TENANT} == await store.find_session_tenants([claim.sid])


async def test_claims_of_another_tenant_are_refused_before_sql(store):
    """A batch is one tenant's."""
    claim = new_claim(new_device())
    with pytest.raises(UsageError, match="tenant"):
        await confirm(store, claim, tenant_id=TenantId(urandom(16)))


async def test_at_most_four_live_sessions_a_device(store):
    """Sessions that never carried a record end first, then the oldest; the new one stays (H8)."""
    await publish(store)
    (device,) = await register(store)
    sids = [(await begin_session(store, device)).sid for _ in range(4)]
    assert (True, True) == await accept(store, new_stream(sids[0]), new_stream(sids[2]))
    sids.append((await begin_session(store, device)).sid)
    sids.append((await begin_session(store, device)).sid)
    sids.append((await begin_session(store, device)).sid)

    async def live():
        found = await store.find_sessions(DEFAULT_TENANT, sids)
        return [sids.index(sid) for sid in sids if found[sid].state is SessionState.LIVE]

    assert [0, 2, 5, 6] == await live()
    assert (True, True) == await accept(store, new_stream(sids[5]), new_stream(sids[6]))
    sids.append((await begin_session(store, device)).sid)
    assert [2, 5, 6, 7] == await live()


async def test_more_than_four_at_once_keep_the_newest(store):
    """One batch with six sessions of one device leaves four; the counts agree."""
    await publish(store)
    (device,) = await register(store)
    claims = [new_claim(device) for _ in range(6)]
    assert ["created"] * 6 == results(await confirm(store, *claims))
    found = await store.find_sessions(DEFAULT_TENANT, [claim.sid for claim in claims])
    assert ["superseded"] * 2 + ["live"] * 4 == [str(found[claim.sid].state) for claim in claims]
    statistics = await store.count_keys(DEFAULT_TENANT, bucket=BUCKET)
    assert (4, 6) == (statistics.sessions_live, statistics.sessions_total)


async def test_an_answer_makes_a_pre_active_key_active(store):
    """Only a claim that proves the KEM key changes its state (E3)."""
    await publish(store)
    (device,) = await register(store)

    async def kem_state():
        return str((await store.find_devices(DEFAULT_TENANT, [device.ref]))[device.ref].kem_state)

    await begin_session(store, device)
    assert "pre-active" == await kem_state()
    await begin_session(store, device, form=2, proves_kem=True)
    assert "active" == await kem_state()


async def test_a_revocation_that_comes_first_refuses_the_claim(store, admin):
    """A claim that waited for a revocation sees it (H8: before or after, never between)."""
    await publish(store)
    (device,) = await register(store)
    transaction = admin.transaction()
    await transaction.start()
    await admin.execute("UPDATE qflare.device SET state = 'deactivated' WHERE ref = $1", device.ref)
    waiting = asyncio.create_task(confirm(store, new_claim(device)))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await transaction.commit()
    assert ["device-state"] == results(await waiting)


async def test_a_revocation_racing_claims_leaves_no_live_session(store, admin):
    """Whatever the order of many claims and a revocation, no session of the device lives afterwards."""
    await publish(store)
    for _ in range(5):
        (device,) = await register(store)
        revocation = store.set_device_state(
            DEFAULT_TENANT, device.ref, KeyState.COMPROMISED, reason="", event=new_event()
        )
        claims = [confirm(store, new_claim(device)) for _ in range(6)]
        answers = await asyncio.gather(*claims[:3], revocation, *claims[3:])
        made = [results(answer)[0] for answer in answers if isinstance(answer, tuple)]
        assert {"created", "device-state"} >= set(made)
        assert 0 == await admin.fetchval(
            "SELECT count(*) FROM qflare.session WHERE ref = $1 AND state = 'live'", device.ref
        )
    statistics = await store.count_keys(DEFAULT_TENANT, bucket=BUCKET)
    assert 0 == statistics.sessions_live


async def test_claims_ends_and_records_in_parallel_do_not_lock_up(store):
    """Confirming, ending and carrying records for the same devices at once ends without a deadlock."""
    await publish(store)
    devices = await register(store, 8)
    claims = [new_claim(device) for device in devices for _ in range(4)]
    await confirm(store, *claims)
    work = []
    for number in range(12):
        some = claims[number::3]
        work += [
            confirm(store, *(new_claim(device) for device in (devices if number % 2 else devices[::-1]))),
            store.end_sessions(
                DEFAULT_TENANT, [claim.sid for claim in some[::-1]], SessionState.ENDED, events=[new_event()]
            ),
            accept(store, *(new_stream(claim.sid) for claim in some)),
        ]
    await asyncio.gather(*work)


async def test_a_stream_is_accepted_once(store):
    """A stream id is taken once for a session and direction, also within one batch (R4)."""
    await publish(store)
    (device,) = await register(store)
    sid = (await begin_session(store, device)).sid
    stream = new_stream(sid)
    assert (True, False) == await accept(store, stream, stream)
    assert (False,) == await accept(store, stream)
    back = type(stream)(sid=sid, direction=2, stream_id=stream.stream_id, bucket=stream.bucket)
    assert (True,) == await accept(store, back)


async def test_a_stream_raced_is_accepted_once(store):
    """A record replayed to many workers at once is handed on by one."""
    await publish(store)
    (device,) = await register(store)
    stream = new_stream((await begin_session(store, device)).sid)
    answers = await asyncio.gather(*(accept(store, stream) for _ in range(32)))
    assert 1 == sum(accepted for (accepted,) in answers)


async def test_streams_need_a_live_session_and_a_live_bucket(store):
    """Records of ended or unknown sessions and of buckets that live no more are refused, each by itself."""
    await publish(store)
    one, two = await register(store, 2)
    live, ended = (await begin_session(store, one)).sid, (await begin_session(store, two)).sid
    await store.end_sessions(DEFAULT_TENANT, [ended], SessionState.ENDED, events=[new_event()])
    accepted = await accept(
        store,
        new_stream(ended),
        new_stream(urandom(16)),
        new_stream(live, bucket=BUCKET - 1),
        new_stream(live, bucket=BUCKET + 7),
        new_stream(live, bucket=BUCKET + 1),
        new_stream(live),
    )
    assert (False, False, False, False, True, True) == accepted


async def test_chains_are_saved_for_live_sessions_of_their_own_tenant_only(store):
    """A chain key for an ended session, another tenant's session, or a dead bucket is not stored."""
    await publish(store)
    one, two = await register(store, 2)
    live, ended = (await begin_session(store, one)).sid, (await begin_session(store, two)).sid
    await store.end_sessions(DEFAULT_TENANT, [ended], SessionState.ENDED, events=[new_event()])

    def chain(sid, bucket=BUCKET + 1, tenant_id=DEFAULT_TENANT):
        return SealedChain(tenant_id=tenant_id, sid=sid, bucket=bucket, epoch=0, sealed_chain_key=urandom(93))

    assert 0 == await store.save_chains(
        [chain(ended), chain(live, tenant_id=TenantId(urandom(16))), chain(live, bucket=BUCKET + 7)]
    )
    assert 1 == await store.save_chains([chain(live)])


async def test_end_sessions_counts_live_ones_and_logs_only_then(store):
    """Ending what has ended changes nothing and writes nothing."""
    await publish(store)
    devices = await register(store, 3)
    sids = [(await begin_session(store, device)).sid for device in devices]
    size = (await store.log_head()).size
    assert 2 == await store.end_sessions(DEFAULT_TENANT, sids[:2], SessionState.ENDED, events=[new_event()])
    assert 1 == await store.end_sessions(DEFAULT_TENANT, sids, SessionState.REVOKED, events=[new_event()])
    assert 0 == await store.end_sessions(DEFAULT_TENANT, sids, SessionState.ENDED, events=[new_event()])
    assert size + 2 == (await store.log_head()).size
    with pytest.raises(UsageError):
        await store.end_sessions(DEFAULT_TENANT, sids, SessionState.LIVE, events=[])


async def test_expire_sessions_counts_once_and_shows_in_reads(store):
    """Sessions whose last bucket is over are expired, counted once, whatever their tenant."""
    await publish(store)
    devices = await register(store, 3)
    short = [await begin_session(store, device, lifetime=1) for device in devices[:2]]
    long = await begin_session(store, devices[2])
    assert 0 == await store.expire_sessions(before_bucket=BUCKET)
    assert 2 == await store.expire_sessions(before_bucket=BUCKET + 1)
    assert 0 == await store.expire_sessions(before_bucket=BUCKET + 1)
    found = await store.find_sessions(DEFAULT_TENANT, [claim.sid for claim in (*short, long)])
    assert ["expired", "expired", "live"] == [str(found[claim.sid].state) for claim in (*short, long)]
    statistics = await store.count_keys(DEFAULT_TENANT, bucket=BUCKET + 1)
    assert (1, 3) == (statistics.sessions_live, statistics.sessions_total)


async def test_groups_of_expired_sessions_are_emptied_and_live_ones_kept(store, admin):
    """Emptying goes by whole groups: it takes every session of an old one and none that may live."""
    for bucket in (100, 700):
        await store.save_bucket(new_bucket(bucket))
        (device,) = await register(store)
        await begin_session(store, device, bucket=bucket)
    await store.raise_bucket_mark(700)
    await store.drop_buckets(before=699)
    assert 1 == await store.expire_sessions(before_bucket=699)
    rows = await admin.fetch("SELECT start_bucket FROM qflare.session")
    assert [700] == [row["start_bucket"] for row in rows]
    assert 1 == await admin.fetchval("SELECT count(*) FROM qflare.session_route")


async def test_a_lagging_expiry_never_takes_a_live_session(store, admin):
    """However old the bucket that expiry is asked for, no live session goes."""
    starts = (0, 191, 192, 400, 700, 1000)
    for bucket in starts:
        await store.save_bucket(new_bucket(bucket))
        (device,) = await register(store)
        await begin_session(store, device, bucket=bucket)
    await store.raise_bucket_mark(1000)
    for before in (0, 1, 300, 500, 700, 999):
        await store.expire_sessions(before_bucket=before)
        left = {row["start_bucket"] for row in await admin.fetch("SELECT start_bucket FROM qflare.session")}
        assert {start for start in starts if start + 287 >= before} <= left


async def test_statistics_count_one_tenant(store):
    """The figures are of the tenant asked for, those of the cluster of all."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    await publish(store)
    await store.raise_bucket_mark(BUCKET)
    one, two = await register(store, 2)
    await register(store, 3, tenant_id=other)
    await begin_session(store, one)
    await store.set_device_state(DEFAULT_TENANT, two.ref, KeyState.DEACTIVATED, reason="", event=new_event())
    figures = await store.count_keys(DEFAULT_TENANT, bucket=BUCKET)
    assert (2, 1, 1, 4) == (
        figures.devices_total,
        figures.devices_active,
        figures.devices_revoked,
        figures.device_keys_total,
    )
    assert (1, 1, 1) == (figures.sessions_live, figures.sessions_total, figures.handshakes_recent)
    assert (BUCKET, BUCKET - 1) == (figures.bucket, figures.oldest_live_bucket)
    assert (await store.log_head()).size == figures.log_size


async def test_empty_batches_cost_nothing(store):
    """An empty batch is answered without a statement."""
    assert ((), None) == await store.confirm_sessions(DEFAULT_TENANT, [], heading=heading(), now_s=NOW_S, live_bucket=0)
    assert () == await accept(store)
    assert 0 == await store.save_chains([])
    assert {} == await store.find_sessions(DEFAULT_TENANT, [])
    assert ClaimResult("expired") is ClaimResult.EXPIRED


@pytest.mark.parametrize("count", [2, 3, 17])
async def test_claims_alike_and_different_are_stored_as_they_are(store, count):
    """Columns that are the same in all claims of a batch, and columns that are not, reach each session as they were."""
    await publish(store)
    devices = await register(store, count)
    alike = [new_claim(device, form=2, lifetime=5, policy=0) for device in devices]
    different = [
        new_claim(device, form=1 + number % 2, lifetime=1 + number, bucket=BUCKET - number % 2)
        for number, device in enumerate(devices)
    ]
    for claims in (alike, different):
        outcomes, _ = await store.confirm_sessions(
            DEFAULT_TENANT, claims, heading=heading(), now_s=NOW_S, live_bucket=BUCKET - 1
        )
        assert ["created"] * count == results(outcomes)
        found = await store.find_sessions(DEFAULT_TENANT, [claim.sid for claim in claims])
        assert [(its.form, its.ref, its.key_version, its.start, its.lifetime, its.policy) for its in claims] == [
            (its.form, its.ref, its.key_version, its.start, its.lifetime, its.policy)
            for its in (found[claim.sid] for claim in claims)
        ]
        chains = await store.find_chains(DEFAULT_TENANT, list(found), first=BUCKET - 5, last=BUCKET + 5)
        assert {(its.sid, its.state_bucket, its.sealed_chain_key) for its in claims} == {
            (its.sid, its.bucket, its.sealed_chain_key) for its in chains
        }
