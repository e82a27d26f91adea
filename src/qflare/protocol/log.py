"""
The audit log's tree: SHA-256 over entries as RFC 9162, section 2.1, lays it out, with inclusion and consistency proofs.

A *node* is named (level, index): the complete subtree of ``2**level`` leaves from leaf ``index << level`` on; level 0
are the leaf hashes.  Complete nodes never change, so a store keeps them and every proof is put together from them.
Proofs for leaves that were just appended need no store at all: `prove_append` makes them from the frontier.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.errors import AuthenticationError, BatchError, EvidenceError, LengthError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HASH_BYTES: Final = 32
SIZE_MAX: Final = 2**63 - 1
"""Most leaves a tree may have: what a database's signed 64-bit column holds."""

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""Root of the tree without leaves (RFC 9162, section 2.1.1)."""

Node = tuple[int, int]
"""(level, index) of a complete subtree."""

NodeHash = tuple[int, int, bytes]
"""(level, index, hash) of a complete subtree."""


def hash_leaf(leaf_data: bytes) -> bytes:
    """Return the leaf hash of an entry: SHA-256(0x00 ‖ *leaf_data*) (RFC 9162, section 2.1.1)."""
    return hashlib.sha256(b"\x00" + leaf_data).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over its two children: SHA-256(0x01 ‖ *left* ‖ *right*) (RFC 9162, section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """
    What must be known of a tree to append to it: the roots of its complete subtrees, largest first.

    Raises:
        BatchError: there are not as many hashes as *size* has bits set.
        LengthError: a hash is not 32 bytes.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a frontier that no tree has."""
        _require_size(self.size, name="size")
        if len(self.hashes) != self.size.bit_count():
            message = f"a frontier of {self.size} leaves has {self.size.bit_count()} hashes, got {len(self.hashes)}"
            raise BatchError(message)
        _require_hashes(self.hashes, name="frontier hash")

    def append(self, leaf_hashes: Sequence[bytes]) -> tuple[Frontier, list[NodeHash]]:
        """
        Append leaves and return the new frontier and every node that became complete, leaves included.

        Args:
            leaf_hashes: Leaf hashes in order, 32 bytes each.

        Raises:
            LengthError: a leaf hash is not 32 bytes.
            BatchError: the tree would pass 2^63 - 1 leaves.
        """
        _require_hashes(leaf_hashes, name="leaf hash")
        _require_size(self.size + len(leaf_hashes), name="size")
        stack = list(self.hashes)
        nodes: list[NodeHash] = []
        for number, leaf in enumerate(leaf_hashes):
            level, index, node = 0, self.size + number, leaf
            nodes.append((level, index, node))
            # A binary counter: each carry joins two complete subtrees of one size into one of twice the size.
            while index & 1:
                node = hash_children(stack.pop(), node)
                level, index = level + 1, index >> 1
                nodes.append((level, index, node))
            stack.append(node)
        return Frontier(self.size + len(leaf_hashes), tuple(stack)), nodes

    def root(self) -> bytes:
        """Return the root hash, 32 bytes (RFC 9162, section 2.1.1)."""
        return _fold(self.hashes) if self.hashes else EMPTY_ROOT


class AppendProof(NamedTuple):
    """The tree that an append left, and where the new leaves stand in it."""

    root: bytes
    """Root of the tree with the new leaves, 32 bytes."""
    paths: list[bytes]
    """Inclusion path of each new leaf in order: hashes from the leaf's sibling upwards, behind each other."""


