"""Replies that may come late: their keys as the database holds them (PROTOCOL R6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qflare.model.ids import RequestId, SessionId, TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedReplyKey:
    """The key of one outstanding reply, sealed under the KEK of `bucket`."""

    tenant_id: TenantId
    sid: SessionId
    request_id: RequestId
    direction: int
    """The reply's: 1 device to server, 2 back."""
    request_bucket: int
    request_epoch: int
    expires_bucket: int
    """The last bucket in which the reply is taken."""
    bucket: int
    """Whose KEK sealed it; a turn seals it again for the next one."""
    sealed_reply_key: bytes


class ReplyKeyResult(StrEnum):
    """What the database said to a reply key."""

    ACCEPTED = "accepted"
    """A request's stream was accepted, and the key of its reply stands."""
    SAVED = "saved"
    REFUSED = "refused"
    """The stream came before, or the session does not live or has another epoch."""
    FULL = "full"
    """As many replies as a session may have are outstanding."""
