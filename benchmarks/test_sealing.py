"""Sealing updates."""

from __future__ import annotations

import os
import time
import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from interleave import Bench, Work

from qflare.protocol.record import new_header
from qflare.protocol.segment import SEGMENT_BYTES
from qflare.protocol.stream import StreamOpener, StreamSealer
from qflare.secret import SecretBytes

SID, BUCKET, NONCE, AAD = bytes(16), 5_900_000, bytes(12), b"round 7"
MEGABYTE = 10**6
WHOLE_BYTES = 10 * MEGABYTE
SIZES = [10, 1000]

pytestmark = pytest.mark.benchmark(timer=time.thread_time)


@pytest.fixture(params=SIZES, ids=["10MB", "1GB"])
def megabytes(request) -> int:
    if request.param == 1000 and not request.config.getoption("--gigabyte"):
        pytest.skip("1 GB only with --gigabyte")
    return request.param


def whole_buffer_seal() -> Work:
    """AES-256-GCM of cryptography over one buffer of 10 MB: what a seal is held against, whatever its size."""
    cipher, text, out = AESGCM(os.urandom(32)), _text(10), bytearray(WHOLE_BYTES + 16)
    return Work(lambda: cipher.encrypt_into(NONCE, text, AAD, out), items=WHOLE_BYTES)


def whole_buffer_open() -> Work:
    cipher, out = AESGCM(os.urandom(32)), bytearray(WHOLE_BYTES)
    sealed = cipher.encrypt(NONCE, _text(10), AAD)
    return Work(lambda: cipher.decrypt_into(NONCE, sealed, AAD, out), items=WHOLE_BYTES)


def test_seal(bench, megabytes):
    """Sealing a message as segments keeps up with one call over one buffer."""
    text = _text(megabytes)
    key = SecretBytes(bytearray(os.urandom(64)))

    def seal() -> None:
        header = new_header(sid=SID, bucket=BUCKET, direction=1, kind=0)
        for _ in StreamSealer(key, header, aad=AAD).seal(text):
            pass

    _shorten(bench, megabytes)
    rounds = bench.interleave(Work(seal, items=len(text)), whole_buffer_seal())
    bench.faster_than(f"sealing {megabytes:,} MB", rounds, "AES-256-GCM of cryptography, 10 MB at once", 0.85)
    _claim_memory(bench, f"sealing {megabytes:,} MB, memory beyond the buffers", seal)


def test_open(bench, megabytes):
    """Opening a message from segments keeps up with one call over one buffer."""
    text, out = _text(megabytes), np.empty(megabytes * MEGABYTE, np.uint8)
    key = SecretBytes(bytearray(os.urandom(64)))
    header = new_header(sid=SID, bucket=BUCKET, direction=1, kind=0)
    pieces = list(StreamSealer(key, header, aad=AAD).seal(text))[1:]

    def open_it() -> None:
        opener = StreamOpener(key, header, memoryview(out), aad=AAD)
        for piece in pieces:
            opener.write(piece)
        opener.finish()

    _shorten(bench, megabytes)
    rounds = bench.interleave(Work(open_it, items=len(text)), whole_buffer_open())
    assert out.tobytes() == text.tobytes()
    bench.faster_than(f"opening {megabytes:,} MB", rounds, "AES-256-GCM of cryptography, 10 MB at once", 0.85)
    _claim_memory(bench, f"opening {megabytes:,} MB, memory beyond the buffers", open_it)


def _claim_memory(bench: Bench, what: str, call) -> None:
    """Say how much is allocated beside the caller's buffers at the worst moment."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    bench.at_most(what, [peak / SEGMENT_BYTES], "segments", 2.1, note="tracemalloc; a segment is 262,144 bytes")


def _shorten(bench: Bench, megabytes: int) -> None:
    if megabytes > 10:
        bench.rounds = 5


def _text(megabytes: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, megabytes * MEGABYTE, np.uint8)
