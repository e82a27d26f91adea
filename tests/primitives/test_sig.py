"""ML-DSA: batches against single calls, bad rows, contexts, sizes, an independent implementation."""

import random

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa

from qflare._native import sig as native
from qflare.errors import AuthenticationError, BatchError, LengthError, UnsupportedAlgorithmError, UsageError
from qflare.primitives.random import drawing_from
from qflare.primitives.sig import CONTEXT_MAX, SIG44, SIG87

SCHEMES = pytest.mark.parametrize("scheme", [SIG44, SIG87], ids=lambda scheme: scheme.name)
SIZES = (0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 1000)
ORACLES = {
    44: (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    87: (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}


def rows_of(buffer, size):
    """Split row-major bytes."""
    return [bytes(buffer[at : at + size]) for at in range(0, len(buffer), size)]


@pytest.mark.parametrize("count", SIZES)
def test_batch_equals_single(count):
    """A batch gives byte for byte what single calls give from the same randomness."""
    rng = random.Random(count)
    seeds, rnds = rng.randbytes(32 * count), rng.randbytes(32 * count)
    messages = [rng.randbytes(rng.choice((0, 1, 64, 1000))) for _ in range(count)]
    pairs = SIG44.generate_from_seeds_many(seeds)
    with drawing_from(seeds):
        drawn = SIG44.generate_many(count)
    assert pairs.verification_keys == drawn.verification_keys
    assert pairs.signing_keys.equals(drawn.signing_keys)
    with drawing_from(rnds):
        signed = SIG44.sign_many(pairs.signing_keys, messages, context=b"c")
    assert bytes(count) == pairs.status == drawn.status == signed.status
    assert bytes(count) == SIG44.verify_many(pairs.verification_keys, messages, signed.signatures, context=b"c")
    pks, signatures = rows_of(pairs.verification_keys, SIG44.PK_BYTES), rows_of(signed.signatures, SIG44.SIG_BYTES)
    assert count == len(pks) == len(signatures)
    for index in range(min(count, 100)):
        pair = SIG44.generate_from_seed(seeds[32 * index : 32 * (index + 1)])
        assert pks[index] == pair.verification_key
        assert pair.signing_key.equals(pairs.signing_keys.row(index, SIG44.SK_BYTES))
        with drawing_from(rnds[32 * index : 32 * (index + 1)]):
            assert signatures[index] == SIG44.sign(pair.signing_key, messages[index], context=b"c")
        SIG44.verify(pks[index], messages[index], signatures[index], context=b"c")


@SCHEMES
@pytest.mark.parametrize("count", [1, 2, 9, 33])
def test_one_bad_signature_fails_alone(scheme, count):
    """A wrong signature, message or key is found at its row and nowhere else."""
    pairs = scheme.generate_many(count)
    messages = [b"message %d" % index for index in range(count)]
    signed = scheme.sign_many(pairs.signing_keys, messages, context=b"")
    for bad in range(count):
        expected = [index == bad for index in range(count)]
        altered = bytearray(signed.signatures)
        altered[bad * scheme.SIG_BYTES + 40] ^= 1
        others = [*messages[:bad], b"other", *messages[bad + 1 :]]
        keys = bytearray(pairs.verification_keys)
        keys[bad * scheme.PK_BYTES + 40] ^= 1
        for arguments in (
            (pairs.verification_keys, messages, altered),
            (pairs.verification_keys, others, signed.signatures),
            (keys, messages, signed.signatures),
        ):
            assert expected == [row != 0 for row in scheme.verify_many(*arguments, context=b"")]


def test_randomness_that_ends_costs_only_the_rows_it_lacks():
    """When the hedge's source ends within a batch, the rows before stand and the rest are zero, with a status."""
    pair = SIG44.generate_from_seed(bytes(32))
    with drawing_from(bytes(32 * 2 + 31)):
        signed = SIG44.sign_many(pair.signing_key, [b"m"] * 4, context=b"")
    assert [0, 0] == list(signed.status[:2])
    assert all(signed.status[2:])
    assert [0, 0] == list(SIG44.verify_many(pair.verification_key, [b"m"] * 4, signed.signatures, context=b"")[:2])
    assert not any(signed.signatures[2 * SIG44.SIG_BYTES :])


def test_one_key_for_all_rows():
    """One row of key serves all messages, in signing and in verification."""
    pair = SIG87.generate()
    messages = [b"", b"a", b"ab" * 5000]
    signed = SIG87.sign_many(pair.signing_key, messages, context=b"")
    assert (
        bytes(3) == signed.status == SIG87.verify_many(pair.verification_key, messages, signed.signatures, context=b"")
    )
    for index, message in enumerate(messages):
        SIG87.verify(pair.verification_key, message, rows_of(signed.signatures, SIG87.SIG_BYTES)[index], context=b"")


@SCHEMES
def test_signing_is_hedged(scheme):
    """Two signatures of one message differ, and both verify."""
    pair = scheme.generate()
    first, second = (scheme.sign(pair.signing_key, b"m", context=b"") for _ in range(2))
    assert first != second
    for signature in (first, second):
        scheme.verify(pair.verification_key, b"m", signature, context=b"")


@SCHEMES
def test_contexts_separate(scheme):
    """A signature holds under its own context only, and contexts of 0 to 255 bytes work."""
    pair = scheme.generate()
    for context in (b"", b"\x00", b"qflare", bytes(CONTEXT_MAX)):
        signature = scheme.sign(pair.signing_key, b"m", context=context)
        scheme.verify(pair.verification_key, b"m", signature, context=context)
        for other in {b"", b"\x00", b"qflarf", bytes(CONTEXT_MAX - 1)} - {context}:
            with pytest.raises(AuthenticationError):
                scheme.verify(pair.verification_key, b"m", signature, context=other)
    for call in (
        lambda: scheme.sign(pair.signing_key, b"m", context=bytes(256)),
        lambda: scheme.verify(pair.verification_key, b"m", signature, context=bytes(256)),
        lambda: scheme.sign_many(pair.signing_key, [], context=bytes(256)),
    ):
        with pytest.raises(LengthError, match="context must be at most 255 bytes"):
            call()


def test_every_byte_of_a_signature_matters():
    """A change in any byte of a signature is refused."""
    pair = SIG44.generate_from_seed(bytes(32))
    signature = SIG44.sign(pair.signing_key, b"m", context=b"")
    altered = bytearray(signature * SIG44.SIG_BYTES)
    for at in range(SIG44.SIG_BYTES):
        altered[at * SIG44.SIG_BYTES + at] ^= 1 << at % 8
    status = SIG44.verify_many(pair.verification_key, [b"m"] * SIG44.SIG_BYTES, altered, context=b"")
    assert all(status)
    assert len(status) == SIG44.SIG_BYTES


@SCHEMES
def test_agrees_with_an_independent_implementation(scheme):
    """OpenSSL's ML-DSA, through `cryptography`, gives the same keys, accepts our signatures, and we accept its."""
    private, public = ORACLES[scheme.parameter_set]
    for number in range(4):
        seed = random.Random(number).randbytes(32)
        ours, theirs = scheme.generate_from_seed(seed), private.from_seed_bytes(seed)
        assert theirs.public_key().public_bytes_raw() == ours.verification_key
        key = public.from_public_bytes(ours.verification_key)
        signature = scheme.sign(ours.signing_key, b"message", context=b"ctx")
        key.verify(signature, b"message", b"ctx")
        with pytest.raises(InvalidSignature):
            key.verify(signature, b"message", b"")
        scheme.verify(ours.verification_key, b"message", theirs.sign(b"message", b"ctx"), context=b"ctx")


@SCHEMES
def test_wrong_sizes_are_refused(scheme):
    """Wrong keys are named with the size they must have; a signature of a wrong size is simply not authentic."""
    pair = scheme.generate()
    signature = scheme.sign(pair.signing_key, b"m", context=b"")
    with pytest.raises(LengthError, match="seed must be 32 bytes"):
        scheme.generate_from_seed(bytes(33))
    with pytest.raises(LengthError, match=f"signing key must be {scheme.SK_BYTES} bytes"):
        scheme.sign(bytes(scheme.SK_BYTES - 1), b"m", context=b"")
    with pytest.raises(LengthError, match=f"verification key must be {scheme.PK_BYTES} bytes"):
        scheme.verify(bytes(scheme.PK_BYTES + 1), b"m", signature, context=b"")
    for wrong in (b"", signature[:-1], signature + b"\x00"):
        with pytest.raises(AuthenticationError):
            scheme.verify(pair.verification_key, b"m", wrong, context=b"")
    with pytest.raises(BatchError):
        scheme.sign_many(bytes(pair.signing_key.view()) * 2, [b"m"] * 3, context=b"")
    with pytest.raises(BatchError):
        scheme.verify_many(pair.verification_key, [b"m"] * 2, signature, context=b"")
    with pytest.raises(UsageError):
        scheme.sign(pair.signing_key, "text", context=b"")


@SCHEMES
@pytest.mark.parametrize("count", [-1, 65_537, 2**31, 2**63])
def test_huge_counts_are_refused_before_allocation(scheme, count):
    """A count no machine can serve is refused by name of its limit, at once."""
    with pytest.raises(BatchError, match="65536"):
        scheme.generate_many(count)


def test_buffers_of_every_kind():
    """Arrays, views and bytearrays are as good as bytes."""
    pair = SIG44.generate_from_seed(bytes(32))
    message = np.arange(10, dtype=np.float64)
    with drawing_from(bytes(64)):
        signature = SIG44.sign(pair.signing_key, message, context=b"")
        assert signature == SIG44.sign(bytearray(pair.signing_key.view()), message.tobytes(), context=b"")
    SIG44.verify(np.frombuffer(pair.verification_key, np.uint8), message, memoryview(signature), context=b"")


def test_keys_from_seeds_are_refused_where_liboqs_draws_otherwise(monkeypatch):
    """If the self-test found that liboqs does not draw the seed, asking for such a key says so."""
    assert SIG44.has_keys_from_seed()
    monkeypatch.setitem(native.SELF_TEST, "ML-DSA-44 key from seed", False)
    assert not SIG44.has_keys_from_seed()
    for call in (lambda: SIG44.generate_from_seed(bytes(32)), lambda: SIG44.generate_from_seeds_many(bytes(64))):
        with pytest.raises(UnsupportedAlgorithmError, match="expanded"):
            call()
    SIG87.generate_from_seed(bytes(32))
