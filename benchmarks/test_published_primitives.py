"""Published timings: primitives."""

from __future__ import annotations

import time

import operations
import pytest
from inputs import kem_rows
from interleave import Work

from qflare.primitives import kem

# The thread's own CPU time: what others do on a shared machine does not count.
pytestmark = pytest.mark.benchmark(timer=time.thread_time)

PUBLISHED_S = {"keygen": 100e-6, "encaps": 150e-6, "decaps": 200e-6, "sign": 500e-6, "verify": 100e-6}
SINGLE = {"keygen": 4, "encaps": 5, "decaps": 6, "sign": 5, "verify": 3}
BATCH = {"keygen": 20, "encaps": 30, "decaps": 35}


@pytest.mark.parametrize("operation", SINGLE)
def test_single_call(bench, operation):
    """One call through Python beats the published timing."""
    rounds = bench.repeat(operations.single(operation), block_s=operations.block_s(operation))
    bench.faster_than_published(
        f"{operations.NAMES[operation]}, one call",
        rounds,
        PUBLISHED_S[operation],
        SINGLE[operation],
        is_mean=operation == "sign",
    )


@pytest.mark.parametrize("operation", BATCH)
def test_batch(bench, operation):
    """A batch of 256 beats the published timing."""
    rounds = bench.repeat(operations.batch(operation, 256))
    bench.faster_than_published(
        f"{operations.NAMES[operation]}, batch of 256", rounds, PUBLISHED_S[operation], BATCH[operation]
    )


def test_one_key(bench):
    """A batch of ciphertexts under one key beats the published timing."""
    rows = kem_rows(256)
    dk = bytes(rows.dk[: kem.DK_BYTES])
    rounds = bench.repeat(Work(lambda: kem.decapsulate_one_key(dk, rows.one_key_ct), items=256))
    bench.faster_than_published("ML-KEM-1024 decapsulation, 256 under one key", rounds, PUBLISHED_S["decaps"], 100)
