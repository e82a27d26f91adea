"""The port to the keeper of the sealing keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qflare.model.mark import HighWaterMark
    from qflare.secret import SecretBytes


class Keeper(Protocol):
    """
    Keeps the sealing keys outside the database (PROTOCOL R8): KEK_L, and one random KEK_b a bucket.

    Synchronous and quick (a small file, or an HSM call); callers run it off the event loop.
    """

    def long_term_key(self) -> SecretBytes:
        """Return KEK_L (32 bytes), made at first use; the caller wipes the copy."""

    def make_bucket_key(self, bucket: int) -> SecretBytes:
        """Return KEK_b (32 bytes), made if it is absent and was never destroyed; all workers get the same."""

    def bucket_key(self, bucket: int) -> SecretBytes:
        """Return KEK_b; `KeeperError` if there is none."""

    def destroy_bucket_keys(self, *, before: int) -> int:
        """Destroy every KEK_b of buckets below *before*, for good; return how many."""

    def bucket_keys(self) -> tuple[int, ...]:
        """Return the buckets whose KEK_b stands, ascending; those that were destroyed and left files behind too."""

    def destroyed_before(self) -> int:
        """Return the lowest bucket whose key was not destroyed for good, 0 where none was yet."""

    def high_water(self) -> HighWaterMark:
        """Return how far a database has come, known outside of it."""

    def raise_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Raise the marks, durably, and return those that stand."""

    def replace_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Take over the log and database that an operator has accepted, durably; return the marks that stand."""

    def promise(self) -> str | None:
        """Return None if destroyed keys are gone from the medium, else a sentence saying why the promise is void."""
