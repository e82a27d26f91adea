"""A session: what a finished handshake leaves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from qflare.model.ids import DeviceId, DeviceRef, SessionId, StreamId, TenantId
from qflare.model.quick import quick


class SessionState(StrEnum):
    """A session lives or has ended, and it is said how."""

    LIVE = "live"
    ENDED = "ended"
    EXPIRED = "expired"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"


OVER: Final = "its last bucket is over"
"""Why a session is expired: nothing changed its row."""


class SessionClaim(NamedTuple):
    """One confirmed handshake on its way into the database (PROTOCOL H8); the chain key is sealed already."""

    form: int
    ticket_bucket: int
    sid: SessionId
    tenant_id: TenantId
    ref: DeviceRef
    key_version: int
    start: int
    lifetime: int
    policy: int
    th3_hash: bytes
    """H(th3), 64 bytes."""
    leaf_hash: bytes
    """RFC 9162 leaf hash of the session's log entry, 32 bytes."""
    leaf_data: bytes
    """The leaf's bytes after the 0x00 prefix, stored with the audit entry."""
    state_bucket: int
    sealed_chain_key: bytes
    """Chain key of `state_bucket`, sealed under that bucket's KEK."""
    proves_kem: bool
    """True where the offer form shows a tag under ss_D of a KEM key that may be pre-active: it becomes active (E3)."""


class ClaimResult(StrEnum):
    """What the database said to a claim."""

    CREATED = "created"
    REPEATED = "repeated"
    """Same H(th3) and a live session: the same M4 is due again."""
    CONFLICT = "conflict"
    EXPIRED = "expired"
    """The ticket's bucket, or the one its state is for, lives no more."""
    UNKNOWN_DEVICE = "unknown-device"
    DEVICE_STATE = "device-state"
    KEY_VERSION = "key-version"


class ClaimOutcome(NamedTuple):
    """Result of one claim; `log_index` is the audit entry's zero-based index where a session stands."""

    result: ClaimResult
    log_index: int | None = None


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The terms of a session; no secret in it."""

    sid: SessionId
    tenant_id: TenantId
    device_id: DeviceId
    ref: DeviceRef
    key_version: int
    form: int
    start: int
    lifetime: int
    """Buckets; the last is start + lifetime - 1."""
    policy: int
    state: SessionState
    epoch: int
    created_at: datetime
    log_index: int
    ended_at: datetime | None = None
    """When it ended by a change of its state; None while it lives, and where its time alone is over."""
    reason: str = ""
    """Why it is in its state; empty while it lives."""

    @property
    def last_bucket(self) -> int:
        """Index of the last bucket the session lives in."""
        return self.start + self.lifetime - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedChain:
    """A session's chain key of one bucket as the database holds it (PROTOCOL R8)."""

    tenant_id: TenantId
    sid: SessionId
    bucket: int
    epoch: int
    sealed_chain_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClaim:
    """A record about to be handed on; the server accepts a (sid, direction, stream id) once (PROTOCOL R4)."""

    sid: SessionId
    direction: int
    stream_id: StreamId
    bucket: int
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RekeyClaim:
    """A rekey on its way into the database (PROTOCOL R7); the chain keys are sealed already."""

    sid: SessionId
    epoch: int
    """The new one, one above the session's."""
    body_hash: bytes
    """H(REKEY), 64 bytes."""
    first: int
    """REKEY's b: the first bucket of the new chain."""
    current: int
    """The server's bucket for which the claim was made."""
    chains: tuple[SealedChain, ...]
    """The new epoch's first chain keys, and the old epoch's for the present bucket."""


class RekeyResult(StrEnum):
    """What the database said to a rekey."""

    REKEYED = "rekeyed"
    REPEATED = "repeated"
    """The same body again, while the old epoch is read: the same answer is due."""
    CONFLICT = "conflict"
    """Another body for that epoch, or an epoch that does not come next."""
    MOVED = "moved"
    """The bucket turned since the claim was made: make it again."""
    EXPIRED = "expired"
    """REKEY's bucket is over, or not published yet."""
    ENDED = "ended"
