"""
Which of two entries is the bad one, where both rows are consistent in themselves and only the node above them differs.

The node alone cannot say.  What can: the leaf hashes that are kept with it, while they lead to it; the true hash, found
in another place (the rows were swapped or moved), a hash that stands twice (one is a copy, and the other one is shown
to be in its place), and what others hold.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, EvidenceError
from qflare.protocol.log import HASH_BYTES, hash_children, inclusion_path, nodes_for_path, verify_inclusion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qflare.model.audit_ports import AuditSource
    from qflare.monitor.event_log import Runner
    from qflare.monitor.known import Known
    from qflare.protocol.log import Node

_PAGE: Final = 1000
_PAIR: Final = 2
_DOUBLES_MAX: Final = 64
"""More copies of one hash than that tell nothing: each is asked about by itself."""


class _Pair:
    """Two leaf hashes as stored, and the node over both that was signed, which is not theirs."""

    def __init__(self, left: bytes, right: bytes, above: bytes) -> None:
        self._left, self._right, self._above = left, right, above
        self.doubles: list[tuple[int, int]] = []
        """(side, index of the entry elsewhere that has the same hash)."""

    def is_swapped(self) -> bool:
        return hash_children(self._right, self._left) == self._above

    def side_of(self, true: bytes) -> int | None:
        """Return which side *true* belongs on: 0 left, 1 right, None for neither."""
        if hash_children(true, self._right) == self._above:
            return 0
        if hash_children(self._left, true) == self._above:
            return 1
        return None

    def look_at(self, first: int, leaves: Mapping[Node, bytes]) -> int | None:
        """Return the side that a leaf hash from elsewhere belongs on, or that two which were moved do; note doubles."""
        for (_, index), other in leaves.items():
            if index not in (first, first + 1):
                side = self.side_of(other)
                if side is not None:
                    return side
                if len(self.doubles) <= _DOUBLES_MAX:
                    own = ((0, self._left), (1, self._right))
                    self.doubles.extend((side, index) for side, leaf in own if other == leaf)
            beside = leaves.get((0, index + 1))
            if beside is not None and hash_children(other, beside) == self._above:
                return 0 if other != self._left else 1
        return None


async def first_bad_of_pair(
    source: AuditSource,
    first: int,
    above: bytes,
    *,
    known: Known,
    latest: tuple[int, bytes],
    among: int,
    runner: Runner,
) -> tuple[int, int]:
    """
    Return the first and the last entry that may be the first bad one of the pair *first*, *first* + 1.

    Args:
        source: The log.
        first: Index of the left entry, even.
        above: The node over both that was signed, which is not that of their hashes; 32 bytes.
        known: What others hold.
        latest: Size and root of the largest head that was signed: under it a double is shown to be in its place.
        among: Entries to look for the true one among.
        runner: Where the hashing runs.
    """
    leaves = await source.find_nodes([(0, first), (0, first + 1)])
    pairs = await source.find_leaf_pairs([first // 2])
    if (other := first_other(pairs.get(first // 2, b""), leaves, first, above)) is not None:
        return other, other
    if len(leaves) != _PAIR:
        return first, first + 1
    for index in (first, first + 1):
        if known.problem_of(index, leaves[0, index]) is not None:
            return index, index
    stored = _Pair(leaves[0, first], leaves[0, first + 1], above)
    if stored.is_swapped():
        return first, first
    for index in (first, first + 1):
        if known.leaf(index) is not None:
            return index ^ 1, index ^ 1
    side = await _side_of_another(source, stored, first, among, runner)
    if side is None and len(stored.doubles) <= _DOUBLES_MAX:
        copies = {copy for copy, index in stored.doubles if await _is_in_place(source, index, *latest)}
        side = copies.pop() if len(copies) == 1 else None
    return (first, first + 1) if side is None else (first + side, first + side)


async def _side_of_another(source: AuditSource, stored: _Pair, first: int, among: int, runner: Runner) -> int | None:
    """Return the side on which a leaf hash belongs that stands in another place."""
    at, side = 0, None
    while side is None and at <= among:
        # Leaf hashes alone, by their index: rows that cannot be read or have moved are no hindrance.
        found = await source.find_nodes([(0, index) for index in range(at, at + _PAGE + 1)])
        if not found:
            break  # the end, whatever size the log's head says; entries behind a hole only make the answer exact
        side = await runner.run(partial(stored.look_at, first, found))
        at += _PAGE
    return side


def first_other(pair: bytes, leaves: Mapping[Node, bytes], first: int, above: bytes) -> int | None:
    """Return which of two entries is the first whose leaf hash is not that of the *pair* that was kept, if one is."""
    true = (pair[:HASH_BYTES], pair[HASH_BYTES:])
    if hash_children(*true) != above:
        return None  # not shown to be what was logged
    return next((first + side for side, leaf in enumerate(true) if leaves.get((0, first + side)) != leaf), None)


async def _is_in_place(source: AuditSource, index: int, size: int, root: bytes) -> bool:
    """Return whether the stored leaf hash of an entry is that of the signed log."""
    if index >= size:
        return False
    leaf = (0, index)
    nodes = await source.find_nodes([leaf, *nodes_for_path(index, size)])
    try:
        verify_inclusion(nodes[leaf], index, size, inclusion_path(index, size, nodes), root)
    except (AuthenticationError, EvidenceError):
        return False
    return True
