from dataclasses import replace

import pytest

from qflare.errors import ConflictError
from store_records import BUCKET, confirm, new_bucket, new_claim, new_device, new_event, new_identity, publish, register

pytestmark = pytest.mark.contract


async def test_find_identity_returns_nothing_in_an_empty_database(store):
    """An empty database has no identity."""
    assert await store.find_identity() is None


async def test_save_identity_keeps_the_first(store):
    """Of two workers that make an identity at once, the first one's stands for both."""
    first = new_identity()
    assert first == await store.save_identity(first, event=new_event())
    assert first == await store.save_identity(new_identity(), event=new_event())
    assert 1 == (await store.log_head()).size
    assert first == await store.find_identity()


async def test_find_identity_returns_the_highest_serial(store):
    """The identity in force is the one with the highest serial."""
    await store.save_identity(new_identity(1), event=new_event())
    second = await store.save_identity(new_identity(2), event=new_event())
    assert second == await store.find_identity()


async def test_a_root_that_was_removed_does_not_come_back(store):
    """A certificate that was issued with the root and comes into force after its removal brings no root with it."""
    await store.save_identity(new_identity(1), event=new_event())
    issued = new_identity(2)
    await store.remove_root(event=new_event())
    await store.follow_identity(issued, after=1, compromised=None, event=new_event())
    assert replace(issued, sealed_root=None) == await store.find_identity()


async def test_save_bucket_keeps_the_first(store):
    """Whoever first inserts a bucket wins; everybody else gets its row (A3)."""
    first = new_bucket()
    assert first == await store.save_bucket(first, event=new_event())
    assert first == await store.save_bucket(new_bucket(), event=new_event())
    assert (first,) == await store.find_buckets(BUCKET, BUCKET)
    assert 1 == (await store.log_head()).size


async def test_save_bucket_refuses_a_wrong_size_and_saves_nothing(store):
    """A row of a wrong size is refused by a named constraint, and the error shows no row."""
    bad = new_bucket()
    object.__setattr__(bad, "announcement", b"short")
    with pytest.raises(ConflictError, match="bucket_key_announcement_size") as caught:
        await store.save_bucket(bad, event=new_event())
    assert caught.value.constraint == "bucket_key_announcement_size"
    assert caught.value.__cause__ is None
    assert "short" not in repr(caught.value.__dict__)
    assert () == await store.find_buckets(0, 2**40)
    assert 0 == (await store.log_head()).size


async def test_find_buckets_returns_a_range_in_order(store):
    """Both ends of the range belong to it."""
    await publish(store, 12, 10, 11, 13)
    assert [10, 11, 12] == [row.bucket for row in await store.find_buckets(10, 12)]


async def test_bucket_mark_only_rises(store):
    """The mark never falls (A2)."""
    assert 0 == await store.bucket_mark()
    assert 7 == await store.raise_bucket_mark(7)
    assert 7 == await store.raise_bucket_mark(5)
    assert 7 == await store.bucket_mark()


async def test_forget_bucket_lets_a_new_pair_be_made(store):
    """A bucket whose KEK is lost can be published anew."""
    await publish(store, BUCKET)
    await store.forget_bucket(BUCKET)
    fresh = new_bucket()
    assert fresh == await store.save_bucket(fresh)


async def test_drop_buckets_empties_all_that_went_by_bucket(store, admin):
    """Handshakes, streams and chain states of a dropped bucket are gone, those of a live one stay."""
    await publish(store)
    devices = await register(store, 2)
    old, live = new_claim(devices[0], bucket=BUCKET - 1), new_claim(devices[1])
    outcomes = await confirm(store, old, live)
    assert ["created", "created"] == [outcome.result for outcome in outcomes]
    assert 1 == await store.drop_buckets(before=BUCKET, event=new_event())
    assert [BUCKET] == [row["ticket_bucket"] for row in await admin.fetch("SELECT ticket_bucket FROM qflare.handshake")]
    assert [BUCKET] == [row["bucket"] for row in await admin.fetch("SELECT bucket FROM qflare.session_state")]
    assert 0 == await store.drop_buckets(before=BUCKET, event=new_event())


async def test_drop_buckets_closes_the_bucket_for_claims_and_streams(store):
    """After the handshake rows of a bucket are gone, no ticket of it is taken any more."""
    await publish(store)
    (device,) = await register(store)
    claim = new_claim(device, bucket=BUCKET - 1)
    await confirm(store, claim)
    await store.drop_buckets(before=BUCKET)
    (outcome,) = await confirm(store, claim)
    assert "expired" == outcome.result
    (outcome,) = await confirm(store, new_claim(new_device(), bucket=BUCKET - 1))
    assert "expired" == outcome.result


async def test_drop_buckets_does_not_wait_for_a_writer(store, admin):
    """A slot that somebody writes into is left for the next call; neither waits for the other."""
    await publish(store)
    (device,) = await register(store)
    await confirm(store, new_claim(device, bucket=BUCKET - 1))
    async with admin.transaction():
        await admin.execute("SELECT pg_advisory_xact_lock_shared(1363561217, $1)", (BUCKET - 1) % 8)
        assert 1 == await store.drop_buckets(before=BUCKET)
        assert 1 == await admin.fetchval("SELECT count(*) FROM qflare.handshake")
    assert 0 == await store.drop_buckets(before=BUCKET)
    assert 0 == await admin.fetchval("SELECT count(*) FROM qflare.handshake")
