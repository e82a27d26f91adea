"""Heads of the log signed by a process of its own: asked with the proof that they go on from the last one (H9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, EvidenceError, LogForkError, SignerUnavailableError
from qflare.protocol.checkpoint import verify_checkpoint
from qflare.protocol.log import (
    consistency_path,
    nodes_for_consistency,
    nodes_for_frontier,
    root_from_nodes,
)
from qflare.protocol.signing import hash_key

if TYPE_CHECKING:
    from qflare.manager.deadline import Deadline
    from qflare.model.event import SignedCheckpoint
    from qflare.model.log_ports import LogStore
    from qflare.model.signer_ports import Signer
    from qflare.protocol.identity import Certificate

_TRIES: Final = 16
"""Most times that other workers' heads may be signed in between before one gives up."""


class Heads:
    """Has heads of the log signed by a signer, whichever other workers ask it too."""

    def __init__(self, *, signer: Signer, store: LogStore, deadline: Deadline) -> None:
        """Ask *signer*; what it has to be shown is read from *store*."""
        self._signer = signer
        self._store = store
        self._deadline = deadline
        self._last: tuple[bytes, SignedCheckpoint] | None = None
        """The signer's last head as far as this worker knows, not verified, and the hash of its key."""

    async def sign(self, certificate: Certificate, size: int, root: bytes) -> SignedCheckpoint:
        """
        Return a signed head of at least *size* entries, of which *root* is that of the first *size*.

        Only of what is committed.  It is larger where the signer has signed a larger one for another worker.

        Raises:
            LogForkError: the signer has signed another log.
            SignerRefusedError: it does not sign this log, or not with this key.
            SignerUnavailableError: it did not answer.
        """
        wanted = hash_key(certificate.log_key)
        for _ in range(_TRIES):
            key_hash, last = self._last or await self._signer.last()
            if last.size > size:
                root = await self._root_of(last)
                size = last.size
            if last.size == size and key_hash == wanted:
                self._last = key_hash, last
                return self._verified(certificate, last, size, root)
            nodes = await self._deadline.of(self._store.find_nodes(nodes_for_consistency(last.size, size)))
            key_hash, signed, is_signed = await self._signer.sign(
                certificate.log_key,
                certificate.log_origin,
                old_size=last.size,
                size=size,
                root=root,
                path=consistency_path(last.size, size, nodes) if last.size else (),
            )
            self._last = key_hash, signed
            if is_signed:
                return self._verified(certificate, signed, size, root)
        raise SignerUnavailableError("the signer signs for others all the time; retry")

    async def require_signer(self) -> None:
        """Ask the signer for its last head, which it answers where it could sign. `SignerUnavailableError` if not."""
        await self._signer.last()

    async def _root_of(self, last: SignedCheckpoint) -> bytes:
        """Return our root of the size that the signer signed last."""
        try:
            nodes = await self._deadline.of(self._store.find_nodes(nodes_for_frontier(last.size)))
            root = root_from_nodes(last.size, nodes)
        except EvidenceError:
            root = b""
        if root != last.root:
            # Kept no longer: the signer may be put right, and is asked again.
            self._last = None
            raise LogForkError(
                f"the signer has signed a log of {last.size} entries that is not this database's: an older copy of the "
                "database, another database, or a fork"
            )
        return root

    def _verified(self, certificate: Certificate, signed: SignedCheckpoint, size: int, root: bytes) -> SignedCheckpoint:
        is_asked_for = (signed.size, signed.root) == (size, root)
        try:
            verify_checkpoint(certificate.log_key, certificate.log_origin, signed)
        except AuthenticationError:
            is_asked_for = False
        if not is_asked_for:
            self._last = None
            raise SignerUnavailableError("what the signer answers is not the signature that was asked for")
        return signed
