"""Records as callers hand them in and get them back, on their way in and out (PROTOCOL R1-R3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from qflare.protocol.reply import request_id_of

if TYPE_CHECKING:
    from qflare.model.ids import RequestId, SessionId, TenantId
    from qflare.model.session import Session
    from qflare.protocol.record import RecordHeader
    from qflare.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class OpenedRecord:
    """A record that was authentic, new and of a live session; its holder wipes the plaintext."""

    session: Session
    header: RecordHeader
    plaintext: SecretBytes

    @property
    def request_id(self) -> RequestId | None:
        """Return the request that this record is, or that it answers; None if it is neither (R6)."""
        return request_id_of(self.header)

    def __enter__(self) -> Self:
        """Lend the plaintext to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the plaintext."""
        self.plaintext.wipe()


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A record on its way in, with the application's associated data."""

    message: bytes | bytearray | memoryview
    """Not copied: its owner leaves it alone until the record has opened."""
    aad: bytes


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """A message on its way out."""

    tenant_id: TenantId
    """Whose session it must be."""
    sid: SessionId
    plaintext: bytes | bytearray | memoryview
    aad: bytes
    kind: int
    reply_lifetime: int = 0
    """Of a request alone: in how many buckets, from this one on, its reply is taken (R6)."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """An application key asked for: purpose is encoded and checked already."""

    tenant_id: TenantId
    """Whose session it must be."""
    sid: SessionId
    purpose: bytes
    bucket: int | None
    direction: int
