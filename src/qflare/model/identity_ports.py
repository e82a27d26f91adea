"""The port to the server's identity and the keys of buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qflare.model.call_ports import CallStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.bucket import SealedBucket, SealedIdentity
    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId
    from qflare.model.server_key import PendingServerKey, ServerKey


class IdentityStore(CallStore, Protocol):
    """Where the server's identity and the bucket keys are kept."""

    async def find_identity(self) -> SealedIdentity | None:
        """Return the identity with the highest serial, or None in an empty database."""

    async def save_identity(self, identity: SealedIdentity, *, event: NewEvent) -> SealedIdentity:
        """Insert *identity* if its serial is new and return the row that stands: the first insert wins."""

    async def identity_serial(self) -> int:
        """Return the highest serial, 0 in an empty database; cheap enough for every look at the clock."""

    async def list_certificates(self) -> tuple[bytes, ...]:
        """Return every CERT that was in force, the newest first."""

    async def follow_identity(
        self,
        identity: SealedIdentity,
        *,
        after: int,
        compromised: str | None,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> int:
        """
        Bring *identity* into force after the certificate of serial *after*, with *event* in one transaction.

        Its keys become active, keys that waited for another certificate are destroyed, and with a reason in
        *compromised* the keys before it are compromised. `IllegalTransitionError` if *after* is in force no more.
        Returns the serial that came into force: that of an earlier call with the same id, if there was one.
        """

    async def save_pending_keys(
        self,
        keys: Sequence[PendingServerKey],
        *,
        after: int,
        reason: str,
        event: NewEvent,
        call_id: CallId | None = None,
    ) -> int:
        """
        Keep *keys* as pre-active after serial *after*, and destroy those that waited before.

        Returns the `print_of` the public keys that were kept, by this call or by an earlier one with the same id.
        """

    async def find_pending_keys(self) -> tuple[PendingServerKey, ...]:
        """Return the keys that wait for a certificate, announce before log; empty if none does."""

    async def deactivate_server_keys(self, *, before: int, reason: str, event: NewEvent) -> int:
        """End active announce and log keys of serials below *before*, forget their signing halves; return how many."""

    async def remove_root(self, *, event: NewEvent) -> None:
        """Forget the root's sealed signing key: it is kept offline from now on."""

    async def list_server_keys(self) -> tuple[ServerKey, ...]:
        """Return the identity's keys with their states, the newest serial first."""

    async def save_bucket(self, bucket: SealedBucket, *, event: NewEvent | None = None) -> SealedBucket:
        """Insert *bucket* if absent and return the row that stands: the first insert wins (A3)."""

    async def find_buckets(self, first: int, last: int) -> tuple[SealedBucket, ...]:
        """Return the rows of buckets *first* to *last* inclusive, in order."""

    async def sign_bucket_again(self, bucket: SealedBucket, announcement: bytes) -> SealedBucket:
        """Replace *bucket*'s announcement if it still is the one given, and return the row that stands (A3)."""

    async def bucket_mark(self) -> int:
        """Return the highest bucket that has been current, 0 if none (A2)."""

    async def raise_bucket_mark(self, bucket: int) -> int:
        """Raise the mark to *bucket* if it is higher, and return the mark that stands."""

    async def drop_buckets(self, *, before: int, event: NewEvent | None = None) -> int:
        """Delete bucket rows, handshakes, streams and chain states of buckets below *before*; return bucket rows."""

    async def forget_bucket(self, bucket: int) -> None:
        """Delete one bucket's row whose KEK is lost, so that a new pair can be made."""
