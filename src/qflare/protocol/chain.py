"""
The chain of a session (R1, R2, R5, R9): one secret a bucket, forwards by hashing, backwards not at all.

A `SessionChain` holds the chain keys of its bucket and of the one before, and nothing older.  Whatever a message claims
about its bucket is derived on a copy; the chain itself moves only when its owner says so, after a tag has verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self, final

from qflare.errors import LengthError, SessionExpiredError, StaleBucketError, UsageError
from qflare.model.refusal import Refusal
from qflare.primitives import kdf
from qflare.protocol.purpose import encode_purpose
from qflare.protocol.wire import (
    DIRECTION_TO_DEVICE,
    DIRECTION_TO_SERVER,
    LIFETIME_MAX,
    SECRET_BYTES,
    SID_BYTES,
    U64_MAX,
)
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qflare.model.ids import SessionId

_HELD_MAX: Final = 2
"""Buckets whose keys are held: the chain's own and the one before (R5)."""


def refuse_bucket(
    bucket: int, *, start: int, lifetime: int, server_bucket: int, is_next_published: bool
) -> Refusal | None:
    """
    Say why a server refuses a record of *bucket*, or None (R1).

    Accepted are the server's bucket, the one before and, once it is published, the one after, within the session.
    """
    newest = server_bucket + 1 if is_next_published else server_bucket
    if not server_bucket - 1 <= bucket <= newest or not start <= bucket <= start + lifetime - 1:
        return Refusal.BUCKET
    return None


