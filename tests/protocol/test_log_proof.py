"""Proofs as C2SP's tlog-proof writes them."""

import hashlib

import pytest

from qflare.errors import DecodeError
from qflare.model.event import SignedCheckpoint
from qflare.primitives.sig import SIG44
from qflare.protocol.checkpoint import encode_note, sign_checkpoint
from qflare.protocol.log import Frontier, inclusion_path, nodes_for_path
from qflare.protocol.log_proof import decode_proof, encode_proof
from qflare.protocol.receipt import decode_receipt, verify_receipt

ORIGIN = "log.example/qflare"


@pytest.fixture(scope="module", name="proven")
def _proven():
    """A signed tree of 11 leaves: key, leaves, nodes and note."""
    pair = SIG44.generate()
    leaves = [hashlib.sha256(b"%d" % number).digest() for number in range(11)]
    frontier, made = Frontier().append(leaves)
    signed = sign_checkpoint(pair.signing_key, ORIGIN, 11, frontier.root(), 1_700_000_000)
    pair.signing_key.wipe()
    note = encode_note(ORIGIN, pair.verification_key, signed)
    return pair.verification_key, leaves, {(level, index): node for level, index, node in made}, note


def test_every_entry_is_proven_and_becomes_a_receipt(proven):
    """Text and back, for each leaf; the receipt that follows holds under the log's key."""
    key, leaves, nodes, note = proven
    for index, leaf_hash in enumerate(leaves):
        path = inclusion_path(index, 11, {node: nodes[node] for node in nodes_for_path(index, 11)})
        text = encode_proof(index, leaf_hash, path, note)
        assert text.startswith("c2sp.org/tlog-proof@v1\nextra ")
        assert text.endswith(f"\n\n{note}")
        proof = decode_proof(text)
        assert (index, leaf_hash, path, note) == (proof.index, proof.leaf_hash, proof.path, proof.note)
        receipt = decode_receipt(proof.receipt())
        verify_receipt(receipt, leaf_hash, log_key=key, origin=ORIGIN)
        with_witness = text + "\u2014 witness.example/w1 AAAA\n"
        assert receipt == decode_receipt(decode_proof(with_witness).receipt())
        without = text.replace(text.split("\n")[1] + "\n", "")
        assert decode_proof(without).leaf_hash is None


def test_what_is_no_proof_is_refused(proven):
    """Lines left out, doubled, misspelled or in another order, and a path of another length."""
    _, leaves, nodes, note = proven
    path = inclusion_path(4, 11, {node: nodes[node] for node in nodes_for_path(4, 11)})
    text = encode_proof(4, leaves[4], path, note)
    lines = text.split("\n")
    for bad in (
        "",
        text.replace("@v1", "@v2"),
        text.replace("index 4", "index 04"),
        text.replace("index 4", "index -4"),
        text.replace("index 4", "index 11"),
        text.replace("index 4\n", ""),
        "\n".join(lines[:3] + lines[4:]),
        "\n".join([*lines[:3], lines[3], *lines[3:]]),
        "\n".join([lines[0], lines[2], lines[1], *lines[3:]]),
        text.replace(lines[3], lines[3][:-1]),
        text.replace(lines[3], lines[3] + "="),
        text.replace(f"\n\n{ORIGIN}", f"\n{ORIGIN}"),
        text.partition("\n\n")[0] + "\n\n",
        text + "junk",
    ):
        with pytest.raises(DecodeError):
            decode_proof(bad)
    unsigned = encode_note(
        "other.example/log", bytes(1312), SignedCheckpoint(size=11, root=bytes(32), time_s=1, signature=bytes(2420))
    )
    other = encode_proof(4, leaves[4], path, unsigned.replace("\u2014 other.example/log", "\u2014 witness.example/w"))
    with pytest.raises(DecodeError, match="no signature by the log"):
        decode_proof(other).receipt()
