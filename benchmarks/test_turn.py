"""The bucket turn: live sessions stepped, sealed and written into the next bucket."""

from __future__ import annotations

import os
import time
from uuid import UUID

import pytest
from server import Server, good

from qflare.clock import SystemClock
from qflare.manager.chains import seal_chains
from qflare.model.ids import DEFAULT_TENANT, SessionId
from qflare.primitives import kdf
from qflare.secret import SecretBytes
from qflare.service.exchange import SessionKeyRequest

MILLION = 1_000_000
BATCH = 8_192
RATCHET_GOAL_S = 1.0
PERSIST_GOAL_S = 30.0
FIRST_TOUCHES = 64
LIFETIME = 288


class TurnedClock(SystemClock):
    """The system's clock, set ahead by whole buckets; both hands."""

    def __init__(self) -> None:
        self.ahead_s = 0

    def now_s(self) -> int:
        """Return it, set ahead."""
        return super().now_s() + self.ahead_s

    def now_ms(self) -> int:
        """Return it, set ahead."""
        return super().now_ms() + self.ahead_s * 1000

    def monotonic_ns(self) -> int:
        """Return it, set ahead."""
        return super().monotonic_ns() + self.ahead_s * 10**9


@pytest.fixture
def count(request, is_quick):
    """How many sessions live."""
    if request.config.getoption("--million"):
        return MILLION
    return MILLION // 50 if is_quick else MILLION // 10


@pytest.fixture
def crowd(count):
    """A server of its own, with so many live sessions that began in the present bucket."""
    clock = TurnedClock()
    server = Server(devices=1, clock=clock)
    try:
        server.clock = clock
        server.sids = server.run(_settle_in(server, count))
        yield server
    finally:
        server.close()


def test_ratchet(bench):
    """A million chain keys are stepped in a second of one core's time."""
    keys = [os.urandom(BATCH * 64) for _ in range(4)]
    sids = os.urandom(BATCH * 16)
    batches = -(-MILLION // BATCH)
    seconds = []

    def million() -> None:
        start = time.thread_time()
        for number in range(batches):
            kdf.chain_step_many(keys[number % 4], sids, 5_900_000).wipe()
        seconds.append((time.thread_time() - start) * MILLION / (batches * BATCH))

    bench.once(lambda: [million() for _ in range(3 if bench.is_quick else 7)])
    bench.at_most(f"ratchet of {MILLION:,} chain keys", seconds, "s of CPU", RATCHET_GOAL_S)


def test_turn(bench, crowd, count):
    """All live sessions stand durable in the next bucket in 30 s for a million: from rows first, then from pages."""
    bench.once(lambda: _turns(bench, crowd, count))


def _turns(bench, crowd: Server, count: int) -> None:
    for source in ("rows of their own", "pages", "pages"):
        crowd.clock.ahead_s += crowd.width_s
        # What follows the turn in the same step, cleaning up, is a few milliseconds.
        cost, bucket = crowd.cost_of(crowd.manager.turn())
        turned = crowd.run(
            crowd.admin.fetchrow(
                "SELECT coalesce(sum(cardinality(p.sids)), 0) AS paged, count(*) AS pages"
                "  FROM qflare.session_page AS p WHERE p.bucket = $1",
                bucket,
            )
        )
        assert count == turned["paged"], turned
        bench.at_most(
            f"turn of {count:,} sessions out of {source}",
            [cost.wall_s],
            "s",
            PERSIST_GOAL_S * count / MILLION,
            reference=f"goal: {PERSIST_GOAL_S:g} s for {MILLION:,}",
            note=f"{turned['pages']:,} pages; CPU: worker {cost.worker_s:.2f} s, PostgreSQL {cost.postgres_s:.2f} s",
        )
    start = time.perf_counter()
    keys = crowd.run(_touch(crowd, crowd.sids[:: max(1, count // FIRST_TOUCHES)][:FIRST_TOUCHES]))
    touched_s = time.perf_counter() - start
    bench.figure(
        "first touch of a session in a page", [touched_s / keys * 1e3], "ms", note=f"{keys} sessions on as many pages"
    )


async def _touch(crowd: Server, sids: list[SessionId]) -> int:
    keys = await crowd.manager.derive_session_keys_many(
        [SessionKeyRequest(session_id=sid, purpose="turned") for sid in sids]
    )
    for key in good(keys):
        key.wipe()
    return len(keys)


async def _settle_in(server: Server, count: int) -> list[SessionId]:
    """Write live sessions as handshakes leave them, without the handshakes."""
    bucket = await server.manager.current_bucket()
    engine = server.manager._opening.value  # noqa: SLF001 - what seals as the worker does
    tenant, last = UUID(bytes=bytes(DEFAULT_TENANT)), bucket + LIFETIME - 1
    ref = server.devices[0].ref
    sids: list[SessionId] = []
    for first in range(0, count, BATCH):
        some = [SessionId(os.urandom(16)) for _ in range(min(BATCH, count - first))]
        sids += some
        with engine.buckets.lend() as ring, SecretBytes.copy_of(os.urandom(64 * len(some))) as keys:
            sealed = seal_chains(ring, bucket, [(DEFAULT_TENANT, sid, 0) for sid in some], keys)
        await server.admin.execute(
            "INSERT INTO qflare.session (tenant_id, sid, slot, ref, key_version, form, start_bucket, last_bucket,"
            " policy, state, log_index, created_at)"
            " SELECT $1::uuid, s.sid, $4::bigint / 192 % 4, $5::bytea, 1, 1, $3::bigint, $4::bigint, 0, 'live', 0,"
            "        now()"
            "   FROM unnest($2::uuid[]) AS s (sid)",
            tenant,
            [UUID(bytes=bytes(sid)) for sid in some],
            bucket,
            last,
            ref,
        )
        await server.admin.execute(
            "INSERT INTO qflare.session_route (sid, slot, tenant_id)"
            " SELECT s.sid, $3::bigint / 192 % 4, $1::uuid FROM unnest($2::uuid[]) AS s (sid)",
            tenant,
            [UUID(bytes=bytes(sid)) for sid in some],
            last,
        )
        await server.admin.copy_records_to_table(
            f"session_state_slot_{bucket % 8}",
            schema_name="qflare",
            columns=["bucket", "sid", "tenant_id", "slot", "epoch", "sealed_chain_key"],
            records=[
                (bucket, UUID(bytes=bytes(one.sid)), tenant, bucket % 8, 0, one.sealed_chain_key) for one in sealed
            ],
        )
    await server.admin.execute(
        "INSERT INTO qflare.session_count (tenant_id, last_bucket, live, total) VALUES ($1, $2, $3, $3)"
        " ON CONFLICT (tenant_id, last_bucket) DO UPDATE SET live = $3, total = $3",
        tenant,
        last,
        count,
    )
    return sids
