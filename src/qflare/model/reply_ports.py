"""The port to keys of replies that may come late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import RequestId, SessionId, TenantId
    from qflare.model.reply import ReplyKeyResult, SealedReplyKey


class ReplyStore(Protocol):
    """Keys of replies that may come late (PROTOCOL R6)."""

    async def accept_requests(
        self,
        tenant_id: TenantId,
        keys: Sequence[SealedReplyKey],
        *,
        outstanding_max: int,
        now_s: int,
    ) -> tuple[ReplyKeyResult, ...]:
        """Insert a device's requests' streams (R4) together with the keys of our replies; all or none of each."""

    async def save_reply_keys(
        self, tenant_id: TenantId, keys: Sequence[SealedReplyKey], *, outstanding_max: int
    ) -> tuple[ReplyKeyResult, ...]:
        """Insert the keys of replies to our own requests, of live sessions in their present epoch."""

    async def find_reply_keys(
        self, tenant_id: TenantId, requests: Sequence[tuple[SessionId, RequestId]]
    ) -> tuple[SealedReplyKey, ...]:
        """Return the keys found of outstanding replies."""

    async def take_reply_keys(
        self,
        tenant_id: TenantId,
        requests: Sequence[tuple[SessionId, RequestId]],
        *,
        direction: int,
        bucket: int,
        now_s: int,
    ) -> tuple[bool, ...]:
        """Delete keys whose replies are taken; True where it stood, in time, and its session lives."""

    async def list_reply_keys(
        self, bucket: int, *, limit: int, after: RequestId | None = None
    ) -> tuple[SealedReplyKey, ...]:
        """Return keys sealed in *bucket*, of every tenant's live sessions, in order of request: what a turn seals."""

    async def reseal_reply_keys(self, keys: Sequence[SealedReplyKey]) -> int:
        """Put keys sealed for a later bucket in the place of the earlier ones; those taken meanwhile stay away."""

    async def drop_reply_keys(self, *, before: int, bucket: int, limit: int) -> int:
        """Delete keys sealed below *before* and those whose time ended before *bucket*; return how many."""
