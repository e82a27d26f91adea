"""ML-KEM-1024: batches against single calls, bad rows, sizes, buffers."""

import random

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey, MLKEM1024PublicKey

from qflare.errors import BatchError, EntropyError, KeyCheckError, LengthError, UsageError
from qflare.primitives import kem
from qflare.primitives.random import drawing_from
from qflare.secret import SecretBytes

SIZES = (0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 1000)
BAD_EK = b"\xff" * 3 + bytes(kem.EK_BYTES - 3)  # the first two coefficients are 4095


def rows_of(buffer, size):
    """Split row-major bytes."""
    view = buffer.view() if isinstance(buffer, SecretBytes) else memoryview(buffer)
    return [bytes(view[at : at + size]) for at in range(0, len(view), size)]


@pytest.mark.parametrize("count", SIZES)
def test_batch_equals_single(count):
    """A batch gives byte for byte what single calls give from the same randomness."""
    stream = random.Random(count).randbytes(count * 96)
    seeds, ms = stream[: count * 64], stream[count * 64 :]
    pairs = kem.generate_from_seeds_many(seeds)
    with drawing_from(seeds):
        drawn = kem.generate_many(count)
    with drawing_from(ms):
        made = kem.encapsulate_many(pairs.encapsulation_keys)
    opened = kem.decapsulate_many(pairs.decapsulation_keys, made.ciphertexts)
    assert bytes(count) == pairs.status == drawn.status == made.status == opened.status
    assert pairs.encapsulation_keys == drawn.encapsulation_keys
    assert pairs.decapsulation_keys.equals(drawn.decapsulation_keys)
    assert opened.shared_secrets.equals(made.shared_secrets)
    assert bytes(count) == kem.check_encapsulation_keys_many(pairs.encapsulation_keys)

    eks, dks = rows_of(pairs.encapsulation_keys, kem.EK_BYTES), rows_of(pairs.decapsulation_keys, kem.DK_BYTES)
    cts, secrets = rows_of(made.ciphertexts, kem.CT_BYTES), rows_of(made.shared_secrets, kem.SS_BYTES)
    assert count == len(eks) == len(dks) == len(cts) == len(secrets)
    for index in range(count):
        pair = kem.generate_from_seed(seeds[index * 64 : (index + 1) * 64])
        assert (eks[index], True) == (pair.encapsulation_key, pair.decapsulation_key.equals(dks[index]))
        with drawing_from(ms[index * 32 : (index + 1) * 32]):
            one = kem.encapsulate(eks[index])
        assert (cts[index], True) == (one.ciphertext, one.shared_secret.equals(secrets[index]))
        assert kem.decapsulate(dks[index], cts[index]).equals(secrets[index])
    if count:
        under_one = kem.decapsulate_one_key(dks[0], made.ciphertexts)
        singles = b"".join(bytes(kem.decapsulate(dks[0], ct).view()) for ct in cts)
        assert under_one.equals(singles)


@pytest.mark.parametrize("count", [1, 2, 9, 33])
def test_one_bad_key_fails_alone(count):
    """An encapsulation key that fails section 7.2 gives a zero row and a status; its neighbours stand."""
    pairs = kem.generate_many(count)
    eks = rows_of(pairs.encapsulation_keys, kem.EK_BYTES)
    ms = random.Random(count).randbytes(32 * count)
    with drawing_from(ms):
        good = rows_of(kem.encapsulate_many(eks).ciphertexts, kem.CT_BYTES)
    for bad in range(count):
        with_bad = [*eks[:bad], BAD_EK, *eks[bad + 1 :]]
        # The bad row draws nothing, so the others see the same m only if its 32 bytes are left out.
        with drawing_from(ms[: 32 * bad] + ms[32 * (bad + 1) :]):
            made = kem.encapsulate_many(with_bad)
        assert [index == bad for index in range(count)] == [status != 0 for status in made.status]
        expected = [*good[:bad], bytes(kem.CT_BYTES), *good[bad + 1 :]]
        assert expected == rows_of(made.ciphertexts, kem.CT_BYTES)
        assert bytes(32) == bytes(made.shared_secrets.row(bad, 32))
        assert list(made.status) == list(kem.check_encapsulation_keys_many(with_bad))


