"""ML-DSA batches of the C core. Counts and sizes are checked here, before anything is allocated."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from qflare._native import SELF_TEST
from qflare._native._qflare import ffi, lib
from qflare._native.border import check, readable, require_count, require_size, writable
from qflare.errors import BatchError, LengthError
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

SEED_BYTES: Final[int] = int(lib.QFL_MLDSA_SEED_BYTES)
CONTEXT_MAX: Final[int] = int(lib.QFL_MLDSA_CONTEXT_MAX)

SIZES: Final[dict[int, tuple[int, int, int]]] = {
    44: (int(lib.QFL_MLDSA44_PK_BYTES), int(lib.QFL_MLDSA44_SK_BYTES), int(lib.QFL_MLDSA44_SIG_BYTES)),
    87: (int(lib.QFL_MLDSA87_PK_BYTES), int(lib.QFL_MLDSA87_SK_BYTES), int(lib.QFL_MLDSA87_SIG_BYTES)),
}
"""Sizes of pk, sk and signature in bytes, by parameter set."""


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


def keygen_batch(parameter_set: int, count: int) -> tuple[bytearray, SecretBytes, bytes]:
    """
    Generate *count* key pairs: pk rows, sk rows, a status byte a row.

    Raises:
        BatchError: *count* is out of range.
    """
    pk_bytes, sk_bytes, _ = SIZES[parameter_set]
    require_count(count)
    pk, secret, status = bytearray(count * pk_bytes), SecretBytes.zeros(count * sk_bytes), bytearray(count)
    result = lib.qfl_mldsa_keygen_batch(writable(pk), writable(secret.view()), writable(status), parameter_set, count)
    check(result, "ML-DSA key generation")
    return pk, secret, bytes(status)


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
    pk, secret, status = bytearray(count * pk_bytes), SecretBytes.zeros(count * sk_bytes), bytearray(count)
    result = lib.qfl_mldsa_keygen_seeded_batch(
        writable(pk), writable(secret.view()), writable(status), readable(seeds), parameter_set, count
    )
    check(result, "ML-DSA key generation from a seed")
    return pk, secret, bytes(status)


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
    parameter_set: int, pks: memoryview, messages: Sequence[memoryview], signatures: memoryview, context: bytes
) -> bytes:
    """
    Verify *signatures* of *messages*: a status byte a row, 0 for a good one.

    Raises:
        BatchError: too many messages, or as many keys as neither one nor the messages.
        LengthError: *signatures* is not a row a message, or *context* is longer than 255 bytes.
    """
    pk_bytes, _, sig_bytes = SIZES[parameter_set]
    count = require_count(len(messages))
    key_count = _require_keys("verification keys", pks, pk_bytes, count)
    require_size("signatures", signatures, count * sig_bytes)
    _require_context(context)
    data, sizes = _joined(messages)
    status = bytearray(count)
    result = lib.qfl_mldsa_verify_batch(
        writable(status), readable(pks), readable(data), ffi.from_buffer("uint64_t[]", sizes), readable(signatures),
        readable(context), parameter_set, count, key_count, len(data), len(context),
    )  # fmt: skip
    check(result, "ML-DSA verification")
    return bytes(status)


def _require_context(context: bytes) -> None:
    if len(context) > CONTEXT_MAX:
        name = "context"
        raise LengthError(name, expected=f"at most {CONTEXT_MAX}", actual=len(context))
