"""Detection."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys

import pytest
from handshaking import handshakes as handshakes_of
from interleave import Work

from qflare.clock import SystemClock
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.observation import CONFIRM, HELLO, RECORD, Observation
from qflare.model.refusal import Refusal
from qflare.monitor.detector import Detector
from qflare.monitor.device_table import device_key

BATCH = 256
FEW, MANY = 1_000, 1_000_000
CHOICE = random.Random(5)


def handshakes(count: int, refs: list[bytes]) -> list[list[Observation]]:
    """What a hello, its end and one record are to the detector, in batches as the manager makes them."""
    chosen = CHOICE.choices(refs, k=count)
    return [
        [Observation(HELLO, None, DEFAULT_TENANT, ref, os.urandom(8), os.urandom(8)) for ref in chosen],
        [Observation(CONFIRM, None, DEFAULT_TENANT, ref, b"", os.urandom(16), 1) for ref in chosen],
        [Observation(RECORD, None, DEFAULT_TENANT, ref, os.urandom(16), os.urandom(16), 1) for ref in chosen],
    ]


def filled(refs: list[bytes]) -> Detector:
    """A detector that has heard of every device."""
    detector = Detector(SystemClock())
    now_s = detector.clock.now_s()
    for ref in refs:
        detector.devices.row_of(device_key(ref), tenant=0, at_s=now_s)
    return detector


def test_cost(bench):
    """What one observation costs, in a fleet of a million devices beside one of a thousand."""
    refs = [CHOICE.randbytes(32) for _ in range(MANY // 20 if bench.is_quick else MANY)]
    few, many = filled(refs[:FEW]), filled(refs)

    def worker(detector: Detector, batches: list[list[Observation]]):
        def work() -> None:
            for batch in batches:
                detector.note(batch)
                while detector.work(BATCH):
                    pass

        return work

    batches = [batch for _ in range(20) for batch in handshakes(BATCH, refs)]
    alike = [batch for _ in range(20) for batch in handshakes(BATCH, refs[:FEW])]
    items = sum(len(batch) for batch in batches)
    rounds = bench.interleave(
        Work(worker(many, batches), items=items, name="a million devices"),
        Work(worker(few, alike), items=items, name="a thousand devices"),
    )
    costs = [seconds * 1e6 for seconds in rounds.measured]
    bench.at_most("an observation", costs, "µs", 10, note="hello, its end and a record, a third each")
    bench.times_the_reference(f"the same, {len(refs):,} devices", rounds, f"{FEW:,} devices", 1.5)


def test_refusals(bench):
    """What an observation costs that speaks for an attack."""
    refs = [CHOICE.randbytes(32) for _ in range(FEW)]
    detector = filled(refs)
    batch = [Observation(HELLO, Refusal.SIGNATURE, DEFAULT_TENANT, ref) for ref in CHOICE.choices(refs, k=BATCH)]

    def work() -> None:
        detector.note(batch)
        detector.work(BATCH)

    rounds = bench.repeat(Work(work, items=BATCH))
    bench.at_most("a refusal that is suspected", [seconds * 1e6 for seconds in rounds.measured], "µs", 20)


def test_memory(bench):
    """What a detector takes that has heard of a million devices, in a process of its own."""
    code = (
        "import random, sys\n"
        "sys.path.insert(0, 'benchmarks')\n"
        "from test_detection import Detector, SystemClock, device_key\n"
        "def pages(): return int(open('/proc/self/statm').read().split()[1])\n"
        "before = pages()\n"
        "detector, choice = Detector(SystemClock()), random.Random(1)\n"
        f"for _ in range({MANY // 20 if bench.is_quick else MANY}):\n"
        "    key = device_key(choice.randbytes(32))\n"
        "    detector.devices.row_of(key, tenant=0, at_s=1)\n"
        "    for marks in detector.marks.values():\n"
        "        marks.note(choice.randbytes(8), choice.randbytes(8), key)\n"
        "print((pages() - before) * 4096)\n"
    )
    used: list[float] = []
    bench.once(
        lambda: used.append(
            int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) / 2**20  # noqa: S603
        )
    )
    bench.at_most("memory of a worker's detector, a million devices", used, "MiB", 64, note="bounded, whatever comes")


@pytest.mark.parametrize("form", ["hello", "offer"])
def test_handshakes(bench, server, form):
    """What a handshake costs worker and PostgreSQL with detection on, beside the same with it off."""
    engine = server.run(server.manager._engine())  # noqa: SLF001 - nothing public turns detection on and off
    detection, observations = engine.detection, engine.foundation.refusals.observations

    async def work_off() -> None:
        while detection.detector.work(BATCH):
            pass

    def cost_s(observer: Detector | None) -> float:
        observations.observer = observer
        first, second = handshakes_of(server, form, BATCH)
        # What the detector does later, in a task of its own.
        after, _ = server.cost_of(work_off())
        return sum(cost.worker_s + cost.postgres_s for cost in (first, second, after)) / BATCH

    turns = itertools.count()
    shares: list[float] = []

    def one_round() -> tuple[float, float]:
        # Either first in turn: what comes second finds caches warm.
        if next(turns) % 2:
            on, off = cost_s(detection.detector), cost_s(None)
        else:
            off, on = cost_s(None), cost_s(detection.detector)
        share, _ = server.cost_of(detection.share())
        shares.append((share.worker_s + share.postgres_s) * 1000)
        return on, off

    taken = detection.detector.taken
    bench.warm_up(one_round)
    try:
        rounds = bench.rounds_of(one_round)
    finally:
        observations.observer = detection.detector
    assert detection.detector.taken > taken
    bench.times_the_reference(
        f"{form} form, batches of {BATCH}, CPU with detection on",
        rounds,
        "the same with detection off",
        1.15,
        note="worker and PostgreSQL, with the detector's own work",
    )
    bench.figure("telling the other workers", shares, "ms of CPU", note=f"every 2 s, here of {BATCH} handshakes")
