"""One pass over the log in order: every row checked, every node made again; pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qflare.errors import EvidenceError
from qflare.monitor.erasure import erased_by
from qflare.monitor.headings import Headings
from qflare.monitor.known import Known
from qflare.monitor.proof import check_entry, unix_ms
from qflare.protocol.entry import is_erased
from qflare.protocol.log import Frontier

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qflare.model.event import AuditEntry
    from qflare.model.ids import TenantId
    from qflare.protocol.entry import EntryVault
    from qflare.protocol.log import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkedPage:
    """What came of some rows."""

    nodes: tuple[tuple[Node, bytes], ...]
    """Every node that became complete, in that order, leaves included."""
    roots: dict[int, bytes]
    """The root at each size that was asked for and reached."""
    problem: EvidenceError | None
    """What is wrong with the row behind those that were taken."""


@dataclass(slots=True, kw_only=True)
class Walk:
    """How far a pass has come, and what it counted."""

    vault: EntryVault | None
    """Opens what is sealed."""
    known: Known = field(default_factory=Known)
    """Leaf hashes that others hold."""
    frontier: Frontier = field(default_factory=Frontier)
    headings: Headings = field(default_factory=Headings)
    misfit: EvidenceError | None = None
    """The first session whose row is not what its heading says: which of both was altered, the tree above tells."""
    kinds: Counter[str] = field(default_factory=Counter)
    tenants: set[bytes] = field(default_factory=set)
    erased: int = 0
    unsaid: dict[int, TenantId] = field(default_factory=dict)
    """Entries whose key is gone, of which no entry read so far says that they were erased."""

    def take(self, page: Sequence[AuditEntry], sizes: Collection[int]) -> WalkedPage:
        """Take the next rows up to one that is bad by itself; note the root at each of *sizes*."""
        nodes: list[tuple[Node, bytes]] = []
        roots: dict[int, bytes] = {}
        problem: EvidenceError | None = None
        for entry in page:
            problem = self._problem_of(entry)
            if problem is not None:
                break
            if is_erased(entry):
                self.erased += 1
                self.unsaid[entry.index] = entry.tenant_id
            self.hear(entry)
            self.frontier, made = self.frontier.append([entry.leaf_hash])
            nodes.extend(((level, position), node) for level, position, node in made)
            self.kinds[entry.event_type.value] += 1
            self.tenants.add(entry.tenant_id)
            if self.frontier.size in sizes:
                roots[self.frontier.size] = self.frontier.root()
        return WalkedPage(nodes=tuple(nodes), roots=roots, problem=problem)

    def hear(self, entry: AuditEntry) -> None:
        """Take in what an entry says of erased ones before it, in its own tenant."""
        if not self.unsaid:
            return
        for index in erased_by(entry):
            if self.unsaid.get(index) == entry.tenant_id:
                del self.unsaid[index]

    def _problem_of(self, entry: AuditEntry) -> EvidenceError | None:
        index = self.frontier.size
        if entry.index != index:
            return EvidenceError(f"entry {index} is missing: the next one stored is {entry.index}", index=index)
        try:
            check_entry(entry, self.vault)
        except EvidenceError as problem:
            return problem
        unfit = self.headings.problem_of(
            index,
            entry.entry_type,
            entry.event_type,
            tenant_id=entry.tenant_id,
            recorded_at_ms=unix_ms(entry.recorded_at),
        )
        if unfit is not None and self.misfit is None:
            self.misfit = EvidenceError(f"entry {index} was altered: {unfit}", index=index)
        return self.known.problem_of(index, entry.leaf_hash)
