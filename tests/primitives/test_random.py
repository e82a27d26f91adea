"""Randomness: fresh over forks and threads, an error and never a key when it fails, and inputs for vectors."""

import subprocess
import sys
import threading

import pytest

from qflare._native.random import failing_source_of_thread
from qflare.errors import EntropyError, UsageError
from qflare.primitives import kem
from qflare.primitives.random import RANDOM_MAX, drawing_from, random_bytes, random_secret
from qflare.primitives.sig import SIG44, SIG87

FORKS_AND_THREADS = """
import os, sys, threading
from qflare.primitives import kem
from qflare.primitives.random import random_bytes
from qflare.primitives.sig import SIG44

random_bytes(32)  # the source was used before the fork: nothing of it may repeat after


def draw(lines):
    for _ in range(500):
        lines.append(random_bytes(16).hex())
    pairs = kem.generate_many(8)
    for at in range(8):
        lines.append(pairs.encapsulation_keys[at * 1568 : at * 1568 + 32].hex())
    for _ in range(4):
        lines.append(SIG44.generate().verification_key[:32].hex())


def work():
    lines, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=draw, args=(lines,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, ("\\n".join(lines) + "\\n").encode())


children = []
for _ in range(6):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    children.append(child)
    os.waitpid(child, 0)
work()
"""


def test_nothing_repeats_over_forks_and_threads():
    """Seven processes of four threads each, forked from one that drew before, draw no value twice."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKS_AND_THREADS], check=True, capture_output=True, timeout=60
    )
    values = result.stdout.decode().split()
    assert 7 * 4 * (500 + 8 + 4) == len(values)
    assert len(values) == len(set(values))


def test_a_failing_source_gives_errors_and_never_a_key():
    """When the system's source fails, each operation that draws raises, and a batch's rows are zero."""
    ek = kem.generate().encapsulation_key
    signing_key = SIG44.generate().signing_key
    with failing_source_of_thread():
        for operation in (
            kem.generate,
            lambda: kem.encapsulate(ek),
            SIG44.generate,
            SIG87.generate,
            lambda: SIG44.sign(signing_key, b"message", context=b""),
            lambda: random_bytes(32),
            lambda: random_secret(32),
        ):
            with pytest.raises(EntropyError):
                operation()
        pairs = kem.generate_many(5)
        made = kem.encapsulate_many(ek * 5)
        sig_pairs = SIG87.generate_many(5)
        signed = SIG44.sign_many(signing_key, [b"m"] * 5, context=b"")
        # Nothing is drawn here, so nothing fails.
        kem.generate_from_seed(bytes(64))
        SIG44.generate_from_seed(bytes(32))
    for status in (pairs.status, made.status, sig_pairs.status, signed.status):
        assert len(status) == 5
        assert all(status)
    for rows in (pairs.encapsulation_keys, made.ciphertexts, sig_pairs.verification_keys, signed.signatures):
        assert not any(rows)
    for secret in (pairs.decapsulation_keys, made.shared_secrets, sig_pairs.signing_keys):
        assert secret.equals(bytes(len(secret)))
    kem.generate()


def test_a_failing_source_is_of_one_thread():
    """One thread's failing source does not touch another thread."""
    outcome = []
    with failing_source_of_thread():
        thread = threading.Thread(target=lambda: outcome.append(random_bytes(32)))
        thread.start()
        thread.join()
    assert len(outcome[0]) == 32


def test_an_input_is_of_one_thread():
    """While one thread draws from a buffer, another draws from the system."""
    outcome = []
    with drawing_from(bytes(64)):
        thread = threading.Thread(target=lambda: outcome.append(random_bytes(32)))
        thread.start()
        thread.join()
        assert bytes(32) == random_bytes(32)
    assert outcome[0] != bytes(32)


def test_an_input_is_drawn_in_order_and_ends():
    """Draws take the next bytes; when they run out, drawing fails, and goes on failing inside the block."""
    with drawing_from(bytes(range(10))):
        assert bytes(range(4)) == random_bytes(4)
        assert random_bytes(0) == b""
        assert random_secret(5).equals(bytes(range(4, 9)))
        with pytest.raises(EntropyError):
            random_bytes(2)
        with pytest.raises(EntropyError):
            random_bytes(1)
    assert len(random_bytes(32)) == 32


def test_inputs_do_not_nest():
    """A second input on the same thread is refused, and the first stays in place."""
    with drawing_from(b"abcd"):
        with pytest.raises(UsageError, match="already"), drawing_from(b"efgh"):
            pass
        assert random_bytes(4) == b"abcd"


def test_an_input_ends_with_its_block_whatever_happens():
    """After an exception the thread draws from the system again."""
    with pytest.raises(RuntimeError), drawing_from(b"abcd"):
        raise RuntimeError
    assert len(random_bytes(16)) == 16


def test_an_input_must_be_a_buffer():
    """Something else is a usage error."""
    with pytest.raises(UsageError), drawing_from("text"):
        pass


@pytest.mark.parametrize("size", [-1, RANDOM_MAX + 1, 2**31, 2**63, 2**64, 1.0, None, True])
def test_impossible_sizes_are_refused(size):
    """A size that is no integer in range is refused before allocation."""
    with pytest.raises(UsageError):
        random_bytes(size)
    with pytest.raises(UsageError):
        random_secret(size)


def test_long_draws_are_whole():
    """A draw far beyond what the kernel gives in one piece has no gap of zeros."""
    drawn = random_bytes(3_000_000)
    assert len(drawn) == 3_000_000
    assert all(any(drawn[at : at + 32]) for at in range(0, len(drawn), 32))
