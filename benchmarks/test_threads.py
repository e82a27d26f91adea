"""Against raw liboqs, two threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait

import operations
import pytest
from raw import PinnedPair


@pytest.mark.parametrize("operation", operations.NAMES)
def test_two_threads(bench, operation):
    """Two threads of one process reach what two pinned raw processes reach."""
    count = 1000 if operation != "sign" else 500
    pair = PinnedPair(operation, count)
    work = operations.batch(operation, count)
    with ThreadPoolExecutor(2) as executor:

        def both() -> None:
            wait([executor.submit(work.call), executor.submit(work.call)])

        def one_round() -> tuple[float, float]:
            start = time.perf_counter()
            pair.run()
            middle = time.perf_counter()
            both()
            return (time.perf_counter() - middle) / (2 * count), (middle - start) / (2 * count)

        end = time.perf_counter() + bench.warm_up_s
        while time.perf_counter() < end:
            one_round()
        rounds = bench.rounds_of(one_round)
    pair.close()
    bench.faster_than(
        f"{operations.NAMES[operation]}, two threads",
        rounds,
        "two pinned raw processes",
        0.93,
        is_mean=operation == "sign",
    )
