"""What a worker must not remember as it was: a device or a session that changed, a bucket that is over; no secret."""

from __future__ import annotations

from dataclasses import dataclass

from qflare.model.ids import DeviceRef, SessionId, TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A device whose state, keys or psk changed, a session that ended or was revoked, or an early turn; exactly one."""

    tenant_id: TenantId
    ref: DeviceRef | None = None
    sid: SessionId | None = None
    bucket: int | None = None
    """Of an early turn, and only told: what holds is the page's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePage:
    """What a look for changes found."""

    mark: int
    """Where the next look goes on; opaque."""
    changes: tuple[Change, ...]
    """Some may have been told before."""
    is_cut: bool
    """There were more than asked for: nothing that is remembered can be relied on."""
    bucket: int
    """The highest that has been current in any worker (A2)."""
