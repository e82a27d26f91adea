"""Sealing updates."""

from __future__ import annotations

import os
import time
import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from interleave import Bench, Work

from qflare.model.ids import SessionId
from qflare.protocol.record import RecordHeader, new_header, open_record_into, seal_record_into
from qflare.protocol.segment import SEGMENT_BYTES, sealed_size
from qflare.protocol.stream import StreamOpener, StreamSealer
from qflare.secret import SecretBytes
from qflare.service.bench.spread import spread_of

NONCE, AAD = bytes(12), b"round 7"
MEGABYTE = 10**6
WHOLE_BYTES = 10 * MEGABYTE
"""Of the one buffer that all is held against. Times in the table are those of a megabyte."""
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
    return Work(lambda: cipher.encrypt_into(NONCE, text, AAD, out), items=WHOLE_BYTES // MEGABYTE)


def whole_buffer_open() -> Work:
    cipher, out = AESGCM(os.urandom(32)), bytearray(WHOLE_BYTES)
    sealed = cipher.encrypt(NONCE, _text(10), AAD)
    return Work(lambda: cipher.decrypt_into(NONCE, sealed, AAD, out), items=WHOLE_BYTES // MEGABYTE)


def test_seal_stream(bench, megabytes):
    """Sealing a message segment by segment, each handed on before the next, keeps up with one call over one buffer."""
    text, key = _text(megabytes), _key()

    def seal() -> None:
        for _ in StreamSealer(key, _header(), aad=AAD).seal(text):
            pass

    _compare(bench, f"sealing {megabytes:,} MB as a stream", Work(seal, items=megabytes), whole_buffer_seal())


def test_seal_into(bench, megabytes):
    """Sealing a message into the caller's buffer keeps up with one call over one buffer."""
    text, key = _text(megabytes), _key()
    record = bytearray(sealed_size(len(text)))

    def seal() -> None:
        seal_record_into(key, _header(), text, record, aad=AAD)

    _compare(bench, f"sealing {megabytes:,} MB into a buffer", Work(seal, items=megabytes), whole_buffer_seal())


def test_open_stream(bench, megabytes):
    """Opening a message as its segments arrive keeps up with one call over one buffer."""
    text, key, header = _text(megabytes), _key(), _header()
    out = np.empty(len(text), np.uint8)
    pieces = list(StreamSealer(key, header, aad=AAD).seal(text))[1:]

    def open_it() -> None:
        opener = StreamOpener(key, header, memoryview(out), aad=AAD)
        for piece in pieces:
            opener.write(piece)
        opener.finish()

    _compare(bench, f"opening {megabytes:,} MB as a stream", Work(open_it, items=megabytes), whole_buffer_open())
    assert bytes(out) == bytes(text)


def test_open_into(bench, megabytes):
    """Opening a record into the caller's buffer keeps up with one call over one buffer."""
    text, key = _text(megabytes), _key()
    out, record = np.empty(len(text), np.uint8), bytearray(sealed_size(len(text)))
    seal_record_into(key, _header(), text, record, aad=AAD)

    def open_it() -> None:
        open_record_into(key, record, memoryview(out), aad=AAD)

    _compare(bench, f"opening {megabytes:,} MB into a buffer", Work(open_it, items=megabytes), whole_buffer_open())
    assert bytes(out) == bytes(text)


def _compare(bench: Bench, what: str, work: Work, reference: Work) -> None:
    if work.items > 10:
        bench.rounds = 5
    rounds = bench.interleave(work, reference)
    note = f"times are those of a megabyte; {1 / spread_of(rounds.measured).median:,.0f} MB/s"
    bench.faster_than(what, rounds, "AES-256-GCM of cryptography, 10 MB at once", 0.85, note=note)
    _claim_memory(bench, f"{what}, memory beyond the buffers", work.call)


def _claim_memory(bench: Bench, what: str, call) -> None:
    """Say how much is allocated beside the caller's buffers at the worst moment."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    bench.at_most(what, [peak / SEGMENT_BYTES], "segments", 2.1, note="tracemalloc; 262,144 bytes a segment")


def _key() -> SecretBytes:
    return SecretBytes(bytearray(os.urandom(64)))


def _header() -> RecordHeader:
    return new_header(sid=SessionId(bytes(16)), bucket=5_900_000, direction=1, kind=0)


def _text(megabytes: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, megabytes * MEGABYTE, np.uint8)