def prove_append(old_frontier: Sequence[bytes], first_index: int, leaf_hashes: Sequence[bytes]) -> AppendProof:
    """
    Return the root that an append left and the inclusion path of every leaf just appended.

    Args:
        old_frontier: Frontier hashes of the tree of *first_index* leaves, largest first (`LogAppend.old_frontier`).
        first_index: Index of the first new leaf.
        leaf_hashes: The new leaf hashes in order, one or more.

    Returns:
        Root and paths for size ``first_index + len(leaf_hashes)``.

    Raises:
        BatchError: *old_frontier* does not fit *first_index*, or there is no new leaf.
        LengthError: a hash is not 32 bytes.

    Source: RFC 9162, section 2.1.3.1.
    """
    before = Frontier(first_index, tuple(old_frontier))
    _require_hashes(leaf_hashes, name="leaf hash")
    if not leaf_hashes:
        message = "an append has at least one leaf"
        raise BatchError(message)
    _require_size(first_index + len(leaf_hashes), name="size")
    left_of = _frontier_by_level(before)
    rows: list[tuple[int, list[bytes]]] = []  # per level: how many hashes in front are old, hashes to the right edge
    sha256 = hashlib.sha256  # as `hash_children`, without a call for each
    row, offset, last, level = list(leaf_hashes), first_index, first_index + len(leaf_hashes) - 1, 0
    while last > 0:
        old = offset & 1
        if old:
            # The left sibling is complete and old: exactly then the old frontier has a node of this level.
            row.insert(0, left_of[level])
        rows.append((old, row))
        # A last node without a right sibling is also the root of its parent: it goes up unchanged.
        pairs = zip(row[::2], row[1::2], strict=False)
        above = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        row = [*above, row[-1]] if len(row) % 2 else above
        offset, last, level = offset >> 1, last >> 1, level + 1
    # From the root down: what a node's path goes on with is its parent's, made once for all leaves below.
    (root,), paths = row, [b""]
    for old, row in reversed(rows):
        paths = [row[i ^ 1] + paths[i >> 1] if i ^ 1 < len(row) else paths[i >> 1] for i in range(old, len(row))]
    return AppendProof(root, paths)


def inclusion_paths(
    old_frontier: Sequence[bytes], first_index: int, leaf_hashes: Sequence[bytes]
) -> list[tuple[bytes, ...]]:
    """Return the paths of `prove_append`, each as the hashes that it is made of; none where no leaf is new."""
    if not leaf_hashes:
        return []
    return [
        tuple(path[at : at + HASH_BYTES] for at in range(0, len(path), HASH_BYTES))
        for path in prove_append(old_frontier, first_index, leaf_hashes).paths
    ]


def path_length(index: int, size: int) -> int:
    """
    Return how many hashes the inclusion path of leaf *index* has in a tree of *size* leaves.

    Raises:
        UsageError: there is no such leaf.
    """
    _require_leaf(index, size)
    return path_lengths(index, index + 1, size)[0]


def path_lengths(first_index: int, end: int, size: int) -> list[int]:
    """Return `path_length` of each leaf from *first_index* to the one before *end*, which are leaves of the tree."""
    last = size - 1
    # Below the level where the leaf and the last leaf part there is a sibling at every level; above it, on the right
    # edge, only where the leaf's subtree is a right child.
    return [(inner := (index ^ last).bit_length()) + (index >> inner).bit_count() for index in range(first_index, end)]


def nodes_for_path(index: int, size: int) -> list[Node]:
    """Return the complete nodes from which `inclusion_path` puts the path of leaf *index* together."""
    return [node for first, end in path_ranges(index, size) for node in _complete_nodes(first, end)]


def inclusion_path(index: int, size: int, nodes: Mapping[Node, bytes]) -> tuple[bytes, ...]:
    """
    Return the inclusion path of leaf *index* in the tree of *size* leaves.

    Args:
        index: Zero-based index of the leaf.
        size: Leaves of the tree, 1 or more.
        nodes: At least the hashes that `nodes_for_path` names.

    Raises:
        UsageError: there is no such leaf.
        EvidenceError: a needed node is absent: the log is damaged or not of that size.

    Source: RFC 9162, section 2.1.3.1.
    """
    return tuple(_hash_range(first, end, nodes) for first, end in path_ranges(index, size))


