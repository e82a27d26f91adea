"""Buckets in memory: their keys with their lives, the mark, and what goes with a bucket (PROTOCOL A2, A3, A4, R8)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.errors import StoreError
from qflare.model.device import KeyState
from qflare.model.key_record import KeyRecord
from qflare.testing.memory.constraints import require, require_numbers, require_size
from qflare.testing.memory.entries import Logging
from qflare.testing.memory.states import moved

if TYPE_CHECKING:
    from qflare.model.bucket import SealedBucket
    from qflare.model.event import NewEvent

SLOTS: Final = 8
"""Partitions by bucket, as in database/schema.sql: what lies in one goes when no bucket of it lives."""
_ANNOUNCEMENT_BYTES: Final = 4042
_SEALED_DK_BYTES: Final = (80, 128)
_SEALED_TICKET_KEY_BYTES: Final = (48, 96)
_CURRENT: Final = "its bucket is current"
_PAST: Final = "its bucket is no longer current"


class Buckets(Logging):
    """Bucket rows, their records, the mark, and the emptying of what a bucket leaves."""

    async def save_bucket(self, bucket: SealedBucket, *, event: NewEvent | None = None) -> SealedBucket:
        """Insert *bucket* if absent and return the row that stands: the first insert wins (A3)."""
        require_numbers(bucket.bucket)
        async with self._transaction() as tables:
            require(bucket.bucket >= 0, "bucket_key_bucket_range")
            require(bucket.width_s >= 1, "bucket_key_width_range")
            require_size(bucket.announcement, "bucket_key_announcement_size", _ANNOUNCEMENT_BYTES)
            require_size(bucket.sealed_dk, "bucket_key_sealed_dk_size", *_SEALED_DK_BYTES)
            require_size(bucket.sealed_ticket_key, "bucket_key_sealed_ticket_key_size", *_SEALED_TICKET_KEY_BYTES)
            if tables.buckets.put_new(bucket.bucket, bucket):
                self._begin_key(bucket)
                if event is not None:
                    self._write_events(self._log_tenant, [event])
            return tables.buckets[bucket.bucket]

    async def find_buckets(self, first: int, last: int) -> tuple[SealedBucket, ...]:
        """Return the rows of buckets *first* to *last* inclusive, in order."""
        require_numbers(first, last)
        async with self._transaction() as tables:
            return tuple(tables.buckets[bucket] for bucket in sorted(tables.buckets) if first <= bucket <= last)

    async def sign_bucket_again(self, bucket: SealedBucket, announcement: bytes) -> SealedBucket:
        """Replace *bucket*'s announcement if it still is the one given, and return the row that stands (A3)."""
        async with self._transaction() as tables:
            row = tables.buckets.get(bucket.bucket)
            if row is None:
                raise StoreError(f"bucket {bucket.bucket} was dropped while its announcement was being signed again")
            if row.announcement == bucket.announcement:
                require_size(announcement, "bucket_key_announcement_size", _ANNOUNCEMENT_BYTES)
                row = replace(row, announcement=announcement)
                tables.buckets.put(bucket.bucket, row)
            return row

    async def bucket_mark(self) -> int:
        """Return the highest bucket that has been current, 0 if none (A2)."""
        async with self._transaction() as tables:
            return tables.bucket_mark.value

    async def raise_bucket_mark(self, bucket: int) -> int:
        """Raise the mark to *bucket* if it is higher, and return the mark that stands."""
        require_numbers(bucket)
        async with self._transaction() as tables:
            self._raise_mark(bucket)
            return tables.bucket_mark.value

    async def drop_buckets(self, *, before: int, event: NewEvent | None = None) -> int:
        """Delete bucket rows, handshakes, streams and chain states of buckets below *before*; return bucket rows."""
        async with self._transaction():
            count = self._delete_buckets(before)
            if count and event is not None:
                self._write_events(self._log_tenant, [event])
            self._empty_slots()
            return count

    async def forget_bucket(self, bucket: int) -> None:
        """Delete one bucket's row whose KEK is lost, so that a new pair can be made."""
        async with self._transaction() as tables:
            if bucket in tables.buckets:
                self._delete_bucket(bucket)

    def _raise_mark(self, bucket: int) -> None:
        tables = self._tables
        if bucket <= tables.bucket_mark.value:
            return
        tables.bucket_mark.put(bucket)
        for key in sorted(tables.bucket_records):
            state = tables.bucket_records[key].state
            if key[0] == bucket and state is KeyState.PRE_ACTIVE:
                self._move_bucket_key(key, KeyState.ACTIVE, _CURRENT)
            elif key[0] < bucket and state in {KeyState.PRE_ACTIVE, KeyState.ACTIVE}:
                self._move_bucket_key(key, KeyState.DEACTIVATED, _PAST)

    def _delete_buckets(self, before: int) -> int:
        tables = self._tables
        tables.turns.drop_all(where=lambda bucket: bucket < before)
        over = [bucket for bucket in tables.buckets if bucket < before]
        for bucket in over:
            self._delete_bucket(bucket)
        return len(over)

    def _delete_bucket(self, bucket: int) -> None:
        tables = self._tables
        tables.buckets.drop(bucket)
        is_over = bucket < tables.bucket_mark.value
        reason = "its bucket is over" if is_over else "removed before its bucket was over"
        for key, record in list(tables.bucket_records.items()):
            if key[0] == bucket and record.state is not KeyState.DESTROYED:
                if record.state is KeyState.ACTIVE:
                    # An active key has no way to destroyed but by being deactivated.
                    self._move_bucket_key(key, KeyState.DEACTIVATED, reason)
                self._move_bucket_key(key, KeyState.DESTROYED, reason)

    def _empty_slots(self) -> None:
        """Delete what lies in slots of which no bucket lives; one that is turned into is left for the next call."""
        tables = self._tables
        held = {bucket % SLOTS for bucket in tables.buckets}
        held |= {number % SLOTS for bucket in tables.leading for number in (bucket - 1, bucket)}
        tables.handshakes.drop_all(where=lambda key: key[0] % SLOTS not in held)
        tables.streams.drop_all(where=lambda key: key[0] % SLOTS not in held)
        tables.chains.drop_all(where=lambda key: key[0] % SLOTS not in held)
        tables.pages.drop_all(where=lambda key: key[0] % SLOTS not in held)

    def _begin_key(self, bucket: SealedBucket) -> None:
        key = (bucket.bucket, hashlib.sha256(bucket.announcement).digest())
        mark = self._tables.bucket_mark.value
        self._tables.bucket_records.put_new(
            key,
            KeyRecord(
                kind="bucket",
                number=bucket.bucket,
                algorithm="ML-KEM-1024",
                state=KeyState.PRE_ACTIVE,
                created_at=self._now,
                moves=(),
            ),
        )
        if bucket.bucket == mark:
            self._move_bucket_key(key, KeyState.ACTIVE, _CURRENT)
        elif bucket.bucket < mark:
            self._move_bucket_key(key, KeyState.DEACTIVATED, _PAST)

    def _move_bucket_key(self, key: tuple[int, bytes], state: KeyState, reason: str) -> None:
        records = self._tables.bucket_records
        records.put(key, moved(records[key], state, what="bucket record", reason=reason, at=self._now))
