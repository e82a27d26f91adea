"""
ML-KEM-1024 of `csrc/lanes`: many items at once, in vectors of AVX-512, AVX2, or of the compiler's own.

It gives the bytes that liboqs gives; `kem_agreement` compares them before the engine is chosen.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from qflare._native._qflare import lib
from qflare._native.border import check, readable, require_count, require_size, writable
from qflare.errors import UsageError
from qflare.secret import SecretBytes, SecretMemory

if TYPE_CHECKING:
    from typing_extensions import Buffer

_DK_BYTES: Final[int] = int(lib.QFL_KEM1024_DK_BYTES)
_EK_BYTES: Final[int] = int(lib.QFL_KEM1024_EK_BYTES)
_CT_BYTES: Final[int] = int(lib.QFL_KEM1024_CT_BYTES)
_SS_BYTES: Final[int] = int(lib.QFL_KEM1024_SS_BYTES)
_SEED_BYTES: Final[int] = int(lib.QFL_KEM1024_SEED_BYTES)
_CONTEXT_BYTES: Final[int] = int(lib.QFL_KEM1024_CONTEXT_BYTES)
_SCRATCH_BYTES: Final[int] = int(lib.QFL_KEM1024_SCRATCH_BYTES)

# WHY kept by the thread: half a megabyte is not to be laid out for every call. C leaves it zero.
_scratch = threading.local()


def items() -> int:
    """
    Return how many items go through the engine together.

    32 with AVX-512, 16 with AVX2, 8 with neither; 0 where there is no engine: in the wheel for devices and on a
    machine that is not little-endian.
    """
    return int(lib.qfl_kem1024_lanes_items())


def keygen_batch(count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Generate *count* key pairs: ek rows, dk rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
        UsageError: this machine has no engine.
    """
    require_count(count)
    scratch = _scratch_memory()
    ek, dk, status = bytearray(count * _EK_BYTES), SecretMemory(count * _DK_BYTES), bytearray(count)
    check(
        lib.qfl_kem1024_lanes_keygen_batch(writable(ek), writable(dk), writable(status), writable(scratch), count),
        "ML-KEM key generation",
    )
    return ek, SecretBytes.owning(dk), bytes(status)


def keygen_seeded_batch(seeds: memoryview, count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Generate *count* key pairs from *seeds*, d || z each.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *seeds* is not ``count × 64`` bytes.
        UsageError: this machine has no engine.
    """
    require_count(count)
    require_size("seeds", seeds, count * _SEED_BYTES)
    scratch = _scratch_memory()
    ek, dk, status = bytearray(count * _EK_BYTES), SecretMemory(count * _DK_BYTES), bytearray(count)
    check(
        lib.qfl_kem1024_lanes_keygen_seeded_batch(
            writable(ek), writable(dk), writable(status), writable(scratch), readable(seeds), count
        ),
        "ML-KEM key generation from a seed",
    )
    return ek, SecretBytes.owning(dk), bytes(status)


def encaps_batch(eks: memoryview, count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Encapsulate to each of *count* keys: ct rows, ss rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *eks* is not ``count × 1568`` bytes.
        UsageError: this machine has no engine.
    """
    require_count(count)
    require_size("encapsulation keys", eks, count * _EK_BYTES)
    scratch = _scratch_memory()
    ct, ss, status = bytearray(count * _CT_BYTES), SecretMemory(count * _SS_BYTES), bytearray(count)
    check(
        lib.qfl_kem1024_lanes_encaps_batch(
            writable(ct), writable(ss), writable(status), writable(scratch), readable(eks), count
        ),
        "ML-KEM encapsulation",
    )
    return ct, SecretBytes.owning(ss), bytes(status)


def decaps_batch(dks: memoryview, cts: memoryview, count: int) -> tuple[SecretBytes, bytes]:
    """
    Decapsulate *count* ciphertexts, each with its own key: ss rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *dks* or *cts* has another size than *count* rows.
        UsageError: this machine has no engine.
    """
    require_count(count)
    require_size("decapsulation keys", dks, count * _DK_BYTES)
    require_size("ciphertexts", cts, count * _CT_BYTES)
    scratch = _scratch_memory()
    ss, status = SecretMemory(count * _SS_BYTES), bytearray(count)
    check(
        lib.qfl_kem1024_lanes_decaps_batch(
            writable(ss), writable(status), writable(scratch), readable(dks), readable(cts), count
        ),
        "ML-KEM decapsulation",
    )
    return SecretBytes.owning(ss), bytes(status)


def expand(dk: Buffer | SecretBytes) -> SecretBytes:
    """
    Expand *dk*, 3168 bytes, for any number of calls of `decaps`; the caller wipes what it gets.

    Raises:
        LengthError: *dk* has another size.
        KeyCheckError: it fails the hash check of FIPS 203, section 7.3.
    """
    key = dk.view() if isinstance(dk, SecretBytes) else memoryview(dk)
    require_size("decapsulation key", key, _DK_BYTES)
    context = SecretMemory(_CONTEXT_BYTES)
    check(lib.qfl_kem1024_lanes_expand(writable(context), readable(key)), "ML-KEM key expansion")
    return SecretBytes.owning(context)


def decaps(context: SecretBytes, cts: memoryview, count: int) -> SecretBytes:
    """
    Decapsulate *count* ciphertexts under the key that `expand` laid out.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *context* or *cts* has the wrong size.
        UsageError: this machine has no engine.
    """
    require_count(count)
    expanded = context.view()
    require_size("expanded key", expanded, _CONTEXT_BYTES)
    require_size("ciphertexts", cts, count * _CT_BYTES)
    scratch = _scratch_memory()
    ss = SecretMemory(count * _SS_BYTES)
    check(
        lib.qfl_kem1024_lanes_decaps(writable(ss), writable(scratch), readable(expanded), readable(cts), count),
        "ML-KEM decapsulation",
    )
    return SecretBytes.owning(ss)


def _scratch_memory() -> SecretMemory:
    if items() == 0:
        raise UsageError("this build or this machine has no lanes engine of ML-KEM-1024; use liboqs")
    scratch: SecretMemory | None = getattr(_scratch, "memory", None)
    if scratch is None:
        scratch = _scratch.memory = SecretMemory(_SCRATCH_BYTES)
    return scratch
