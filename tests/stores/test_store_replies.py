"""Rekeys (R7) and reply keys (R6) in PostgreSQL."""

import asyncio
from dataclasses import replace
from os import urandom

import pytest

from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.reply import ReplyKeyResult
from qflare.model.session import RekeyResult, SessionState
from store_records import (
    BUCKET,
    NOW_S,
    begin_session,
    new_event,
    new_rekey,
    new_reply_key,
    new_stream,
    publish,
    register,
    step_turn,
)

pytestmark = pytest.mark.contract

MOST = 4


@pytest.fixture
async def sid(store):
    """A live session; the server is in BUCKET."""
    for bucket in (BUCKET - 1, BUCKET, BUCKET + 1):
        await publish(store, bucket)
    await store.raise_bucket_mark(BUCKET)
    (device,) = await register(store)
    return (await begin_session(store, device)).sid


async def accept(store, sid, *, epoch, bucket=BUCKET):
    (accepted,) = await store.accept_streams(DEFAULT_TENANT, [new_stream(sid, epoch=epoch, bucket=bucket)], now_s=NOW_S)
    return accepted


async def rekey(store, claim):
    return await store.rekey_session(DEFAULT_TENANT, claim, event=new_event())


async def take(store, keys, *, direction=1, bucket=BUCKET):
    asked = [(key.sid, key.request_id) for key in keys]
    return await store.take_reply_keys(DEFAULT_TENANT, asked, direction=direction, bucket=bucket, now_s=NOW_S)


async def test_a_rekey_commits_once_however_many_race(store, sid):
    """R7: of 64 equal bodies one moves the epoch, the others are repetitions; of different bodies one stands."""
    claim = new_rekey(sid)
    size = (await store.log_head()).size
    ended = await asyncio.gather(*(rekey(store, claim) for _ in range(64)))
    assert (1, 63) == (ended.count(RekeyResult.REKEYED), ended.count(RekeyResult.REPEATED))
    assert size + 1 == (await store.log_head()).size
    assert RekeyResult.CONFLICT is await rekey(store, new_rekey(sid))
    others = await asyncio.gather(*(rekey(store, new_rekey(sid, epoch=2)) for _ in range(8)))
    assert (1, 7) == (others.count(RekeyResult.REKEYED), others.count(RekeyResult.CONFLICT))
    assert 2 == (await store.find_sessions(DEFAULT_TENANT, [sid]))[sid].epoch
    assert RekeyResult.CONFLICT is await rekey(store, claim)


async def test_the_old_epoch_is_read_to_the_end_of_the_bucket_after_the_commit(store, sid):
    """R7: records of the old epoch are accepted in the bucket of the commit and the next one, and no longer."""
    claim = new_rekey(sid)
    assert not await accept(store, sid, epoch=1)
    assert RekeyResult.REKEYED is await rekey(store, claim)
    for bucket in (BUCKET, BUCKET + 1):
        await store.raise_bucket_mark(bucket)
        assert await accept(store, sid, epoch=0)
        assert await accept(store, sid, epoch=1)
        assert RekeyResult.REPEATED is await rekey(store, replace(claim, current=bucket))
    await store.raise_bucket_mark(BUCKET + 2)
    assert not await accept(store, sid, epoch=0, bucket=BUCKET + 1)
    assert await accept(store, sid, epoch=1, bucket=BUCKET + 1)
    assert RekeyResult.CONFLICT is await rekey(store, replace(claim, current=BUCKET + 2))


async def test_a_rekey_of_a_bucket_that_turned_is_to_be_made_again(store, sid):
    """R7: a claim made for another bucket than the server's changes nothing: its old chain key would not last."""
    size = (await store.log_head()).size
    await store.raise_bucket_mark(BUCKET + 1)
    claim = new_rekey(sid)
    assert RekeyResult.MOVED is await rekey(store, claim)
    assert (size, 0) == ((await store.log_head()).size, (await store.find_sessions(DEFAULT_TENANT, [sid]))[sid].epoch)
    assert RekeyResult.REKEYED is await rekey(store, replace(claim, current=BUCKET + 1))


async def test_a_rekey_names_a_bucket_of_now(store, sid):
    """R7: the new chain begins in the server's bucket, the one before or the one after; no event of a refused one."""
    size = (await store.log_head()).size
    for first in (BUCKET - 2, BUCKET + 2):
        assert RekeyResult.EXPIRED is await rekey(store, new_rekey(sid, first=first))
    assert RekeyResult.EXPIRED is await rekey(store, replace(new_rekey(sid), chains=()))
    assert size == (await store.log_head()).size
    assert RekeyResult.REKEYED is await rekey(store, new_rekey(sid, first=BUCKET + 1))


