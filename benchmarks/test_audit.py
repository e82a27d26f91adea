"""Audit log."""

from __future__ import annotations

import random
import time

import pytest
from large_log import grow_log
from server import Server, good
from workers import EVENTS, Workers

from qflare.model.event import EventSeverity, SecurityEventType

CHOICE = random.Random(7)
LARGE = 10_000_000
CHECKED = 20_000
"""Entries behind a kept head, which the check of the log reads."""


@pytest.fixture(scope="module")
def large(request, is_quick, server: Server):
    """How many entries the log has; and a signed head of it, a little before its end."""
    given = request.config.getoption("--log-entries")
    size = given or (LARGE if request.config.getoption("--million") else 2 * CHECKED if is_quick else 10 * CHECKED)
    server.run(grow_log(server.admin, size - CHECKED))
    kept = server.run(server.manager.monitor.checkpoint())
    server.run(grow_log(server.admin, size))
    server.run(server.manager.monitor.checkpoint())
    return size, kept


def some_events(count: int) -> list[tuple]:
    """Return events of no device."""
    return [
        (SecurityEventType.SYSTEM, EventSeverity.INFO, {"number": number, "what": "benchmark"}, None)
        for number in range(count)
    ]


def append(bench, server: Server, what: str) -> None:
    """Measure appends of many entries at a time."""
    count = 256 if bench.is_quick else 2048
    events = some_events(count)
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
        f"{what}, {count:,} at a time",
        rates,
        "entries/s",
        20_000,
        note="durable, under row-level security, one signature a batch of 512; one worker process",
    )


def test_append(bench, server: Server):
    """Entries a second that are appended, committed and given a receipt."""
    append(bench, server, "entries appended with receipts")


@pytest.fixture(scope="module")
def workers(server):
    """Two worker processes beside the one that built the log, which is idle while they work."""
    opened = Workers(2, dsn=server.dsn, folder=server.folder, settings=server.settings)
    yield opened
    opened.close()


def test_append_by_workers(bench, workers: Workers):
    """Entries a second that two worker processes over one PostgreSQL append together: the log has one head."""
    count = (2 if bench.is_quick else 8) * EVENTS
    events = some_events(count)
    workers.run("append", events)
    rates: list[float] = []

    def one_round() -> None:
        seconds, _, receipts = workers.run("append", events)
        assert all(receipts)
        rates.append(count / seconds)

    bench.once(lambda: [one_round() for _ in range(3 if bench.is_quick else 9)])
    bench.at_least(
        f"entries appended with receipts by two workers, calls of {EVENTS:,}",
        rates,
        "entries/s",
        20_000,
        note="durable, under row-level security; the workers and PostgreSQL share the cores; each worker has two calls "
        "under way",
    )


def test_append_to_a_large_log(bench, server: Server, large):
    """The same behind many entries: an append reads the frontier, whatever stands before it."""
    size, _ = large
    append(bench, server, f"the same behind {size:,} entries")


def test_proof(bench, server: Server, large):
    """An inclusion proof of any entry, read from PostgreSQL."""
    log = server.run(server.manager._engine()).foundation.log  # noqa: SLF001 - a receipt alone has no public call
    monitor = server.manager.monitor
    size = server.run(monitor.checkpoint()).size
    assert size >= large[0]

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
    goal = "" if size >= LARGE else f"; {LARGE:,} are the goal, which --million builds"
    note = f"measured at {size:,} entries{goal}"
    bench.at_most("inclusion proof", [seconds * 1e3 for seconds in rounds.measured], "ms", 1, note=note)
    bench.figure(
        "entry read, checked and proven",
        [seconds * 1e3 for seconds in rounds.reference],
        "ms",
        note=f"{note}; with the signed head verified",
    )


def test_check(bench, server: Server, large):
    """How fast an auditor's deep check reads what came since a head that was kept."""
    size, kept = large
    rates: list[float] = []

    def check() -> None:
        start = time.perf_counter()
        report = server.run(server.manager.monitor.verify_log(deep=True, since=kept))
        rates.append((report.size - report.first) / (time.perf_counter() - start))
        assert (report.first, True) == (kept.size, report.size >= size)

    bench.once(lambda: [check() for _ in range(1 if bench.is_quick else 3)])
    bench.figure(
        "entries checked deep, since a kept head",
        rates,
        "entries/s",
        note=f"{CHECKED:,} entries and what came meanwhile, behind {kept.size:,} that are under the head",
    )
