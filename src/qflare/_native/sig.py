"""
ML-DSA of the C core, batches and single operations. Counts and sizes are checked here, before any allocation.

A single operation is a batch of one without a batch's bookkeeping, as in `kem`.
"""

from __future__ import annotations

import threading
from array import array
from typing import TYPE_CHECKING, Any, Final

from qflare._native import SELF_TEST
from qflare._native._qflare import ffi, lib
from qflare._native.border import check, readable, require_count, require_size, writable
from qflare.errors import BatchError, LengthError, UsageError
from qflare.secret import SecretBytes, SecretMemory

if TYPE_CHECKING:
    from collections.abc import Sequence, Sized

    from typing_extensions import Buffer

SEED_BYTES: Final[int] = int(lib.QFL_MLDSA_SEED_BYTES)
CONTEXT_MAX: Final[int] = int(lib.QFL_MLDSA_CONTEXT_MAX)

SIZES: Final[dict[int, tuple[int, int, int]]] = {
    44: (int(lib.QFL_MLDSA44_PK_BYTES), int(lib.QFL_MLDSA44_SK_BYTES), int(lib.QFL_MLDSA44_SIG_BYTES)),
    87: (int(lib.QFL_MLDSA87_PK_BYTES), int(lib.QFL_MLDSA87_SK_BYTES), int(lib.QFL_MLDSA87_SIG_BYTES)),
}
"""Sizes of pk, sk and signature in bytes, by parameter set."""


_CHARS: Final[Any] = ffi.typeof("char[]")  # CFFI hands them out as bytes in one step
_GOOD: Final = b"\0"
_NOT_VERIFIED: Final = int(lib.QFL_ERR_SIGNATURE)
_STATUS: Final[Any] = ffi.typeof("uint8_t[1]")
_ONE_SIZE: Final[Any] = ffi.typeof("uint64_t[1]")
_SCRATCH_BYTES: Final[int] = int(lib.QFL_MLDSA44_SCRATCH_BYTES)
_new: Final[Any] = ffi.new
_unpack: Final[Any] = ffi.unpack


# WHY kept by the thread: 64 KiB are not to be laid out for every call. Nothing secret is ever in them.
_scratch = threading.local()


def lanes_items() -> int:
    """Return how many ML-DSA-44 signatures the lanes hash together: 8, or 0 where the processor has no engine."""
    return int(lib.qfl_mldsa44_lanes_items())


def has_seeded_keys(parameter_set: int) -> bool:
    """Say whether the self-test at load showed that this liboqs draws exactly the seed of a key."""
    return SELF_TEST[f"ML-DSA-{parameter_set} key from seed"]


def _require_keys(name: str, keys: memoryview, size: int, count: int) -> int:
    """Return how many keys there are: *count*, or 1 for a key shared by all rows."""
    if keys.nbytes == size:
        return 1
    if keys.nbytes == count * size:
        return count
    message = f"{name} must be {count} rows of {size} bytes, or one row for all, got {keys.nbytes} bytes"
    raise BatchError(message)


def _joined(messages: Sequence[memoryview]) -> tuple[bytes | memoryview, array[int]]:
    """Lay *messages* behind each other, with their sizes; a single one is not copied."""
    sizes = array("Q", [message.nbytes for message in messages])
    return (messages[0] if len(messages) == 1 else b"".join(messages)), sizes


def keygen_one(parameter_set: int) -> tuple[bytes, SecretBytes]:
    """
    Generate a key pair: pk, sk.

    Raises:
        EntropyError: the random source failed.
        NativeError: liboqs failed.
    """
    pk_bytes, sk_bytes, _ = SIZES[parameter_set]
    # The output's row with the status byte behind it.
    pk, sk = _new(_CHARS, pk_bytes + 1), SecretMemory(sk_bytes)
    status = lib.qfl_mldsa_keygen_batch(pk, writable(sk), pk + pk_bytes, parameter_set, 1)
    if status or pk[pk_bytes] != _GOOD:
        check(status or ord(pk[pk_bytes]), "ML-DSA key generation")
    return _unpack(pk, pk_bytes), SecretBytes.owning(sk)


def sign_one(
    parameter_set: int, sk: Buffer | SecretBytes, message: Buffer | SecretBytes, context: Buffer | SecretBytes
) -> bytes:
    """
    Sign *message*, hedged and pure.

    Raises:
        LengthError: *sk* has the wrong size, or *context* is longer than 255 bytes.
        EntropyError: the random source failed.
        NativeError: liboqs failed.
    """
    _, sk_bytes, sig_bytes = SIZES[parameter_set]
    key, text, label = readable(sk), readable(message), readable(context)
    if len(key) != sk_bytes:
        raise LengthError("signing key", expected=sk_bytes, actual=len(key))
    if len(label) > CONTEXT_MAX:
        _require_context(label)
    size, sig = len(text), _new(_CHARS, sig_bytes + 1)
    status = lib.qfl_mldsa_sign_batch(
        sig, sig + sig_bytes, key, text, _new(_ONE_SIZE, (size,)), label, parameter_set, 1, 1, size, len(label)
    )
    if status or sig[sig_bytes] != _GOOD:
        check(status or ord(sig[sig_bytes]), "ML-DSA signing")
    signature: bytes = _unpack(sig, sig_bytes)
    return signature


