"""Complete handshakes, durable session and audit entry, PostgreSQL included."""

from __future__ import annotations

import asyncio
import time

import pytest
from crypto_time import CryptoTime
from handshaking import handshakes
from inputs import CONTEXT, MESSAGE_BYTES, kem_rows, sig_rows
from workers import BATCH, Workers

from qflare.service.bench.spread import spread_of

ROWS = 256
FORMS = ["hello", "offer"]
RAW = {"hello": "raw decaps + encaps + verify", "offer": "raw encaps + decaps"}
CPU_GOAL = {"hello": 1.6, "offer": 1.8}
RATE_GOAL = {"hello": 6000, "offer": 10_000}
NOTE = "CPU of worker and PostgreSQL together; the devices' own work is made in between and not counted"


def raw_s(raw, form: str) -> float:
    """Seconds of CPU that liboqs's own calls of one handshake take, measured now."""
    kems, sigs = kem_rows(ROWS), sig_rows(ROWS)
    start = time.thread_time()
    raw.decaps(kems.ss_out, kems.ct, kems.dk, ROWS)
    raw.encaps(kems.ct_out, kems.ss_out, kems.ek, ROWS)
    if form == "hello":
        raw.verify(sigs.sig, sigs.pk, sigs.text, size=MESSAGE_BYTES, context=CONTEXT, count=ROWS)
    return (time.thread_time() - start) / ROWS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [64, 256])
def test_cpu(bench, raw, server, form, count):
    """A handshake costs the server little more than its cryptography."""
    worker: list[float] = []
    postgres: list[float] = []

    def one_round() -> tuple[float, float]:
        before = raw_s(raw, form)
        first, second = handshakes(server, form, count)
        worker.append((first.worker_s + second.worker_s) / count)
        postgres.append((first.postgres_s + second.postgres_s) / count)
        return worker[-1] + postgres[-1], (before + raw_s(raw, form)) / 2

    bench.warm_up(one_round)
    del worker[:], postgres[:]
    rounds = bench.rounds_of(one_round)
    share = f"worker {spread_of(worker).median * 1e6:,.0f} µs, PostgreSQL {spread_of(postgres).median * 1e6:,.0f} µs"
    bench.times_the_reference(
        f"{form} form, batches of {count}, CPU", rounds, RAW[form], CPU_GOAL[form], note=f"{share}; {NOTE}"
    )
    bench.machine(postgresql=f"{server.postgres_version}, embedded, fsync and synchronous_commit on")


@pytest.mark.parametrize("form", FORMS)
def test_split(bench, server, form):
    """Where a handshake's CPU goes: cryptography, Python around it, PostgreSQL."""
    crypto = CryptoTime()
    parts: dict[str, list[float]] = {"cryptography": [], "Python": [], "PostgreSQL": []}

    def one_round() -> tuple[float, float]:
        plain = handshakes(server, form, ROWS)
        handshakes(server, form, ROWS, around=crypto.running)
        crypto_s = crypto.take()
        # The clock's own calls lengthen the second run: it is asked for the cryptography alone.
        worker_s = sum(cost.worker_s for cost in plain)
        parts["cryptography"].append(crypto_s / ROWS * 1e6)
        parts["Python"].append((worker_s - crypto_s) / ROWS * 1e6)
        parts["PostgreSQL"].append(sum(cost.postgres_s for cost in plain) / ROWS * 1e6)
        return worker_s, crypto_s

    one_round()
    for values in parts.values():
        values.clear()
    bench.rounds_of(one_round, rounds=3 if bench.is_quick else 15)
    whole = sum(spread_of(values).median for values in parts.values())
    for part, values in parts.items():
        share = f"{spread_of(values).median / whole:.0%} of the three"
        note = "the C core and AES-256-GCM, by the threads' own clock" if part == "cryptography" else ""
        bench.figure(f"{form} form, batches of {ROWS}, CPU: {part}", values, "µs", reference=share, note=note)


@pytest.mark.parametrize("form", FORMS)
def test_rate(bench, server, form):
    """Handshakes a second that one process with two threads and its PostgreSQL reach on two cores."""
    count = 256 if bench.is_quick else 1024
    handshakes(server, form, count)
    rates: list[float] = []

    def one_round() -> None:
        first, second = handshakes(server, form, count)
        rates.append(count / (first.wall_s + second.wall_s))

    def rounds() -> None:
        for _ in range(3 if bench.is_quick else 8):
            one_round()

    bench.once(rounds)
    bench.at_least(
        f"{form} form, {count:,} at a time, one worker process",
        rates,
        "handshakes/s",
        RATE_GOAL[form],
        note="one process, its threads and PostgreSQL share the cores; the devices' own work is not counted",
    )


@pytest.fixture(scope="module")
def workers(server):
    """Two worker processes beside the one that owns the fleet, which is idle while they work."""
    opened = Workers(2, dsn=server.dsn, folder=server.folder, settings=server.settings)
    yield opened
    opened.close()


@pytest.mark.parametrize("form", FORMS)
def test_rate_of_workers(bench, server, workers, form):
    """Handshakes a second that two worker processes over one PostgreSQL reach on two cores."""
    count = 2 * BATCH if bench.is_quick else 8 * BATCH
    rates: list[float] = []
    cpu: list[float] = []

    def one_round() -> None:
        devices = server.take_devices(count)
        if form == "hello":
            pending = server.hellos(devices)
            first_s, first_cpu_s, m2s = workers.run("hello", [hello.message for hello in pending])
            messages = server.finishes(pending, m2s, devices)
        else:
            pairs = [(device.device_id, device.encapsulation_key) for device in devices]
            first_s, first_cpu_s, offers = workers.run("offer", pairs)
            messages = server.answers(offers, devices)
        last_s, last_cpu_s, _ = workers.run("confirm", messages)
        rates.append(count / (first_s + last_s))
        cpu.append((first_cpu_s + last_cpu_s) / count * 1e6)

    def rounds() -> None:
        for _ in range(3 if bench.is_quick else 6):
            one_round()

    one_round()
    rates.clear()
    cpu.clear()
    bench.once(rounds)
    bench.at_least(
        f"{form} form, {count:,} at a time in batches of {BATCH}, two worker processes",
        rates,
        "handshakes/s",
        RATE_GOAL[form],
        note=f"as serve --workers 2 has them, without HTTP; they and PostgreSQL share the cores; the workers' CPU "
        f"{spread_of(cpu).median:,.0f} µs a handshake; the devices' own work is not counted",
    )


def test_latency(bench, server):
    """What one device waits for between M3 and M4 at a hundred handshakes a second."""
    seconds = 1 if bench.is_quick else 5
    messages = server.m3s(100 * seconds)

    async def paced() -> list[float]:
        start = time.perf_counter() + 0.05
        taken: list[float] = []

        async def one(number: int, message: bytes) -> None:
            due = start + number / 100
            await asyncio.sleep(due - time.perf_counter())
            await server.manager.confirm(message)
            # From when it was due, so that a server that falls behind does not look fast.
            taken.append(time.perf_counter() - due)

        await asyncio.gather(*(one(number, message) for number, message in enumerate(messages)))
        return taken

    results: list[float] = []
    bench.once(lambda: results.extend(server.run(paced())))
    results.sort()
    milliseconds = [value * 1e3 for value in results]
    bench.at_most("M3 to M4 at 100/s, median", [milliseconds[len(milliseconds) // 2]], "ms", 4)
    bench.at_most("M3 to M4 at 100/s, 99th percentile", [milliseconds[len(milliseconds) * 99 // 100]], "ms", 20)
