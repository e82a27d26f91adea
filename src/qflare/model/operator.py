"""Operators: people of one tenant who may look at its page; the database has a hash of what lets them in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from qflare.model.ids import TenantId

SALT_BYTES: Final = 16
VERIFIER_BYTES: Final = 32


class OperatorState(StrEnum):
    """Whether an operator may log in."""

    ACTIVE = "active"
    REVOKED = "revoked"
    """For good: the name stays taken, so that the log means one person by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """What a secret is compared with: scrypt of RFC 7914 and its parameters."""

    salt: bytes
    """16 bytes, random."""
    log2_n: int
    """The cost: 2^log2_n blocks of 128 · r bytes."""
    r: int
    p: int
    secret_hash: bytes = field(repr=False)
    """32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOperator:
    """An operator on the way into the database."""

    tenant_id: TenantId
    name: str
    """1 to 255 bytes of UTF-8, once a tenant."""
    verifier: Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """An operator as others see them: nothing that lets anybody in."""

    tenant_id: TenantId
    name: str
    state: OperatorState
    reason: str
    """Why the state was changed; empty if it never was."""
    created_at: datetime
    changed_at: datetime | None
    """When the state was changed; None if it never was."""
