"""What is known of the true log from outside: nodes that receipts show, and leaf hashes that a kept copy has; pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qflare.errors import EvidenceError
from qflare.monitor.held import decode_held, shown_root
from qflare.protocol.log import HASH_BYTES, hash_children, nodes_for_frontier, path_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qflare.monitor.held import HeldReceipt
    from qflare.protocol.log import Node
    from qflare.protocol.log_key import LogKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Leaf hashes of a copy of the log that was kept elsewhere and that leads to a signed head."""

    name: str
    """Where it was kept, for messages."""
    first: int
    """Index of its first entry."""
    start: tuple[bytes, ...]
    """Frontier of the tree before it, largest subtree first."""
    hashes: bytes
    """32 bytes an entry, in order."""

    @property
    def size(self) -> int:
        """Entries of the log up to its end."""
        return self.first + len(self.hashes) // HASH_BYTES

    def digest(self) -> str:
        """Return what tells it from another one."""
        return f"{self.first} {hashlib.sha256(b''.join(self.start) + self.hashes).hexdigest()}"

    def leaf(self, index: int) -> bytes | None:
        """Return the leaf hash of an entry, None of one that it does not have."""
        if not self.first <= index < self.size:
            return None
        at = (index - self.first) * HASH_BYTES
        return self.hashes[at : at + HASH_BYTES]


class Known:
    """Receipts and references as one: the true hash of a node or leaf, where anybody outside has it."""

    def __init__(
        self, receipts: Sequence[HeldReceipt] = (), keys: Sequence[LogKey] = (), references: Sequence[Reference] = ()
    ) -> None:
        """Take from *receipts* what holds under *keys*, and *references* as they are."""
        self.nodes = nodes_of_receipts(receipts, keys)
        self.references = tuple(references)
        for each in references:
            self.nodes.update(zip(nodes_for_frontier(each.first), each.start, strict=True))

    def leaf(self, index: int) -> tuple[bytes, str] | None:
        """Return the true leaf hash of an entry and who has it, None where nobody has."""
        held = self.nodes.get((0, index))
        if held is not None:
            return held, "a receipt"
        for reference in self.references:
            found = reference.leaf(index)
            if found is not None:
                return found, reference.name
        return None

    def problem_of(self, index: int, leaf_hash: bytes) -> EvidenceError | None:
        """Return what is wrong with an entry whose leaf hash is not the true one."""
        true = self.leaf(index)
        if true is None or true[0] == leaf_hash:
            return None
        return EvidenceError(
            f"entry {index} is not the one that was logged there: {true[1]} shows another leaf hash", index=index
        )

    def require_reached(self, size: int) -> None:
        """
        Check that the log has every entry that a reference has.

        Raises:
            EvidenceError: it has not; `index` is the first that is gone.
        """
        for reference in self.references:
            if reference.size > size:
                raise EvidenceError(
                    f"{reference.name} has {reference.size} entries, the log has {size}: cut, or an older copy",
                    index=max(size, reference.first),
                )


def nodes_of_receipts(receipts: Iterable[HeldReceipt], keys: Sequence[LogKey]) -> dict[Node, bytes]:
    """
    Return every complete node that receipts show under the log's signature.

    These are the entry's leaf, the complete siblings on its path, and what is complete above it.
    """
    known: dict[Node, bytes] = {}
    for held in receipts:
        try:
            receipt = decode_held(held)
            shown_root(receipt, held.leaf_hash, keys)
        except EvidenceError:
            continue
        here, level, position = held.leaf_hash, 0, receipt.index
        known[0, position] = here
        for (first, end), sibling in zip(path_ranges(receipt.index, receipt.size), receipt.path, strict=True):
            height = (end - first).bit_length() - 1
            is_complete = end - first == 1 << height and first % (end - first) == 0
            if is_complete:
                known[height, first >> height] = sibling
            if not is_complete or height != level:
                continue
            here = hash_children(sibling, here) if position & 1 else hash_children(here, sibling)
            level, position = level + 1, position >> 1
            known[level, position] = here
    return known
