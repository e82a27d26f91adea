"""Events of the audit log: what kinds there are and how severe; the public enumerations of `SecurityMonitor`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from qflare.errors import UsageError
from qflare.model.ids import DeviceId, TenantId

SESSION_ENTRY: Final = 1
"""Entry type of a session's leaf (PROTOCOL H9); written by H8 alone."""
EVENT_ENTRY: Final = 2
"""Entry type of a leaf that is an event's canonical encoding, as every event was written before type 3."""
FIELDS_ENTRY: Final = 3
"""Entry type of a leaf that commits to each field of an event by itself: every event since."""
RUN_MAX: Final = 1 + 4096
"""Most entries that one transaction makes of sessions: their heading and the largest batch."""


class SecurityEventType(StrEnum):
    """What an audit entry is about."""

    KEY_EXCHANGE = "key_exchange"
    SESSION_HEADING = "session_heading"
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


class SealedKey(NamedTuple):
    """The key of one sealed entry, itself sealed; erasing its subject destroys it."""

    subject: bytes
    """Whom the entry is about, as a keyed hash that only the keeper's owner can compute: 32 bytes."""
    sealed: bytes
    """The 32-byte key under a key derived from KEK_L: 61 bytes."""


class NewEvent(NamedTuple):
    """An event on its way into the log; `data` is its canonical JSON (sorted keys, UTF-8, no spaces)."""

    event_type: SecurityEventType
    severity: EventSeverity
    device_id: DeviceId | None
    data: bytes
    leaf_data: bytes
    """Canonical leaf bytes after the 0x00 prefix (docs/audit.md); protocol/new_event.py makes them."""
    leaf_hash: bytes
    """RFC 9162 leaf hash of them, 32 bytes."""
    occurred_at_ms: int
    stored: bytes | None = None
    """Of entry type 3: what the row stores in place of device_id and data, and what opens the commitments."""
    sealed_key: SealedKey | None = None
    """Of an event about a device: the key that opens `stored`."""


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
    """Canonical JSON; of an entry of type 3 that was not opened, what its row stores."""
    recorded_at: datetime
    sealed_key: SealedKey | None = None
    """Of a sealed entry: its key, None once its subject was erased."""
    stored: bytes | None = None
    """Of an entry of type 3 that was opened, or that is erased: what its row stores."""
    is_erased: bool = False
    """Whether the key is gone that would open it: then `data` is ``{}`` and `device_id` None."""


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


class SessionRun(NamedTuple):
    """A session's entry and those before it, whosever they are, back to the first that is no session's."""

    first: int
    """Index of the first of them."""
    leaves: tuple[bytes, ...]
    """Leaf data in order, without a gap, that of the session's entry last; RUN_MAX at most."""
    head: AuditEntry | None
    """The entry at `first`; None if that is a session's too: then the log, or what is left of it, begins there, or they
    are more than any transaction makes."""


def require_heading(heading: NewEvent, now_s: int) -> None:
    """Refuse an event under which sessions of *now_s* cannot stand."""
    if heading.event_type is not SecurityEventType.SESSION_HEADING or heading.stored is None:
        raise UsageError("sessions stand under a heading: make it with protocol.heading.session_heading")
    if heading.occurred_at_ms != now_s * 1000:
        raise UsageError(f"the heading is of {heading.occurred_at_ms} ms, its sessions of {now_s} s: say one time")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHead:
    """Size and frontier of the log as committed."""

    size: int
    frontier: tuple[bytes, ...]
    headed_from: int | None = None
    """Index of the first heading: from it on every session stands under one; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A signed tree head (C2SP tlog-cosignature, ML-DSA-44)."""

    size: int
    root: bytes
    time_s: int
    signature: bytes