@pytest.mark.parametrize("count", [1, 2, 9])
def test_one_bad_decapsulation_key_fails_alone(count):
    """A decapsulation key that fails section 7.3 gives a zero row and a status; its neighbours stand."""
    pairs = kem.generate_many(count)
    dks = rows_of(pairs.decapsulation_keys, kem.DK_BYTES)
    made = kem.encapsulate_many(pairs.encapsulation_keys)
    secrets = rows_of(made.shared_secrets, 32)
    for bad in range(count):
        altered = bytearray(dks[bad])
        altered[-64] ^= 1
        opened = kem.decapsulate_many([*dks[:bad], altered, *dks[bad + 1 :]], made.ciphertexts)
        assert [index == bad for index in range(count)] == [status != 0 for status in opened.status]
        assert [*secrets[:bad], bytes(32), *secrets[bad + 1 :]] == rows_of(opened.shared_secrets, 32)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_randomness_that_ends_costs_only_the_rows_it_lacks(count):
    """When the source ends in the middle of a batch, the rows before stand and the rest are zero, with a status."""
    seeds = random.Random(7).randbytes(64 * count)
    whole = kem.generate_from_seeds_many(seeds)
    for enough in range(count):
        with drawing_from(seeds[: 64 * enough + 63]):
            pairs = kem.generate_many(count)
        assert [0] * enough == list(pairs.status[:enough])
        assert all(pairs.status[enough:])
        assert whole.encapsulation_keys[: enough * kem.EK_BYTES] == pairs.encapsulation_keys[: enough * kem.EK_BYTES]
        assert not any(pairs.encapsulation_keys[enough * kem.EK_BYTES :])
        assert not any(pairs.decapsulation_keys.view()[enough * kem.DK_BYTES :])


