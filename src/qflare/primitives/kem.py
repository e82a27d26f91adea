"""
ML-KEM-1024 (FIPS 203): key generation, encapsulation and decapsulation, one at a time and in batches.

Batches are rows behind each other (`qflare.primitives.rows`); a row that fails is all zero, has a status other than 0,
and harms no other row.  A wrong ciphertext is not a failure: decapsulation gives a pseudorandom secret for it (implicit
rejection), and it is the protocol above that finds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from qflare._native import kem as native
from qflare._native import kem_lanes
from qflare._native.border import check, require_count
from qflare.primitives import engine as engines
from qflare.primitives.rows import as_buffer, as_rows, as_view, lent_rows, one_row
from qflare.primitives.stopwatch import begun, ended

if TYPE_CHECKING:
    from qflare.primitives.engine import Engine
    from qflare.primitives.rows import Readable, RowsLike
    from qflare.secret import SecretBytes

NAME: Final = "ML-KEM-1024"
EK_BYTES: Final = native.EK_BYTES
DK_BYTES: Final = native.DK_BYTES
CT_BYTES: Final = native.CT_BYTES
SS_BYTES: Final = native.SS_BYTES
SEED_BYTES: Final = native.SEED_BYTES


# WHY named tuples, here and in `sig`: a frozen dataclass with slots takes half a millisecond to define, which a device
# pays at every start.


class KemKeyPair(NamedTuple):
    """A key pair: ek of 1568 bytes, public; dk of 3168 bytes, which the holder wipes."""

    encapsulation_key: bytes
    decapsulation_key: SecretBytes


class Encapsulated(NamedTuple):
    """What encapsulation gives: the ciphertext of 1568 bytes to send, the secret of 32 bytes to keep."""

    ciphertext: bytes
    shared_secret: SecretBytes


class KemKeyPairs(NamedTuple):
    """n key pairs: n × 1568 bytes of ek, n × 3168 bytes of dk, n status bytes (0 is good)."""

    encapsulation_keys: bytearray
    decapsulation_keys: SecretBytes
    status: bytes


class EncapsulatedMany(NamedTuple):
    """n encapsulations: n × 1568 bytes of ciphertext, n × 32 bytes of secrets, n status bytes (0 is good)."""

    ciphertexts: bytearray
    shared_secrets: SecretBytes
    status: bytes


class DecapsulatedMany(NamedTuple):
    """n decapsulations: n × 32 bytes of secrets, n status bytes (0 is good)."""

    shared_secrets: SecretBytes
    status: bytes


def generate() -> KemKeyPair:
    """
    Generate a key pair.

    Raises:
        EntropyError: the system's random source failed.

    Source: FIPS 203, Algorithm 19.
    """
    return tuple.__new__(KemKeyPair, native.keygen_one())


def generate_from_seed(seed: Readable) -> KemKeyPair:
    """
    Derive the key pair of *seed*, which is d || z, 64 bytes.

    Raises:
        LengthError: *seed* has another size.

    Source: FIPS 203, Algorithm 16.
    """
    ek, dk, status = native.keygen_seeded_batch(one_row(seed, SEED_BYTES, name="seed"), 1)
    check(status[0], "ML-KEM key generation from a seed")
    return KemKeyPair(bytes(ek), dk)


def encapsulate(encapsulation_key: Readable) -> Encapsulated:
    """
    Make a secret and its ciphertext for the holder of the decapsulation key.

    Raises:
        LengthError: *encapsulation_key* is not 1568 bytes.
        KeyCheckError: it fails the modulus check of FIPS 203, section 7.2.
        EntropyError: the system's random source failed.

    Source: FIPS 203, Algorithm 20.
    """
    name = "encapsulation key"
    ek = encapsulation_key if type(encapsulation_key) is bytes else as_view(encapsulation_key, name=name)
    return tuple.__new__(Encapsulated, native.encaps_one(ek))


def decapsulate(decapsulation_key: Readable, ciphertext: Readable) -> SecretBytes:
    """
    Recover the secret of 32 bytes; a wrong ciphertext gives a pseudorandom one (implicit rejection).

    Raises:
        LengthError: the key is not 3168 bytes or the ciphertext not 1568.
        KeyCheckError: the key fails the hash check of FIPS 203, section 7.3.

    Source: FIPS 203, Algorithm 21.
    """
    return native.decaps_one(
        as_buffer(decapsulation_key, name="decapsulation key"), as_buffer(ciphertext, name="ciphertext")
    )


def check_encapsulation_key(encapsulation_key: Readable) -> None:
    """
    Check that every coefficient is reduced modulo q (FIPS 203, section 7.2).

    Raises:
        LengthError: *encapsulation_key* is not 1568 bytes.
        KeyCheckError: it fails the check.
    """
    status = native.check_ek_batch(one_row(encapsulation_key, EK_BYTES, name="encapsulation key"), 1)
    check(status[0], "ML-KEM key check")


def check_decapsulation_key(decapsulation_key: Readable) -> None:
    """
    Check that the key holds the hash of its own encapsulation key (FIPS 203, section 7.3).

    Raises:
        LengthError: *decapsulation_key* is not 3168 bytes.
        KeyCheckError: it fails the check.
    """
    status = native.check_dk_batch(one_row(decapsulation_key, DK_BYTES, name="decapsulation key"), 1)
    check(status[0], "ML-KEM key check")


def generate_many(count: int, *, engine: Engine | None = None) -> KemKeyPairs:
    """
    Generate *count* key pairs in one call, without the GIL.

    Args:
        count: Rows, 0 to 65,536.
        engine: What computes, here and below; None for what the process chose, and liboqs for too few rows to gain.

    Raises:
        BatchError: *count* is not 0 to 65,536; nothing was allocated.
        UsageError: *engine* is the lanes, and this machine has none.
    """
    require_count(count)
    compute = kem_lanes.keygen_batch if engines.is_for_lanes(count, engine) else native.keygen_batch
    began_ns = begun()
    ek, dk, status = compute(count)
    ended("kem-generate", count, began_ns)
    return KemKeyPairs(ek, dk, status)


def generate_from_seeds_many(seeds: RowsLike, *, engine: Engine | None = None) -> KemKeyPairs:
    """
    Derive a key pair from each seed of 64 bytes, the same from every engine.

    Raises:
        LengthError: *seeds* are no whole rows.
        BatchError: too many rows.
        UsageError: *engine* is the lanes, and this machine has none.
    """
    with lent_rows(seeds, SEED_BYTES, name="seeds") as rows:
        count = len(rows) // SEED_BYTES
        compute = kem_lanes.keygen_seeded_batch if engines.is_for_lanes(count, engine) else native.keygen_seeded_batch
        ek, dk, status = compute(rows, count)
    return KemKeyPairs(ek, dk, status)


def encapsulate_many(encapsulation_keys: RowsLike, *, engine: Engine | None = None) -> EncapsulatedMany:
    """
    Encapsulate to each key; a key that fails the modulus check of section 7.2 fails alone.

    Raises:
        LengthError: *encapsulation_keys* are no whole rows.
        BatchError: too many rows.
        UsageError: *engine* is the lanes, and this machine has none.
    """
    rows = as_rows(encapsulation_keys, EK_BYTES, name="encapsulation keys")
    count = len(rows) // EK_BYTES
    compute = kem_lanes.encaps_batch if engines.is_for_lanes(count, engine) else native.encaps_batch
    began_ns = begun()
    ct, ss, status = compute(rows, count)
    ended("kem-encapsulate", count, began_ns)
    return EncapsulatedMany(ct, ss, status)


def decapsulate_many(
    decapsulation_keys: RowsLike, ciphertexts: RowsLike, *, engine: Engine | None = None
) -> DecapsulatedMany:
    """
    Decapsulate row by row; a key that fails the hash check of section 7.3 fails alone.

    Raises:
        LengthError: *decapsulation_keys* or *ciphertexts* are no whole rows.
        BatchError: too many rows, or not as many keys as ciphertexts.
        UsageError: *engine* is the lanes, and this machine has none.
    """
    cts = as_rows(ciphertexts, CT_BYTES, name="ciphertexts")
    count = len(cts) // CT_BYTES
    with lent_rows(decapsulation_keys, DK_BYTES, name="decapsulation keys", count=count) as dks:
        compute = kem_lanes.decaps_batch if engines.is_for_lanes(count, engine) else native.decaps_batch
        began_ns = begun()
        ss, status = compute(dks, cts, count)
        ended("kem-decapsulate", count, began_ns)
    return DecapsulatedMany(ss, status)


def decapsulate_one_key(
    decapsulation_key: Readable, ciphertexts: RowsLike, *, engine: Engine | None = None
) -> SecretBytes:
    """
    Decapsulate all *ciphertexts* under one key: n × 32 bytes of secrets, the same from every engine.

    Args:
        decapsulation_key: 3168 bytes.
        ciphertexts: n rows of 1568 bytes.
        engine: What computes; None for what the process chose, and liboqs where there are too few rows to gain.

    Raises:
        LengthError: the key is not 3168 bytes, or *ciphertexts* are no whole rows.
        BatchError: too many rows.
        KeyCheckError: the key fails the hash check of FIPS 203, section 7.3.
        UsageError: *engine* is the lanes, and this machine has none.
    """
    dk = one_row(decapsulation_key, DK_BYTES, name="decapsulation key")
    cts = as_rows(ciphertexts, CT_BYTES, name="ciphertexts")
    count = len(cts) // CT_BYTES
    began_ns = begun()
    if engines.is_for_lanes(count, engine):
        with kem_lanes.expand(dk) as context:
            secrets = kem_lanes.decaps(context, cts, count)
    else:
        secrets = native.decaps_one_key(dk, cts, count)
    ended("kem-decapsulate", count, began_ns)
    return secrets


def check_encapsulation_keys_many(encapsulation_keys: RowsLike) -> bytes:
    """
    Check each key as `check_encapsulation_key` does: a status byte a row, 0 for a good one.

    Raises:
        LengthError: *encapsulation_keys* are no whole rows.
        BatchError: too many rows.
    """
    rows = as_rows(encapsulation_keys, EK_BYTES, name="encapsulation keys")
    return native.check_ek_batch(rows, len(rows) // EK_BYTES)
