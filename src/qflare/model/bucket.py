"""What the database holds of a bucket: public bytes, and secrets sealed under the bucket's KEK (PROTOCOL A3, A4)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBucket:
    """One row of the bucket keys; the first insert of a bucket wins."""

    bucket: int
    width_s: int
    announcement: bytes
    """`ann_b`: body and signature, public."""
    sealed_dk: bytes
    """ML-KEM-1024 seed d||z (64 bytes), sealed under KEK_b."""
    sealed_ticket_key: bytes
    """`TK_b` (32 bytes), sealed under KEK_b."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedIdentity:
    """The server's identity: public bytes, and signing keys sealed under KEK_L (PROTOCOL A1)."""

    server_id: bytes
    root_key: bytes
    """ML-DSA-87 verification key of the root."""
    certificate: bytes
    """CERT, without the root key before it."""
    serial: int
    sealed_root: bytes | None
    """Root signing seed, or None where the root is kept offline."""
    sealed_announce: bytes | None
    sealed_log: bytes | None
    """None, as is the announce key's, once a later certificate has taken its place."""
    current_from: int = 0
    """The server's bucket when the certificate came into force."""
