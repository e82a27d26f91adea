"""Keys of replies as they rest (PROTOCOL R6, R8): sealed under the KEK of the bucket they were last sealed in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.manager.sealing import REPLY_COLUMN, Place, seal_rows, unseal_rows
from qflare.model.ids import RequestId
from qflare.model.reply import SealedReplyKey
from qflare.protocol.reply import derive_reply_keys_many, last_reply_bucket, opposite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Ring
    from qflare.model.ids import SessionId, TenantId
    from qflare.model.session import Session
    from qflare.protocol.record import RecordHeader
    from qflare.secret import SecretBytes

REPLY_KEY_BYTES: Final = 64


def reply_key_of(session: Session, header: RecordHeader, *, lifetime: int) -> SealedReplyKey:
    """Make the row of the reply to the request of *header*, without its key, for *lifetime* buckets."""
    return SealedReplyKey(
        tenant_id=session.tenant_id,
        sid=header.sid,
        request_id=RequestId(header.stream_id),
        direction=opposite(header.direction),
        request_bucket=header.bucket,
        request_epoch=header.epoch,
        expires_bucket=last_reply_bucket(header.bucket, lifetime=lifetime, last_bucket=session.last_bucket),
        bucket=header.bucket,
        sealed_reply_key=b"",
    )


def derive_and_seal_reply_keys(
    ring: Ring, keys: Sequence[SealedReplyKey], chain_keys: SecretBytes
) -> list[SealedReplyKey]:
    """
    Derive RK of each row's request and seal it.

    Args:
        ring: Holds the KEK of the present bucket.
        keys: The rows.
        chain_keys: ``n × 64`` bytes: CK of each request's epoch and bucket; the caller wipes them.
    """
    with derive_reply_keys_many(chain_keys, [key.request_id for key in keys]) as reply_keys:
        return seal_reply_keys(ring, keys, reply_keys)


def reply_place(tenant_id: TenantId, sid: SessionId, request_id: RequestId, bucket: int) -> Place:
    """Say where a reply key rests: what the seal is bound to."""
    return Place(REPLY_COLUMN, sid + request_id, bucket, tenant_id)


def seal_reply_keys(ring: Ring, keys: Sequence[SealedReplyKey], reply_keys: SecretBytes) -> list[SealedReplyKey]:
    """
    Seal reply keys for the present bucket.

    Args:
        ring: Holds its KEK.
        keys: The rows, whatever they hold sealed so far.
        reply_keys: ``n × 64`` bytes: RK, one a row; the caller wipes them.
    """
    bucket = ring.current
    places = [reply_place(key.tenant_id, key.sid, key.request_id, bucket) for key in keys]
    sealed = seal_rows(ring.kek(bucket), reply_keys, REPLY_KEY_BYTES, places)
    return [replace(key, bucket=bucket, sealed_reply_key=value) for key, value in zip(keys, sealed, strict=True)]


def unseal_reply_keys(ring: Ring, keys: Sequence[SealedReplyKey]) -> list[SecretBytes | None]:
    """Open reply keys of any live buckets; None where the bucket is gone, or the row does not open in its place."""
    opened: list[SecretBytes | None] = [None] * len(keys)
    for bucket in {key.bucket for key in keys if ring.has(key.bucket)}:
        positions = [position for position, key in enumerate(keys) if key.bucket == bucket]
        rows = [keys[position] for position in positions]
        values = unseal_rows(
            ring.kek(bucket),
            [row.sealed_reply_key for row in rows],
            [reply_place(row.tenant_id, row.sid, row.request_id, bucket) for row in rows],
        )
        for position, value in zip(positions, values, strict=True):
            opened[position] = value
    return opened
