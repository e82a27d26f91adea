"""The one server that all vectors are about: its keys, CERT and three live buckets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from qflare.primitives import kem
from qflare.primitives.sig import SIG44, SIG87
from qflare.protocol.announcement import sign_announcement
from qflare.protocol.bucket import BucketKeys, restore_bucket_keys
from qflare.protocol.checkpoint import sign_checkpoint
from qflare.protocol.identity import Certificate, ServerIdentity, decode_identity, issue_certificate, server_id_of
from qflare.protocol.log import Frontier, hash_leaf, inclusion_paths
from qflare.protocol.receipt import encode_receipt

from .stream import draw, drawing, seed

if TYPE_CHECKING:
    from qflare.primitives.sig import SigKeyPair

BUCKET = 5_903_000
WIDTH_S = 300
NOW_S = BUCKET * WIDTH_S + 42
BUCKETS = (BUCKET - 1, BUCKET, BUCKET + 1)
LOG_ORIGIN = "log.example.org/qflare-vectors"


@dataclass(frozen=True)
class World:
    """Keys of the server; seeds are drawn by label from the stream."""

    root: SigKeyPair
    announce: SigKeyPair
    log: SigKeyPair
    identity: ServerIdentity
    keyring: dict[int, BucketKeys]

    @property
    def certificate(self) -> Certificate:
        """CERT."""
        return self.identity.certificate

    @property
    def server_id(self) -> bytes:
        """A1."""
        return self.identity.server_id


@cache
def make_world() -> World:
    """The same server every time."""
    root = SIG87.generate_from_seed(seed("root", 32))
    announce = SIG44.generate_from_seed(seed("announce", 32))
    log = SIG44.generate_from_seed(seed("log", 32))
    with drawing("cert"):
        certificate = issue_certificate(
            root.signing_key,
            root.verification_key,
            serial=7,
            announce_key=announce.verification_key,
            log_key=log.verification_key,
            first_bucket=BUCKET - 100,
            last_bucket=BUCKET + 100_000,
            log_origin=LOG_ORIGIN,
        )
    served = root.verification_key + certificate.encoded
    identity = decode_identity(served, server_id=server_id_of(root.verification_key))
    keyring = {}
    for bucket in BUCKETS:
        kem_seed = bucket_kem_seed(bucket)
        with drawing(f"announcement {bucket}"):
            announcement = sign_announcement(
                announce.signing_key,
                server_id=identity.server_id,
                width_s=WIDTH_S,
                bucket=bucket,
                encapsulation_key=kem.generate_from_seed(seed(kem_seed, 64)).encapsulation_key,
            )
        keyring[bucket] = restore_bucket_keys(
            announcement.encoded, certificate, seed(kem_seed, 64), seed(f"ticket key {bucket}", 32)
        )
    return World(root=root, announce=announce, log=log, identity=identity, keyring=keyring)


def bucket_kem_seed(bucket: int) -> str:
    """Label of a bucket's KEM seed."""
    return f"bucket kem {bucket}"


def receipt_for(leaf_hash: bytes, *, index: int, size: int, label: str) -> bytes:
    """A receipt for a leaf at *index* of a log of *size* leaves; the others are drawn."""
    leaves = [hash_leaf(draw(f"{label} leaf {at}", 165)) for at in range(size)]
    leaves[index] = leaf_hash
    frontier, _ = Frontier().append(leaves)
    path = inclusion_paths([], 0, leaves)[index]
    with drawing(f"{label} checkpoint"):
        checkpoint = sign_checkpoint(make_world().log.signing_key, LOG_ORIGIN, size, frontier.root(), NOW_S + 1)
    return encode_receipt(index, size, NOW_S + 1, path, checkpoint.signature)