@final
class SessionChain:
    """Chain keys of one live session, with their owner; wipe it, or use it as a context manager."""

    __slots__ = ("_bucket", "_keys", "epoch", "lifetime", "sid", "start")

    def __init__(
        self, keys: Mapping[int, SecretBytes], *, sid: SessionId, start: int, lifetime: int, epoch: int = 0
    ) -> None:
        """
        Take over *keys*, as a state file or a handshake gives them.

        Args:
            keys: Chain key by bucket, 64 bytes each: one, or two of consecutive buckets.
            sid: 16 bytes.
            start: First bucket of the session.
            lifetime: Buckets, 1 to 288.
            epoch: Counted by rekeys (R7), from 0.

        Raises:
            LengthError: a key or the sid has the wrong size.
            UsageError: the buckets do not belong to this session.
        """
        for name, size, expected in (
            ("sid", len(sid), SID_BYTES),
            *(("chain key", len(key), SECRET_BYTES) for key in keys.values()),
        ):
            if size != expected:
                raise LengthError(name, expected=expected, actual=size)
        if not 0 <= start <= U64_MAX - lifetime or not 1 <= lifetime <= LIFETIME_MAX or epoch < 0:
            message = (
                f"start and epoch count from 0 and lifetime is 1 to {LIFETIME_MAX}, got {start}, {epoch}, {lifetime}"
            )
            raise UsageError(message)
        buckets = sorted(keys)
        fits = buckets and buckets[0] >= start and buckets[-1] <= start + lifetime - 1
        if not fits or len(buckets) > _HELD_MAX or buckets[-1] - buckets[0] != len(buckets) - 1:
            message = (
                f"a session of buckets {start} to {start + lifetime - 1} holds one key or two neighbours, got {buckets}"
            )
            raise UsageError(message)
        self.sid = sid
        self.start = start
        self.lifetime = lifetime
        self.epoch = epoch
        self._keys = dict(keys)
        self._bucket = buckets[-1]

    @classmethod
    def begin(cls, chain_key: SecretBytes, *, sid: SessionId, start: int, lifetime: int) -> Self:
        """Begin the chain of a fresh session with CK_start (H10), which the chain takes over."""
        return cls({start: chain_key}, sid=sid, start=start, lifetime=lifetime)

    @property
    def last_bucket(self) -> int:
        """Return the last bucket the session lives in, inclusive."""
        return self.start + self.lifetime - 1

    @property
    def bucket(self) -> int:
        """Return the highest bucket the chain has moved to."""
        return self._bucket

    @property
    def oldest_bucket(self) -> int:
        """
        Return the lowest bucket that can still be read.

        Raises:
            SessionExpiredError: the session is over.
        """
        self._require_live()
        return min(self._keys)

    @property
    def is_ended(self) -> bool:
        """Return whether every key was erased."""
        return not self._keys

    def chain_key(self, bucket: int) -> SecretBytes:
        """
        Derive CK of *bucket* on a copy; the chain stays where it is (R5). The caller wipes it.

        Raises:
            StaleBucketError: the key of *bucket* was erased, or the session began later.
            SessionExpiredError: *bucket* is after the session's last, or the session is over.
        """
        self._require_live()
        if bucket > self.last_bucket:
            message = f"the session ends with bucket {self.last_bucket}; make a new handshake"
            raise SessionExpiredError(message)
        if bucket < min(self._keys):
            message = f"the key of bucket {bucket} is erased; the oldest held is that of {min(self._keys)}"
            raise StaleBucketError(message)
        nearest = max(held for held in self._keys if held <= bucket)
        return kdf.chain_advance(self._keys[nearest], self.sid, nearest, bucket)

    def message_key(self, bucket: int, *, direction: int, purpose: bytes) -> SecretBytes:
        """
        Derive ``MK(bucket, direction, purpose)``, 64 bytes, for the protocol's own purposes (R2); the caller wipes it.

        Raises:
            StaleBucketError: as `chain_key`.
            SessionExpiredError: as `chain_key`.
        """
        with self.chain_key(bucket) as key:
            return kdf.message_key(key, bucket, direction, purpose)

    def derive_session_key(
        self, purpose: str, *, bucket: int | None = None, direction: int = DIRECTION_TO_SERVER
    ) -> SecretBytes:
        """
        Derive the application's key for *purpose*, 64 bytes, the same on both sides (R2); the caller wipes it.

        Args:
            purpose: ``[a-z0-9._-]{1,64}``, not beginning ``qfx.``.
            bucket: Which bucket's key; the chain's own if not given.
            direction: 1 device to server, 2 back; 1 where none is meant.

        Raises:
            UsageError: the purpose or direction cannot be used.
            StaleBucketError: as `chain_key`.
            SessionExpiredError: as `chain_key`.
        """
        if direction not in (DIRECTION_TO_SERVER, DIRECTION_TO_DEVICE):
            message = f"direction is 1 (device to server) or 2 (back), got {direction}"
            raise UsageError(message)
        chosen = min(self._bucket, self.last_bucket) if bucket is None else bucket
        return self.message_key(chosen, direction=direction, purpose=encode_purpose(purpose))

    def advance_to(self, bucket: int) -> None:
        """
        Move on to *bucket*: hold its key and that of the bucket before, erase all older ones (R1, R5).

        Call it after a tag of *bucket* verified or a verified announcement showed it, and only when the backlog of
        earlier buckets is read. A bucket behind the chain's changes nothing; two after the last ends the session (R9).
        """
        if bucket <= self._bucket or not self._keys:
            return
        wanted = [kept for kept in (bucket - 1, bucket) if min(self._keys) <= kept <= self.last_bucket]
        # All derivations come first: a failure leaves the chain as it was.
        fresh = {kept: self.chain_key(kept) for kept in wanted}
        stale, self._keys, self._bucket = self._keys, fresh, bucket
        for key in stale.values():
            key.wipe()

    def export_keys(self) -> dict[int, SecretBytes]:
        """Copy the held keys by bucket, for a state file; the caller wipes them."""
        return {bucket: SecretBytes.copy_of(key) for bucket, key in self._keys.items()}

    def wipe(self) -> None:
        """Erase every key; the session is over on this side. Safe to call twice."""
        for key in self._keys.values():
            key.wipe()
        self._keys = {}

    def __enter__(self) -> Self:
        """Lend the chain to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe at the end of the block, however it ends."""
        self.wipe()

    def __repr__(self) -> str:
        """Name the session and its buckets, no key."""
        return f"<SessionChain {self.sid.hex()} buckets {self.start}..{self.last_bucket} at {self._bucket}>"

    def _require_live(self) -> None:
        if not self._keys:
            message = "the session is over; make a new handshake"
            raise SessionExpiredError(message)