@pytest.mark.parametrize(
    "count", [-1, 65_537, 2**31 // 1568 - 1, 2**31 // 1568 + 1, 2**32 // 3168 - 1, 2**32 // 3168 + 1, 2**63, 2**64]
)
def test_huge_counts_are_refused_before_allocation(count):
    """A count no machine can serve is refused by name of its limit, at once."""
    with pytest.raises(BatchError, match="65536"):
        kem.generate_many(count)


@pytest.mark.parametrize("count", [None, "3", 3.0, True])
def test_counts_that_are_no_integers_are_refused(count):
    """A count must be an integer."""
    with pytest.raises(BatchError, match="integer"):
        kem.generate_many(count)


def test_too_many_rows_are_refused():
    """More rows than a call takes are refused before anything is made of them."""
    with pytest.raises(BatchError, match="65536"):
        kem.generate_from_seeds_many(bytes(64 * 65_537))
    key = bytes(kem.EK_BYTES)
    with pytest.raises(BatchError, match="65536"):
        kem.encapsulate_many([key] * (2**31 // kem.EK_BYTES + 1))  # two gigabytes, if they were laid out


def test_wrong_sizes_are_refused():
    """Each argument of a wrong size is named with the size it must have."""
    pair = kem.generate()
    made = kem.encapsulate(pair.encapsulation_key)
    for size in (0, 1, 63, 65):
        with pytest.raises(LengthError, match="seed must be 64 bytes"):
            kem.generate_from_seed(bytes(size))
    for size in (0, 1567, 1569):
        with pytest.raises(LengthError, match="encapsulation key must be 1568 bytes"):
            kem.encapsulate(bytes(size))
        with pytest.raises(LengthError, match="ciphertext must be 1568 bytes"):
            kem.decapsulate(pair.decapsulation_key, bytes(size))
        with pytest.raises(LengthError, match="encapsulation key must be 1568 bytes"):
            kem.check_encapsulation_key(bytes(size))
    for size in (0, 3167, 3169):
        for call in (kem.decapsulate, kem.decapsulate_one_key):
            with pytest.raises(LengthError, match="decapsulation key must be 3168 bytes"):
                call(bytes(size), made.ciphertext)
        with pytest.raises(LengthError, match="decapsulation key must be 3168 bytes"):
            kem.check_decapsulation_key(bytes(size))
    with pytest.raises(LengthError, match="a multiple of 1568"):
        kem.encapsulate_many(bytes(1569))
    with pytest.raises(LengthError):
        kem.encapsulate_many([pair.encapsulation_key, bytes(5)])
    with pytest.raises(BatchError, match="rows"):
        kem.decapsulate_many(pair.decapsulation_key, made.ciphertext * 2)


@pytest.mark.parametrize("value", [None, 5, "text", object()])
def test_values_that_are_no_buffers_are_refused(value):
    """A value of a wrong type is a usage error that names the type."""
    with pytest.raises(UsageError, match=type(value).__name__):
        kem.encapsulate(value)
    with pytest.raises(UsageError):
        kem.decapsulate_many(value, value)


def test_every_kind_of_buffer_is_accepted():
    """bytes, bytearray, memoryview, numpy arrays of any shape and sequences of buffers all give the same."""
    pairs = kem.generate_from_seeds_many(random.Random(1).randbytes(64 * 4))
    eks = bytes(pairs.encapsulation_keys)
    array = np.frombuffer(eks, dtype=np.uint8).reshape(4, kem.EK_BYTES)
    forms = [eks, bytearray(eks), memoryview(eks), array, array.view(np.uint64), list(array), rows_of(eks, 1568)]
    m = bytes(32 * 4)
    expected = None
    for form in forms:
        with drawing_from(m):
            made = kem.encapsulate_many(form)
        expected = expected or made.ciphertexts
        assert expected == made.ciphertexts
    with pytest.raises(UsageError, match="contiguous"):
        kem.encapsulate_many(np.zeros((4, kem.EK_BYTES * 2), dtype=np.uint8)[:, ::2])
    rows = [SecretBytes(bytearray(row)) for row in rows_of(pairs.decapsulation_keys, kem.DK_BYTES)]
    assert kem.decapsulate_many(rows, expected).shared_secrets.equals(made.shared_secrets)


def test_inputs_are_never_written_to():
    """What was passed in is the same afterwards."""
    pair = kem.generate()
    made = kem.encapsulate(pair.encapsulation_key)
    inputs = [bytes(64), pair.encapsulation_key, bytes(pair.decapsulation_key.view()), made.ciphertext]
    copies = [bytes(bytearray(value)) for value in inputs]
    kem.generate_from_seed(inputs[0])
    kem.encapsulate(inputs[1])
    kem.decapsulate(inputs[2], inputs[3])
    kem.decapsulate_one_key(inputs[2], inputs[3])
    assert copies == inputs


def test_agrees_with_an_independent_implementation():
    """OpenSSL's ML-KEM-1024, through `cryptography`, gives the same keys and opens what we make, and the reverse."""
    for number in range(8):
        seed = random.Random(number).randbytes(64)
        ours = kem.generate_from_seed(seed)
        theirs = MLKEM1024PrivateKey.from_seed_bytes(seed)
        assert theirs.public_key().public_bytes_raw() == ours.encapsulation_key
        made = kem.encapsulate(ours.encapsulation_key)
        assert made.shared_secret.equals(theirs.decapsulate(made.ciphertext))
        secret, ciphertext = MLKEM1024PublicKey.from_public_bytes(ours.encapsulation_key).encapsulate()
        assert kem.decapsulate(ours.decapsulation_key, ciphertext).equals(secret)
        altered = bytearray(ciphertext)
        altered[number * 100] ^= 1 << number
        assert kem.decapsulate(ours.decapsulation_key, altered).equals(theirs.decapsulate(bytes(altered)))


def test_key_check_error_for_single_calls():
    """A single call raises what a batch says in its status."""
    with pytest.raises(KeyCheckError, match=r"7\.2"):
        kem.encapsulate(BAD_EK)
    with pytest.raises(KeyCheckError):
        kem.check_encapsulation_key(BAD_EK)
    with pytest.raises(KeyCheckError):
        kem.decapsulate_one_key(bytes(kem.DK_BYTES), bytes(kem.CT_BYTES))
    with pytest.raises(KeyCheckError):
        kem.decapsulate_one_key(bytes(kem.DK_BYTES), b"")
    with drawing_from(b""), pytest.raises(EntropyError):
        kem.generate()
