"""
ML-KEM-1024 of `csrc/lanes`: many ciphertexts under one key at once, on processors with AVX-512 or AVX2.

It gives the bytes that liboqs gives; `require_agreement` compares them before the engine is chosen.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from qflare._native._qflare import lib
from qflare._native.border import check, readable, require_count, require_size, writable
from qflare.errors import SelfTestError, UsageError
from qflare.secret import SecretBytes, SecretMemory

if TYPE_CHECKING:
    from typing_extensions import Buffer

_DK_BYTES: Final[int] = int(lib.QFL_KEM1024_DK_BYTES)
_EK_BYTES: Final[int] = int(lib.QFL_KEM1024_EK_BYTES)
_CT_BYTES: Final[int] = int(lib.QFL_KEM1024_CT_BYTES)
_SS_BYTES: Final[int] = int(lib.QFL_KEM1024_SS_BYTES)
_CONTEXT_BYTES: Final[int] = int(lib.QFL_KEM1024_CONTEXT_BYTES)
_SCRATCH_BYTES: Final[int] = int(lib.QFL_KEM1024_SCRATCH_BYTES)

# WHY kept by the thread: a quarter of a megabyte is not to be laid out for every call. C leaves it zero.
_scratch = threading.local()


def items() -> int:
    """Return how many ciphertexts go through the engine together: 32, 16, or 0 where the processor has no engine."""
    return int(lib.qfl_kem1024_lanes_items())


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
        UsageError: this processor has no engine.
    """
    require_count(count)
    expanded = context.view()
    require_size("expanded key", expanded, _CONTEXT_BYTES)
    require_size("ciphertexts", cts, count * _CT_BYTES)
    if items() == 0:
        raise UsageError("this processor has neither AVX-512 nor AVX2, which the lanes engine needs; use liboqs")
    scratch: SecretMemory | None = getattr(_scratch, "memory", None)
    if scratch is None:
        scratch = _scratch.memory = SecretMemory(_SCRATCH_BYTES)
    ss = SecretMemory(count * _SS_BYTES)
    check(
        lib.qfl_kem1024_lanes_decaps(writable(ss), writable(scratch), readable(expanded), readable(cts), count),
        "ML-KEM decapsulation",
    )
    return SecretBytes.owning(ss)


def require_agreement() -> None:
    """
    Compare the engine with liboqs: a fixed key and a fresh one, their ciphertexts, and altered ones.

    Raises:
        SelfTestError: they differ; nothing falls back to the other.
    """
    widest = items()
    if widest == 0:
        return
    keys = [_key_pair(bytes(range(64))), _key_pair(None)]
    try:
        for ek, dk in keys:
            cts = _ciphertexts(ek)
            count = len(cts) // _CT_BYTES
            expected = bytearray(count * _SS_BYTES)
            check(
                lib.qfl_kem1024_decaps_one_key(writable(expected), readable(dk), readable(cts), count),
                "ML-KEM self-test",
            )
            with expand(dk) as context:
                found = decaps(context, memoryview(cts), count)
            if not found.equals(expected):
                raise SelfTestError(
                    f"the lanes engine ({widest} ciphertexts at once) and liboqs disagree about ML-KEM-1024; "
                    "do not use this build: report the processor, and set QFLARE_ENGINE=liboqs until it is mended"
                )
    finally:
        for _, dk in keys:
            dk[:] = bytes(len(dk))


def _key_pair(seed: bytes | None) -> tuple[bytearray, bytearray]:
    ek, dk, status = bytearray(_EK_BYTES), bytearray(_DK_BYTES), bytearray(1)
    if seed is None:
        result = lib.qfl_kem1024_keygen_batch(writable(ek), writable(dk), writable(status), 1)
    else:
        result = lib.qfl_kem1024_keygen_seeded_batch(writable(ek), writable(dk), writable(status), readable(seed), 1)
    check(result or status[0], "ML-KEM self-test")
    return ek, dk


def _ciphertexts(ek: bytearray) -> bytes:
    """Return a ciphertext, itself altered at its first, last and some byte between, and bytes that are none."""
    ct, ss, status = bytearray(_CT_BYTES), bytearray(_SS_BYTES), bytearray(1)
    check(
        lib.qfl_kem1024_encaps_batch(writable(ct), writable(ss), writable(status), readable(ek), 1) or status[0],
        "ML-KEM self-test",
    )
    rows = [bytes(ct)]
    for place in (0, _CT_BYTES // 2, _CT_BYTES - 1):
        altered = bytearray(ct)
        altered[place] ^= 0x40
        rows.append(bytes(altered))
    return b"".join((*rows, bytes(ek), rows[0]))