async def test_a_rekey_of_an_ended_session_changes_nothing(store, sid):
    """A session that ended is not rekeyed, and a stranger's is not found."""
    assert RekeyResult.ENDED is await rekey(store, new_rekey(urandom(16)))
    await store.end_sessions(DEFAULT_TENANT, [sid], SessionState.ENDED, events=[new_event()])
    assert RekeyResult.ENDED is await rekey(store, new_rekey(sid))


async def test_both_epochs_rest_until_the_turn_carries_one(store, sid):
    """In the bucket of a rekey both chain keys are found; a turn lists the present epoch's, and saves no other."""
    claim = new_rekey(sid)
    await rekey(store, claim)
    found = await store.find_chains(DEFAULT_TENANT, [sid], first=BUCKET - 1, last=BUCKET + 1)
    assert [1, 0] == [chain.epoch for chain in found]
    late = [replace(chain, bucket=BUCKET + 1) for chain in found]
    assert 1 == await store.save_chains(late)
    _, listed = await step_turn(store, BUCKET + 1)
    assert (((DEFAULT_TENANT, sid, 1), claim.chains[1].sealed_chain_key),) == listed.chains
    found = await store.find_chains(DEFAULT_TENANT, [sid], first=BUCKET + 1, last=BUCKET + 1)
    assert [1] == [chain.epoch for chain in found]


async def test_a_turn_waits_for_a_rekey_under_way(store, sid, admin):
    """No worker enters the next bucket while a rekey commits: the mark's row is held till then."""
    async with admin.transaction():
        await admin.execute("SELECT FROM qflare.bucket_mark FOR SHARE")
        assert RekeyResult.REKEYED is await rekey(store, new_rekey(sid))
        raising = asyncio.create_task(store.raise_bucket_mark(BUCKET + 1))
        await asyncio.sleep(0.05)
        assert not raising.done()
    assert BUCKET + 1 == await raising


async def test_rekeys_do_not_keep_a_turn_waiting(store, sid, admin):
    """Rekeys that come while a turn waits for one under way come after it, however many there are."""
    claim = new_rekey(sid)
    assert RekeyResult.REKEYED is await rekey(store, claim)
    ended = []

    async def noted(name, work):
        result = await work
        ended.append(name)
        return result

    async with admin.transaction():
        await admin.execute("SELECT FROM qflare.bucket_mark FOR SHARE")
        turn = asyncio.create_task(noted("turn", store.raise_bucket_mark(BUCKET + 1)))
        while not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0.01)
        again = replace(claim, current=BUCKET + 1)
        rekeys = [asyncio.create_task(noted("rekey", rekey(store, again))) for _ in range(3)]
        # They queue for the lock that the turn asked for before them, and none has passed it.
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        async with asyncio.timeout(30):
            while await admin.fetchval(waiting) < len(rekeys):
                await asyncio.sleep(0.01)
        assert [] == ended
    assert BUCKET + 1 == await turn
    assert [RekeyResult.REPEATED] * 3 == await asyncio.gather(*rekeys)


async def test_a_reply_key_is_taken_once(store, sid):
    """R6: of many takers one gets it, in one call too; a key of the other direction stays."""
    ours, theirs = new_reply_key(sid), new_reply_key(sid, direction=2)
    assert (ReplyKeyResult.SAVED,) == await store.save_reply_keys(DEFAULT_TENANT, [ours], outstanding_max=MOST)
    results = await store.accept_requests(DEFAULT_TENANT, [theirs], outstanding_max=MOST, now_s=NOW_S)
    assert (ReplyKeyResult.ACCEPTED,) == results
    asked = [(key.sid, key.request_id) for key in (ours, theirs)]
    assert {ours, theirs} == set(await store.find_reply_keys(DEFAULT_TENANT, asked))
    taken = await asyncio.gather(*(take(store, [ours, theirs, ours]) for _ in range(16)))
    assert 1 == sum(mine for mine, _, _ in taken)
    assert not any(other or again for _, other, again in taken)
    assert (True,) == await take(store, [theirs], direction=2)
    assert () == await store.find_reply_keys(DEFAULT_TENANT, asked)


async def test_a_reply_key_is_the_sessions_and_the_tenants_own(store, sid):
    """R6: neither another session nor another tenant takes it, nor anybody once its time or its session is over."""
    key = new_reply_key(sid)
    await store.save_reply_keys(DEFAULT_TENANT, [key], outstanding_max=MOST)
    assert (False,) == await take(store, [replace(key, sid=urandom(16))])
    other = TenantId(urandom(16))
    asked = [(key.sid, key.request_id)]
    assert () == await store.find_reply_keys(other, asked)
    assert (False,) == await store.take_reply_keys(other, asked, direction=1, bucket=BUCKET, now_s=NOW_S)
    assert (False,) == await take(store, [key], bucket=key.expires_bucket + 1)
    await store.end_sessions(DEFAULT_TENANT, [sid], SessionState.REVOKED, events=[new_event()])
    assert (False,) == await take(store, [key])


