"""What the manager asks of a signer of the log's heads that is a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import SignedCheckpoint


class Signer(Protocol):
    """Signs heads that follow one another, and keeps the log's key where no worker reads it."""

    async def public_key(self, *, is_fresh: bool = False) -> bytes:
        """
        Return the public half of the key that was made last, or of a fresh one, 1312 bytes.

        Raises `SignerUnavailableError`.
        """

    async def last(self) -> tuple[bytes, SignedCheckpoint]:
        """Return the head that was signed last, and SHA-256 of the key; size 0 before the first. Not verified."""

    async def sign(
        self, public_key: bytes, origin: str, *, old_size: int, size: int, root: bytes, path: Sequence[bytes]
    ) -> tuple[bytes, SignedCheckpoint, bool]:
        """
        Ask for a signature over a head that follows the one of *old_size*.

        Returns SHA-256 of the key, the head, and whether it is the one that was asked for: else it is the last one,
        which *old_size* is not. Not verified.  Raises `SignerUnavailableError`, or `SignerRefusedError` if it never
        will sign this.
        """
