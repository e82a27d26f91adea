"""Keys of replies that may come late, in memory (PROTOCOL R6)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.model.ids import RequestId, SessionId, StreamId, TenantId
from qflare.model.reply import ReplyKeyResult, SealedReplyKey
from qflare.model.session import SessionState, StreamClaim
from qflare.testing.memory.constraints import UNIQUE_VIOLATION, refused, require, require_ids, require_size
from qflare.testing.memory.streams import DIRECTIONS, Streams

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEALED_BYTES: Final = (80, 128)
_TO_SERVER, _TO_DEVICE = DIRECTIONS


class ReplyKeys(Streams):
    """One key a request."""

    async def accept_requests(
        self,
        tenant_id: TenantId,
        keys: Sequence[SealedReplyKey],
        *,
        outstanding_max: int,
        now_s: int,
    ) -> tuple[ReplyKeyResult, ...]:
        """Insert a device's requests' streams (R4) together with the keys of our replies; all or none of each."""
        del now_s
        async with self._transaction(tenant_id, *(key.sid for key in keys)):
            has_room = self._room(tenant_id, keys, outstanding_max)
            return tuple(
                self._accept_request(tenant_id, key) if fits else ReplyKeyResult.FULL
                for key, fits in zip(keys, has_room, strict=True)
            )

    async def save_reply_keys(
        self, tenant_id: TenantId, keys: Sequence[SealedReplyKey], *, outstanding_max: int
    ) -> tuple[ReplyKeyResult, ...]:
        """Insert the keys of replies to our own requests, of live sessions in their present epoch."""
        async with self._transaction(tenant_id, *(key.sid for key in keys)):
            results: list[ReplyKeyResult] = []
            for key, fits in zip(keys, self._room(tenant_id, keys, outstanding_max), strict=True):
                row = self._find(tenant_id, key.sid)
                if row is None or row.state is not SessionState.LIVE or row.epoch != key.request_epoch:
                    results.append(ReplyKeyResult.REFUSED)
                elif not fits:
                    results.append(ReplyKeyResult.FULL)
                else:
                    if not self._put(tenant_id, replace(key, direction=_TO_SERVER)):
                        raise refused("reply_key_pkey", sqlstate=UNIQUE_VIOLATION)
                    results.append(ReplyKeyResult.SAVED)
            return tuple(results)

    async def find_reply_keys(
        self, tenant_id: TenantId, requests: Sequence[tuple[SessionId, RequestId]]
    ) -> tuple[SealedReplyKey, ...]:
        """Return the keys found of outstanding replies."""
        async with self._transaction(tenant_id) as tables:
            names = [(tenant_id, *request) for request in requests]
            return tuple(tables.reply_keys[name] for name in names if name in tables.reply_keys)

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
        del now_s
        async with self._transaction(tenant_id):
            return tuple(self._take(tenant_id, *request, direction=direction, bucket=bucket) for request in requests)

    async def list_reply_keys(
        self, bucket: int, *, limit: int, after: RequestId | None = None
    ) -> tuple[SealedReplyKey, ...]:
        """Return keys sealed in *bucket*, of every tenant's live sessions, in order of request."""
        async with self._transaction() as tables:
            found = [
                key
                for key in tables.reply_keys.values()
                if key.bucket == bucket
                and (after is None or key.request_id > after)
                and (row := self._find(key.tenant_id, key.sid)) is not None
                and row.state is SessionState.LIVE
            ]
            return tuple(sorted(found, key=lambda key: key.request_id)[:limit])

    async def reseal_reply_keys(self, keys: Sequence[SealedReplyKey]) -> int:
        """Put keys sealed for a later bucket in the place of the earlier ones; those taken meanwhile stay away."""
        async with self._transaction() as tables:
            count = 0
            for key in keys:
                name = (key.tenant_id, key.sid, key.request_id)
                known = tables.reply_keys.get(name)
                if known is not None and known.bucket < key.bucket:
                    require_size(key.sealed_reply_key, "reply_key_sealed_reply_key_size", *_SEALED_BYTES)
                    later = replace(known, bucket=key.bucket, sealed_reply_key=key.sealed_reply_key)
                    tables.reply_keys.put(name, later)
                    count += 1
            return count

    async def drop_reply_keys(self, *, before: int, bucket: int, limit: int) -> int:
        """Delete keys sealed below *before* and those whose time ended before *bucket*; return how many."""
        async with self._transaction() as tables:
            lost = [name for name, key in tables.reply_keys.items() if key.bucket < before][:limit]
            for name in lost:
                tables.reply_keys.drop(name)
            over = [name for name, key in tables.reply_keys.items() if key.expires_bucket < bucket][:limit]
            for name in over:
                tables.reply_keys.drop(name)
            return len(lost) + len(over)

    def _room(self, tenant_id: TenantId, keys: Sequence[SealedReplyKey], most: int) -> list[bool]:
        """Say of each key whether its session has room for it, those before it in the batch counted."""
        outstanding = Counter(key.sid for key in self._tables.reply_keys.values() if key.tenant_id == tenant_id)
        room = []
        for key in keys:
            outstanding[key.sid] += 1
            room.append(outstanding[key.sid] <= most)
        return room

    def _accept_request(self, tenant_id: TenantId, key: SealedReplyKey) -> ReplyKeyResult:
        claim = StreamClaim(
            sid=key.sid,
            direction=_TO_SERVER,
            stream_id=StreamId(key.request_id),
            bucket=key.request_bucket,
            epoch=key.request_epoch,
        )
        if self._accept(tenant_id, claim) and self._put(tenant_id, replace(key, direction=_TO_DEVICE)):
            return ReplyKeyResult.ACCEPTED
        return ReplyKeyResult.REFUSED

    def _put(self, tenant_id: TenantId, key: SealedReplyKey) -> bool:
        require_ids(key.request_id)
        require(0 <= key.request_bucket <= key.expires_bucket, "reply_key_bucket_range")
        require_size(key.sealed_reply_key, "reply_key_sealed_reply_key_size", *_SEALED_BYTES)
        return self._tables.reply_keys.put_new((tenant_id, key.sid, key.request_id), replace(key, tenant_id=tenant_id))

    def _take(self, tenant_id: TenantId, sid: SessionId, request_id: RequestId, *, direction: int, bucket: int) -> bool:
        tables = self._tables
        key = tables.reply_keys.get((tenant_id, sid, request_id))
        row = self._find(tenant_id, sid)
        if key is None or row is None or row.state is not SessionState.LIVE:
            return False
        if key.direction != direction or key.expires_bucket < bucket:
            return False
        tables.reply_keys.drop((tenant_id, sid, request_id))
        if direction == _TO_SERVER:
            tables.sessions.put(sid, replace(row, has_carried=True))
        return True
