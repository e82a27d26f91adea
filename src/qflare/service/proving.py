"""Proofs of single entries for others to keep, read from the database as an auditor reads it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qflare.errors import AuthenticationError, EvidenceError, KeyNotFoundError
from qflare.protocol.checkpoint import encode_note
from qflare.protocol.log import inclusion_path, nodes_for_path, verify_inclusion
from qflare.protocol.log_key import LogKey, verify_under
from qflare.protocol.log_proof import encode_proof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import SignedCheckpoint
    from qflare.service.auditing import Audit


async def signed_head(audit: Audit, keys: Sequence[LogKey]) -> tuple[LogKey, SignedCheckpoint]:
    """
    Return the latest stored head, and the one of *keys* that signed it.

    Raises:
        EvidenceError: none of them did.
        KeyNotFoundError: the log has no signed head.
    """
    head = await audit.log.latest_checkpoint()
    if head is None:
        raise KeyNotFoundError("the log has no signed head yet: a worker signs one soon after the first entry")
    try:
        return await audit.offload.run(partial(verify_under, keys, head)), head
    except AuthenticationError:
        raise EvidenceError(f"the signature of the head of {head.size} entries does not hold") from None


async def prove_entry(audit: Audit, index: int, keys: Sequence[LogKey]) -> str:
    """
    Return a proof that entry *index* is in the log, under its latest signed head, as C2SP's tlog-proof.

    Raises:
        EvidenceError: the entry does not lead to the signed head; `index` is its own.
        KeyNotFoundError: the signed head covers no such entry.
    """
    key, head = await signed_head(audit, keys)
    if not 0 <= index < head.size:
        raise KeyNotFoundError(f"there is no entry {index} under the signed head, which covers {head.size} entries")
    nodes = await audit.log.find_nodes([(0, index), *nodes_for_path(index, head.size)])
    leaf_hash = nodes.get((0, index))
    if leaf_hash is None:
        raise EvidenceError(f"entry {index} is missing", index=index)
    path = inclusion_path(index, head.size, nodes)
    try:
        verify_inclusion(leaf_hash, index, head.size, path, head.root)
    except AuthenticationError:
        raise EvidenceError(f"entry {index} does not lead to the signed head", index=index) from None
    return encode_proof(index, leaf_hash, path, encode_note(key.origin, key.key, head))
