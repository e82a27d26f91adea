"""
Receipts (H9): where an entry stands in the log, the path to the root, and the log key's signature over that root.

    index ‖ size ‖ time (u64 each) ‖ n (u8 ≤ 48) ‖ n × 32 inclusion hashes ‖ ML-DSA-44 signature
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError, LengthError, LogForkError, UsageError
from qflare.model.event import SignedCheckpoint
from qflare.primitives.sig import SIG44
from qflare.protocol.checkpoint import verify_checkpoint
from qflare.protocol.log import HASH_BYTES, SIZE_MAX, path_length, path_lengths, root_from_path
from qflare.protocol.wire import RECEIPT_BYTES_MIN, RECEIPT_PATH_AT, RECEIPT_PATH_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

_COUNT_AT: Final = RECEIPT_PATH_AT - 1
_HEAD: Final = struct.Struct(">QQQB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A receipt taken apart; nothing in it is verified yet but its form."""

    index: int
    size: int
    time_s: int
    path: tuple[bytes, ...]
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMark:
    """The largest verified head of a log that a device keeps durably."""

    size: int
    root: bytes


def encode_receipt(index: int, size: int, time_s: int, path: Sequence[bytes], signature: bytes) -> bytes:
    """
    Write a receipt, 2445 + 32n bytes.

    Args:
        index: Zero-based index of the entry's leaf.
        size: Leaves of the signed tree.
        time_s: The checkpoint's time, POSIX seconds.
        path: Inclusion hashes from the leaf's sibling upwards, 32 bytes each.
        signature: The checkpoint's ML-DSA-44 signature.

    Raises:
        UsageError: index, size, time and path do not belong together, or the path has over 48 hashes.
        LengthError: a hash or the signature has the wrong size.
    """
    for sibling in path:
        if len(sibling) != HASH_BYTES:
            name = "inclusion hash"
            raise LengthError(name, expected=HASH_BYTES, actual=len(sibling))
    return encode_receipts(index, size, time_s, [b"".join(path)], signature)[0]


def encode_receipts(first_index: int, size: int, time_s: int, paths: Sequence[bytes], signature: bytes) -> list[bytes]:
    """
    Write the receipts of entries that stand behind each other, under one head.

    Args:
        first_index: Zero-based index of the first entry's leaf.
        size: Leaves of the signed tree.
        time_s: The checkpoint's time, POSIX seconds.
        paths: Each entry's inclusion hashes behind each other, as `log.prove_append` makes them.
        signature: The checkpoint's ML-DSA-44 signature.

    Raises:
        UsageError: indices, size, time and paths do not belong together, or a path has over 48 hashes.
        LengthError: the signature has the wrong size.
    """
    end = first_index + len(paths)
    if not 0 <= first_index < end <= size <= SIZE_MAX or not 1 <= time_s <= SIZE_MAX:
        message = f"a receipt needs 0 <= index < size and a time from 1 on, got {first_index}, {size}, {time_s}"
        raise UsageError(message)
    if len(signature) != SIG44.SIG_BYTES:
        name = "receipt signature"
        raise LengthError(name, expected=SIG44.SIG_BYTES, actual=len(signature))
    receipts: list[bytes] = []
    for index, path, count in zip(range(first_index, end), paths, path_lengths(first_index, end, size), strict=True):
        if count > RECEIPT_PATH_MAX or len(path) != count * HASH_BYTES:
            message = f"the path of leaf {index} of {size} has {count} hashes (48 at most), got {len(path)} bytes"
            raise UsageError(message)
        receipts.append(b"".join((_HEAD.pack(index, size, time_s, count), path, signature)))
    return receipts


def decode_receipt(encoded: bytes | memoryview) -> Receipt:
    """
    Take a receipt apart.

    Raises:
        DecodeError: the length does not fit, or index, size, time and path length do not belong together (H9).
    """
    data = bytes(encoded)
    count = data[_COUNT_AT] if len(data) >= RECEIPT_BYTES_MIN else 0
    if len(data) != RECEIPT_BYTES_MIN + HASH_BYTES * count or count > RECEIPT_PATH_MAX:
        message = f"a receipt is {RECEIPT_BYTES_MIN} + 32n bytes with n at most {RECEIPT_PATH_MAX}, got {len(data)}"
        raise DecodeError(message)
    index, size, time_s = (int.from_bytes(data[at : at + 8], "big") for at in (0, 8, 16))
    if not 0 <= index < size <= SIZE_MAX or not 1 <= time_s <= SIZE_MAX or count != path_length(index, size):
        message = "a receipt's index, size, time and path length do not belong together"
        raise DecodeError(message)
    signature_at = RECEIPT_PATH_AT + HASH_BYTES * count
    path = tuple(data[at : at + HASH_BYTES] for at in range(RECEIPT_PATH_AT, signature_at, HASH_BYTES))
    return Receipt(index=index, size=size, time_s=time_s, path=path, signature=data[signature_at:])


def verify_receipt(receipt: Receipt, leaf_hash: bytes, *, log_key: bytes, origin: str) -> bytes:
    """
    Verify inclusion and signature of a receipt and return the root that it proves for its size.

    Args:
        receipt: From `decode_receipt`.
        leaf_hash: Leaf hash of the entry, which the caller computed itself, 32 bytes.
        log_key: The log's ML-DSA-44 verification key, from CERT.
        origin: The log's origin, from CERT.

    Raises:
        AuthenticationError: path or signature does not hold.
    """
    root = root_from_path(leaf_hash, receipt.index, receipt.size, receipt.path)
    verify_checkpoint(
        log_key,
        origin,
        SignedCheckpoint(size=receipt.size, root=root, time_s=receipt.time_s, signature=receipt.signature),
    )
    return root


def advance_log_mark(mark: LogMark | None, *, size: int, root: bytes) -> LogMark:
    """
    Return the larger of the stored *mark* and a head that has just been verified.

    A smaller size is no error: workers answer with the checkpoints they have (H9).

    Raises:
        LogForkError: an equal size with another root: the log shows two histories.
    """
    if mark is None or size > mark.size:
        return LogMark(size=size, root=bytes(root))
    if size == mark.size and root != mark.root:
        message = f"the log signed two roots for {size} entries: keep both receipts as evidence and alert the operator"
        raise LogForkError(message)
    return mark
