"""What looking costs as the roster grows: the same calls beside a thousand devices and beside a million."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import asyncpg
from server import Server, good

SMALL = 1_000
MILLION = 1_000_000
TIMES = 200
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

Call = Callable[[], Awaitable[object]]


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
    finally:
        await connection.close()


def test_growth(request, bench, is_quick):
    """Public key, session key and statistics cost beside a million devices what they cost beside a thousand."""
    large = MILLION if request.config.getoption("--million") else 20 * SMALL if is_quick else 100 * SMALL
    server = Server(devices=64)
    try:
        manager = server.manager
        session = good(server.run(manager.confirm_many(server.m3s(1))))[0]
        own = server.run(manager.derive_session_key(session.session_id, "growth"))
        name = server.devices[0].device_id
        calls: dict[str, Call] = {
            "get_device_public_key": lambda: manager.get_device_public_key(name),
            "verify_session_key": lambda: manager.verify_session_key(session.session_id, own, purpose="growth"),
            "get_key_statistics": manager.get_key_statistics,
        }
        found: dict[tuple[str, int], list[float]] = {}

        def rounds() -> None:
            done = 0
            for size in (SMALL, large):
                server.run(_grow(server.dsn, done + 1, size))
                done = size
                for what, call in calls.items():
                    found[what, size] = server.run(_seconds(call))

        bench.once(rounds)
    finally:
        server.close()
    for what in calls:
        small, grown = found[what, SMALL], found[what, large]
        bench.figure(f"{what}, {SMALL:,} devices", [each * 1e3 for each in small], "ms")
        bench.figure(f"{what}, {large:,} devices", [each * 1e3 for each in grown], "ms")


async def _seconds(call: Call) -> list[float]:
    for _ in range(20):
        await call()
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - start)
        await asyncio.sleep(0)
    return taken
