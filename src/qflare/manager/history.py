"""
The history that a worker signs: one that goes on from its own last head, whatever stands in the database.

Whoever can write into the database but does not hold the log key must not get a history of theirs signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import AuthenticationError, EvidenceError, UsageError
from qflare.protocol.log import Frontier, consistency_path, nodes_for_consistency, verify_consistency

if TYPE_CHECKING:
    from qflare.manager.deadline import Deadline
    from qflare.model.event import LogAppend, LogHead, SignedCheckpoint
    from qflare.model.log_ports import LogStore


async def require_goes_on(
    known: SignedCheckpoint, size: int, root: bytes, *, store: LogStore, deadline: Deadline
) -> None:
    """
    Refuse a head that does not go on from a *known* one, which was signed before this one was read.

    Raises:
        EvidenceError: the log was cut or rewritten.
    """
    wanted = nodes_for_consistency(known.size, size) if known.size < size else []
    nodes = await deadline.of(store.find_nodes(wanted)) if wanted else {}
    try:
        path = consistency_path(known.size, size, nodes) if wanted else ()
        verify_consistency(known.size, size, old_root=known.root, new_root=root, path=path)
    except (AuthenticationError, EvidenceError):
        raise _rewritten(known) from None


def root_of(head: LogHead) -> bytes:
    """
    Return the root of the log as it stands.

    Raises:
        EvidenceError: the head has not the hashes of a tree of its size.
    """
    try:
        return Frontier(head.size, head.frontier).root()
    except UsageError:
        raise EvidenceError(
            f"the log's head of {head.size} entries was altered: its hashes are of another size"
        ) from None


def require_same_before(known: SignedCheckpoint, append: LogAppend) -> None:
    """
    Refuse entries behind another tree than the *known* one of that size.

    It costs no query, and sees nothing where other workers appended in between: `require_goes_on` and witnesses do.

    Raises:
        EvidenceError: the log was rewritten.
    """
    if known.size != append.first_index:
        return
    if Frontier(append.first_index, tuple(append.old_frontier)).root() != known.root:
        raise _rewritten(known)


def _rewritten(known: SignedCheckpoint) -> EvidenceError:
    return EvidenceError(
        f"the log in the database does not go on from the head of {known.size} entries that this worker signed: it was "
        "cut or rewritten, and is not signed; keep the database as it is, and run qflare audit verify"
    )
