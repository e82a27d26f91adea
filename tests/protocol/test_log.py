"""The log's tree against a naive one, written from RFC 9162's recursive definitions."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.errors import AuthenticationError, BatchError, EvidenceError, LengthError, UsageError
from qflare.protocol import log

LEAVES = [hashlib.sha256(b"leaf %d" % number).digest() for number in range(140)]


def naive_root(leaves):
    """RFC 9162, section 2.1.1, over leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = naive_split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(index, leaves):
    """RFC 9162, section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if index < k:
        return [*naive_path(index, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(index - k, leaves[k:]), naive_root(leaves[:k])]


def naive_proof(size, leaves, *, is_whole=True):
    """RFC 9162, section 2.1.4.1, SUBPROOF."""
    if size == len(leaves):
        return [] if is_whole else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if size <= k:
        return [*naive_proof(size, leaves[:k], is_whole=is_whole), naive_root(leaves[k:])]
    return [*naive_proof(size - k, leaves[k:], is_whole=False), naive_root(leaves[:k])]


def naive_split(count):
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def grown(count):
    """Return frontier and nodes of the first *count* leaves, appended in uneven steps."""
    frontier, nodes, at = log.Frontier(), {}, 0
    step = 1
    while at < count:
        taken = LEAVES[at : min(at + step, count)]
        frontier, new = frontier.append(taken)
        for level, index, node in new:
            assert (level, index) not in nodes
            nodes[level, index] = node
        at, step = at + len(taken), step % 7 + 1
    return frontier, nodes


def test_roots_equal_the_naive_tree_for_every_size():
    """Frontier, stored nodes and the recursive definition give one root, from 0 to 130 leaves."""
    for size in range(131):
        frontier, nodes = grown(size)
        expected = naive_root(LEAVES[:size])
        assert frontier.root() == expected
        assert log.root_from_nodes(size, nodes) == expected
        assert log.frontier_from_nodes(size, nodes) == frontier


def test_leaf_and_node_hashes_are_the_standards():
    """The one-leaf and two-leaf roots of RFC 6962's reference data come out."""
    empty_leaf = log.hash_leaf(b"")
    assert empty_leaf.hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    two = log.hash_children(empty_leaf, log.hash_leaf(b"\x00"))
    assert two.hex() == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    assert log.EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_append_reports_every_complete_node_once():
    """The nodes of all appends are exactly the complete subtrees of the tree."""
    for size in (0, 1, 2, 3, 64, 65, 127, 128, 130):
        _, nodes = grown(size)
        expected = {(level, index) for level in range(8) for index in range(size >> level)}
        assert set(nodes) == expected
        for (level, index), node in nodes.items():
            assert node == naive_root(LEAVES[index << level : (index + 1) << level])


def test_paths_from_the_old_frontier_equal_the_naive_ones():
    """For every old and new size to 66, each new leaf's path is the recursive definition's and verifies."""
    for old in range(66):
        frontier, _ = log.Frontier().append(LEAVES[:old])
        for new in range(old, 67):
            root = naive_root(LEAVES[:new])
            paths = log.inclusion_paths(frontier.hashes, old, LEAVES[old:new])
            assert len(paths) == new - old
            for number, path in enumerate(paths):
                assert list(path) == naive_path(old + number, LEAVES[:new])
                log.verify_inclusion(LEAVES[old + number], old + number, new, path, root)


def test_paths_from_stored_nodes_equal_the_naive_ones():
    """For every leaf of every tree to 130, the stored nodes that were asked for give the path, of the right length."""
    _, nodes = grown(130)
    for size in [*range(1, 40), 63, 64, 65, 127, 128, 129, 130]:
        for index in range(size):
            wanted = {node: nodes[node] for node in log.nodes_for_path(index, size)}
            path = log.inclusion_path(index, size, wanted)
            assert list(path) == naive_path(index, LEAVES[:size])
            assert len(path) == log.path_length(index, size)


def test_consistency_equals_the_naive_one():
    """For every pair of sizes to 64 and some above, the proof is the recursive definition's and verifies."""
    _, nodes = grown(130)
    for new in [*range(1, 65), 127, 128, 129, 130]:
        for old in range(1, new + 1):
            wanted = {node: nodes[node] for node in log.nodes_for_consistency(old, new)}
            path = log.consistency_path(old, new, wanted)
            assert list(path) == naive_proof(old, LEAVES[:new])
            log.verify_consistency(
                old, new, old_root=naive_root(LEAVES[:old]), new_root=naive_root(LEAVES[:new]), path=path
            )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5000), st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(0, 2**32))
def test_random_growth_stays_provable(first, steps, seed):
    """Appends of random sizes to a tree of random size give paths that lead to the frontier's root."""
    draw = random.Random(seed)
    frontier, nodes = log.Frontier().append([draw.randbytes(32) for _ in range(first)])
    known = {(level, index): node for level, index, node in nodes}
    for step in steps:
        leaves = [draw.randbytes(32) for _ in range(step)]
        paths = log.inclusion_paths(frontier.hashes, frontier.size, leaves)
        old = frontier
        frontier, nodes = frontier.append(leaves)
        known.update({(level, index): node for level, index, node in nodes})
        for number, (leaf, path) in enumerate(zip(leaves, paths, strict=True)):
            index = old.size + number
            log.verify_inclusion(leaf, index, frontier.size, path, frontier.root())
            assert path == log.inclusion_path(index, frontier.size, known)
        proof = log.consistency_path(old.size, frontier.size, known)
        log.verify_consistency(old.size, frontier.size, old_root=old.root(), new_root=frontier.root(), path=proof)


