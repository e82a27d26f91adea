"""Buckets in PostgreSQL: their keys, the mark, and the emptying of what a bucket leaves (PROTOCOL A2, A3, A4, R8)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from qflare.errors import StoreError, StoreUnavailableError
from qflare.model.bucket import SealedBucket
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    import asyncpg

    from qflare.model.event import NewEvent

EMPTYING_LOCK_TIMEOUT: Final = "250ms"
"""Longest wait for a dead partition; whoever reads a whole table meanwhile waits as long."""

_log = logging.getLogger(__name__)


class Buckets(Connected):
    """Tables bucket_key and bucket_mark, and the partitions that go by bucket."""

    async def save_bucket(self, bucket: SealedBucket, *, event: NewEvent | None = None) -> SealedBucket:
        """Insert *bucket* if absent and return the row that stands: the first insert wins (A3)."""
        async with self._connections.transaction() as transaction:
            inserted = await transaction.fetch_row(
                "insert_bucket",
                bucket.bucket,
                bucket.width_s,
                bucket.announcement,
                bucket.sealed_dk,
                bucket.sealed_ticket_key,
            )
            if inserted is not None and event is not None:
                await transaction.write_events([event])
            rows = await transaction.fetch("find_buckets", bucket.bucket, bucket.bucket)
        if not rows:
            # Dropped between the two statements: the bucket is over.
            raise StoreError(f"bucket {bucket.bucket} was dropped while it was being published; publish a later one")
        return _bucket(rows[0])

    async def find_buckets(self, first: int, last: int) -> tuple[SealedBucket, ...]:
        """Return the rows of buckets *first* to *last* inclusive, in order."""
        return tuple(_bucket(row) for row in await self._connections.fetch("find_buckets", first, last))

    async def sign_bucket_again(self, bucket: SealedBucket, announcement: bytes) -> SealedBucket:
        """Replace *bucket*'s announcement if it still is the one given, and return the row that stands (A3)."""
        async with self._connections.transaction() as transaction:
            await transaction.execute("sign_bucket_again", bucket.bucket, announcement, bucket.announcement)
            rows = await transaction.fetch("find_buckets", bucket.bucket, bucket.bucket)
        if not rows:
            raise StoreError(f"bucket {bucket.bucket} was dropped while its announcement was being signed again")
        return _bucket(rows[0])

    async def bucket_mark(self) -> int:
        """Return the highest bucket that has been current, 0 if none (A2)."""
        mark: int = (await self._connections.get_row("bucket_mark"))["bucket"]
        return mark

    async def raise_bucket_mark(self, bucket: int) -> int:
        """Raise the mark to *bucket* if it is higher, and return the mark that stands."""
        async with self._connections.transaction() as transaction:
            await transaction.execute("hold_rekeys")
            await transaction.execute("raise_bucket_mark", bucket)
        return await self.bucket_mark()

    async def drop_buckets(self, *, before: int, event: NewEvent | None = None) -> int:
        """
        Delete bucket rows below *before*, and empty what they left; return how many rows.

        The rows and the event are one transaction, after which nothing is written into those buckets and nobody
        opens what lies there. Handshakes, streams and chain states then go by emptying whole partitions, outside
        that transaction: while it waited for a partition it would hold the log's head, which every handshake needs.
        What could not be emptied in time is emptied by the next call.
        """
        async with self._connections.transaction() as transaction:
            row = await transaction.fetch_row("delete_buckets", before)
            count: int = 0 if row is None else row["buckets"]
            if count and event is not None:
                await transaction.write_events([event])
        try:
            async with self._connections.transaction() as transaction:
                await transaction.execute("set_lock_timeout", EMPTYING_LOCK_TIMEOUT)
                await transaction.execute("empty_slots")
        except StoreUnavailableError as error:
            _log.info("partitions of dropped buckets stay until the next turn: %s", error)
        return count

    async def forget_bucket(self, bucket: int) -> None:
        """Delete one bucket's row whose KEK is lost, so that a new pair can be made."""
        async with self._connections.transaction() as transaction:
            await transaction.execute("delete_bucket", bucket)


def _bucket(row: asyncpg.Record) -> SealedBucket:
    return SealedBucket(
        bucket=row["bucket"],
        width_s=row["width_s"],
        announcement=row["announcement"],
        sealed_dk=row["sealed_dk"],
        sealed_ticket_key=row["sealed_ticket_key"],
    )
