"""
The check of the whole log: every row read again, every leaf, node, root and signature computed again.

What it finds: an edit of any column, a row deleted, swapped, doubled, inserted or cut off at either
end, and, against receipts and heads that others hold, a whole older copy.  The first bad index is named.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, EvidenceError, LogForkError, OtherLogError, QflareError, UsageError
from qflare.monitor.archived import check_archived
from qflare.monitor.audit_state import AuditState
from qflare.monitor.held import HeldReceipt, check_held, sizes_of
from qflare.monitor.known import Known, Reference
from qflare.monitor.suspects import Suspects, is_signed
from qflare.monitor.walk import Walk
from qflare.protocol.log import Frontier, frontier_from_nodes, nodes_for_frontier
from qflare.protocol.log_key import verify_under

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qflare.model.audit_ports import AuditSource
    from qflare.model.event import AuditEntry, LogHead, SignedCheckpoint
    from qflare.monitor.event_log import Runner
    from qflare.monitor.walk import WalkedPage
    from qflare.protocol.entry import EntryVault
    from qflare.protocol.log_key import LogKey

_log = logging.getLogger("qflare.monitor")

PAGE: Final = 1000
"""Rows read and hashed at a time."""
_INDEX_MIN: Final = -(2**63)
_LEVELS: Final = 62


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
    first: int = 0
    """Index of the first entry that was checked: those before are under the kept head that was given."""
    resumed_at: int | None = None
    """Where this run went on: entries from `first` to here were read by an earlier run, and not again."""
    heads: int = 0
    """Signed heads that were stored and hold; of a check that is not deep, the latest alone."""
    archived: int = 0
    """Leaf hashes of dropped entries that were compared with the tree; of a deep check alone."""


async def verify_log(
    *,
    store: AuditSource,
    keys: Sequence[LogKey],
    others: Sequence[LogKey] = (),
    vault: EntryVault | None = None,
    runner: Runner,
    receipts: Sequence[HeldReceipt] = (),
    references: Sequence[Reference] = (),
    is_deep: bool = True,
    since: SignedCheckpoint | None = None,
    resume: AuditState | None = None,
    note_state: Callable[[AuditState], None] | None = None,
    now_s: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LogReport:
    """
    Check the whole log, or what came since a kept head.

    Args:
        store: Opened for an auditor: it reads all tenants.
        keys: Every log key that was in force: what was signed under an earlier one stays signed.
        others: Keys that nobody vouches for, under which stored heads but the latest may be signed as well: where one
            key is pinned, those that the database shows beside it.
        vault: Opens what is sealed; without it sealed entries are compared with the digests in their leaves alone.
        runner: Where the hashing runs.
        receipts: What devices hold; each must lead to the log as it is now.
        references: Leaf hashes that were kept elsewhere, each shown to lead to a signed head: with them the first bad
            entry is exact, whatever was made anew.
        is_deep: Also compare every stored node of the tree, from which receipts are put together, the leaf hashes of
            entries that were dropped, and check every stored head.
        since: A signed head that was kept: the log must go on from it, and only what came since is read.
        resume: Where an earlier run was interrupted; of another scope it is not used (`LogReport.resumed_at`).
        note_state: Told after each page how far the check has come; it decides what to keep.
        now_s: When this check began, for what is noted.
        progress: Told (entries done, entries in all).

    Raises:
        EvidenceError: the log does not hold; `index` is the first bad entry where one is known.
        LogForkError: the log does not go on from *since*.
        OtherLogError: *since* is another log's.
    """
    given = _Given(
        store=store,
        keys=keys,
        others=others,
        vault=vault,
        runner=runner,
        receipts=receipts,
        known=await runner.run(partial(Known, receipts, keys, references)),
    )
    audit = _Audit(given, is_deep=is_deep)
    try:
        return await audit.run(since=since, resume=resume, note_state=note_state, now_s=now_s, progress=progress)
    except EvidenceError as found:
        if is_deep:
            raise
        # Before this entry something may have been rewritten consistently: the stored nodes and heads say where.
        try:
            await _Audit(given, is_deep=True).run(since=since)
        except EvidenceError:
            raise
        except QflareError as failure:
            # That it does not hold is known already, whatever keeps the second look from saying where.
            _log.warning("where the log went wrong first was not found out (%s)", type(failure).__name__)
        raise found from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What a check works with."""

    store: AuditSource
    keys: Sequence[LogKey]
    others: Sequence[LogKey]
    vault: EntryVault | None
    runner: Runner
    receipts: Sequence[HeldReceipt]
    known: Known