def test_every_altered_inclusion_proof_is_refused():
    """Another leaf, index, size or root, a hash changed, dropped, added or swapped: none verifies."""
    frontier, nodes = grown(77)
    root = frontier.root()
    for index in (0, 1, 37, 63, 64, 72, 75, 76):
        path = log.inclusion_path(index, 77, nodes)
        log.verify_inclusion(LEAVES[index], index, 77, path, root)
        altered = [
            (LEAVES[index + 1], index, 77, path, root),
            (LEAVES[index], index ^ 1, 77, path, root),
            (LEAVES[index], -1, 77, path, root),
            (LEAVES[index], 77, 77, path, root),
            (LEAVES[index], index, 0, path, root),
            (LEAVES[index], index, 2**63, path, root),
            (LEAVES[index], index, 77, path[:-1], root),
            (LEAVES[index], index, 77, (*path, LEAVES[0]), root),
            (LEAVES[index], index, 77, (LEAVES[5], *path), root),
            (LEAVES[index], index, 77, path, LEAVES[0]),
            (LEAVES[index], index, 77, (path[0][:31], *path[1:]), root),
            (LEAVES[index][:31], index, 77, path, root),
        ]
        altered += [
            (LEAVES[index], index, 77, (*path[:at], bytes((path[at][0] ^ 1,)) + path[at][1:], *path[at + 1 :]), root)
            for at in range(len(path))
        ]
        for case in altered:
            with pytest.raises(AuthenticationError):
                log.verify_inclusion(*case)


def test_a_path_of_another_length_is_never_a_proof():
    """H9: for every index and size, no other number of hashes passes, so that a size cannot be talked down."""
    for size in range(1, 40):
        for index in range(size):
            right = log.path_length(index, size)
            for count in range(9):
                if count == right:
                    log.root_from_path(LEAVES[0], index, size, [LEAVES[1]] * count)
                else:
                    with pytest.raises(AuthenticationError):
                        log.root_from_path(LEAVES[0], index, size, [LEAVES[1]] * count)


def test_every_altered_consistency_proof_is_refused():
    """A changed, dropped or added hash, another size or root: none verifies."""
    _, nodes = grown(100)
    for old, new in ((1, 2), (3, 7), (6, 8), (8, 8), (32, 100), (37, 100), (64, 65), (99, 100)):
        path = log.consistency_path(old, new, nodes)
        roots = {"old_root": naive_root(LEAVES[:old]), "new_root": naive_root(LEAVES[:new])}
        log.verify_consistency(old, new, **roots, path=path)
        cases = [
            (old, new, roots["old_root"], bytes(32), path),
            (old, new, bytes(32), roots["new_root"], path),
            (old, new, *roots.values(), (*path, LEAVES[3])),
            (new + 1, new, *roots.values(), path),
            (-1, new, *roots.values(), path),
            (old, 2**63, *roots.values(), path),
            (old, new, *roots.values(), (*path[:-1], b"short")),
        ]
        if path:
            cases += [(old, new, *roots.values(), path[:-1]), (old, new, *roots.values(), path[1:])]
            cases += [(old, new, *roots.values(), ())]
        cases += [(old, new, *roots.values(), (*path[:at], bytes(32), *path[at + 1 :])) for at in range(len(path))]
        for old_size, new_size, old_root, new_root, proof in cases:
            with pytest.raises(AuthenticationError):
                log.verify_consistency(old_size, new_size, old_root=old_root, new_root=new_root, path=proof)


def test_the_empty_tree_is_consistent_with_every_tree():
    """A first tree of no leaves needs no proof, and only its own root stands for it."""
    root = naive_root(LEAVES[:5])
    assert log.consistency_path(0, 5, {}) == ()
    log.verify_consistency(0, 5, old_root=log.EMPTY_ROOT, new_root=root, path=())
    for old_root, path in ((LEAVES[0], ()), (log.EMPTY_ROOT, (LEAVES[0],))):
        with pytest.raises(AuthenticationError):
            log.verify_consistency(0, 5, old_root=old_root, new_root=root, path=path)


def test_impossible_trees_are_refused_with_their_reason():
    """A frontier, leaf, size or node that cannot be is a specific error."""
    with pytest.raises(BatchError, match="2 hashes"):
        log.Frontier(3, (LEAVES[0],))
    with pytest.raises(LengthError):
        log.Frontier(1, (b"short",))
    with pytest.raises(LengthError):
        log.Frontier().append([b"short"])
    with pytest.raises(BatchError):
        log.Frontier(2**63 - 1, (LEAVES[0],) * 63).append([LEAVES[0]])
    with pytest.raises(UsageError):
        log.nodes_for_path(5, 5)
    with pytest.raises(UsageError):
        log.nodes_for_consistency(6, 5)
    with pytest.raises(EvidenceError) as caught:
        log.inclusion_path(0, 8, {})
    assert caught.value.index is not None


def test_a_huge_tree_appends_and_proves_from_its_frontier_alone():
    """At 10 million leaves and more, a path needs the frontier and nothing else."""
    size = 10_000_000
    frontier = log.Frontier(size, tuple(LEAVES[: size.bit_count()]))
    paths = log.inclusion_paths(frontier.hashes, size, LEAVES[:50])
    grown_frontier, _ = frontier.append(LEAVES[:50])
    for number, path in enumerate(paths):
        log.verify_inclusion(LEAVES[number], size + number, size + 50, path, grown_frontier.root())
        assert len(path) <= 48