async def test_a_reply_key_of_another_session_takes_no_reply(store, sid):
    """R6: a device that chooses the id of another's request has its own reply taken with it, and not the other's."""
    (device,) = await register(store)
    other = (await begin_session(store, device)).sid
    theirs = new_reply_key(sid, direction=2)
    copied = replace(theirs, sid=other)
    for key in (theirs, copied):
        results = await store.accept_requests(DEFAULT_TENANT, [key], outstanding_max=MOST, now_s=NOW_S)
        assert (ReplyKeyResult.ACCEPTED,) == results
    assert (True,) == await take(store, [theirs], direction=2)
    assert (False, True) == await take(store, [theirs, copied], direction=2)


async def test_outstanding_replies_are_bounded(store, sid):
    """A session has so many outstanding replies and no more, however many ask at once; what is refused leaves nothing."""
    keys = [new_reply_key(sid, direction=2) for _ in range(3)]
    batches = [[new_reply_key(sid) for _ in range(2)] for _ in range(3)]
    ends = await asyncio.gather(
        store.accept_requests(DEFAULT_TENANT, keys, outstanding_max=MOST, now_s=NOW_S),
        *(store.save_reply_keys(DEFAULT_TENANT, batch, outstanding_max=MOST) for batch in batches),
    )
    results = [result for end in ends for result in end]
    assert MOST == sum(result in {ReplyKeyResult.ACCEPTED, ReplyKeyResult.SAVED} for result in results)
    assert {ReplyKeyResult.FULL} == set(results) - {ReplyKeyResult.ACCEPTED, ReplyKeyResult.SAVED}
    # A request that found no room was not accepted: it may come again when there is some.
    (key,) = full = [new_reply_key(sid, direction=2)]
    assert (ReplyKeyResult.FULL,) == await store.accept_requests(
        DEFAULT_TENANT, full, outstanding_max=MOST, now_s=NOW_S
    )
    again = await store.accept_requests(DEFAULT_TENANT, [key, key], outstanding_max=99, now_s=NOW_S)
    assert (ReplyKeyResult.ACCEPTED, ReplyKeyResult.REFUSED) == again


async def test_our_own_request_is_made_in_the_present_epoch(store, sid):
    """R7: a worker that has not heard of a rekey yet does not write the old epoch."""
    await rekey(store, new_rekey(sid))
    keys = [new_reply_key(sid, epoch=epoch) for epoch in (0, 1)]
    results = await store.save_reply_keys(DEFAULT_TENANT, keys, outstanding_max=MOST)
    assert (ReplyKeyResult.REFUSED, ReplyKeyResult.SAVED) == results


async def test_a_turn_seals_reply_keys_again_and_revives_none(store, sid):
    """R6, R8: what rests in a bucket is listed page by page and replaced; what was taken meanwhile stays away."""
    keys = [new_reply_key(sid) for _ in range(5)]
    await store.save_reply_keys(DEFAULT_TENANT, keys, outstanding_max=9)
    listed, after = [], None
    while page := await store.list_reply_keys(BUCKET, limit=2, after=after):
        listed += page
        after = page[-1].request_id
    assert sorted(key.request_id for key in keys) == [key.request_id for key in listed]
    await take(store, listed[:1])
    sealed = [replace(key, bucket=BUCKET + 1, sealed_reply_key=urandom(93)) for key in listed]
    assert 4 == await store.reseal_reply_keys(sealed)
    assert 0 == await store.reseal_reply_keys([replace(key, bucket=BUCKET) for key in listed])
    assert () == await store.list_reply_keys(BUCKET, limit=9)
    assert tuple(sealed[1:]) == await store.list_reply_keys(BUCKET + 1, limit=9)


async def test_reply_keys_end_with_their_time_or_their_bucket(store, sid):
    """R6, R8: keys that timed out, or whose KEK is gone, are deleted, at most so many at a time; the others stay."""
    lost = [new_reply_key(sid, bucket=BUCKET - 2) for _ in range(3)]
    over = [new_reply_key(sid, expires=BUCKET) for _ in range(2)]
    fine = [new_reply_key(sid, expires=BUCKET + 1) for _ in range(2)]
    await store.save_reply_keys(DEFAULT_TENANT, lost + over + fine, outstanding_max=9)
    drops = [await store.drop_reply_keys(before=BUCKET - 1, bucket=BUCKET + 1, limit=2) for _ in range(3)]
    assert [4, 1, 0] == drops
    assert 2 == len(await store.list_reply_keys(BUCKET, limit=9))


async def test_keys_of_sessions_that_ended_are_not_sealed_again(store, sid):
    """R8: a turn carries the reply keys of live sessions alone; the others die with their bucket."""
    await store.save_reply_keys(DEFAULT_TENANT, [new_reply_key(sid)], outstanding_max=9)
    await store.end_sessions(DEFAULT_TENANT, [sid], SessionState.REVOKED, events=[new_event()])
    assert () == await store.list_reply_keys(BUCKET, limit=9)
