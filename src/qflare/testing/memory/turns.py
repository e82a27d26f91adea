"""The turn into the next bucket in memory (PROTOCOL R8): one step, one leader."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.errors import StoreUnavailableError
from qflare.model.session import SealedChain, SessionState
from qflare.model.turn import ChainOwner, SealedPage, TurnedRange, TurnProgress, TurnRange, TurnStage
from qflare.testing.memory.buckets import SLOTS
from qflare.testing.memory.constraints import UNIQUE_VIOLATION, refused, require, require_ids
from qflare.testing.memory.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from qflare.model.ids import SessionId, TenantId

SETTLING_S: Final = 0.25
"""Longest wait for a step that writes into a bucket."""
_LOOKS: Final = 25
_PAGE_MAX: Final = 8192
_OVERHEAD_BYTES: Final = 29
_KEY_BYTES: Final = 64
_SIDS: Final = 1 << 128
_SERIALIZATION: Final = "40001"


class Turns(Sessions):
    """Pages, and how far each turn is."""

    async def find_pages(
        self, tenant_id: TenantId, sids: Sequence[SessionId], *, first: int, last: int
    ) -> tuple[SealedPage, ...]:
        """Return the pages that hold chain keys of *sids* for live buckets *first* to *last* inclusive."""
        async with self._transaction(tenant_id, *sids) as tables:
            return tuple(
                page
                for (bucket, owner, _), page in tables.pages.items()
                if owner == tenant_id
                and bucket in tables.buckets
                and first <= bucket <= last
                and any(page.sids[0] <= sid <= page.sids[-1] for sid in sids)
            )

    async def step_turn(
        self,
        bucket: int,
        *,
        is_late: bool,
        range_size: int,
        work: Callable[[TurnRange], Awaitable[TurnedRange]],
    ) -> TurnStage:
        """Lead one step of the turn into *bucket* (R8): read a range of ids, have *work* step it, write, count it."""
        async with self._transaction() as tables:
            progress, stage = self._lead(bucket, is_late=is_late, range_size=range_size)
            if progress is None or stage is not TurnStage.LED:
                if progress is not None:
                    tables.turns.put_new(bucket, progress)
                return stage
            step = progress.settled if is_late else progress.done
            found = self._read(bucket, step, progress.ranges, is_late=is_late)
            tables.leading.add(bucket)
        try:
            turned = await work(found)
            async with self._transaction():
                self._write(bucket, turned, progress, step, is_late=is_late)
        finally:
            tables.leading.discard(bucket)
        return TurnStage.LED

    async def await_writers(self, bucket: int) -> None:
        """Wait until whoever was writing into *bucket* has committed; `StoreUnavailableError` if it takes long."""
        for _ in range(_LOOKS):
            async with self._transaction() as tables:
                held = {number % SLOTS for leading in tables.leading for number in (leading - 1, leading)}
                if bucket % SLOTS not in held:
                    return
            await asyncio.sleep(SETTLING_S / _LOOKS)
        raise StoreUnavailableError("a lock was not free in time; retry", sqlstate="55P03")

    async def find_turn(self) -> TurnProgress | None:
        """Return how far the newest turn is, or None before the first one."""
        async with self._transaction() as tables:
            return tables.turns[max(tables.turns)] if tables.turns else None

    def _lead(self, bucket: int, *, is_late: bool, range_size: int) -> tuple[TurnProgress | None, TurnStage]:
        tables = self._tables
        if bucket in tables.leading:
            return None, TurnStage.FOLLOWED
        is_over = any(number not in tables.buckets for number in (bucket - 1, bucket))
        if is_over or any(later > bucket for later in tables.turns):
            return None, TurnStage.OVER
        progress = tables.turns.get(bucket)
        if progress is None:
            # Beginning ends the turn before this one, so its leader must have committed what it was about to write.
            if bucket - 1 in tables.leading:
                return None, TurnStage.FOLLOWED
            live = sum(count.live for (_, last), count in tables.session_counts.items() if last >= bucket)
            progress = TurnProgress(
                bucket=bucket,
                ranges=max(1, -(-live // range_size)),
                done=0,
                settled=0,
                carried=0,
                begun_at=self._now,
                ended_at=None,
                settled_at=None,
            )
        if progress.done < progress.ranges and is_late:
            return progress, TurnStage.EARLY
        step = progress.settled if is_late else progress.done
        return progress, TurnStage.LED if step < progress.ranges else TurnStage.DONE

    def _read(self, bucket: int, step: int, ranges: int, *, is_late: bool) -> TurnRange:
        tables = self._tables
        first = (step * _SIDS // ranges).to_bytes(16, "big")
        last = ((step + 1) * _SIDS // ranges - 1).to_bytes(16, "big")
        turned = {_owner(row) for row in tables.chains.values() if row.bucket == bucket and first <= row.sid <= last}
        chains = [
            (_owner(row), row.sealed_chain_key)
            for row in tables.chains.values()
            if row.bucket == bucket - 1 and first <= row.sid <= last and self._is_carried(_owner(row), bucket)
        ]
        if is_late:
            for page in self._pages_of(bucket):
                turned |= {(page.tenant_id, sid, epoch) for sid, epoch in zip(page.sids, page.epochs, strict=True)}
            late = tuple(chain for chain in chains if chain[0] not in turned)
            return TurnRange(chains=late, pages=(), turned=frozenset())
        pages = []
        for page in self._pages_of(bucket - 1):
            if page.sids[0] <= last and page.sids[-1] >= first:
                places = tuple(
                    place
                    for place, (sid, epoch) in enumerate(zip(page.sids, page.epochs, strict=True))
                    if first <= sid <= last and self._is_carried((page.tenant_id, sid, epoch), bucket)
                )
                pages.append((page, places))
        return TurnRange(chains=tuple(chains), pages=tuple(pages), turned=frozenset(turned))

    def _is_carried(self, owner: ChainOwner, bucket: int) -> bool:
        """Whether a chain key is of the present epoch of a live session that reaches *bucket*."""
        tenant_id, sid, epoch = owner
        row = self._find(tenant_id, sid)
        return row is not None and row.state is SessionState.LIVE and row.epoch == epoch and row.last >= bucket

    def _pages_of(self, bucket: int) -> Iterator[SealedPage]:
        return (page for page in self._tables.pages.values() if page.bucket == bucket)

    def _write(self, bucket: int, turned: TurnedRange, progress: TurnProgress, step: int, *, is_late: bool) -> None:
        tables = self._tables
        # Once more: a session may have ended, or been rekeyed, since the step read it.
        saved = sum(
            self._put_chain(replace(chain, bucket=bucket))
            for chain in turned.chains
            if self._is_carried(_owner(chain), bucket)
        )
        for page in turned.pages:
            self._put_page(replace(page, bucket=bucket))
            saved += len(page.sids)
        # A row that was there before the step and is gone now was deleted with its bucket.
        is_new = (progress.done, progress.settled) == (0, 0) and bucket in tables.buckets
        now = tables.turns.get(bucket, progress if is_new else None)
        if now is None or (now.settled if is_late else now.done) != step:
            raise StoreUnavailableError("the transaction met another one; retry", sqlstate=_SERIALIZATION)
        is_last = step + 1 == now.ranges
        if is_late:
            now = replace(now, settled=step + 1, settled_at=self._now if is_last else None)
        else:
            now = replace(now, done=step + 1, ended_at=self._now if is_last else now.ended_at)
        tables.turns.put(bucket, replace(now, carried=now.carried + saved))

    def _put_page(self, page: SealedPage) -> None:
        require_ids(page.tenant_id, *page.sids)
        require(
            1 <= len(page.sids) <= _PAGE_MAX
            and len(page.epochs) == len(page.sids)
            and len(page.sealed_chain_keys) == _OVERHEAD_BYTES + _KEY_BYTES * len(page.sids),
            "session_page_size",
        )
        require(page.sids[0] <= page.sids[-1], "session_page_ends")
        if not self._tables.pages.put_new((page.bucket, page.tenant_id, page.sids[0]), page):
            raise refused("session_page_pkey", sqlstate=UNIQUE_VIOLATION)


def _owner(chain: SealedChain) -> ChainOwner:
    return chain.tenant_id, chain.sid, chain.epoch
