"""What no vector file proves: FIPS 203 sections 7.2 and 7.3, and implicit rejection for every byte of a ciphertext."""

import hashlib

import pytest

from qflare.errors import KeyCheckError
from qflare.primitives import kem

Q = 3329
SEED = bytes(range(64))


def encoded(coefficients):
    """ByteEncode12 (FIPS 203, Algorithm 5) of a vector of coefficients."""
    whole = sum(value << (12 * index) for index, value in enumerate(coefficients))
    return whole.to_bytes(len(coefficients) * 12 // 8, "little")


@pytest.mark.parametrize("value", [Q - 1, Q, Q + 1, 4095])
def test_modulus_check_at_every_coefficient(value):
    """A coefficient of q or more is refused wherever it stands in the key; q - 1 is accepted."""
    ek = kem.generate_from_seed(SEED).encapsulation_key
    keys = []
    for index in range(1024):
        at = index * 12 // 8
        low, high = ek[at : at + 2], ek[at : at + 2]
        pair = int.from_bytes(low, "little")
        pair = (pair & 0x000F | value << 4) if index % 2 else (pair & 0xF000 | value)
        high = pair.to_bytes(2, "little")
        keys.append(ek[:at] + high + ek[at + 2 :])
    status = kem.check_encapsulation_keys_many(keys)
    assert [value >= Q] * 1024 == [row != 0 for row in status]
    made = kem.encapsulate_many(keys)
    assert list(status) == list(made.status)


def test_modulus_check_of_whole_vectors():
    """Only the polynomials are checked: the 32 bytes of rho may be anything."""
    highest, rho = encoded([Q - 1] * 1024), b"\xff" * 32
    kem.check_encapsulation_key(highest + rho)
    for count in (1, 2, 3, 512):
        with pytest.raises(KeyCheckError):
            kem.check_encapsulation_key(encoded([Q] * count + [0] * (1024 - count)) + rho)


def test_hash_check_at_every_byte_of_key_and_hash():
    """A change in any byte of the ek inside dk, or of its hash, is refused; dk_PKE and z are not covered by 7.3."""
    dk = bytes(kem.generate_from_seed(SEED).decapsulation_key.view())
    ct = kem.encapsulate(kem.generate_from_seed(SEED).encapsulation_key).ciphertext
    first, last = 1536, kem.DK_BYTES - 32
    for at in range(kem.DK_BYTES):
        altered = bytearray(dk)
        altered[at] ^= 1 << at % 8
        if first <= at < last:
            with pytest.raises(KeyCheckError):
                kem.check_decapsulation_key(altered)
            with pytest.raises(KeyCheckError):
                kem.decapsulate(altered, ct)
        else:
            kem.check_decapsulation_key(altered)


def test_implicit_rejection_at_every_byte():
    """A change in any byte of a ciphertext gives exactly J(z || c), the same in every form of decapsulation."""
    pair = kem.generate_from_seed(SEED)
    made = kem.encapsulate(pair.encapsulation_key)
    z = SEED[32:]
    altered = []
    for at in range(kem.CT_BYTES):
        ct = bytearray(made.ciphertext)
        ct[at] ^= 1 << at % 8
        altered.append(bytes(ct))
    # SPEC: FIPS 203, Algorithm 18, step 7: K-bar = J(z || c), with J = SHAKE256 to 32 bytes.
    expected = b"".join(hashlib.shake_256(z + ct).digest(32) for ct in altered)
    assert kem.decapsulate_one_key(pair.decapsulation_key, altered).equals(expected)
    many = kem.decapsulate_many([pair.decapsulation_key] * len(altered), altered)
    assert many.shared_secrets.equals(expected)
    assert not any(many.status)
    assert len({expected[at : at + 32] for at in range(0, len(expected), 32)}) == kem.CT_BYTES
    assert kem.decapsulate(pair.decapsulation_key, made.ciphertext).equals(made.shared_secret)
