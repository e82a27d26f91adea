"""Keys of replies that may come late, as the device remembers them (PROTOCOL R6): bounded, used once, timed out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qflare.errors import KeyNotFoundError, OverloadedError
from qflare.model.ids import RequestId, SessionId
from qflare.protocol.reply import derive_reply_key, last_reply_bucket, opposite

if TYPE_CHECKING:
    from qflare.protocol.chain import SessionChain
    from qflare.protocol.record import RecordHeader
    from qflare.secret import SecretBytes

REPLY_KEYS_MAX: Final = 64
"""Replies that may be outstanding at a time, both directions together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyKey:
    """The key of one reply; it outlives the session's chain keys of its bucket."""

    sid: SessionId
    request_id: RequestId
    direction: int
    """The reply's: 1 device to server, 2 back."""
    request_bucket: int
    request_epoch: int
    expires_bucket: int
    """The last bucket in which it is of use."""
    key: SecretBytes = field(repr=False)
    """RK, 64 bytes."""


class ReplyKeys:
    """The outstanding replies of one device; owns their keys."""

    def __init__(self) -> None:
        """Hold none."""
        self._keys: dict[RequestId, ReplyKey] = {}

    def __len__(self) -> int:
        """Return how many replies are outstanding."""
        return len(self._keys)

    def list_all(self) -> tuple[ReplyKey, ...]:
        """Return every key, which stays owned here."""
        return tuple(self._keys.values())

    def require_room(self) -> None:
        """Raise `OverloadedError` if no reply more may be outstanding."""
        if len(self._keys) >= REPLY_KEYS_MAX:
            message = f"{REPLY_KEYS_MAX} replies are outstanding; give or take some, or wait until their time is over"
            raise OverloadedError(message)

    def keep(self, header: RecordHeader, chain: SessionChain, *, lifetime: int) -> ReplyKey:
        """
        Derive and keep RK for the request of *header*.

        Args:
            header: The request's.
            chain: Of the request's epoch.
            lifetime: In how many buckets from the request's on the reply is of use.

        Raises:
            OverloadedError: too many replies are outstanding.
            UsageError: *lifetime* is not 1 to 288.
        """
        self.require_room()
        expires = last_reply_bucket(header.bucket, lifetime=lifetime, last_bucket=chain.last_bucket)
        request_id = RequestId(header.stream_id)
        with chain.chain_key(header.bucket) as chain_key:
            key = derive_reply_key(chain_key, request_id)
        kept = ReplyKey(
            sid=header.sid,
            request_id=request_id,
            direction=opposite(header.direction),
            request_bucket=header.bucket,
            request_epoch=header.epoch,
            expires_bucket=expires,
            key=key,
        )
        self.put(kept)
        return kept

    def put(self, key: ReplyKey) -> None:
        """Keep a key as it is; one of the same request is replaced."""
        self.drop(key.request_id)
        self._keys[key.request_id] = key

    def get(self, request_id: RequestId, *, direction: int) -> ReplyKey:
        """
        Return the key of the reply to a request, which stays owned here.

        Raises:
            KeyNotFoundError: no such reply is outstanding.
        """
        kept = self._keys.get(request_id)
        if kept is None or kept.direction != direction:
            message = (
                f"no reply to request {request_id.hex()} is outstanding: it was given or taken, its time is over, "
                "or the request is not this device's"
            )
            raise KeyNotFoundError(message)
        return kept

    def drop(self, request_id: RequestId) -> None:
        """Erase one key."""
        kept = self._keys.pop(request_id, None)
        if kept is not None:
            kept.key.wipe()

    def expire(self, bucket: int) -> None:
        """Erase the keys whose last bucket is below *bucket*."""
        for request_id in [its for its, kept in self._keys.items() if kept.expires_bucket < bucket]:
            self.drop(request_id)

    def wipe(self) -> None:
        """Erase every key."""
        for request_id in list(self._keys):
            self.drop(request_id)
