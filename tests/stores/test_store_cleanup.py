"""Cleaning up never stands in the way: it waits a moment for its locks, goes away, and comes back."""

import asyncio
import contextlib

import asyncpg
import pytest

from given_time import GivenTime
from qflare.stores.postgres.buckets import EMPTYING_LOCK_TIMEOUT
from store_records import BUCKET, begin_session, confirm, new_bucket, new_claim, publish, register

OLD = BUCKET - 3


@pytest.fixture
async def over(store):
    """A bucket that is over, with what it left, beside live ones."""
    await publish(store, OLD, BUCKET - 1, BUCKET, BUCKET + 1)
    (device,) = await register(store)
    await begin_session(store, device, bucket=OLD)
    await store.raise_bucket_mark(BUCKET)
    return device


@contextlib.asynccontextmanager
async def reader(dsn, table):
    """Somebody who reads a whole table, as a dump does, and stays."""
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"LOCK TABLE qflare.{table} IN ACCESS SHARE MODE")
    try:
        yield
    finally:
        await transaction.rollback()
        await connection.close()


async def left(admin):
    return await admin.fetchval("SELECT count(*) FROM qflare.session_state WHERE bucket = $1", OLD)


async def is_waiting(admin):
    return await admin.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock')"
    )


async def test_handshakes_go_on_while_clean_up_waits(store, admin, over, database_dsn):
    """While clean-up waits for a lock on a dead partition, handshakes and records of live buckets are not held up."""
    during = 0
    async with reader(database_dsn, f"session_state_slot_{OLD % 8}"):
        for _ in range(3):
            cleaning = asyncio.create_task(store.drop_buckets(before=BUCKET - 1))
            while not cleaning.done():
                waited_before = await is_waiting(admin)
                (outcome,) = await confirm(store, new_claim(over, lifetime=3))
                assert "created" == outcome.result
                during += waited_before and await is_waiting(admin)
            await cleaning
        assert during
        assert 1 == await left(admin)


@pytest.mark.usefixtures("over")
async def test_clean_up_comes_back_for_what_it_could_not_have(store, admin, database_dsn):
    """A partition that somebody reads is left after a quarter of a second, without an error, and emptied the next time."""
    async with reader(database_dsn, f"session_state_slot_{OLD % 8}"):
        given = GivenTime()
        assert 1 == await store.drop_buckets(before=BUCKET - 1)
        # Not a figure: it went away by itself, long before any other limit of the pool.
        assert given.is_within(5)
        assert 1 == await left(admin)
        assert [] == await admin.fetch("SELECT FROM qflare.bucket_key WHERE bucket = $1", OLD)
    assert 0 == await store.drop_buckets(before=BUCKET - 1)
    assert 0 == await left(admin)
    assert "250ms" == EMPTYING_LOCK_TIMEOUT


async def test_expiry_waits_as_shortly(store, admin, database_dsn):
    """Groups of expired sessions that somebody reads stay, are expired all the same, and go the next time."""
    await store.save_bucket(new_bucket(100))
    (device,) = await register(store)
    claim = await begin_session(store, device, bucket=100)
    await store.save_bucket(new_bucket(700))
    await store.raise_bucket_mark(700)
    slot = (100 + 287) // 192 % 4
    async with reader(database_dsn, f"session_slot_{slot}"):
        assert 1 == await store.expire_sessions(before_bucket=699)
        found = await store.find_sessions(claim.tenant_id, [claim.sid])
        assert "expired" == found[claim.sid].state
        (outcome,) = await confirm(store, new_claim(device, bucket=700), live_bucket=699)
        assert "created" == outcome.result
        assert 2 == await admin.fetchval("SELECT count(*) FROM qflare.session")
    assert 0 == await store.expire_sessions(before_bucket=699)
    assert 1 == await admin.fetchval("SELECT count(*) FROM qflare.session")


@pytest.mark.usefixtures("over")
async def test_clean_up_passes_by_a_slot_that_is_written_into(store, admin):
    """A slot that somebody writes into is not waited for at all."""
    async with admin.transaction():
        await admin.execute("SELECT pg_advisory_xact_lock_shared(1363561217, $1)", OLD % 8)
        assert 1 == await store.drop_buckets(before=BUCKET - 1)
        assert 1 == await left(admin)
    await store.drop_buckets(before=BUCKET - 1)
    assert 0 == await left(admin)
