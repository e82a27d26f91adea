"""
The check of the whole log: every row read again, every leaf, node, root and signature computed again.

What it finds: an edit of any column that a leaf covers, a row deleted, swapped, doubled, inserted or cut off at either
end, and, against receipts that devices hold, a whole older copy.  The first bad index is named.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, EvidenceError
from qflare.monitor.erasure import erased_by
from qflare.monitor.held import HeldReceipt, check_held, sizes_of
from qflare.monitor.proof import check_entry
from qflare.protocol.entry import is_erased
from qflare.protocol.log import Frontier, Node
from qflare.protocol.log_key import verify_under

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qflare.model.audit_ports import AuditSource
    from qflare.model.event import AuditEntry, LogHead, SignedCheckpoint
    from qflare.model.ids import TenantId
    from qflare.monitor.event_log import Runner
    from qflare.protocol.entry import EntryVault
    from qflare.protocol.log_key import LogKey

PAGE: Final = 1000
"""Rows read and hashed at a time."""
_INDEX_MIN: Final = -(2**63)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReport:
    """What a check of the whole log found to be in order."""

    size: int
    root: bytes
    checkpoint: SignedCheckpoint | None
    """The largest signed head that was stored; None in a log that was never signed."""
    entries: dict[str, int]
    """How many entries of each event type."""
    tenants: int
    receipts: int
    """Receipts from outside that hold."""
    erased: int
    """Entries whose subject was erased: they stand in the tree, what they said is gone."""


class _Pass:
    """One pass over the log in order; pure."""

    def __init__(self, wanted_sizes: Iterable[int], vault: EntryVault | None) -> None:
        self._vault = vault
        self.erased = 0
        self.unsaid: dict[int, TenantId] = {}
        """Entries whose key is gone, of which no entry read so far says that they were erased."""
        self.frontier = Frontier()
        self.roots: dict[int, bytes] = {0: self.frontier.root()}
        self.leaves: dict[int, bytes] = {}
        self.kinds: Counter[str] = Counter()
        self.tenants: set[bytes] = set()
        self._wanted = set(wanted_sizes)

    def read(self, page: Sequence[AuditEntry]) -> tuple[list[tuple[Node, bytes]], EvidenceError | None]:
        """Take the next rows up to a bad one; return every node that became complete, and what is wrong with that."""
        nodes: list[tuple[Node, bytes]] = []
        for entry in page:
            index = self.frontier.size
            if entry.index != index:
                gone = f"entry {index} is missing: the next one stored is {entry.index}"
                return nodes, EvidenceError(gone, index=index)
            try:
                check_entry(entry, self._vault)
            except EvidenceError as failure:
                return nodes, failure
            if is_erased(entry):
                self.erased += 1
                self.unsaid[index] = entry.tenant_id
            self.hear(entry)
            self.frontier, made = self.frontier.append([entry.leaf_hash])
            nodes.extend(((level, position), node) for level, position, node in made)
            self.kinds[entry.event_type.value] += 1
            self.tenants.add(entry.tenant_id)
            if self.frontier.size in self._wanted:
                self.roots[self.frontier.size] = self.frontier.root()
        return nodes, None

    def hear(self, entry: AuditEntry) -> None:
        """Take in what an entry says of erased ones before it, in its own tenant."""
        if not self.unsaid:
            return
        for index in erased_by(entry):
            if self.unsaid.get(index) == entry.tenant_id:
                del self.unsaid[index]


async def verify_log(
    *,
    store: AuditSource,
    keys: Sequence[LogKey],
    vault: EntryVault | None = None,
    runner: Runner,
    receipts: Sequence[HeldReceipt] = (),
    is_deep: bool = True,
) -> LogReport:
    """
    Check the whole log.

    Args:
        store: Opened for an auditor: it reads all tenants.
        keys: Every log key that was in force: what was signed under an earlier one stays signed.
        vault: Opens what is sealed; without it sealed entries are compared with the digests in their leaves alone.
        runner: Where the hashing runs.
        receipts: What devices hold; each must lead to the log as it is now.
        is_deep: Also compare every stored node of the tree, from which receipts are put together.

    Raises:
        EvidenceError: the log does not hold; `index` is the first bad entry where one is known.
    """
    # In this order: a log that grows meanwhile is never smaller than what was signed or held outside before.
    checkpoint = await store.latest_checkpoint()
    head = await store.log_head()
    sizes = sizes_of(receipts) | ({checkpoint.size} if checkpoint is not None else set())
    walk = _Pass(sizes | {head.size}, vault)
    while walk.frontier.size < head.size:
        first = walk.frontier.size
        page, broken = await _read(store, first, min(PAGE, head.size - first))
        nodes, failure = await runner.run(partial(walk.read, page))
        # Nodes first: what stands before the bad row may be another entry's, and right by itself.
        if is_deep:
            await _compare_nodes(store, nodes, first)
        for found in (failure, broken):
            if found is not None:
                raise found
        if not page:
            break
    await _refuse_beyond(store, head)
    await _refuse_unsaid(store, head, walk)
    await runner.run(partial(_check_heads, walk, head, checkpoint, keys))
    await runner.run(partial(check_held, receipts, walk.roots, keys=keys, size=walk.frontier.size))
    return LogReport(
        size=walk.frontier.size,
        root=walk.frontier.root(),
        checkpoint=checkpoint,
        entries=dict(walk.kinds),
        tenants=len(walk.tenants),
        receipts=len(receipts),
        erased=walk.erased,
    )


async def _read(store: AuditSource, first: int, limit: int) -> tuple[Sequence[AuditEntry], EvidenceError | None]:
    """Return the next rows up to one that cannot even be read, and what is wrong with that one."""
    # A row below 0 comes with the first page, where it is the wrong index.
    start = first or _INDEX_MIN
    try:
        return await store.list_entries(None, first=start, limit=limit), None
    except EvidenceError as failure:
        if failure.index is None or failure.index <= first:
            return (), failure
        return await store.list_entries(None, first=start, limit=failure.index - first), failure


async def _refuse_beyond(store: AuditSource, head: LogHead) -> None:
    """Refuse a row that no head covers: an append moves the head in the transaction that writes the row."""
    beyond = await store.list_entries(None, first=head.size, limit=1)
    if not beyond:
        return
    # What was appended meanwhile is covered by the head as it is now; the next check reads it.
    now = await store.log_head()
    if beyond[0].index >= now.size:
        raise EvidenceError(
            f"entry {beyond[0].index} stands behind the end of the log, which has {now.size} entries: it was put there",
            index=beyond[0].index,
        )


async def _refuse_unsaid(store: AuditSource, head: LogHead, walk: _Pass) -> None:
    """Refuse an entry whose key is gone, unless a later entry says that it was erased."""
    first = head.size
    # An erasure during this check has its entry behind the head from which the check began.
    while walk.unsaid and (page := await store.list_entries(None, first=first, limit=PAGE)):
        for entry in page:
            walk.hear(entry)
        first = page[-1].index + 1
    if walk.unsaid:
        index = min(walk.unsaid)
        raise EvidenceError(f"the key of entry {index} is gone, and no entry says that it was erased", index=index)


async def _compare_nodes(store: AuditSource, nodes: Sequence[tuple[Node, bytes]], first: int) -> None:
    stored = await store.find_nodes([node for node, _ in nodes])
    for (level, position), node in nodes:
        if stored.get((level, position)) != node:
            # A node above the leaves covers several entries; the first of them in this page is named.
            index = max(position << level, first if level else 0)
            raise EvidenceError(
                f"the stored hash at level {level}, index {position} is not that of the entries below it", index=index
            )


def _check_heads(walk: _Pass, head: LogHead, checkpoint: SignedCheckpoint | None, keys: Sequence[LogKey]) -> None:
    size = walk.frontier.size
    if size < head.size:
        raise EvidenceError(f"the log says it has {head.size} entries, {size} are stored", index=size)
    if Frontier(head.size, head.frontier).root() != walk.roots[head.size]:
        raise EvidenceError("the stored head is not the root of the stored entries", index=None)
    if checkpoint is None:
        return
    if checkpoint.size > size:
        raise EvidenceError(f"a head of {checkpoint.size} entries was signed, {size} are stored", index=size)
    try:
        verify_under(keys, checkpoint)
    except AuthenticationError:
        raise EvidenceError("the signature of the latest checkpoint does not hold") from None
    if walk.roots[checkpoint.size] != checkpoint.root:
        raise EvidenceError(
            f"the entries are not those of the head of {checkpoint.size} entries that was signed: they were rewritten "
            "together with their hashes"
        )
