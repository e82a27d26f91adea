"""Published timings: database (durable, row-level security, from PostgreSQL itself)."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import pytest
from interleave import Bench, Rounds
from server import Server, good

from qflare.model.event import EventSeverity, SecurityEventType
from qflare.service.bench.spread import spread_of

CALLERS = 64
PUBLISHED_S = {"storage": 2e-3, "lookup": 1e-3, "audit": 1e-3}
NAMES = {"storage": "key storage", "lookup": "session lookup", "audit": "audit insert"}
NUMBERS = itertools.count()
CLEANUP_ROWS = 100_000
TABLE = "CREATE TABLE IF NOT EXISTS public.plain (number bigint PRIMARY KEY)"
INSERT = "INSERT INTO public.plain VALUES ($1)"
PLAIN = {"storage": INSERT, "audit": INSERT, "lookup": "SELECT number FROM public.plain WHERE number = $1"}
"""What the same server takes for the least it can be asked: how fast this disk and this machine are just now."""

Call = Callable[[], Awaitable[object]]


@pytest.fixture
def calls(server: Server) -> dict[str, Call]:
    """One call of each operation, as an application makes it."""
    manager, monitor = server.manager, server.manager.monitor
    done = good(server.run(manager.confirm_many(server.m3s(64))))
    sids = itertools.cycle([one.session_id for one in done])
    keys = itertools.cycle([(device.verification_key, device.encapsulation_key) for device in server.devices[:256]])

    def store() -> Awaitable[object]:
        verification_key, encapsulation_key = next(keys)
        return manager.register_device(
            f"stored-{next(NUMBERS)}", verification_key=verification_key, encapsulation_key=encapsulation_key
        )

    def look_up() -> Awaitable[object]:
        return manager.find_session(next(sids))

    def insert() -> Awaitable[object]:
        return monitor.log_security_event(
            SecurityEventType.SYSTEM, EventSeverity.INFO, {"number": next(NUMBERS), "what": "benchmark"}
        )

    return {"storage": store, "lookup": look_up, "audit": insert}


@pytest.mark.parametrize("operation", NAMES)
def test_concurrent(bench, server, calls, operation):
    """Sixty-four callers at a time pay a fraction of the published timing each."""
    call, each = calls[operation], 8

    async def caller() -> None:
        for _ in range(each):
            await call()

    async def all_callers() -> None:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    rounds = _timed(bench, server, all_callers, CALLERS * each)
    bench.faster_than_published(f"{NAMES[operation]}, {CALLERS} callers", rounds, PUBLISHED_S[operation], 20)


@pytest.mark.parametrize("operation", NAMES)
def test_alone(bench, server, calls, operation):
    """One call alone is no slower than 0.7 ms."""
    call, each = calls[operation], 10
    plain = PLAIN[operation]

    async def one_by_one() -> None:
        for _ in range(each):
            await call()

    async def plainly() -> None:
        for _ in range(each):
            await server.admin.fetch(plain, next(NUMBERS))

    server.run(server.admin.execute(TABLE))
    rounds = _timed(bench, server, one_by_one, each, beside=plainly)
    bench.at_most(
        f"{NAMES[operation]}, one call alone",
        [seconds * 1e3 for seconds in rounds.measured],
        "ms",
        0.7,
        reference=f"published: {PUBLISHED_S[operation] * 1e3:.0f} ms",
        note=f"one {plain.split()[0]} of one row, by itself on the same server: "
        f"{spread_of(rounds.reference).median * 1e3:.2f} ms in the same rounds",
    )


def test_cleanup(bench, server):
    """Cleaning up 100,000 rows of a bucket that is over takes no longer than a tenth as many, and 20 ms at most."""
    ended = server.run(server.manager.current_bucket()) - 3

    def clean(count: int) -> float:
        server.run(_fill(server, ended, count))
        start = time.perf_counter()
        server.run(server.manager.cleanup_expired_keys_and_sessions())
        seconds = time.perf_counter() - start
        left = server.admin.fetchval("SELECT count(*) FROM qflare.session_state WHERE bucket = $1", ended)
        assert server.run(left) == 0
        return seconds

    clean(1000)
    rounds = bench.rounds_of(
        lambda: (clean(CLEANUP_ROWS), clean(CLEANUP_ROWS // 10)), rounds=2 if bench.is_quick else 7
    )
    bench.at_most(
        f"cleanup of {CLEANUP_ROWS:,} expired rows",
        [seconds * 1e3 for seconds in rounds.measured],
        "ms",
        20,
        reference="published: 50 ms",
    )
    bench.times_the_reference(
        f"cleanup of {CLEANUP_ROWS:,} expired rows", rounds, f"cleanup of {CLEANUP_ROWS // 10:,}", 1.15
    )


async def _fill(server: Server, bucket: int, count: int) -> None:
    """Make a bucket that is over: its key, and *count* rows of chain keys, handshakes and streams together."""
    run = server.admin.execute
    await run(
        "INSERT INTO qflare.bucket_key (bucket, width_s, announcement, sealed_dk, sealed_ticket_key) "
        # An announcement of its own: the record of a bucket's key goes by its hash.
        "SELECT $1::bigint, width_s, substring(decode(repeat(md5(random()::text), 253), 'hex') FROM 1 FOR 4042),"
        " sealed_dk, sealed_ticket_key FROM qflare.bucket_key LIMIT 1",
        bucket,
    )
    third = count // 3
    await run(
        "INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key) "
        "SELECT $1::bigint, gen_random_uuid(), gen_random_uuid(), $1::bigint % 8, 0, decode(repeat('a5', 96), 'hex') "
        "FROM generate_series(1, $2)",
        bucket,
        count - 2 * third,
    )
    await run(
        "INSERT INTO qflare.handshake (tenant_id, ticket_bucket, sid, slot, th3_hash) "
        "SELECT gen_random_uuid(), $1::bigint, gen_random_uuid(), $1::bigint % 8, decode(repeat('a5', 64), 'hex') "
        "FROM generate_series(1, $2)",
        bucket,
        third,
    )
    await run(
        "INSERT INTO qflare.stream (tenant_id, sid, stream_id, bucket, direction, slot) "
        "SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), $1::bigint, 1, $1::bigint % 8 "
        "FROM generate_series(1, $2)",
        bucket,
        third,
    )


def _timed(
    bench: Bench,
    server: Server,
    work: Callable[[], Awaitable[None]],
    calls: int,
    *,
    beside: Callable[[], Awaitable[None]] | None = None,
) -> Rounds:
    """Time *work* round by round, and *beside* before each round."""

    def one_round() -> tuple[float, float]:
        start = time.perf_counter()
        if beside is not None:
            server.run(beside())
        middle = time.perf_counter()
        server.run(work())
        return (time.perf_counter() - middle) / calls, (middle - start) / calls

    end = time.perf_counter() + bench.warm_up_s
    while time.perf_counter() < end:
        one_round()
    return bench.rounds_of(one_round)
