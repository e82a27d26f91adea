"""Rows of the memory store where the model's own records do not hold all of a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from qflare.model.change import Change
from qflare.model.device import KeyState
from qflare.model.ids import DeviceId, DeviceRef, SessionId, TenantId, TokenId
from qflare.model.key_record import KeyRecord
from qflare.model.response import Response
from qflare.model.rotation import RotationReason
from qflare.model.server_key import ServerKeyKind
from qflare.model.session import SessionState
from qflare.model.token import TokenState


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """A device of the roster."""

    tenant_id: TenantId
    ref: DeviceRef
    device_id: DeviceId
    state: KeyState
    key_version: int
    registered_at: datetime
    sealed_psk: bytes | None = None
    psk_version: int = 0
    state_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKeyRow:
    """One public key of a device, and its life."""

    public_key: bytes
    record: KeyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """An enrolment token."""

    token_id: TokenId
    tenant_id: TenantId
    device_id: DeviceId
    secret_hash: bytes
    expires_at: datetime
    created_at: datetime
    state: TokenState = TokenState.ACTIVE
    reason: str = ""
    changed_at: datetime | None = None
    used_at: datetime | None = None
    used_key_hash: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """A session with what its device is not told."""

    tenant_id: TenantId
    sid: SessionId
    ref: DeviceRef
    key_version: int
    form: int
    start: int
    last: int
    policy: int
    state: SessionState
    log_index: int
    created_at: datetime
    epoch: int = 0
    has_carried: bool = False
    rekey_hash: bytes | None = None
    rekey_bucket: int | None = None
    """The server's bucket at the last rekey."""
    ended_at: datetime | None = None
    reason: str = ""
    records: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCount:
    """How many sessions of a tenant end with a bucket; stays when their rows go."""

    live: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRow:
    """A key version that is due."""

    key_version: int
    reason: RotationReason
    due_at: datetime
    marked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the sessions of a key version have carried."""

    records: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKeyRow:
    """One key of the server's identity, and its life."""

    key_id: bytes
    serial: int
    kind: ServerKeyKind
    public_key: bytes
    first_reason: str
    record: KeyRecord
    sealed_key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """A change that was carried out."""

    outcome: int
    at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """A change that other workers must hear of."""

    change: Change
    at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRow:
    """A response, and what a listing does not tell of it."""

    response: Response
    lasts_s: int | None
    applied_at: datetime | None = None
    """Stays when it is undone."""
