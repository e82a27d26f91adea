"""ML-KEM-1024 batches of the C core. Counts and sizes are checked here, before anything is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare._native._qflare import lib
from qflare._native.border import check, readable, require_count, require_size, writable
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

EK_BYTES: Final[int] = int(lib.QFL_KEM1024_EK_BYTES)
DK_BYTES: Final[int] = int(lib.QFL_KEM1024_DK_BYTES)
CT_BYTES: Final[int] = int(lib.QFL_KEM1024_CT_BYTES)
SS_BYTES: Final[int] = int(lib.QFL_KEM1024_SS_BYTES)
SEED_BYTES: Final[int] = int(lib.QFL_KEM1024_SEED_BYTES)


def keygen_batch(count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Generate *count* key pairs: ek rows, dk rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
    """
    require_count(count)
    ek, secret, status = bytearray(count * EK_BYTES), SecretBytes.zeros(count * DK_BYTES), bytearray(count)
    check(
        lib.qfl_kem1024_keygen_batch(writable(ek), writable(secret.view()), writable(status), count),
        "ML-KEM key generation",
    )
    return ek, secret, bytes(status)


def keygen_seeded_batch(seeds: memoryview, count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Generate *count* key pairs from *seeds*, d || z each.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *seeds* is not ``count × 64`` bytes.
    """
    require_count(count)
    require_size("seeds", seeds, count * SEED_BYTES)
    ek, secret, status = bytearray(count * EK_BYTES), SecretBytes.zeros(count * DK_BYTES), bytearray(count)
    result = lib.qfl_kem1024_keygen_seeded_batch(
        writable(ek), writable(secret.view()), writable(status), readable(seeds), count
    )
    check(result, "ML-KEM key generation from a seed")
    return ek, secret, bytes(status)


def encaps_batch(eks: memoryview, count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Encapsulate to each of *count* keys: ct rows, ss rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *eks* is not ``count × 1568`` bytes.
    """
    require_count(count)
    require_size("encapsulation keys", eks, count * EK_BYTES)
    ct, secret, status = bytearray(count * CT_BYTES), SecretBytes.zeros(count * SS_BYTES), bytearray(count)
    result = lib.qfl_kem1024_encaps_batch(writable(ct), writable(secret.view()), writable(status), readable(eks), count)
    check(result, "ML-KEM encapsulation")
    return ct, secret, bytes(status)


def decaps_batch(dks: memoryview, cts: memoryview, count: int) -> tuple[SecretBytes, bytes]:
    """
    Decapsulate *count* ciphertexts, each with its own key: ss rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *dks* or *cts* has another size than *count* rows.
    """
    require_count(count)
    require_size("decapsulation keys", dks, count * DK_BYTES)
    require_size("ciphertexts", cts, count * CT_BYTES)
    secret, status = SecretBytes.zeros(count * SS_BYTES), bytearray(count)
    result = lib.qfl_kem1024_decaps_batch(
        writable(secret.view()), writable(status), readable(dks), readable(cts), count
    )
    check(result, "ML-KEM decapsulation")
    return secret, bytes(status)


def decaps_one_key(dk: Buffer | SecretBytes, cts: memoryview, count: int) -> SecretBytes:
    """
    Decapsulate *count* ciphertexts under one key.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *dk* or *cts* has the wrong size.
        KeyCheckError: *dk* fails the hash check of FIPS 203, section 7.3.
    """
    require_count(count)
    key = dk.view() if isinstance(dk, SecretBytes) else memoryview(dk)
    require_size("decapsulation key", key, DK_BYTES)
    require_size("ciphertexts", cts, count * CT_BYTES)
    secret = SecretBytes.zeros(count * SS_BYTES)
    check(
        lib.qfl_kem1024_decaps_one_key(writable(secret.view()), readable(key), readable(cts), count),
        "ML-KEM decapsulation",
    )
    return secret


def check_ek_batch(eks: memoryview, count: int) -> bytes:
    """
    Check *count* encapsulation keys (FIPS 203, section 7.2): a status byte a row.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *eks* is not ``count × 1568`` bytes.
    """
    require_count(count)
    require_size("encapsulation keys", eks, count * EK_BYTES)
    status = bytearray(count)
    check(lib.qfl_kem1024_check_ek_batch(writable(status), readable(eks), count), "ML-KEM key check")
    return bytes(status)


def check_dk_batch(dks: memoryview, count: int) -> bytes:
    """
    Check *count* decapsulation keys (FIPS 203, section 7.3): a status byte a row.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *dks* is not ``count × 3168`` bytes.
    """
    require_count(count)
    require_size("decapsulation keys", dks, count * DK_BYTES)
    status = bytearray(count)
    check(lib.qfl_kem1024_check_dk_batch(writable(status), readable(dks), count), "ML-KEM key check")
    return bytes(status)
