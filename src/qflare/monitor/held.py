"""Receipts that somebody outside holds, against the roots of the log as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from qflare.errors import AuthenticationError, DecodeError, EvidenceError
from qflare.protocol.log import hash_leaf
from qflare.protocol.receipt import Receipt, decode_receipt, verify_receipt
from qflare.protocol.wire import M4_RECEIPT_AT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qflare.protocol.evidence import Evidence
    from qflare.protocol.log_key import LogKey


@dataclass(frozen=True, slots=True)
class HeldReceipt:
    """A receipt that somebody outside holds, and the leaf that it is about."""

    leaf_hash: bytes
    """32 bytes; a device computes it itself (PROTOCOL H9)."""
    receipt: bytes

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        """Return the receipt in a device's evidence, with the leaf as the device recomputes it."""
        return cls(hash_leaf(evidence.leaf_data()), evidence.m4[M4_RECEIPT_AT:])


def sizes_of(receipts: Sequence[HeldReceipt]) -> set[int]:
    """
    Return the sizes of the log whose roots decide about *receipts*.

    Raises:
        EvidenceError: one cannot be read.
    """
    return {_decode(held).size for held in receipts}


def check_held(
    receipts: Sequence[HeldReceipt], roots: Mapping[int, bytes], *, keys: Sequence[LogKey], first: int = 0, size: int
) -> None:
    """
    Check that every receipt leads to the log as it is.

    Args:
        receipts: What is held outside.
        roots: The root at every size that `sizes_of` named and the log reaches.
        keys: Every log key that was in force.
        first: The size from which on roots are known.
        size: Entries of the log.

    Raises:
        EvidenceError: one does not; `index` is its entry, or the first that is missing.
    """
    for held in receipts:
        receipt = _decode(held)
        shown = _shown(receipt, held.leaf_hash, keys)
        root = roots.get(receipt.size)
        if root is None:
            if receipt.size < first:
                raise EvidenceError(
                    f"a receipt is of {receipt.size} entries, and this check begins at entry {first}: check the whole"
                )
            raise EvidenceError(
                f"a receipt shows {receipt.size} entries, the log has {size}: cut, or an older copy", index=size
            )
        if root != shown:
            raise EvidenceError(
                f"a receipt of entry {receipt.index} shows another history of the first {receipt.size} entries",
                index=receipt.index,
            )


def known_leaves(receipts: Sequence[HeldReceipt], keys: Sequence[LogKey]) -> dict[int, bytes]:
    """Return the leaf hashes that receipts show under the log's signature, by index: the entry's and its sibling's."""
    known: dict[int, bytes] = {}
    for held in receipts:
        receipt = _decode(held)
        try:
            _shown(receipt, held.leaf_hash, keys)
        except EvidenceError:
            continue
        known[receipt.index] = held.leaf_hash
        if receipt.index ^ 1 < receipt.size:
            known[receipt.index ^ 1] = receipt.path[0]
    return known


def _shown(receipt: Receipt, leaf_hash: bytes, keys: Sequence[LogKey]) -> bytes:
    for key in keys:
        try:
            return verify_receipt(receipt, leaf_hash, log_key=key.key, origin=key.origin)
        except AuthenticationError:
            continue
    raise EvidenceError(f"a receipt for entry {receipt.index} does not hold", index=receipt.index)


def _decode(held: HeldReceipt) -> Receipt:
    try:
        return decode_receipt(held.receipt)
    except DecodeError:
        raise EvidenceError("a receipt cannot be read") from None
