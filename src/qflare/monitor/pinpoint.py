"""
Which of two entries is the bad one, where both rows are consistent in themselves and only the node above them differs.

The node alone cannot say.  What can: the true hash, found in another place (the rows were swapped or moved), a hash
that stands twice (one is a copy), and receipts that devices hold, which name a leaf and its sibling.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import EvidenceError
from qflare.protocol.log import hash_children

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qflare.model.audit_ports import AuditSource
    from qflare.monitor.event_log import Runner

_PAGE: Final = 1000


class _Pair:
    """Two leaf hashes as stored, and the stored node that is not theirs."""

    def __init__(self, left: bytes, right: bytes, above: bytes) -> None:
        self._left, self._right, self._above = left, right, above
        self.is_left_doubled = self.is_right_doubled = False

    def is_swapped(self) -> bool:
        return hash_children(self._right, self._left) == self._above

    def side_of(self, true: bytes) -> int | None:
        """Return which side *true* belongs on: 0 left, 1 right, None for neither."""
        if hash_children(true, self._right) == self._above:
            return 0
        if hash_children(self._left, true) == self._above:
            return 1
        return None

    def look_at(self, others: Iterable[bytes]) -> int | None:
        """Return the side that one of the *others* belongs on; notice doubles."""
        for other in others:
            side = self.side_of(other)
            if side is not None:
                return side
            self.is_left_doubled |= other == self._left
            self.is_right_doubled |= other == self._right
        return None


async def first_bad_of_pair(
    source: AuditSource,
    first: int,
    above: bytes,
    *,
    known: Mapping[int, bytes],
    size: int,
    runner: Runner,
) -> tuple[int, int]:
    """
    Return the first and the last entry that may be the first bad one of the pair *first*, *first* + 1.

    Args:
        source: The log.
        first: Index of the left entry, even.
        above: The stored node over both, which is not that of their hashes; 32 bytes.
        known: Leaf hashes that receipts show, by index.
        size: Entries to look among.
        runner: Where the hashing runs.
    """
    leaves = await source.find_nodes([(0, first), (0, first + 1)])
    if len(leaves) != 2:  # noqa: PLR2004 - a pair
        return first, first + 1
    pair = _Pair(leaves[0, first], leaves[0, first + 1], above)
    if pair.is_swapped():
        return first, first
    side = pair.look_at([known[index] for index in (first, first + 1) if index in known])
    at = 0
    while side is None and at < size:
        # Leaf hashes alone, by their index: rows that cannot be read or have moved are no hindrance.
        wanted = [(0, index) for index in range(at, min(at + _PAGE, size)) if index not in (first, first + 1)]
        found = await source.find_nodes(wanted) if wanted else {}
        side = await runner.run(partial(pair.look_at, found.values()))
        at += _PAGE
    if side is None and pair.is_left_doubled != pair.is_right_doubled:
        side = 0 if pair.is_left_doubled else 1
    return (first, first + 1) if side is None else (first + side, first + side)


def node_problem(level: int, position: int, *, index: int, last: int) -> EvidenceError:
    """Return the error about a stored node that is not that of the entries below it."""
    which = f"entry {index}" if index == last else f"entries {index} to {last}"
    return EvidenceError(
        f"the stored hash at level {level}, index {position} is not that of the entries below it: {which}",
        index=index,
        last=last,
    )
