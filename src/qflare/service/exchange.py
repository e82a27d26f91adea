"""What the key manager returns about devices, exchanges and itself; frozen, without secrets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qflare.model.quick import quick

if TYPE_CHECKING:
    from datetime import datetime

    from qflare.manager.record import OpenedRecord
    from qflare.model.device import KeyState
    from qflare.model.ids import DeviceId, DeviceRef, RequestId, SessionId, TenantId
    from qflare.model.refusal import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePublicKey:
    """The registered public keys of a device."""

    device_id: DeviceId
    public_key: bytes = field(repr=False)
    """ML-KEM-1024 encapsulation key, 1568 bytes."""
    verification_key: bytes = field(repr=False)
    """ML-DSA-44, 1312 bytes."""
    algorithm: str
    """The standard's name of the KEM."""
    key_version: int
    state: KeyState
    """Of the KEM key: pre-active until a tag under it was seen (PROTOCOL E3)."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class KeyExchange:
    """An exchange that the server began (PROTOCOL O1): send `offer` to the device."""

    session_id: SessionId
    device_id: DeviceId
    offer: bytes = field(repr=False)
    """OFFER, 1841 bytes."""
    bucket: int
    expires_at: datetime
    """Answers are taken before it."""
    algorithm: str


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedExchange:
    """A session that stands: send `confirmation` to the device."""

    session_id: SessionId
    tenant_id: TenantId
    ref: DeviceRef
    """The device, 32 bytes."""
    key_version: int
    form: int
    """1 hello, 2 offer."""
    start: int
    """First bucket."""
    lifetime: int
    """Buckets; the last is start + lifetime - 1."""
    confirmation: bytes = field(repr=False)
    """M4, with the log's receipt."""
    log_index: int
    """Index of the session's audit entry."""
    is_repeated: bool
    """The session stood already: the same message came again."""
    record: OpenedRecord | None = field(default=None, repr=False)
    """The record that was glued to the message, opened; the holder wipes its plaintext."""
    record_refusal: Refusal | None = None
    """Why a glued record was refused; the session stands all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKeyRequest:
    """One key of `derive_session_keys_many`."""

    session_id: SessionId
    purpose: str
    bucket: int | None = None
    direction: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRequest:
    """A message to a device whose reply may come late (PROTOCOL R6): send `record` to it."""

    request_id: RequestId
    """16 bytes; the reply's record has it too."""
    record: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the manager can serve: None where a part is well, else one sentence without a secret."""

    database: str | None
    bucket: str | None
    keeper: str | None
    turn: str | None = None
    """A turn that lags; the worker serves all the same."""

    @property
    def is_ready(self) -> bool:
        """Whether database, bucket keys and keeper are well."""
        return self.database is None and self.bucket is None and self.keeper is None
