"""
Rekey (R7): a session's chain is joined with a fresh secret, so that who stole it and was away is out again.

    REKEY   = 1 ‖ b ‖ epoch+1 ‖ ct_r                                       1581 bytes, a control record of the old epoch
    REKEYED = 2 ‖ b ‖ epoch+1                                                 13 bytes, a control record of the new one
    CK'_b   = Expand(Extract(CK_b, ss_r), "rekey", H(sid, epoch+1, H(body_b), ct_r), 64)

This heals confidentiality.  Whoever acts with a stolen chain key may void a rekey, or make one of his own: only a new
handshake restores authentication.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, final

from qflare.errors import AuthenticationError, BatchError, UsageError
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.columns import rows
from qflare.primitives.hash import transcript, transcript_var_many
from qflare.primitives.kdf import expand_many, extract_many
from qflare.primitives.rows import lent_rows
from qflare.protocol.chain import SessionChain
from qflare.protocol.labels import EXPAND_REKEY
from qflare.protocol.wire import HASH_BYTES, REKEY_BYTES, REKEY_CT_AT, SECRET_BYTES, U32_MAX, u32, u64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import SessionId
    from qflare.primitives.rows import RowsLike
    from qflare.protocol.announcement import Announcement
    from qflare.secret import SecretBytes

BODY_REKEY: Final = 1
BODY_REKEYED: Final = 2
VOIDED_AFTER: Final = 2
"""A record of the old epoch from this many buckets after REKEY's on says that it was never taken, and never will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rekey:
    """The body of a REKEY as it was read; nothing in it is checked against the session."""

    bucket: int
    """b: whose announced key ct_r is for, and the first bucket of the new chain."""
    epoch: int
    """The new epoch."""
    ciphertext: bytes
    body_hash: bytes
    """H(REKEY), 64 bytes, by which a repetition is known."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRekey:
    """A rekey that the device has begun: what it repeats, and the chain of the new epoch; it owns that chain."""

    body: bytes
    """REKEY, the same bytes in every record that repeats it."""
    bucket: int
    chain: SessionChain

    @property
    def epoch(self) -> int:
        """Return the new epoch."""
        return self.chain.epoch

    def is_voided_by(self, bucket: int) -> bool:
        """Return whether an authentic record of the old epoch from *bucket* says that the server has not taken it."""
        return bucket >= self.bucket + VOIDED_AFTER

    def wipe(self) -> None:
        """Erase the new chain."""
        self.chain.wipe()

    def __enter__(self) -> Self:
        """Lend the rekey to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Erase the new chain at the end of the block."""
        self.wipe()


def derive_rekeyed_many(
    chain_keys: RowsLike,
    shared_secrets: RowsLike,
    *,
    sids: Sequence[SessionId],
    announcement_hashes: Sequence[bytes],
    rekeys: Sequence[Rekey],
) -> SecretBytes:
    """
    Compute CK'_b for many rekeys in one call each of Extract and Expand.

    Args:
        chain_keys: ``n × 64`` bytes: CK_b of the old epoch, b being the rekey's bucket.
        shared_secrets: ``n × 32`` bytes: ss_r.
        sids: One a row.
        announcement_hashes: `H(body_b)` of each rekey's bucket, 64 bytes.
        rekeys: One a row.

    Returns:
        ``n × 64`` bytes, row-major, owned by the caller.

    Raises:
        BatchError: the arguments disagree about n.

    Source: docs/protocol.md, R7.
    """
    count = len(rekeys)
    if len(sids) != count or len(announcement_hashes) != count:
        message = f"a batch of {count} rekeys has {len(sids)} sids and {len(announcement_hashes)} announcements"
        raise BatchError(message)
    if not count:
        message = "a batch of rekeys has at least one"
        raise BatchError(message)
    contexts = transcript_var_many(
        [
            (sid, u32(rekey.epoch), body_hash, rekey.ciphertext)
            for sid, body_hash, rekey in zip(sids, announcement_hashes, rekeys, strict=True)
        ]
    )
    with (
        lent_rows(chain_keys, SECRET_BYTES, name="chain_keys", count=count) as old,
        lent_rows(shared_secrets, kem.SS_BYTES, name="shared_secrets", count=count) as fresh,
        extract_many(count, rows(old, SECRET_BYTES), rows(fresh, kem.SS_BYTES)) as joined,
    ):
        return expand_many(count, rows(joined, SECRET_BYTES), EXPAND_REKEY, (rows(contexts, HASH_BYTES),), SECRET_BYTES)


def make_rekey(chain: SessionChain, announcement: Announcement) -> PendingRekey:
    """
    Make a REKEY in the bucket of *announcement*; the device keeps it and both chains durably before it sends any of it.

    Args:
        chain: The session's, of the present epoch; not changed.
        announcement: The latest that was verified.

    Raises:
        StaleBucketError: the chain has moved on from that bucket: fetch the present announcement.
        SessionExpiredError: the session is over before that bucket.
        UsageError: the epoch cannot grow any more.
        EntropyError: the random source failed.

    Source: docs/protocol.md, R7.
    """
    if chain.epoch >= U32_MAX:
        message = f"epoch {chain.epoch} is the last there is; make a new handshake"
        raise UsageError(message)
    bucket = announcement.bucket
    with chain.chain_key(bucket) as old:
        encapsulated = kem.encapsulate(announcement.encapsulation_key)
        body = encode_rekey(bucket, chain.epoch + 1, encapsulated.ciphertext)
        rekey = Rekey(
            bucket=bucket,
            epoch=chain.epoch + 1,
            ciphertext=encapsulated.ciphertext,
            body_hash=transcript(body),
        )
        with encapsulated.shared_secret as fresh:
            key = derive_rekeyed_many(
                old, fresh, sids=[chain.sid], announcement_hashes=[announcement.body_hash], rekeys=[rekey]
            )
    return PendingRekey(
        body=body,
        bucket=bucket,
        chain=SessionChain({bucket: key}, sid=chain.sid, start=chain.start, lifetime=chain.lifetime, epoch=rekey.epoch),
    )


def encode_rekey(bucket: int, epoch: int, ciphertext: bytes) -> bytes:
    """Return the body of REKEY, 1581 bytes; *epoch* is the new one."""
    return b"".join((bytes((BODY_REKEY,)), u64(bucket), u32(epoch), ciphertext))


def read_rekey(body: bytes, *, epoch: int) -> Rekey | Refusal:
    """
    Read the body of REKEY, which came in a control record of *epoch*.

    Returns:
        The rekey, or why it is refused: whether its bucket is one of now is for the server to say.

    Source: docs/protocol.md, R7.
    """
    if len(body) != REKEY_BYTES:
        return Refusal.LENGTH
    if body[0] != BODY_REKEY:
        return Refusal.TYPE
    bucket, its_epoch = int.from_bytes(body[1:9], "big"), int.from_bytes(body[9:REKEY_CT_AT], "big")
    if its_epoch != epoch + 1:
        return Refusal.EPOCH
    return Rekey(bucket=bucket, epoch=its_epoch, ciphertext=body[REKEY_CT_AT:], body_hash=transcript(body))


def encode_rekeyed(bucket: int, epoch: int) -> bytes:
    """Return the body of REKEYED, 13 bytes: REKEY's bucket and the new epoch."""
    return b"".join((bytes((BODY_REKEYED,)), u64(bucket), u32(epoch)))


def accept_rekeyed(body: bytes, *, bucket: int, epoch: int) -> None:
    """
    Check the body of REKEYED, from a record of the new epoch that has opened.

    Raises:
        AuthenticationError: it is no REKEYED for that bucket and epoch.

    Source: docs/protocol.md, R7.
    """
    if body != encode_rekeyed(bucket, epoch):
        raise AuthenticationError
