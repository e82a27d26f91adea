"""
A witness: keeps the last signed head that it saw of a log, and accepts another only with a proof that the log goes on.

Two witnesses, or a witness and a device, who compare what they keep find a log that shows different people different
histories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qflare.errors import AuthenticationError, EvidenceError, LogForkError, OtherLogError
from qflare.protocol.checkpoint import NoteBody, encode_note
from qflare.protocol.log import consistency_path, nodes_for_consistency, verify_consistency
from qflare.protocol.log_key import open_note, signer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import SignedCheckpoint
    from qflare.protocol.log import Node
    from qflare.protocol.log_key import LogKey


class WitnessSource(Protocol):
    """Where a witness sees the log: its database, or what it publishes over HTTP."""

    async def keys(self) -> Sequence[LogKey]:
        """Return the log keys that the pin vouches for now."""

    async def note(self) -> str:
        """Return the latest signed head as a signed note, unverified."""

    async def find_nodes(self, nodes: Sequence[Node], *, size: int) -> dict[Node, bytes]:
        """Return hashes of complete nodes of the tree of *size* leaves, unverified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A head that was verified, and goes on from the one that was kept."""

    checkpoint: SignedCheckpoint
    note: str
    """As a signed note, with the log's signature alone."""
    before: NoteBody | None
    """What was kept until now."""


async def look(source: WitnessSource, kept: NoteBody | None) -> Seen:
    """
    Read the latest head of the log, verify it, and show that the log goes on from the *kept* one.

    Raises:
        EvidenceError: the signature does not hold, or the log cannot show the hashes that a proof needs.
        LogForkError: the log shows another history than it did, or a shorter one.
        OtherLogError: the log is another one than the kept head's, or than the pinned one.
        StoreUnavailableError: it cannot be read now.
    """
    keys = await source.keys()
    note = await source.note()
    try:
        checkpoint = open_note(note, keys)
    except AuthenticationError:
        raise EvidenceError("the signature of the head that the log shows does not hold") from None
    key = signer_of(note, keys)
    if kept is not None:
        await _require_goes_on(source, kept, checkpoint, origin=key.origin)
    return Seen(checkpoint=checkpoint, note=encode_note(key.origin, key.key, checkpoint), before=kept)


async def _require_goes_on(source: WitnessSource, kept: NoteBody, checkpoint: SignedCheckpoint, *, origin: str) -> None:
    if kept.origin != origin:
        raise OtherLogError(f"the head that is kept is of the log {kept.origin!r}, this one is of {origin!r}")
    if checkpoint.size < kept.size:
        raise LogForkError(
            f"the log shrank: a head of {kept.size} entries was seen, it shows {checkpoint.size} now; keep both notes "
            "and alert the operator"
        )
    if checkpoint.size == kept.size:
        path: tuple[bytes, ...] = ()
    else:
        nodes = await source.find_nodes(nodes_for_consistency(kept.size, checkpoint.size), size=checkpoint.size)
        path = consistency_path(kept.size, checkpoint.size, nodes)
    try:
        verify_consistency(kept.size, checkpoint.size, old_root=kept.root, new_root=checkpoint.root, path=path)
    except AuthenticationError:
        raise LogForkError(
            f"the head of {checkpoint.size} entries does not go on from the one of {kept.size} that was seen: the log "
            "shows two histories; keep both notes and alert the operator"
        ) from None
