"""A registered device and the state of its keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from qflare.model.ids import DeviceId, DeviceRef, TenantId
from qflare.model.quick import quick


class KeyState(StrEnum):
    """States of NIST SP 800-57 part 1, section 7."""

    PRE_ACTIVE = "pre-active"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDevice:
    """What the roster stores of a device when it is registered; public material only."""

    device_id: DeviceId
    ref: DeviceRef
    verification_key: bytes
    """ML-DSA-44 public key, 1312 bytes."""
    encapsulation_key: bytes
    """ML-KEM-1024 encapsulation key, 1568 bytes."""
    kem_algorithm: str = "ML-KEM-1024"
    sig_algorithm: str = "ML-DSA-44"
    is_kem_proven: bool = False
    """Whether a tag under the KEM key was seen (PROTOCOL E3: pre-active until then)."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A row of the roster: the device and its current keys."""

    tenant_id: TenantId
    device_id: DeviceId
    ref: DeviceRef
    state: KeyState
    """State of the device as a whole: active, suspended, deactivated (revoked) or compromised."""
    key_version: int
    verification_key: bytes
    encapsulation_key: bytes
    kem_state: KeyState
    """pre-active until a tag under the key's shared secret was shown (PROTOCOL E3), then active."""
    registered_at: datetime
    sealed_psk: bytes | None = None
    """Pre-shared key of PROTOCOL H4, sealed under KEK_L; None if the device has none."""
    psk_version: int = 0
    """How often the psk was set or removed; the seal is bound to it. 0 for psks from before this was counted."""