def verify_one(
    parameter_set: int,
    pk: Buffer | SecretBytes,
    message: Buffer | SecretBytes,
    signature: Buffer | SecretBytes,
    context: Buffer | SecretBytes,
    *,
    is_in_lanes: bool = False,
) -> bool:
    """
    Say whether *signature* is one of *message*; one of another size is none.

    Raises:
        LengthError: *pk* has the wrong size, or *context* is longer than 255 bytes.
        UsageError: *is_in_lanes*, and there are none for this set or processor.
        NativeError: C refused the arguments.
    """
    pk_bytes, _, sig_bytes = SIZES[parameter_set]
    key, text, sig, label = readable(pk), readable(message), readable(signature), readable(context)
    if len(key) != pk_bytes:
        raise LengthError("verification key", expected=pk_bytes, actual=len(key))
    if len(label) > CONTEXT_MAX:
        _require_context(label)
    if len(sig) != sig_bytes:
        return False
    size, status = len(text), _new(_STATUS, (_NOT_VERIFIED,))
    if is_in_lanes:
        result = lib.qfl_mldsa44_lanes_verify(
            status, _scratch_for(parameter_set), key, text, _new(_ONE_SIZE, (size,)), sig, label, 1, 1, size, len(label)
        )
    else:
        result = lib.qfl_mldsa_verify_batch(
            status, key, text, _new(_ONE_SIZE, (size,)), sig, label, parameter_set, 1, 1, size, len(label)
        )
    if result:
        check(result, "ML-DSA verification")
    return bool(status[0] == 0)


def keygen_batch(parameter_set: int, count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Generate *count* key pairs: pk rows, sk rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
    """
    pk_bytes, sk_bytes, _ = SIZES[parameter_set]
    require_count(count)
    pk, sk, status = bytearray(count * pk_bytes), SecretMemory(count * sk_bytes), bytearray(count)
    result = lib.qfl_mldsa_keygen_batch(writable(pk), writable(sk), writable(status), parameter_set, count)
    check(result, "ML-DSA key generation")
    return pk, SecretBytes.owning(sk), bytes(status)


def keygen_seeded_batch(parameter_set: int, seeds: memoryview, count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Generate *count* key pairs from *seeds* of 32 bytes.

    Raises:
        BatchError: *count* is out of range.
        LengthError: *seeds* is not ``count × 32`` bytes.
    """
    pk_bytes, sk_bytes, _ = SIZES[parameter_set]
    require_count(count)
    require_size("seeds", seeds, count * SEED_BYTES)
    pk, sk, status = bytearray(count * pk_bytes), SecretMemory(count * sk_bytes), bytearray(count)
    result = lib.qfl_mldsa_keygen_seeded_batch(
        writable(pk), writable(sk), writable(status), readable(seeds), parameter_set, count
    )
    check(result, "ML-DSA key generation from a seed")
    return pk, SecretBytes.owning(sk), bytes(status)


def sign_batch(
    parameter_set: int, sks: memoryview, messages: Sequence[memoryview], context: bytes
) -> tuple[bytearray, bytes]:
    """
    Sign *messages*, hedged and pure: signature rows, a status byte a row.

    Raises:
        BatchError: too many messages, or as many keys as neither one nor the messages.
        LengthError: *context* is longer than 255 bytes.
    """
    _, sk_bytes, sig_bytes = SIZES[parameter_set]
    count = require_count(len(messages))
    key_count = _require_keys("signing keys", sks, sk_bytes, count)
    _require_context(context)
    data, sizes = _joined(messages)
    signatures, status = bytearray(count * sig_bytes), bytearray(count)
    result = lib.qfl_mldsa_sign_batch(
        writable(signatures), writable(status), readable(sks), readable(data), ffi.from_buffer("uint64_t[]", sizes),
        readable(context), parameter_set, count, key_count, len(data), len(context),
    )  # fmt: skip
    check(result, "ML-DSA signing")
    return signatures, bytes(status)


def verify_batch(
    parameter_set: int,
    pks: memoryview,
    messages: Sequence[memoryview],
    signatures: memoryview,
    context: bytes,
    *,
    is_in_lanes: bool = False,
) -> bytes:
    """
    Verify *signatures* of *messages*: a status byte a row, 0 for a good one.

    Raises:
        BatchError: too many messages, or as many keys as neither one nor the messages.
        LengthError: *signatures* is not a row a message, or *context* is longer than 255 bytes.
        UsageError: *is_in_lanes*, and there are none for this set or processor.
    """
    pk_bytes, _, sig_bytes = SIZES[parameter_set]
    count = require_count(len(messages))
    key_count = _require_keys("verification keys", pks, pk_bytes, count)
    require_size("signatures", signatures, count * sig_bytes)
    _require_context(context)
    data, sizes = _joined(messages)
    status = bytearray(count)
    inputs = (
        readable(pks), readable(data), ffi.from_buffer("uint64_t[]", sizes), readable(signatures), readable(context)
    )  # fmt: skip
    extents = (count, key_count, len(data), len(context))
    if is_in_lanes:
        result = lib.qfl_mldsa44_lanes_verify(writable(status), _scratch_for(parameter_set), *inputs, *extents)
    else:
        result = lib.qfl_mldsa_verify_batch(writable(status), *inputs, parameter_set, *extents)
    check(result, "ML-DSA verification")
    return bytes(status)


def _scratch_for(parameter_set: int) -> Any:
    if parameter_set != 44 or lanes_items() == 0:  # noqa: PLR2004  # the one set that has lanes
        message = "the lanes verify ML-DSA-44 alone, on a processor with AVX-512; use liboqs"
        raise UsageError(message)
    memory: Any = getattr(_scratch, "memory", None)
    if memory is None:
        memory = _scratch.memory = writable(bytearray(_SCRATCH_BYTES))
    return memory


def _require_context(context: Sized) -> None:
    if len(context) > CONTEXT_MAX:
        name = "context"
        raise LengthError(name, expected=f"at most {CONTEXT_MAX}", actual=len(context))