def root_from_path(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """
    Return the root that *path* leads to from *leaf_hash*.

    Raises:
        AuthenticationError: the path has not exactly the length that index and size demand, or they are impossible.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size <= SIZE_MAX or len(leaf_hash) != HASH_BYTES:
        raise AuthenticationError
    if any(len(sibling) != HASH_BYTES for sibling in path):
        raise AuthenticationError
    here, last, node = index, size - 1, leaf_hash
    for sibling in path:
        if last == 0:
            raise AuthenticationError
        if here & 1 or here == last:
            node = hash_children(sibling, node)
            while not here & 1 and here != 0:
                here, last = here >> 1, last >> 1
        else:
            node = hash_children(node, sibling)
        here, last = here >> 1, last >> 1
    if last != 0:
        raise AuthenticationError
    return node


def verify_inclusion(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """
    Verify that the tree of *size* leaves and *root* has *leaf_hash* at *index*.

    Raises:
        AuthenticationError: it does not follow from *path*.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not hmac.compare_digest(root_from_path(leaf_hash, index, size, path), root):
        raise AuthenticationError


def nodes_for_consistency(old_size: int, new_size: int) -> list[Node]:
    """Return the complete nodes from which `consistency_path` puts its path together."""
    return [node for first, end in _consistency_ranges(old_size, new_size) for node in _complete_nodes(first, end)]


def consistency_path(old_size: int, new_size: int, nodes: Mapping[Node, bytes]) -> tuple[bytes, ...]:
    """
    Return the proof that the tree of *new_size* leaves begins with that of *old_size*.

    Args:
        old_size: Leaves of the older tree; 0 gives the empty path, as does *new_size*.
        new_size: Leaves of the newer tree.
        nodes: At least the hashes that `nodes_for_consistency` names.

    Raises:
        UsageError: *old_size* is above *new_size*.
        EvidenceError: a needed node is absent.

    Source: RFC 9162, section 2.1.4.1.
    """
    return tuple(_hash_range(first, end, nodes) for first, end in _consistency_ranges(old_size, new_size))


def verify_consistency(
    old_size: int, new_size: int, *, old_root: bytes, new_root: bytes, path: Sequence[bytes]
) -> None:
    """
    Verify that the newer tree begins with the older one.

    Raises:
        AuthenticationError: it does not follow from *path*.

    Source: RFC 9162, section 2.1.4.2; a first tree of 0 leaves is consistent with every tree.
    """
    if not 0 <= old_size <= new_size <= SIZE_MAX or any(len(node) != HASH_BYTES for node in path):
        raise AuthenticationError
    if old_size in (0, new_size):
        known = EMPTY_ROOT if old_size == 0 else new_root
        if path or not hmac.compare_digest(old_root, known):
            raise AuthenticationError
        return
    hashes = list(path)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)  # the old tree is itself a node of the new one, so the prover leaves it out
    old_node, new_node = _climb_consistency(old_size - 1, new_size - 1, hashes)
    if not hmac.compare_digest(old_node, old_root) or not hmac.compare_digest(new_node, new_root):
        raise AuthenticationError


