"""Against raw liboqs."""

from __future__ import annotations

import time

import operations
import pytest
from inputs import CONTEXT, MESSAGE_BYTES, as_array, sig_rows
from interleave import Work

from qflare.primitives.engine import Engine
from qflare.primitives.sig import SIG44

# The thread's own CPU time, on both sides: what others do on a shared machine does not count.
pytestmark = pytest.mark.benchmark(timer=time.thread_time)


@pytest.mark.parametrize("operation", operations.NAMES)
@pytest.mark.parametrize("count", [64, 256, 1000])
def test_batch(bench, raw, operation, count):
    """A batch through Python costs what liboqs's own calls cost, where liboqs computes."""
    rounds = bench.interleave(
        operations.batch(operation, count, Engine.LIBOQS),
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


def test_verification_in_lanes(bench, raw):
    """Many signatures under as many keys, as a batch of hellos has them."""
    pairs = SIG44.generate_many(256)
    sigs = sig_rows(256)
    signatures = as_array(SIG44.sign_many(pairs.signing_keys, sigs.messages, context=CONTEXT).signatures)
    pks = as_array(pairs.verification_keys)
    rounds = bench.interleave(
        Work(
            lambda: SIG44.verify_many(pks, sigs.messages, signatures, context=CONTEXT, engine=Engine.LANES),
            items=256,
        ),
        Work(
            lambda: raw.verify(
                signatures, pks, sigs.text, size=MESSAGE_BYTES, context=CONTEXT, count=256, is_one_key=False
            ),
            items=256,
        ),
    )
    bench.faster_than("ML-DSA-44 verification in lanes, 256 under as many keys", rounds, "raw", 1.5)
