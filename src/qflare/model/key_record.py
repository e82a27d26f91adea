"""The life of a key as the database keeps it: its states with times and reasons, never the key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from qflare.model.device import KeyState


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMove:
    """A key's way from one state to the next."""

    from_state: KeyState
    to_state: KeyState
    reason: str
    moved_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """One key of a device, of a bucket or of the server's identity."""

    kind: str
    """kem, signature or psk of a device; bucket; root, announce or log."""
    number: int
    """The device's key version or psk version, the bucket, or the serial of the first certificate with that key."""
    algorithm: str
    """The standard's name; of a psk that of the function it goes into (H4)."""
    state: KeyState
    created_at: datetime
    """Since when it is in its first state."""
    moves: tuple[KeyMove, ...]
    """In order; at most the last 100."""

    @property
    def since(self) -> datetime:
        """When it came into its present state."""
        return self.moves[-1].moved_at if self.moves else self.created_at

    @property
    def reason(self) -> str:
        """Why it is in its present state; empty for its first."""
        return self.moves[-1].reason if self.moves else ""