class _Audit:
    def __init__(self, given: _Given, *, is_deep: bool) -> None:
        self._store = given.store
        self._keys = given.keys
        self._stored_under = (*given.keys, *given.others)
        self._runner = given.runner
        self._receipts = given.receipts
        self._known = given.known
        self._is_deep = is_deep
        self._walk = Walk(vault=given.vault, known=given.known)
        self._suspects = Suspects(given.store, keys=given.keys, known=given.known, runner=given.runner)
        self._roots: dict[int, bytes] = {0: Frontier().root()}
        self._first = self._heads = self._archived = 0

    async def run(
        self,
        *,
        since: SignedCheckpoint | None = None,
        resume: AuditState | None = None,
        note_state: Callable[[AuditState], None] | None = None,
        now_s: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> LogReport:
        # In this order: a log that grows meanwhile is never smaller than what was signed or held outside before.
        checkpoint = await self._store.latest_checkpoint()
        wanted = sizes_of(self._receipts)
        head = await self._store.log_head()
        if checkpoint is not None:
            wanted.add(checkpoint.size)
        if since is not None:
            self._require_reached(since, head)
        if self._is_deep:
            self._archived = await check_archived(
                self._store,
                keys=self._keys,
                known=self._known,
                runner=self._runner,
                head=head,
                since=since,
                progress=progress,
            )
        if since is not None:
            await self._begin_at(since)
        scope = self._scope(since)
        resumed_at = self._go_on(resume, scope, wanted)
        wanted.add(head.size)
        while (size := self._walk.frontier.size) < head.size:
            await self._page(size, head, wanted)
            if progress is not None:
                before = self._first - self._archived
                progress(self._walk.frontier.size - before, head.size - before)
            # With a suspect no state: whoever goes on from it would not know of it.
            if note_state is not None and not self._has_suspects:
                note_state(self._state(scope, now_s))
            if self._walk.frontier.size == size:
                break
        size = self._walk.frontier.size
        await self._refuse_found(head)
        await self._check_heads(head, checkpoint)
        self._known.require_reached(size)
        low = self._suspects.bounds.low
        check = partial(check_held, self._receipts, self._roots, keys=self._keys, first=self._first, size=size, low=low)
        await self._runner.run(check)
        # Last, because it names no entry: what others hold tells which is gone of a log that was cut.
        self._check_headed(head)
        await self._refuse_unsaid(head)
        await self._refuse_beyond(head)
        self._suspects.refuse_other_pair()
        return LogReport(
            size=size,
            root=self._walk.frontier.root(),
            checkpoint=checkpoint,
            entries=dict(self._walk.kinds),
            tenants=len(self._walk.tenants),
            receipts=len(self._receipts),
            erased=self._walk.erased,
            first=self._first,
            resumed_at=resumed_at,
            heads=self._heads,
            archived=self._archived,
        )

    # --- where it begins ---------------------------------------------------------------------------------------------

    def _require_reached(self, since: SignedCheckpoint, head: LogHead) -> None:
        try:
            verify_under(self._keys, since)
        except AuthenticationError:
            raise OtherLogError("the kept head is not signed by a key of this log: it is another log's") from None
        if since.size > head.size:
            raise EvidenceError(
                f"the kept head has {since.size} entries, the log has {head.size}: it shrank, or is an older copy",
                index=head.size,
            )

    async def _begin_at(self, since: SignedCheckpoint) -> None:
        nodes = await self._store.find_nodes(nodes_for_frontier(since.size))
        frontier = frontier_from_nodes(since.size, nodes)
        if frontier.root() != since.root:
            raise LogForkError(
                f"the first {since.size} entries are not those of the kept head: the log shows a fork; "
                "a check from entry 0 on names the first one that differs"
            )
        self._walk.frontier = frontier
        self._roots[since.size] = since.root
        self._first = since.size
        self._suspects.bounds.begin(since.size)

    def _scope(self, since: SignedCheckpoint | None) -> str:
        """Return what another check must have in common to go on from this one."""
        said = [
            "deep" if self._is_deep else "plain",
            "sealed" if self._walk.vault is None else "opened",
            *(key.encode() for key in self._keys),
            *(held.leaf_hash.hex() + held.receipt.hex() for held in self._receipts),
            *(each.digest() for each in self._known.references),
            "" if since is None else f"{since.size} {since.root.hex()}",
        ]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()

    def _go_on(self, resume: AuditState | None, scope: str, wanted: set[int]) -> int | None:
        if resume is None or resume.scope != scope or resume.first != self._first:
            return None
        size = resume.frontier.size
        known = {*resume.roots, size, *self._roots}
        if any(each <= size and each not in known for each in wanted):
            return None  # a head was signed within what was checked: only reading it again tells its root
        self._walk.frontier = resume.frontier
        self._walk.kinds = Counter(resume.kinds)
        self._walk.tenants = set(resume.tenants)
        self._walk.erased, self._walk.unsaid = resume.erased, dict(resume.unsaid)
        self._walk.headings = replace(resume.headings)
        self._roots |= resume.roots | {size: resume.frontier.root()}
        self._heads = resume.heads
        self._suspects.bounds.begin(resume.signed_size)
        return size

    def _state(self, scope: str, now_s: int) -> AuditState:
        return AuditState(
            scope=scope,
            first=self._first,
            frontier=self._walk.frontier,
            roots=dict(self._roots),
            signed_size=self._suspects.bounds.low,
            heads=self._heads,
            kinds=Counter(self._walk.kinds),
            tenants=frozenset(self._walk.tenants),
            erased=self._walk.erased,
            unsaid=dict(self._walk.unsaid),
            headings=replace(self._walk.headings),
            checked_at_s=now_s,
        )

    # --- one page ----------------------------------------------------------------------------------------------------

    async def _page(self, first: int, head: LogHead, wanted: set[int]) -> None:
        limit = min(PAGE, head.size - first)
        signed = await self._store.list_checkpoints(first=first + 1, limit=limit) if self._is_deep else ()
        signed = tuple(each for each in signed if each.size <= first + limit)
        page, unreadable = await self._read(first, limit)
        walked = await self._runner.run(partial(self._walk.take, page, wanted | {each.size for each in signed}))
        if self._is_deep:
            await self._suspects.compare(walked.nodes)
        self._roots |= {size: root for size, root in walked.roots.items() if size in wanted}
        await self._runner.run(partial(self._check_signed, signed, walked))
        problem = walked.problem or unreadable
        if self._suspects.is_decided or (problem is not None and self._suspects.has_any):
            raise self._first_of(await self._suspects.problem(walked=self._walk.frontier.size, head=head, row=problem))
        if problem is not None and self._is_deep:
            problem = await self._suspects.bad_before(problem, self._walk.frontier.size)
        if problem is not None:
            raise self._first_of(problem)
        misfit = self._walk.misfit
        if misfit is not None and not self._suspects.has_any and self._is_shown(misfit):
            raise misfit

    @property
    def _has_suspects(self) -> bool:
        return self._suspects.has_any or self._walk.misfit is not None or self._suspects.other_pair is not None

    def _is_shown(self, misfit: EvidenceError) -> bool:
        """Whether reading on tells no more of it: its heading is under a head that holds, or no head is looked at."""
        return not self._is_deep or (misfit.index or 0) < self._suspects.bounds.low

    def _first_of(self, problem: EvidenceError) -> EvidenceError:
        """Return *problem*, or a session before it whose row is not what its heading says."""
        misfit = self._walk.misfit
        if misfit is None or misfit.index is None:
            return problem
        return problem if problem.index is not None and problem.index <= misfit.index else misfit

    async def _read(self, first: int, limit: int) -> tuple[Sequence[AuditEntry], EvidenceError | None]:
        """Return the next rows up to one that cannot even be read, and what is wrong with that one."""
        # A row below 0 comes with the first page, where it is the wrong index.
        start = first or _INDEX_MIN
        try:
            return await self._store.list_entries(None, first=start, limit=limit), None
        except EvidenceError as failure:
            if failure.index is None or failure.index <= first:
                return (), failure
            return await self._store.list_entries(None, first=start, limit=failure.index - first), failure

    def _check_signed(self, signed: Sequence[SignedCheckpoint], walked: WalkedPage) -> None:
        for checkpoint in signed:
            root = walked.roots.get(checkpoint.size)
            if root is None:
                return  # behind a row that is bad itself
            if is_signed(checkpoint, self._keys):
                self._suspects.bounds.note_head(checkpoint.size, holds=root == checkpoint.root)
            elif self._suspects.has_any:
                continue  # what is already found stands before it
            else:
                self._verify(checkpoint, self._stored_under)
                if root != checkpoint.root:
                    raise self._rewritten(checkpoint)
            self._heads += root == checkpoint.root

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _refuse_found(self, head: LogHead) -> None:
        """Refuse what the pass found that no row is bad by itself for."""
        if self._suspects.has_any:
            raise self._first_of(await self._suspects.problem(walked=self._walk.frontier.size, head=head))
        if self._walk.misfit is not None:
            raise self._walk.misfit

    async def _refuse_beyond(self, head: LogHead) -> None:
        """Refuse what no head covers: an append moves the head in the transaction that writes rows and nodes."""
        beyond = await self._store.list_entries(None, first=head.size, limit=1)
        ahead = [(level, head.size >> level) for level in range(1, _LEVELS)] if self._is_deep else []
        nodes = await self._store.find_nodes(ahead) if ahead else {}
        if not beyond and not nodes:
            return
        # What was appended meanwhile is covered by the head as it is now; the next check reads it.
        now = await self._store.log_head()
        if beyond and beyond[0].index >= now.size:
            raise EvidenceError(
                f"entry {beyond[0].index} stands behind the end of the log, which has {now.size} entries: it was put "
                "there",
                index=beyond[0].index,
            )
        for level, position in nodes:
            if (position + 1) << level > now.size:
                raise EvidenceError(
                    f"a hash stands at level {level}, index {position}, where the tree of {now.size} entries has none "
                    "yet: it was put there",
                    index=now.size,
                )

    async def _refuse_unsaid(self, head: LogHead) -> None:
        """Refuse an entry whose key is gone, unless a later entry says that it was erased."""
        first, unsaid = head.size, self._walk.unsaid
        # An erasure during this check has its entry behind the head from which the check began.
        while unsaid and (page := await self._store.list_entries(None, first=first, limit=PAGE)):
            for entry in page:
                self._walk.hear(entry)
            first = page[-1].index + 1
        if unsaid:
            index = min(unsaid)
            raise EvidenceError(f"the key of entry {index} is gone, and no entry says that it was erased", index=index)

    def _check_headed(self, head: LogHead) -> None:
        """Compare where the head says that headings begin with where they do."""
        first = self._walk.headings.first
        # Before a kept head nothing was read: the first heading may stand there.
        is_before = self._first > 0 and head.headed_from is not None and head.headed_from < self._first
        if head.headed_from != first and not is_before:
            raise EvidenceError(
                f"the head says that the first heading of sessions is entry {head.headed_from}, it is {first}: the "
                "head was altered",
                index=None,
            )

    async def _check_heads(self, head: LogHead, checkpoint: SignedCheckpoint | None) -> None:
        size = self._walk.frontier.size
        if size < head.size:
            raise EvidenceError(f"the log says it has {head.size} entries, {size} are stored", index=size)
        try:
            root = Frontier(head.size, head.frontier).root()
        except UsageError:
            root = b""  # not as many hashes as a tree of that size has
        if root != self._roots[head.size]:
            raise EvidenceError("the stored head is not the root of the stored entries", index=None)
        if checkpoint is None:
            return
        if checkpoint.size > size:
            raise EvidenceError(f"a head of {checkpoint.size} entries was signed, {size} are stored", index=size)
        await self._runner.run(partial(self._check_latest, checkpoint))

    def _check_latest(self, checkpoint: SignedCheckpoint) -> None:
        self._verify(checkpoint, self._keys)
        root = self._roots.get(checkpoint.size)
        if root is None:
            # Only of a check that begins at a larger kept head, whose own signature covers more.
            return
        if root != checkpoint.root:
            raise self._rewritten(checkpoint)
        if not self._is_deep:
            self._heads += 1

    def _verify(self, checkpoint: SignedCheckpoint, keys: Sequence[LogKey]) -> None:
        try:
            verify_under(keys, checkpoint)
        except AuthenticationError:
            raise EvidenceError(f"the signature of the head of {checkpoint.size} entries does not hold") from None

    def _rewritten(self, checkpoint: SignedCheckpoint) -> EvidenceError:
        return EvidenceError(
            f"the entries are not those of the head of {checkpoint.size} entries that was signed: they were rewritten "
            "together with their hashes",
            index=self._suspects.bounds.low if self._is_deep else None,
            last=checkpoint.size - 1 if self._is_deep else None,
        )