def _climb_consistency(here: int, last: int, hashes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the older and the newer root that a consistency proof leads to, from the last leaves of both trees."""
    if not hashes:
        raise AuthenticationError
    while here & 1:
        here, last = here >> 1, last >> 1
    old_node = new_node = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise AuthenticationError
        if here & 1 or here == last:
            old_node = hash_children(sibling, old_node)
            new_node = hash_children(sibling, new_node)
            while not here & 1 and here != 0:
                here, last = here >> 1, last >> 1
        else:
            new_node = hash_children(new_node, sibling)
        here, last = here >> 1, last >> 1
    if last != 0:
        raise AuthenticationError
    return old_node, new_node


def nodes_for_frontier(size: int) -> list[Node]:
    """Return the complete nodes that are the frontier of a tree of *size* leaves, largest first."""
    _require_size(size, name="size")
    return list(_complete_nodes(0, size))


def frontier_from_nodes(size: int, nodes: Mapping[Node, bytes]) -> Frontier:
    """
    Return the frontier of the tree of *size* leaves from stored nodes.

    Raises:
        EvidenceError: a needed node is absent.
    """
    return Frontier(size, tuple(_node_hash(node, nodes) for node in nodes_for_frontier(size)))


def root_from_nodes(size: int, nodes: Mapping[Node, bytes]) -> bytes:
    """
    Return the root of the tree of *size* leaves from stored nodes (`nodes_for_frontier`).

    Raises:
        EvidenceError: a needed node is absent.
    """
    return frontier_from_nodes(size, nodes).root()


# --- ranges of leaves ------------------------------------------------------------------------------------------------


def path_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Return, from the leaf upwards, the leaf ranges [first, end) whose hashes are the inclusion path."""
    _require_leaf(index, size)
    ranges: list[tuple[int, int]] = []
    first, end = 0, size
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((first, middle))
            first = middle
    ranges.reverse()
    return ranges


def _consistency_ranges(old_size: int, new_size: int) -> list[tuple[int, int]]:
    """Return the leaf ranges whose hashes are the consistency proof (RFC 9162, section 2.1.4.1, SUBPROOF)."""
    _require_size(new_size, name="new size")
    _require_size(old_size, name="old size")
    if old_size > new_size:
        message = f"a tree of {old_size} leaves cannot come before one of {new_size}; swap the sizes"
        raise UsageError(message)
    if old_size in (0, new_size):
        return []
    ranges: list[tuple[int, int]] = []
    first, end, is_whole = 0, new_size, True
    while old_size != end:
        middle = first + _split(end - first)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((first, middle))
            first, is_whole = middle, False
    if not is_whole:
        ranges.append((first, end))
    ranges.reverse()
    return ranges


def _split(count: int) -> int:
    """Return the largest power of two below *count*, which is 2 or more."""
    return 1 << ((count - 1).bit_length() - 1)


def _complete_nodes(first: int, end: int) -> Iterable[Node]:
    """Cover leaves [first, end) by complete nodes, largest first; *first* is a multiple of the largest one's leaves."""
    while first < end:
        level = (end - first).bit_length() - 1
        yield level, first >> level
        first += 1 << level


def _hash_range(first: int, end: int, nodes: Mapping[Node, bytes]) -> bytes:
    count = end - first
    if count & (count - 1) == 0:
        # One complete node, as nearly every range of a path is.
        level = count.bit_length() - 1
        return _node_hash((level, first >> level), nodes)
    return _fold([_node_hash(node, nodes) for node in _complete_nodes(first, end)])


def _node_hash(node: Node, nodes: Mapping[Node, bytes]) -> bytes:
    found = nodes.get(node)
    if found is None:
        message = f"the log has no node at level {node[0]}, index {node[1]}: it is damaged, or smaller than stated"
        raise EvidenceError(message, index=node[1] << node[0])
    return found


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Return the root over complete subtrees, largest first."""
    node = hashes[-1]
    for left in reversed(hashes[:-1]):
        node = hash_children(left, node)
    return node


def _frontier_by_level(frontier: Frontier) -> dict[int, bytes]:
    levels = [level for level in range(frontier.size.bit_length()) if frontier.size >> level & 1]
    return dict(zip(reversed(levels), frontier.hashes, strict=True))


# --- checks ----------------------------------------------------------------------------------------------------------


def _require_size(size: int, *, name: str) -> None:
    if not 0 <= size <= SIZE_MAX:
        message = f"{name} must be 0 to 2^63 - 1 leaves, got {size}"
        raise BatchError(message)


def _require_leaf(index: int, size: int) -> None:
    _require_size(size, name="size")
    if not 0 <= index < size:
        message = f"a tree of {size} leaves has no leaf {index}"
        raise UsageError(message)


def _require_hashes(hashes: Sequence[bytes], *, name: str) -> None:
    for one in hashes:
        if len(one) != HASH_BYTES:
            raise LengthError(name, expected=HASH_BYTES, actual=len(one))
