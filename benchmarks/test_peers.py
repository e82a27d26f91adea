"""Against cryptography (OpenSSL)."""

from __future__ import annotations

import time

import operations
import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey
from inputs import CONTEXT, sig_rows
from interleave import Work

pytestmark = pytest.mark.benchmark(timer=time.thread_time)


def peer(operation: str) -> Work:
    """The same operation of the other library; key objects are made ahead and used again."""
    kem_key, sig_key = MLKEM1024PrivateKey.generate(), MLDSA44PrivateKey.generate()
    kem_public, sig_public = kem_key.public_key(), sig_key.public_key()
    _, ciphertext = kem_public.encapsulate()
    messages = sig_rows(64).messages
    signature = sig_key.sign(messages[0], CONTEXT)

    def sign_all() -> None:
        for message in messages:
            sig_key.sign(message, CONTEXT)

    works = {
        "keygen": Work(lambda: MLKEM1024PrivateKey.generate().public_key().public_bytes_raw()),
        "encaps": Work(kem_public.encapsulate),
        "decaps": Work(lambda: kem_key.decapsulate(ciphertext)),
        "sign": Work(sign_all, items=len(messages)),
        "verify": Work(lambda: sig_public.verify(signature, messages[0], CONTEXT)),
    }
    return works[operation]


@pytest.mark.parametrize("operation", operations.NAMES)
def test_batch(bench, operation):
    """A batch of 256 costs less than the other library's calls."""
    block_s = operations.block_s(operation)
    rounds = bench.interleave(operations.batch(operation, 256), peer(operation), block_s=block_s)
    bench.faster_than(
        f"{operations.NAMES[operation]}, batch of 256", rounds, "cryptography", 1, is_mean=operation == "sign"
    )


@pytest.mark.parametrize("operation", operations.NAMES)
def test_single_call(bench, operation):
    """One call costs less than the other library's."""
    block_s = operations.block_s(operation)
    rounds = bench.interleave(operations.single(operation), peer(operation), block_s=block_s)
    bench.faster_than(
        f"{operations.NAMES[operation]}, one call", rounds, "cryptography", 1, is_mean=operation == "sign"
    )
