"""Audit log."""

from __future__ import annotations

import random
import time

from server import Server, good

from qflare.model.event import EventSeverity, SecurityEventType

CHOICE = random.Random(7)


def test_append(bench, server: Server):
    """Entries a second that are appended, committed and given a receipt."""
    count = 256 if bench.is_quick else 2048
    events = [
        (SecurityEventType.SYSTEM, EventSeverity.INFO, {"number": number, "what": "benchmark"}, None)
        for number in range(count)
    ]
    monitor = server.manager.monitor
    good(server.run(monitor.log_security_events_many(events)))
    rates: list[float] = []

    def one_round() -> tuple[float, float]:
        start = time.perf_counter()
        good(server.run(monitor.log_security_events_many(events)))
        seconds = time.perf_counter() - start
        rates.append(count / seconds)
        return seconds / count, 1.0

    bench.rounds_of(one_round, rounds=3 if bench.is_quick else 15)
    bench.at_least(
        f"entries appended with receipts, {count:,} at a time",
        rates,
        "entries/s",
        20_000,
        note="durable, under row-level security, one signature a batch of 256; one worker process",
    )


def test_proof(bench, server: Server):
    """An inclusion proof of any entry, read from PostgreSQL."""
    log = server.run(server.manager._engine()).foundation.log  # noqa: SLF001 - a receipt alone has no public call
    monitor = server.manager.monitor
    size = server.run(monitor.checkpoint()).size

    async def receipts() -> None:
        for _ in range(10):
            await log.receipts_at([CHOICE.randrange(size)])

    async def verified() -> None:
        for _ in range(10):
            await monitor.verify_event_integrity(CHOICE.randrange(size))

    def one_round() -> tuple[float, float]:
        start = time.perf_counter()
        server.run(receipts())
        middle = time.perf_counter()
        server.run(verified())
        return (middle - start) / 10, (time.perf_counter() - middle) / 10

    one_round()
    rounds = bench.rounds_of(one_round)
    note = f"measured at {size:,} entries; 10,000,000 are the goal"
    bench.at_most("inclusion proof", [seconds * 1e3 for seconds in rounds.measured], "ms", 1, note=note)
    bench.figure(
        "entry read, checked and proven",
        [seconds * 1e3 for seconds in rounds.reference],
        "ms",
        note=f"{note}; with the signed head verified",
    )
