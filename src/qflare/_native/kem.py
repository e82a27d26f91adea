"""
ML-KEM-1024 of the C core, batches and single operations. Counts and sizes are checked here, before any allocation.

A single operation is a batch of one without a batch's bookkeeping, which would cost more than the border itself: its
public output and its status lie in one block of C memory, and it raises instead of returning a status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qflare._native._qflare import ffi, lib
from qflare._native.border import check, readable, require_count, require_size, writable
from qflare.errors import LengthError
from qflare.secret import SecretBytes, SecretMemory

if TYPE_CHECKING:
    from typing_extensions import Buffer

EK_BYTES: Final[int] = int(lib.QFL_KEM1024_EK_BYTES)
DK_BYTES: Final[int] = int(lib.QFL_KEM1024_DK_BYTES)
CT_BYTES: Final[int] = int(lib.QFL_KEM1024_CT_BYTES)
SS_BYTES: Final[int] = int(lib.QFL_KEM1024_SS_BYTES)
SEED_BYTES: Final[int] = int(lib.QFL_KEM1024_SEED_BYTES)

# Looked up once, and called without `writable` between: here a call counts.
_new: Final[Any] = ffi.new
_from_buffer: Final[Any] = ffi.from_buffer
_unpack: Final[Any] = ffi.unpack
_BYTES: Final[Any] = ffi.typeof("uint8_t[]")
# The output's row with the status byte behind it; as `char`, which CFFI hands out as bytes in one step.
_EK_AND_STATUS: Final[Any] = ffi.typeof(f"char[{EK_BYTES + 1}]")
_CT_AND_STATUS: Final[Any] = ffi.typeof(f"char[{CT_BYTES + 1}]")
_GOOD: Final = b"\0"
_STATUS: Final[Any] = ffi.typeof("uint8_t[1]")


def keygen_one() -> tuple[bytes, SecretBytes]:
    """
    Generate a key pair: ek, dk.

    Raises:
        EntropyError: the random source failed.
        NativeError: liboqs failed.
    """
    ek, dk = _new(_EK_AND_STATUS), SecretMemory(DK_BYTES)
    status = lib.qfl_kem1024_keygen_batch(ek, _from_buffer(_BYTES, dk, True), ek + EK_BYTES, 1)
    if status or ek[EK_BYTES] != _GOOD:
        check(status or ord(ek[EK_BYTES]), "ML-KEM key generation")
    return _unpack(ek, EK_BYTES), SecretBytes.owning(dk)


def encaps_one(ek: Buffer | SecretBytes) -> tuple[bytes, SecretBytes]:
    """
    Encapsulate to *ek*: ct, ss.

    Raises:
        LengthError: *ek* is not 1568 bytes.
        KeyCheckError: it fails the check of FIPS 203, section 7.2.
        EntropyError: the random source failed.
        NativeError: liboqs failed.
    """
    key = readable(ek)
    if len(key) != EK_BYTES:
        raise LengthError("encapsulation key", expected=EK_BYTES, actual=len(key))
    ct, ss = _new(_CT_AND_STATUS), SecretMemory(SS_BYTES)
    status = lib.qfl_kem1024_encaps_batch(ct, _from_buffer(_BYTES, ss, True), ct + CT_BYTES, key, 1)
    if status or ct[CT_BYTES] != _GOOD:
        check(status or ord(ct[CT_BYTES]), "ML-KEM encapsulation")
    return _unpack(ct, CT_BYTES), SecretBytes.owning(ss)


def decaps_one(dk: Buffer | SecretBytes, ct: Buffer | SecretBytes) -> SecretBytes:
    """
    Decapsulate *ct* with *dk*: ss.

    Raises:
        LengthError: *dk* is not 3168 bytes or *ct* not 1568.
        KeyCheckError: *dk* fails the hash check of FIPS 203, section 7.3.
        NativeError: liboqs failed.
    """
    key, ciphertext = readable(dk), readable(ct)
    if len(key) != DK_BYTES:
        raise LengthError("decapsulation key", expected=DK_BYTES, actual=len(key))
    if len(ciphertext) != CT_BYTES:
        raise LengthError("ciphertext", expected=CT_BYTES, actual=len(ciphertext))
    status, ss = _new(_STATUS), SecretMemory(SS_BYTES)
    result = lib.qfl_kem1024_decaps_batch(_from_buffer(_BYTES, ss, True), status, key, ciphertext, 1) or status[0]
    if result:
        check(result, "ML-KEM decapsulation")
    return SecretBytes.owning(ss)


def keygen_batch(count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Generate *count* key pairs: ek rows, dk rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
    """
    require_count(count)
    ek, dk, status = bytearray(count * EK_BYTES), SecretMemory(count * DK_BYTES), bytearray(count)
    check(
        lib.qfl_kem1024_keygen_batch(writable(ek), writable(dk), writable(status), count),
        "ML-KEM key generation",
    )
    return ek, SecretBytes.owning(dk), bytes(status)


def keygen_seeded_batch(seeds: memoryview, count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Generate *count* key pairs from *seeds*, d || z each.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *seeds* is not ``count × 64`` bytes.
    """
    require_count(count)
    require_size("seeds", seeds, count * SEED_BYTES)
    ek, dk, status = bytearray(count * EK_BYTES), SecretMemory(count * DK_BYTES), bytearray(count)
    result = lib.qfl_kem1024_keygen_seeded_batch(writable(ek), writable(dk), writable(status), readable(seeds), count)
    check(result, "ML-KEM key generation from a seed")
    return ek, SecretBytes.owning(dk), bytes(status)


def encaps_batch(eks: memoryview, count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Encapsulate to each of *count* keys: ct rows, ss rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *eks* is not ``count × 1568`` bytes.
    """
    require_count(count)
    require_size("encapsulation keys", eks, count * EK_BYTES)
    ct, ss, status = bytearray(count * CT_BYTES), SecretMemory(count * SS_BYTES), bytearray(count)
    result = lib.qfl_kem1024_encaps_batch(writable(ct), writable(ss), writable(status), readable(eks), count)
    check(result, "ML-KEM encapsulation")
    return ct, SecretBytes.owning(ss), bytes(status)


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
    ss, status = SecretMemory(count * SS_BYTES), bytearray(count)
    result = lib.qfl_kem1024_decaps_batch(writable(ss), writable(status), readable(dks), readable(cts), count)
    check(result, "ML-KEM decapsulation")
    return SecretBytes.owning(ss), bytes(status)


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
    ss = SecretMemory(count * SS_BYTES)
    check(
        lib.qfl_kem1024_decaps_one_key(writable(ss), readable(key), readable(cts), count),
        "ML-KEM decapsulation",
    )
    return SecretBytes.owning(ss)


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
