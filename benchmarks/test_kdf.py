"""Time-bucket key derivation."""

from __future__ import annotations

import hashlib
import os
import time

import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA3_512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from interleave import Work

from qflare.primitives import kdf

pytestmark = pytest.mark.benchmark(timer=time.thread_time)

COUNT = 1000
BUCKET = 5_900_000
PERMUTATIONS = 2
"""Of one Expand with a key of 64 bytes: the key's block and the context's; the prefix's is made once a batch."""
WHAT = f"chain step, batch of {COUNT:,}"


@pytest.fixture
def step():
    """One ratchet step (PROTOCOL R1) of many sessions, a call."""
    keys = np.frombuffer(os.urandom(COUNT * 64), np.uint8)
    sids = np.frombuffer(os.urandom(COUNT * 16), np.uint8)
    return Work(lambda: kdf.chain_step_many(keys, sids, BUCKET).wipe(), items=COUNT)


@pytest.fixture
def inputs():
    """The same inputs, row by row."""
    return [(os.urandom(64), BUCKET.to_bytes(8) + os.urandom(16)) for _ in range(COUNT)]


def test_hashlib(bench, step, inputs):
    """A batch beats a loop of plain SHA3-512 over the same bytes."""

    def loop() -> None:
        for key, context in inputs:
            hashlib.sha3_512(key + context).digest()

    rounds = bench.interleave(step, Work(loop, items=COUNT))
    bench.faster_than(WHAT, rounds, "hashlib.sha3_512 loop", 12)


def test_hkdf(bench, step, inputs):
    """A batch beats a loop of HKDF(SHA3-512)."""

    def loop() -> None:
        for key, context in inputs:
            HKDF(algorithm=SHA3_512(), length=64, salt=None, info=context).derive(key)

    rounds = bench.interleave(step, Work(loop, items=COUNT))
    bench.faster_than(WHAT, rounds, "HKDF(SHA3-512) of cryptography", 50)


def test_permutations(bench, raw, step):
    """A batch costs little more than its permutations."""
    rounds = bench.interleave(step, Work(lambda: raw.permutations(PERMUTATIONS * COUNT), items=COUNT))
    bench.times_the_reference(WHAT, rounds, f"its {PERMUTATIONS} Keccak permutations", 1.5)


def test_million(bench):
    """A million sessions step into the next bucket."""
    count = 65_536
    keys = np.frombuffer(os.urandom(count * 64), np.uint8)
    sids = np.frombuffer(os.urandom(count * 16), np.uint8)
    work = Work(lambda: kdf.chain_step_many(keys, sids, BUCKET).wipe(), items=count)
    rounds = bench.repeat(work, block_s=0.01)
    bench.at_most(
        "1,000,000 sessions into the next bucket",
        [seconds * 1e6 for seconds in rounds.measured],
        "s of CPU",
        1,
        note=f"calls of {count:,} rows, scaled to a million; in memory, nothing stored",
    )
