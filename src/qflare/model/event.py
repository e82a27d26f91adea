"""Events of the audit log: what kinds there are and how severe; the public enumerations of `SecurityMonitor`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from qflare.model.ids import DeviceId, TenantId

SESSION_ENTRY: Final = 1
"""Entry type of a session's leaf (PROTOCOL H9); written by H8 alone."""
EVENT_ENTRY: Final = 2
"""Entry type of every other leaf: a canonical encoding of an event."""


class SecurityEventType(StrEnum):
    """What an audit entry is about."""

    KEY_EXCHANGE = "key_exchange"
    KEY_GENERATION = "key_generation"
    KEY_ROTATION = "key_rotation"
    KEY_REVOCATION = "key_revocation"
    DEVICE_ENROLMENT = "device_enrolment"
    DEVICE_STATE = "device_state"
    TOKEN_ISSUED = "token_issued"  # noqa: S105 - a name, no credential
    TENANT_CREATED = "tenant_created"
    SESSION_ENDED = "session_ended"
    BUCKET_TURN = "bucket_turn"
    MAPPING = "mapping"
    AUTHENTICATION_FAILURE = "authentication_failure"
    REPLAY_DETECTED = "replay_detected"
    TAMPER_DETECTED = "tamper_detected"
    POLICY_VIOLATION = "policy_violation"
    OPERATOR_ACTION = "operator_action"
    SYSTEM = "system"


class EventSeverity(StrEnum):
    """How much an operator should care."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event on its way into the log; `data` is its canonical JSON (sorted keys, UTF-8, no spaces)."""

    event_type: SecurityEventType
    severity: EventSeverity
    device_id: DeviceId | None
    data: bytes
    leaf_data: bytes
    """Canonical leaf bytes after the 0x00 prefix (docs/audit.md); protocol/log.py makes them."""
    occurred_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One row of the audit log."""

    index: int
    entry_type: int
    tenant_id: TenantId
    leaf_hash: bytes
    leaf_data: bytes
    event_type: SecurityEventType
    severity: EventSeverity
    device_id: DeviceId | None
    data: bytes
    recorded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvent:
    """An event that stands in the log, with the proof that it does."""

    index: int
    """Zero-based index of the entry."""
    leaf_hash: bytes
    """RFC 9162 leaf hash, 32 bytes."""
    event_type: SecurityEventType
    severity: EventSeverity
    device_id: DeviceId | None
    occurred_at: datetime
    receipt: bytes
    """Index, size, time, inclusion path and the log's signature, as in M4 (PROTOCOL H9)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAppend:
    """What an append left: where the new leaves stand, and the frontier before them, from which proofs follow."""

    first_index: int
    old_frontier: tuple[bytes, ...]
    """Roots of the complete subtrees of the tree of `first_index` leaves, largest first."""
    leaf_hashes: tuple[bytes, ...]
    """Of the entries that are new; none where every event stood already."""
    indexes: tuple[int, ...] = ()
    """Of an append by change: where each of its events stands, new or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHead:
    """Size and frontier of the log as committed."""

    size: int
    frontier: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A signed tree head (C2SP tlog-cosignature, ML-DSA-44)."""

    size: int
    root: bytes
    time_s: int
    signature: bytes
