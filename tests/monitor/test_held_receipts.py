"""What one receipt shows of a log in which any entry was rewritten, with all hashes above it."""

import pytest

from qflare.errors import EvidenceError
from qflare.monitor.bounds import Bounds
from qflare.monitor.held import HeldReceipt, check_held
from qflare.monitor.known import Known, Reference
from qflare.primitives.sig import SIG44
from qflare.protocol.checkpoint import sign_checkpoint
from qflare.protocol.log import Frontier, hash_leaf, inclusion_path, nodes_for_frontier
from qflare.protocol.log_key import LogKey
from qflare.protocol.receipt import encode_receipt

ORIGIN = "log.example/held"
TOTAL = 13
LEAVES = [hash_leaf(bytes((number,))) for number in range(TOTAL)]


@pytest.fixture(scope="module")
def signer():
    return SIG44.generate()


def nodes_of(leaves):
    return {(level, position): node for level, position, node in Frontier().append(leaves)[1]}


def named(receipts, keys, leaves):
    """The range in which a check of such entries says that the first bad one stands, None if it finds nothing."""
    known = Known(receipts, keys)
    bounds, roots, frontier = Bounds(known), {}, Frontier()
    for index, leaf in enumerate(leaves):
        problem = known.problem_of(index, leaf)
        if problem is not None:
            return problem.index, problem.last
        frontier, made = frontier.append([leaf])
        roots[frontier.size] = frontier.root()
        for level, position, node in made:
            bounds.compare((level, position), node)
        if bounds.is_contradicted:
            return bounds.narrow(0, index)
    try:
        check_held(receipts, roots, keys=keys, size=len(leaves))
    except EvidenceError as failure:
        return failure.index, failure.last
    return None


def test_a_receipt_names_what_differs_and_not_its_own_entry(signer):
    """Of every entry, at every size, with every other one rewritten: that one is in the range, the receipt's is not."""
    keys = [LogKey(origin=ORIGIN, key=signer.verification_key)]
    nodes, widest = nodes_of(LEAVES), 0
    for size in range(1, TOTAL + 1):
        head = sign_checkpoint(signer.signing_key, ORIGIN, size, Frontier().append(LEAVES[:size])[0].root(), 7)
        for index in range(size):
            path = inclusion_path(index, size, nodes)
            held = [HeldReceipt(LEAVES[index], encode_receipt(index, size, 7, path, head.signature))]
            assert None is named(held, keys, LEAVES)
            for other in range(TOTAL):
                found = named(held, keys, [*LEAVES[:other], bytes(32), *LEAVES[other + 1 :]])
                if other >= size:
                    assert None is found
                    continue
                low, high = found
                assert low <= other <= high, (size, index, other, found)
                assert other == index or not low <= index <= high, (size, index, other, found)
                widest = max(widest, high - low + 1)
    assert 8 == widest  # the largest subtree beside a path


def test_a_copy_from_the_middle_shows_what_is_before_it():
    """A reference that begins behind the first entry has the tree before it: a change there is found, and where."""
    for first in range(1, TOTAL):
        nodes = nodes_of(LEAVES)
        start = tuple(nodes[node] for node in nodes_for_frontier(first))
        copy = Reference(name="a copy", first=first, start=start, hashes=b"".join(LEAVES[first:]))
        for other in range(TOTAL):
            known = Known(references=[copy])
            bounds, found = Bounds(known), None
            leaves = [*LEAVES[:other], bytes(32), *LEAVES[other + 1 :]]
            for node, computed in nodes_of(leaves).items():
                bounds.compare(node, computed)
            for index, leaf in enumerate(leaves):
                found = found or known.problem_of(index, leaf)
            if other >= first:
                assert (other, other) == (found.index, found.last)
            else:
                low, high = bounds.narrow(0, TOTAL - 1)
                assert low <= other <= high < first


def test_two_heads_that_were_both_signed_are_told(signer):
    """A receipt under another head of a size that holds: no entry is named, the log key signed both."""
    keys = [LogKey(origin=ORIGIN, key=signer.verification_key)]
    head = sign_checkpoint(signer.signing_key, ORIGIN, 4, Frontier().append(LEAVES[:4])[0].root(), 7)
    path = inclusion_path(1, 4, nodes_of(LEAVES))
    held = [HeldReceipt(LEAVES[1], encode_receipt(1, 4, 7, path, head.signature))]
    with pytest.raises(EvidenceError, match="signed both") as caught:
        check_held(held, {4: bytes(32)}, keys=keys, size=9, low=4)
    assert caught.value.index is None
