"""Enrolment tokens as the database knows them (PROTOCOL E1): a hash, never the secret."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from qflare.model.device import NewDevice
from qflare.model.ids import DeviceId, TenantId, TokenId


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """One token: H(secret), for whom, until when, and what it was used for."""

    token_id: TokenId
    tenant_id: TenantId
    device_id: DeviceId
    secret_hash: bytes
    """H(secret), 64 bytes."""
    expires_at: datetime
    used_at: datetime | None = None
    used_key_hash: bytes | None = None
    """H(vk_D, ek_D) of the enrolment that used it; the same again is answered afresh (E3)."""


class TokenState(StrEnum):
    """What became of a token."""

    ACTIVE = "active"
    USED = "used"
    REVOKED = "revoked"
    EXPIRED = "expired"
    """Its time was over before it was used; told from `expires_at`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A token as operators see it: nothing that opens it."""

    token_id: TokenId
    tenant_id: TenantId
    device_id: DeviceId
    state: TokenState
    reason: str
    created_at: datetime
    expires_at: datetime
    changed_at: datetime | None
    """When it was used or revoked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentClaim:
    """One enrolment whose signature holds, on its way into the database."""

    token_id: TokenId
    key_hash: bytes
    device: NewDevice


class EnrolmentResult(StrEnum):
    """What the database said to an enrolment."""

    ENROLLED = "enrolled"
    REPEATED = "repeated"
    TOKEN_UNKNOWN = "token-unknown"  # noqa: S105 - the name of a result, no credential
    TOKEN_EXPIRED = "token-expired"  # noqa: S105
    TOKEN_USED = "token-used"  # noqa: S105
    DEVICE_EXISTS = "device-exists"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentOutcome:
    """Result of one enrolment; the key version where a device stands."""

    result: EnrolmentResult
    key_version: int | None = None
