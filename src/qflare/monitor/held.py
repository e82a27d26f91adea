"""Receipts that somebody outside holds, against the roots of the log as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from qflare.errors import AuthenticationError, DecodeError, EvidenceError
from qflare.protocol.log import hash_leaf, path_ranges
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
    return {decode_held(held).size for held in receipts}


def check_held(
    receipts: Sequence[HeldReceipt],
    roots: Mapping[int, bytes],
    *,
    keys: Sequence[LogKey],
    first: int = 0,
    size: int,
    low: int = 0,
) -> None:
    """
    Check that every receipt leads to the log as it is.

    Args:
        receipts: What is held outside.
        roots: The root at every size that `sizes_of` named and the log reaches.
        keys: Every log key that was in force.
        first: The size from which on roots are known.
        size: Entries of the log.
        low: Entries before this one stand under a signed head that holds.

    Raises:
        EvidenceError: one does not; `index` and `last` are between what the first bad entry stands, or `index` is the
            first that is missing.  Every complete node that the receipts show was compared before.
    """
    for held in receipts:
        receipt = decode_held(held)
        shown = shown_root(receipt, held.leaf_hash, keys)
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
            raise _other_history(receipt, low)


def _other_history(receipt: Receipt, low: int) -> EvidenceError:
    """Return what is wrong where the complete nodes on a receipt's path are those of the log, and its root is not."""
    # Of a path at most one range is not complete: the last one on the right.
    sides = [each for each in path_ranges(receipt.index, receipt.size) if each[1] == receipt.size]
    first = max(low, min((each[0] for each in sides), default=0))
    if first >= receipt.size:
        return EvidenceError(
            f"a receipt of entry {receipt.index} shows another history of the first {receipt.size} entries than a head "
            "that holds: the log key signed both"
        )
    return EvidenceError(
        f"a receipt of entry {receipt.index} shows another history of the first {receipt.size} entries: the entries "
        f"{first} to {receipt.size - 1} are not those that were logged",
        index=first,
        last=receipt.size - 1,
    )


def shown_root(receipt: Receipt, leaf_hash: bytes, keys: Sequence[LogKey]) -> bytes:
    """
    Return the root that a receipt shows under the log's signature.

    Raises:
        EvidenceError: it does not hold.
    """
    for key in keys:
        try:
            return verify_receipt(receipt, leaf_hash, log_key=key.key, origin=key.origin)
        except AuthenticationError:
            continue
    raise EvidenceError(f"a receipt for entry {receipt.index} does not hold", index=receipt.index)


def decode_held(held: HeldReceipt) -> Receipt:
    """
    Read a receipt.

    Raises:
        EvidenceError: it cannot be read.
    """
    try:
        return decode_receipt(held.receipt)
    except DecodeError:
        raise EvidenceError("a receipt cannot be read") from None
