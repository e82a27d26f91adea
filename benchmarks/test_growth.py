"""Growth: the same beside a thousand registered devices and beside many, in the same rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator

import asyncpg
import pytest
from handshaking import handshakes
from server import Server, good

FEW = 1_000
MILLION = 1_000_000
FLEET = 512
"""Of each thousand or million as many are devices that take part; the others are rows beside them."""
CALLS = 10
"""A round's, of each call."""
BATCH = 128
GOAL = 1.10
PAGE = 100_000
LOAD = """
    INSERT INTO qflare.device (tenant_id, ref, device_id, state, key_version)
    SELECT '00000000-0000-0000-0000-000000000000', sha256(('grown-' || g)::bytea), 'grown-' || g, 'active', 1
      FROM generate_series($1::bigint, $2::bigint) AS g
"""
KEYS = """
    INSERT INTO qflare.device_key (tenant_id, ref, key_version, kind, algorithm, public_key, state)
    SELECT '00000000-0000-0000-0000-000000000000', sha256(('grown-' || g)::bytea), 1, k.kind, k.algorithm,
           decode(repeat(md5(g::text), k.parts), 'hex'), 'active'
      FROM generate_series($1::bigint, $2::bigint) AS g
     CROSS JOIN (VALUES ('signature', 'ML-DSA-44', 82), ('kem', 'ML-KEM-1024', 98)) AS k (kind, algorithm, parts)
"""
COUNT = """
    INSERT INTO qflare.device_count AS c (tenant_id, pre_active, active, suspended, deactivated, compromised, destroyed,
                                          device_keys)
    VALUES ('00000000-0000-0000-0000-000000000000', 0, $1::bigint, 0, 0, 0, 0, 2 * $1::bigint)
    ON CONFLICT (tenant_id)
    DO UPDATE SET active = c.active + excluded.active, device_keys = c.device_keys + excluded.device_keys
"""

Call = Callable[[], Coroutine[object, object, object]]


async def _grow(dsn: str, first: int, last: int) -> None:
    """Register devices as rows, past the triggers: what is measured is reading them."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SET session_replication_role = replica")
        for start in range(first, last + 1, PAGE):
            end = min(last, start + PAGE - 1)
            await connection.execute(LOAD, start, end, timeout=3600)
            await connection.execute(KEYS, start, end, timeout=3600)
        await connection.execute(COUNT, last - first + 1)
        await connection.execute("VACUUM ANALYZE qflare.device", timeout=3600)
        await connection.execute("VACUUM ANALYZE qflare.device_key", timeout=3600)
        # What was loaded is written back now, not by the checkpointer while something is measured.
        await connection.execute("CHECKPOINT", timeout=3600)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def many(request, is_quick) -> int:
    """How many devices the grown server has."""
    return MILLION if request.config.getoption("--million") else 20 * FEW if is_quick else 100 * FEW


@pytest.fixture(scope="module")
def servers(many) -> Iterator[tuple[Server, Server]]:
    """A server with a thousand devices, and one with many."""
    opened: list[Server] = []
    try:
        for size in (FEW, many):
            opened.append(Server(devices=FLEET))
            opened[-1].run(_grow(opened[-1].dsn, FLEET + 1, size))
        yield opened[0], opened[1]
    finally:
        for server in opened:
            server.close()


@pytest.mark.parametrize("form", ["hello", "offer"])
def test_growth_of_handshakes(bench, servers, many, form):
    """A handshake beside many devices costs what one beside a thousand costs."""

    def cpu_s(server: Server) -> float:
        return sum(cost.worker_s + cost.postgres_s for cost in handshakes(server, form, BATCH)) / BATCH

    def one_round() -> tuple[float, float]:
        reference = cpu_s(servers[0])
        return cpu_s(servers[1]), reference

    bench.warm_up(one_round)
    rounds = bench.rounds_of(one_round)
    bench.times_the_reference(
        f"{form} form beside {many:,} devices, CPU",
        rounds,
        f"beside {FEW:,}",
        GOAL,
        note=f"{FLEET} devices in turn, batches of {BATCH}: what they touch is cached; --million has as many devices",
    )


def _look_ups(server: Server) -> dict[str, Call]:
    manager = server.manager
    session = good(server.run(manager.confirm_many(server.m3s(1))))[0]
    own = server.run(manager.derive_session_key(session.session_id, "growth"))
    name = server.devices[0].device_id
    return {
        "get_device_public_key": lambda: manager.get_device_public_key(name),
        "verify_session_key": lambda: manager.verify_session_key(session.session_id, own, purpose="growth"),
        "get_key_statistics": manager.get_key_statistics,
    }


@pytest.mark.parametrize("what", ["get_device_public_key", "verify_session_key", "get_key_statistics"])
def test_growth_of_look_ups(bench, servers, many, what):
    """Public key, session key and statistics cost beside many devices what they cost beside a thousand."""
    few_call, many_call = (_look_ups(server)[what] for server in servers)

    def seconds(server: Server, call: Call) -> float:
        start = time.perf_counter()
        server.run(_again(call))
        return (time.perf_counter() - start) / CALLS

    def one_round() -> tuple[float, float]:
        reference = seconds(servers[0], few_call)
        return seconds(servers[1], many_call), reference

    bench.warm_up(one_round)
    rounds = bench.rounds_of(one_round)
    bench.times_the_reference(f"{what} beside {many:,} devices", rounds, f"beside {FEW:,}", None)


async def _again(call: Call) -> None:
    for _ in range(CALLS):
        await call()
