"""The lanes engine against raw liboqs, one core."""

from __future__ import annotations

import time

import operations
import pytest
from inputs import kem_rows
from interleave import Work

from qflare._native import about
from qflare._native.lanes import forced_width
from qflare.primitives import kem
from qflare.primitives.engine import Engine

# The thread's own CPU time, on both sides: what others do on a shared machine does not count.
pytestmark = pytest.mark.benchmark(timer=time.thread_time)

COUNT = 256
WIDTHS = {8: "AVX-512", 4: "AVX2"}
PRESENT = [width for width in WIDTHS if width <= about.keccak_width()]
MANY_KEYS = {8: 4.2, 4: 1.6}
ONE_KEY = {8: 12, 4: 5.5}


@pytest.mark.parametrize("width", PRESENT)
@pytest.mark.parametrize("operation", ["keygen", "encaps", "decaps"])
def test_many_keys(bench, raw, operation, width):
    """A batch in which each row has its own key, wide and, by forcing it, narrower."""
    with forced_width(width):
        rounds = bench.interleave(
            operations.batch(operation, COUNT, Engine.LANES), operations.plain(raw, operation, COUNT)
        )
    bench.faster_than(f"{operations.NAMES[operation]}, {COUNT} keys, {WIDTHS[width]}", rounds, "raw", MANY_KEYS[width])


@pytest.mark.parametrize("width", PRESENT)
def test_one_key(bench, raw, width):
    """Many ciphertexts under one key, which is expanded in the time that counts."""
    rows = kem_rows(COUNT)
    dk = bytes(rows.dk[: kem.DK_BYTES])
    with forced_width(width):
        rounds = bench.interleave(
            Work(lambda: kem.decapsulate_one_key(dk, rows.one_key_ct, engine=Engine.LANES), items=COUNT),
            Work(lambda: raw.decaps(rows.ss_out, rows.one_key_ct, rows.dk, COUNT, is_one_key=True), items=COUNT),
        )
    bench.faster_than(
        f"ML-KEM-1024 decapsulation, {COUNT} under one key, {WIDTHS[width]}", rounds, "raw", ONE_KEY[width]
    )
