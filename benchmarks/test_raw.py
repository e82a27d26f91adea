"""Against raw liboqs."""

from __future__ import annotations

import time

import operations
import pytest
from inputs import kem_rows
from interleave import Work

from qflare.primitives import kem

# The thread's own CPU time, on both sides: what others do on a shared machine does not count.
pytestmark = pytest.mark.benchmark(timer=time.thread_time)


@pytest.mark.parametrize("operation", operations.NAMES)
@pytest.mark.parametrize("count", [64, 256, 1000])
def test_batch(bench, raw, operation, count):
    """A batch through Python costs what liboqs's own calls cost."""
    rounds = bench.interleave(
        operations.batch(operation, count),
        operations.plain(raw, operation, count),
        block_s=operations.block_s(operation),
    )
    bench.times_the_reference(
        f"{operations.NAMES[operation]}, batch of {count}, one thread", rounds, "raw", 1.03, is_mean=operation == "sign"
    )


@pytest.mark.parametrize("operation", operations.NAMES)
def test_single_call(bench, raw, operation):
    """One call through Python costs liboqs's own call and three microseconds."""
    rounds = bench.interleave(
        operations.single(operation), operations.plain(raw, operation, 64), block_s=operations.block_s(operation)
    )
    bench.more_than(f"{operations.NAMES[operation]}, one call", rounds, "raw", 3e-6, is_mean=operation == "sign")


def test_one_key(bench, raw):
    """Many ciphertexts under one key."""
    rows = kem_rows(256)
    dk = bytes(rows.dk[: kem.DK_BYTES])
    rounds = bench.interleave(
        Work(lambda: kem.decapsulate_one_key(dk, rows.one_key_ct), items=256),
        Work(lambda: raw.decaps(rows.ss_out, rows.one_key_ct, rows.dk, 256, is_one_key=True), items=256),
    )
    bench.faster_than("ML-KEM-1024 decapsulation, 256 under one key", rounds, "raw", 12)
