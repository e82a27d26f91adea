"""The leaf hashes of entries that were archived and dropped, compared with the tree and with what others hold."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, EvidenceError
from qflare.monitor.suspects import Suspects, is_signed
from qflare.protocol.log import Frontier, consistency_path, nodes_for_consistency, verify_consistency

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qflare.model.audit_ports import AuditSource
    from qflare.model.event import LogHead, SignedCheckpoint
    from qflare.monitor.event_log import Runner
    from qflare.monitor.known import Known
    from qflare.protocol.log import Node
    from qflare.protocol.log_key import LogKey

_PAGE: Final = 1000
_INDEX_MIN: Final = -(2**63)


async def check_archived(
    store: AuditSource,
    *,
    keys: Sequence[LogKey],
    known: Known,
    runner: Runner,
    head: LogHead,
    since: SignedCheckpoint | None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """
    Check the leaf hashes that stand in the place of dropped entries, and return how many there are.

    They are those before the first entry that stands, all of them and no others.

    Raises:
        EvidenceError: they are not; `index` is the first bad one, or the first of a range that holds it.
    """
    first_row = await _first_row(store, head.size)
    if since is None and first_row > 0:
        return 0  # without a kept head or an archive the check begins at entry 0, and finds it missing
    leaves = _Leaves(store, keys=keys, known=known, runner=runner)
    await leaves.check(first_row, head, progress)
    if since is not None and since.size >= leaves.frontier.size > 0:
        await _require_goes_on(store, leaves, since)
    leaves.refuse_other_pair()
    return leaves.frontier.size


async def _first_row(store: AuditSource, size: int) -> int:
    """Return the index of the first entry that stands, *size* where none does."""
    try:
        found = await store.list_entries(None, first=_INDEX_MIN, limit=1)
    except EvidenceError as failure:
        return failure.index or 0
    return found[0].index if found else size


async def _require_goes_on(store: AuditSource, leaves: _Leaves, since: SignedCheckpoint) -> None:
    """Refuse leaf hashes that the kept head does not go on from, whatever heads and nodes were taken away or forged."""
    size, root = leaves.frontier.size, leaves.frontier.root()
    nodes = await store.find_nodes(nodes_for_consistency(size, since.size))
    try:
        path = consistency_path(size, since.size, nodes)
        verify_consistency(size, since.size, old_root=root, new_root=since.root, path=path)
    except (AuthenticationError, EvidenceError):
        raise EvidenceError(
            f"the leaf hashes of the {size} entries that were dropped do not lead to the kept head of {since.size} "
            "entries",
            index=leaves.low,
            last=since.size - 1,
        ) from None


class _Leaves:
    def __init__(self, store: AuditSource, *, keys: Sequence[LogKey], known: Known, runner: Runner) -> None:
        self._store = store
        self._keys = keys
        self._known = known
        self._runner = runner
        self._suspects = Suspects(store, keys=keys, known=known, runner=runner)
        self.frontier = Frontier()

    @property
    def low(self) -> int:
        return self._suspects.bounds.low

    async def check(self, first_row: int, head: LogHead, progress: Callable[[int, int], None] | None) -> None:
        start = _INDEX_MIN
        while page := await self._store.list_archived_leaves(first=start, limit=_PAGE):
            start = page[-1][0] + 1
            problem = await self._page(page, first_row)
            if progress is not None:
                progress(self.frontier.size, head.size)
            if self._suspects.is_decided or (problem is not None and self._suspects.has_any):
                raise await self._suspects.problem(walked=self.frontier.size, head=head, row=problem)
            if problem is not None:
                raise await self._suspects.bad_before(problem, self.frontier.size)
        if self._suspects.has_any:
            raise await self._suspects.problem(walked=self.frontier.size, head=head)
        if self.frontier.size < first_row:
            raise _missing(self.frontier.size)

    def refuse_other_pair(self) -> None:
        """Refuse leaf hashes beside nodes that are not these, last: what leads to the kept head is shown before."""
        self._suspects.refuse_other_pair()

    async def _page(self, page: Sequence[tuple[int, bytes]], first_row: int) -> EvidenceError | None:
        before = self.frontier.size
        signed = await self._store.list_checkpoints(first=before + 1, limit=len(page))
        taken, problem = _taken(page, before, first_row, self._known)
        self.frontier, nodes, roots = await self._runner.run(
            partial(_append, self.frontier, taken, {each.size for each in signed})
        )
        await self._suspects.compare(nodes)
        for each in signed:
            if each.size in roots and await self._runner.run(partial(is_signed, each, self._keys)):
                self._suspects.bounds.note_head(each.size, holds=roots[each.size] == each.root)
        return problem


def _taken(
    page: Sequence[tuple[int, bytes]], before: int, first_row: int, known: Known
) -> tuple[list[bytes], EvidenceError | None]:
    """Return the leaf hashes up to one that is bad, and what is wrong with that one."""
    taken: list[bytes] = []
    for wanted, (index, leaf_hash) in enumerate(page, before):
        if index < 0 or (index >= first_row and wanted >= first_row):
            return taken, EvidenceError(
                f"a leaf hash of entry {index} stands among those of dropped entries, which end before entry "
                f"{max(first_row, 0)}: it was put there",
                index=max(index, 0),
            )
        if index != wanted:
            return taken, _missing(wanted)
        problem = known.problem_of(index, leaf_hash)
        if problem is not None:
            return taken, problem
        taken.append(leaf_hash)
    return taken, None


def _append(
    frontier: Frontier, leaves: Sequence[bytes], sizes: set[int]
) -> tuple[Frontier, list[tuple[Node, bytes]], dict[int, bytes]]:
    """Return the frontier behind *leaves*, every node that became complete, and the roots at *sizes*."""
    nodes: list[tuple[Node, bytes]] = []
    roots: dict[int, bytes] = {}
    for leaf_hash in leaves:
        frontier, made = frontier.append([leaf_hash])
        nodes.extend(((level, position), node) for level, position, node in made)
        if frontier.size in sizes:
            roots[frontier.size] = frontier.root()
    return frontier, nodes, roots


def _missing(index: int) -> EvidenceError:
    return EvidenceError(
        f"entry {index} is missing: neither it nor, as of an entry that was archived and dropped, its leaf hash stands",
        index=index,
    )
