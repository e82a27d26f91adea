"""What a mapper makes and keeps (PROTOCOL K1): the pair that signs, a mapping's public side, and its sealed one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from qflare.model.ids import DeviceId, DeviceRef, MappingId
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class ServerKeypair:
    """An ML-DSA-44 pair that signs descriptors; its holder wipes the private half, devices pin the public one."""

    public_key: bytes
    """1312 bytes."""
    private_key: SecretBytes
    """Expanded, 2560 bytes."""

    def wipe(self) -> None:
        """Destroy the private half."""
        self.private_key.wipe()

    def __enter__(self) -> Self:
        """Lend the pair to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the private half at the end of the block."""
        self.wipe()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMapping:
    """A mapping's public side: send `descriptor` to the device."""

    mapping_id: MappingId
    device_id: DeviceId
    ref: DeviceRef
    generation: int
    bucket: int
    """First bucket."""
    width_s: int
    descriptor: bytes
    """4126 bytes, signed by the server key."""
    server_public_key: bytes
    """What the device pins."""
    expires_at: datetime


@dataclass(slots=True)
class KeptMapping:
    """What a mapper keeps of a mapping."""

    public: KeyMapping
    client_public_key: bytes
    sealed: bytes = field(repr=False)
    expires_s: int
