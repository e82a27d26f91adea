"""Rotation of device keys by policy: what a tenant's policy says, what it decides from, and what it decided."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from qflare.errors import ConfigError
from qflare.model.ids import DeviceId, DeviceRef, SessionId, TenantId

MIN_INTERVAL_S: Final = 3600
"""No policy makes a key due that is younger; the database refuses to mark one as well."""
MIN_AGE_S: Final = 2 * MIN_INTERVAL_S
"""Shortest `max_age_s`: with the largest jitter still `MIN_INTERVAL_S` after the last rotation."""
_HOUR_S: Final = 3600
_AGE_MAX_S: Final = 10 * 365 * 86_400
_GRACE_MAX_S: Final = 365 * 86_400
RECORDS_MAX: Final = 2**32
BYTES_MAX: Final = 2**44
PPM: Final = 1_000_000
JITTER_PERCENTS: Final = (0, 1, 2, 4, 5, 10, 20, 25, 50)
"""Divisors of 100: a whole number of jitter's windows makes one age, so that jitter does not drift."""


class RotationReason(StrEnum):
    """Why keys are due."""

    AGE = "age"
    RECORDS = "records"
    BYTES = "bytes"
    OPERATOR = "operator"
    """An operator asked for it, whatever a policy says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationPolicy:
    """
    When a tenant's device keys are due for rotation; at least one of the three bounds is given.

    Raises:
        ConfigError: a value is outside its range; the message names it.
    """

    max_age_s: int | None = None
    """Age at which keys are due at the latest, whole hours, 2 hours to 10 years."""
    max_records: int | None = None
    """Records that the sessions of one key version carry, both ways, 1 to 2^32."""
    max_bytes: int | None = None
    """Bytes of sealed records, the same way, 1 to 2^44."""
    jitter_percent: int = 10
    """How much earlier, at most, a key may be due by its own jitter: 0, 1, 2, 4, 5, 10, 20, 25 or 50."""
    minute_ppm: int = 10_000
    """Share of the active devices whose keys are marked a minute, by all workers together, in millionths; 1 device at
    least."""
    grace_s: int | None = None
    """How long after the mark the device's data are still taken, 1 hour to 1 year; None takes them for ever."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name, low, high in (
            ("max_age_s", MIN_AGE_S, _AGE_MAX_S),
            ("max_records", 1, RECORDS_MAX),
            ("max_bytes", 1, BYTES_MAX),
            ("grace_s", _HOUR_S, _GRACE_MAX_S),
            ("minute_ppm", 1, PPM),
        ):
            value: object = getattr(self, name)
            if value is None and name != "minute_ppm":
                continue
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"rotation policy: {name} must be a whole number from {low} to {high}, got {value!r}")
        if self.max_age_s is None and self.max_records is None and self.max_bytes is None:
            raise ConfigError("rotation policy: give max_age_s, max_records or max_bytes; without a policy none rotate")
        if self.max_age_s is not None and self.max_age_s % _HOUR_S:
            raise ConfigError(f"rotation policy: max_age_s must be whole hours, got {self.max_age_s}")
        if type(self.jitter_percent) is not int or self.jitter_percent not in JITTER_PERCENTS:
            allowed = ", ".join(map(str, JITTER_PERCENTS))
            raise ConfigError(f"rotation policy: jitter_percent must be one of {allowed}, got {self.jitter_percent!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatableKey:
    """A device's current keys, as far as a policy looks at them."""

    ref: DeviceRef
    device_id: DeviceId
    key_version: int
    created_s: int
    """When this version became current, Unix seconds of the database."""
    records: int
    """Records that its sessions have carried."""
    bytes: int
    marked_s: int | None
    """When this version was marked as due, None if it is not."""
    mark_reason: RotationReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatableKeys:
    """A page of a tenant's active devices in order of ref."""

    keys: tuple[RotatableKey, ...]
    now_s: int
    """The database's clock, Unix seconds; 0 on an empty page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueKey:
    """Keys that a policy makes due."""

    key: RotatableKey
    reason: RotationReason
    due_s: int
    """Since when, Unix seconds; for use it is when it was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationMark:
    """The mark on a device's current keys: they are due, and the device is told when it asks."""

    ref: DeviceRef
    key_version: int
    reason: RotationReason
    due_at: datetime
    marked_at: datetime
    is_overdue: bool
    """Whether the policy's grace is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationProgress:
    """How far a tenant's rotation is."""

    devices_active: int
    waiting: int
    """Active devices whose keys are marked and not rotated yet."""
    overdue: int
    """Of them, those past the policy's grace."""
    rotated: int
    """Devices that have rotated since their last mark."""
    marked_last_minute: int
    minute_max: int
    """Most marks a minute at present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUse:
    """What one session carried since the worker last said so."""

    sid: SessionId
    records: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUseTotal:
    """What a session has carried in all, as far as workers have said so, and how its device's keys stand."""

    sid: SessionId
    ref: DeviceRef
    records: int
    bytes: int
    is_overdue: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPolicy:
    """A policy and whose it is."""

    tenant_id: TenantId
    policy: RotationPolicy
