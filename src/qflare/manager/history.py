"""
The history that a worker signs: one that goes on from its own last head, whatever stands in the database.

Whoever can write into the database but does not hold the log key must not get a history of theirs signed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qflare.errors import AuthenticationError, EvidenceError, UsageError
from qflare.protocol.log import Frontier, consistency_path, nodes_for_consistency, verify_consistency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.deadline import Deadline
    from qflare.manager.offload import Offload
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
    await _require_consistent(known, known.size, known.root, size, root, store=store, deadline=deadline)


async def require_append_goes_on(
    known: SignedCheckpoint, append: LogAppend, *, store: LogStore, deadline: Deadline, offload: Offload
) -> None:
    """
    Refuse entries behind another history than that of the *known* head, however often they come.

    Where the *known* head is the one right before them it costs no query.

    Raises:
        EvidenceError: the log was cut or rewritten.
    """
    before = _frontier(append.first_index, append.old_frontier)
    if known.size <= before.size:
        await require_goes_on(known, before.size, before.root(), store=store, deadline=deadline)
        return
    # Entries that were appended after these have been signed meanwhile: these stand below that head.
    after, _ = await offload.run(partial(before.append, append.leaf_hashes))
    await _require_consistent(known, after.size, after.root(), known.size, known.root, store=store, deadline=deadline)


async def _require_consistent(
    known: SignedCheckpoint,
    old_size: int,
    old_root: bytes,
    new_size: int,
    new_root: bytes,
    *,
    store: LogStore,
    deadline: Deadline,
) -> None:
    wanted = nodes_for_consistency(old_size, new_size) if old_size < new_size else []
    nodes = await deadline.of(store.find_nodes(wanted)) if wanted else {}
    try:
        path = consistency_path(old_size, new_size, nodes) if wanted else ()
        verify_consistency(old_size, new_size, old_root=old_root, new_root=new_root, path=path)
    except (AuthenticationError, EvidenceError):
        raise _rewritten(known) from None


def root_of(head: LogHead) -> bytes:
    """
    Return the root of the log as it stands.

    Raises:
        EvidenceError: the head has not the hashes of a tree of its size.
    """
    return _frontier(head.size, head.frontier).root()


def _frontier(size: int, hashes: Sequence[bytes]) -> Frontier:
    try:
        return Frontier(size, tuple(hashes))
    except UsageError:
        raise EvidenceError(f"the log's head of {size} entries was altered: its hashes are of another size") from None


def _rewritten(known: SignedCheckpoint) -> EvidenceError:
    return EvidenceError(
        f"the log in the database does not go on from the head of {known.size} entries that this worker signed: it was "
        "cut or rewritten, and is not signed; keep the database as it is, and run qflare audit verify"
    )
