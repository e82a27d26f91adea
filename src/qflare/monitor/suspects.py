"""
Where the first bad entry of a log can stand, when nodes, signed heads or receipts are not those of its rows.

What counts are hashes that lead to a head which the log key signed: a stored node of which that is shown tells of the
entries below it whether they are those that were signed, whoever changed rows and other nodes.  From the head that
fails the check goes down along such nodes to the entry, or to where they end; heads that hold and receipts narrow what
is left.  What is named is never narrower than this shows.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, EvidenceError, UsageError
from qflare.monitor.bounds import Bounds, range_of
from qflare.monitor.pinpoint import first_bad_of_pair, first_other
from qflare.protocol.log import HASH_BYTES, Frontier, frontier_from_nodes, hash_children, nodes_for_frontier
from qflare.protocol.log_key import verify_under

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qflare.model.audit_ports import AuditSource
    from qflare.model.event import LogHead, SignedCheckpoint
    from qflare.monitor.event_log import Runner
    from qflare.monitor.known import Known
    from qflare.protocol.log import Node
    from qflare.protocol.log_key import LogKey

_HEADS: Final = 8
"""Signed heads behind the first suspect from which the way down is tried, beside the latest."""
_NEAR: Final = 500
"""How far from its place a moved leaf is looked for, in entries."""
_TELLS: Final = "receipts (--receipts) or a copy that was kept (--reference) tell it"
_MISMATCHES_MAX: Final = 1 << 16
"""Most nodes that are remembered as not those of the rows: a log that was moved as a whole has one in every place."""


class Suspects:
    """What a walk over the log found not to be as it was signed."""

    def __init__(self, source: AuditSource, *, keys: Sequence[LogKey], known: Known, runner: Runner) -> None:
        self._source = source
        self._keys = keys
        self._known = known
        self._runner = runner
        self.bounds = Bounds(known)
        self._mismatches: dict[Node, bytes | None] = {}
        self._compared_to: int | None = None
        self._has_pairs = False
        """Whether a node with its leaf hashes was read: all later ones have theirs."""
        self.other_pair: int | None = None
        """Index of the first node of level 1 that is kept with other leaf hashes than the rows'."""

    async def compare(self, nodes: Sequence[tuple[Node, bytes]]) -> None:
        """Compare nodes, as computed from the rows, with those that are stored and that others show."""
        # Leaves are the rows that were just read.
        inner = [node for node, _ in nodes if node[0]]
        stored = await self._source.find_nodes(inner) if inner else {}
        pairs = await self._source.find_leaf_pairs([node[1] for node in inner if node[0] == 1])
        await self._runner.run(partial(self._take, nodes, stored, pairs))

    def _take(
        self, nodes: Sequence[tuple[Node, bytes]], stored: Mapping[Node, bytes], pairs: Mapping[int, bytes]
    ) -> None:
        for node, computed in nodes:
            self.bounds.compare(node, computed)
            if not node[0]:
                continue
            if node[0] == 1:
                self._look_at_pair(node[1], pairs.get(node[1]), computed)
            if stored.get(node) == computed:
                continue
            if len(self._mismatches) < _MISMATCHES_MAX:
                self._mismatches[node] = stored.get(node)
            elif self._compared_to is None:
                self._compared_to = range_of(node)[1]

    def _look_at_pair(self, index: int, pair: bytes | None, node: bytes) -> None:
        """Note leaf hashes that are kept with a node and are not those of the rows; old nodes have none."""
        self._has_pairs = self._has_pairs or pair is not None
        is_other = self._has_pairs if pair is None else hash_children(pair[:HASH_BYTES], pair[HASH_BYTES:]) != node
        if is_other and self.other_pair is None:
            self.other_pair = index

    def refuse_other_pair(self) -> None:
        """
        Refuse leaf hashes that are kept with a node and are not those of the rows, once nothing else was found.

        Raises:
            EvidenceError: they are not.
        """
        if self.other_pair is not None:
            first = 2 * self.other_pair
            # Behind the last head that holds, rows and nodes may have been made anew and these be what was logged.
            which = (
                "were altered or taken away: both entries are those of the log"
                if self.bounds.low > first + 1
                else "are not those of these entries, and no signed head tells which of them were altered"
            )
            raise EvidenceError(
                f"the leaf hashes that are kept with the node over the entries {first} and {first + 1} {which}",
                index=first,
                last=first + 1,
            )

    @property
    def is_decided(self) -> bool:
        """Whether reading on would tell no more about the first bad entry."""
        return self.bounds.is_bad or (bool(self._mismatches) and self.bounds.low > self._first_mismatch()[1])

    @property
    def has_any(self) -> bool:
        """Whether anything was found."""
        return self.bounds.is_bad or bool(self._mismatches)

    # --- what comes of it --------------------------------------------------------------------------------------------

    async def problem(self, *, walked: int, head: LogHead, row: EvidenceError | None = None) -> EvidenceError:
        """
        Return what is wrong, with the first bad entry, or the range that is known to hold it.

        Args:
            walked: Entries that were taken and whose nodes were compared.
            head: Size and frontier as committed: where no signed head reaches, they are all that there is.
            row: What is wrong with the row behind those that were taken.
        """
        bounds = self.bounds
        if not bounds.is_bad and bounds.low > self._first_mismatch()[1]:
            return self._altered_node()
        low, high = bounds.narrow(bounds.low, (walked if bounds.failing is None else bounds.failing) - 1)
        way = None
        if self._mismatches and (low < high or not bounds.is_bad):
            way = await self._way_down(walked, head)
            if row is not None and way is not None and way[1] >= walked:
                return row
            if way is None and not bounds.is_bad:
                return self._undecided()
            if way is not None:
                low, high = bounds.narrow(*_overlap((low, high), way))
        return self._rewritten(low, high, is_shown=way is not None)

    async def bad_before(self, row: EvidenceError, walked: int) -> EvidenceError:
        """
        Return what is wrong with the last entry that was taken, or else *row*.

        Args:
            row: What is wrong with the row behind those that were taken.
            walked: Entries that were taken; of an odd number, no node over the last was compared.
        """
        last = walked - 1
        if walked % 2 == 0 or self.bounds.low >= walked or (row.index or 0) < walked:
            return row
        for size, root in (await self._signed_roots(walked)).items():
            here = await self._descend(size, root, walked)
            if here is not None and here[0] == (1, last // 2):
                leaves = await self._source.find_nodes([(0, last)])
                pairs = await self._source.find_leaf_pairs([last // 2])
                if first_other(pairs.get(last // 2, b""), leaves, last, here[1]) == last:
                    return self._rewritten(last, last, is_shown=True)
                break
        return row

    def _altered_node(self) -> EvidenceError:
        (level, position), stored = next(iter(self._mismatches.items()))
        first, last = range_of((level, position))
        how = "is missing" if stored is None else "was altered"
        return EvidenceError(
            f"the stored hash at level {level}, index {position} {how}: the entries below it, {first} to {last}, are "
            f"those of the signed head of {self.bounds.low} entries",
            index=first,
            last=last,
        )

    def _undecided(self) -> EvidenceError:
        """Return what is wrong where no head leads to either the entries or the stored node that is not theirs."""
        level, position = next(iter(self._mismatches))
        first, last = self.bounds.narrow(*self._first_mismatch())
        return EvidenceError(
            f"the stored hash at level {level}, index {position} is not that of the entries below it, {first} to "
            f"{last}, and no head tells which of them was altered",
            index=first,
            last=last,
        )

    def _rewritten(self, low: int, high: int, *, is_shown: bool) -> EvidenceError:
        if low == high:
            which = f"entry {low} is not the one that was logged there: it was rewritten together with its hash"
        elif is_shown:
            which = (
                f"one of the entries {low} to {high} is not the one that was logged there, and nothing stored tells "
                f"which: {_TELLS}"
            )
        elif self.bounds.failing is not None:
            which = (
                f"the entries {low} to {high} are not those of the head of {self.bounds.failing} entries that was "
                f"signed: they were rewritten together with the hashes above them; which, {_TELLS}"
            )
        else:
            which = f"the entries {low} to {high} are not those that others hold: one or more were rewritten; {_TELLS}"
        return EvidenceError(which, index=low, last=high)

    def _first_mismatch(self) -> tuple[int, int]:
        return range_of(next(iter(self._mismatches)))

    # --- the way down ------------------------------------------------------------------------------------------------

    async def _way_down(self, walked: int, head: LogHead) -> tuple[int, int] | None:
        """Return the range that is left at the end of the way down from a head under which stored nodes stand."""
        after = max(self.bounds.low, min(range_of(node)[0] for node in self._mismatches))
        roots = await self._signed_roots(after)
        if not roots:
            try:
                roots[head.size] = Frontier(head.size, head.frontier).root()
            except UsageError:
                return None  # an altered head, under which nothing can be shown to stand
        largest = max(roots)
        for size, root in roots.items():
            here = await self._descend(size, root, walked)
            if here is None:
                continue
            node, above = here
            if node[0] != 1:
                return range_of(node)
            return await first_bad_of_pair(
                self._source,
                node[1] * 2,
                above,
                known=self._known,
                latest=(largest, roots[largest]),
                among=head.size,
                runner=self._runner,
            )
        return None

    async def _signed_roots(self, after: int) -> dict[int, bytes]:
        """Return the roots of some signed heads of more than *after* entries, by their size."""
        heads = list(await self._source.list_checkpoints(first=after + 1, limit=_HEADS))
        latest = await self._source.latest_checkpoint()
        if latest is not None and latest.size > after:
            heads.append(latest)
        return {each.size: each.root for each in await self._runner.run(partial(self._signed, heads))}

    def _signed(self, heads: Sequence[SignedCheckpoint]) -> list[SignedCheckpoint]:
        return [each for each in heads if is_signed(each, self._keys)]

    async def _descend(self, size: int, root: bytes, walked: int) -> tuple[Node, bytes] | None:
        """Return the lowest node under *root* that is not that of the rows, with its hash, or None."""
        names = nodes_for_frontier(size)
        nodes = await self._standing(names, size, root)
        if nodes is None:
            return None
        here = next((node for node in names if self._is_bad(node, walked)), None)
        while here is not None and here[0] > 1:
            left, right = (here[0] - 1, here[1] * 2), (here[0] - 1, here[1] * 2 + 1)
            below = await self._source.find_nodes([left, right])
            if len(below) != 2 or hash_children(below[left], below[right]) != nodes[here]:  # noqa: PLR2004 - a pair
                break
            nodes |= below
            here = left if self._is_bad(left, walked) else right
        return None if here is None else (here, nodes[here])

    async def _standing(self, names: Sequence[Node], size: int, root: bytes) -> dict[Node, bytes] | None:
        """Return the complete subtrees of a tree of *size* as they lead to *root*, or None."""
        nodes = await self._source.find_nodes(names)
        if len(nodes) == len(names) and frontier_from_nodes(size, nodes).root() == root:
            return nodes
        *inner, last = names
        if last[0] > 0 or any(node not in nodes for node in inner):
            return None
        # The last entry is a subtree by itself: where rows were moved it stands beside its place.
        near = range(max(0, last[1] - _NEAR), last[1] + _NEAR + 1)
        leaves = await self._source.find_nodes([(0, index) for index in near])
        above = [nodes[node] for node in inner]
        leaf = await self._runner.run(partial(_leaf_under, root, above, tuple(leaves.values())))
        return None if leaf is None else nodes | {last: leaf}

    def _is_bad(self, node: Node, walked: int) -> bool:
        """Whether a node, which is that of the signed log, is not that of the rows, or was not reached."""
        compared = walked if self._compared_to is None else min(walked, self._compared_to)
        return node in self._mismatches or range_of(node)[1] >= compared


def _leaf_under(root: bytes, above: Sequence[bytes], leaves: Sequence[bytes]) -> bytes | None:
    """Return which of *leaves* leads with the subtrees before it, the largest first, to *root*."""
    for leaf in leaves:
        node = leaf
        for left in reversed(above):
            node = hash_children(left, node)
        if node == root:
            return leaf
    return None


def is_signed(checkpoint: SignedCheckpoint, keys: Sequence[LogKey]) -> bool:
    """Return whether a head is signed by one of *keys*."""
    try:
        verify_under(keys, checkpoint)
    except AuthenticationError:
        return False
    return True


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, high) if low <= high else one
