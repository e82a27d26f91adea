"""The keys of the server's identity and their states (PROTOCOL A1; NIST SP 800-57 part 1, section 7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from qflare.model.device import KeyState


class ServerKeyKind(StrEnum):
    """What a key of the identity signs."""

    ROOT = "root"
    """Certificates; ML-DSA-87."""
    ANNOUNCE = "announce"
    """Announcements of bucket keys; ML-DSA-44."""
    LOG = "log"
    """Heads of the audit log; ML-DSA-44."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKey:
    """One key of the identity as the operator sees it; nothing secret."""

    key_id: bytes
    """SHA-256 of the public key, 32 bytes."""
    serial: int
    """Of the certificate that names it; of the first one for the root."""
    kind: ServerKeyKind
    state: KeyState
    reason: str
    """Why it is in this state."""
    changed_at: datetime
    """When it came into this state."""
    created_at: datetime
    has_signing_key: bool
    """Whether the database still holds the sealed signing half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingServerKey:
    """A pre-active key that waits for a certificate which is signed elsewhere."""

    serial: int
    kind: ServerKeyKind
    public_key: bytes
    sealed_key: bytes = field(repr=False)
    """The signing half, sealed under KEK_L."""
