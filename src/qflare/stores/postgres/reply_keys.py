"""Keys of replies that may come late, in PostgreSQL (PROTOCOL R6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.ids import RequestId, SessionId, TenantId
from qflare.model.reply import ReplyKeyResult, SealedReplyKey
from qflare.stores.postgres.columns import as_time, as_uuid, as_uuids
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg


class ReplyKeys(Connected):
    """Table reply_key."""

    async def accept_requests(
        self,
        tenant_id: TenantId,
        keys: Sequence[SealedReplyKey],
        *,
        outstanding_max: int,
        now_s: int,
    ) -> tuple[ReplyKeyResult, ...]:
        """Insert a device's requests' streams (R4) together with the keys of our replies; all or none of each."""
        if not keys:
            return ()
        # Once: a second attempt would meet what the first one left, and take it for another's.
        (row,) = await self._connections.attempt(
            "accept_requests", as_uuid(tenant_id), *_columns(keys), outstanding_max, as_time(now_s)
        )
        return tuple(ReplyKeyResult(result) for result in row["results"])

    async def save_reply_keys(
        self, tenant_id: TenantId, keys: Sequence[SealedReplyKey], *, outstanding_max: int
    ) -> tuple[ReplyKeyResult, ...]:
        """Insert the keys of replies to our own requests, of live sessions in their present epoch."""
        if not keys:
            return ()
        (row,) = await self._connections.attempt(
            "save_reply_keys", as_uuid(tenant_id), *_columns(keys), outstanding_max
        )
        return tuple(ReplyKeyResult(result) for result in row["results"])

    async def find_reply_keys(
        self, tenant_id: TenantId, requests: Sequence[tuple[SessionId, RequestId]]
    ) -> tuple[SealedReplyKey, ...]:
        """Return the keys found of outstanding replies."""
        if not requests:
            return ()
        rows = await self._connections.fetch(
            "find_reply_keys",
            as_uuid(tenant_id),
            as_uuids([sid for sid, _ in requests]),
            as_uuids([request_id for _, request_id in requests]),
        )
        return tuple(_key(row, tenant_id) for row in rows)

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
        if not requests:
            return ()
        # Once: a second attempt would meet what the first one left, and take it for another's.
        (row,) = await self._connections.attempt(
            "take_reply_keys",
            as_uuid(tenant_id),
            as_uuids([sid for sid, _ in requests]),
            as_uuids([request_id for _, request_id in requests]),
            direction,
            bucket,
            as_time(now_s),
        )
        return tuple(row["taken"])

    async def list_reply_keys(
        self, bucket: int, *, limit: int, after: RequestId | None = None
    ) -> tuple[SealedReplyKey, ...]:
        """Return keys sealed in *bucket*, of every tenant's live sessions, in order of request."""
        rows = await self._connections.fetch(
            "list_reply_keys", bucket, limit, None if after is None else as_uuid(after)
        )
        return tuple(_key(row, TenantId(row["tenant_id"].bytes)) for row in rows)

    async def reseal_reply_keys(self, keys: Sequence[SealedReplyKey]) -> int:
        """Put keys sealed for a later bucket in the place of the earlier ones; those taken meanwhile stay away."""
        if not keys:
            return 0
        row = await self._connections.get_row(
            "reseal_reply_keys",
            as_uuids([key.tenant_id for key in keys]),
            as_uuids([key.sid for key in keys]),
            as_uuids([key.request_id for key in keys]),
            [key.bucket for key in keys],
            [key.sealed_reply_key for key in keys],
        )
        resealed: int = row["resealed"]
        return resealed

    async def drop_reply_keys(self, *, before: int, bucket: int, limit: int) -> int:
        """Delete keys sealed below *before* and those whose time ended before *bucket*; return how many."""
        row = await self._connections.get_row("drop_reply_keys", before, bucket, limit)
        dropped: int = row["dropped"]
        return dropped


def _columns(keys: Sequence[SealedReplyKey]) -> tuple[list[object], ...]:
    """Return the columns as the functions take them."""
    return (
        list(as_uuids([key.sid for key in keys])),
        list(as_uuids([key.request_id for key in keys])),
        [key.request_bucket for key in keys],
        [key.request_epoch for key in keys],
        [key.expires_bucket for key in keys],
        [key.bucket for key in keys],
        [key.sealed_reply_key for key in keys],
    )


def _key(row: asyncpg.Record, tenant_id: TenantId) -> SealedReplyKey:
    return SealedReplyKey(
        tenant_id=tenant_id,
        sid=SessionId(row["sid"].bytes),
        request_id=RequestId(row["request_id"].bytes),
        direction=row["direction"],
        request_bucket=row["request_bucket"],
        request_epoch=row["request_epoch"],
        expires_bucket=row["expires_bucket"],
        bucket=row["bucket"],
        sealed_reply_key=row["sealed_reply_key"],
    )
