"""The turn into the next bucket in PostgreSQL (PROTOCOL R8): one step, one transaction, one leader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.model.ids import ID_BYTES, SessionId, TenantId
from qflare.model.turn import SealedPage, TurnedRange, TurnProgress, TurnRange, TurnStage
from qflare.stores.postgres.columns import as_uuid, as_uuids
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    import asyncpg

    from qflare.model.turn import ChainOwner, RestingChain
    from qflare.stores.postgres.connections import Transaction

SETTLING_LOCK_TIMEOUT: Final = "250ms"
"""Longest wait for writers into a bucket that is nearly over; those that come meanwhile wait as long."""
LEADER_IDLE_TIMEOUT: Final = "10s"
"""Longest silence of a leader in the middle of a step; the server then ends its connection, and another leads."""
_SIDS: Final = 1 << 128


class Turns(Connected):
    """Tables session_page and bucket_turn."""

    async def find_pages(
        self, tenant_id: TenantId, sids: Sequence[SessionId], *, first: int, last: int
    ) -> tuple[SealedPage, ...]:
        """Return the pages that hold chain keys of *sids* for live buckets *first* to *last* inclusive."""
        if not sids:
            return ()
        rows = await self._connections.fetch("find_pages", as_uuid(tenant_id), as_uuids(sids), first, last)
        return tuple(_page(row, tenant_id, row["bucket"]) for row in rows)

    async def step_turn(
        self,
        bucket: int,
        *,
        is_late: bool,
        range_size: int,
        work: Callable[[TurnRange], Awaitable[TurnedRange]],
    ) -> TurnStage:
        """
        Lead one step of the turn into *bucket*: read a range of session ids, have *work* step it, write and count it.

        The leader's lock lives as long as the step's transaction, so that it dies with the leader, also behind a
        connection pooler. The transaction is open while *work* runs.
        """
        async with self._connections.transaction() as transaction:
            await transaction.execute("set_idle_timeout", LEADER_IDLE_TIMEOUT)
            lead = await transaction.fetch_row("lead_turn", bucket, is_late, range_size)
            stage = TurnStage.OVER if lead is None else TurnStage(lead["stage"])
            if lead is None or stage is not TurnStage.LED:
                return stage
            done, ranges = lead["done"], lead["ranges"]
            bounds = (
                as_uuid((done * _SIDS // ranges).to_bytes(16, "big")),
                as_uuid(((done + 1) * _SIDS // ranges - 1).to_bytes(16, "big")),
            )
            turned = await work(await _read(transaction, bucket, bounds, is_late=is_late))
            await transaction.execute(
                "save_turn",
                bucket,
                is_late,
                done,
                as_uuids([page.tenant_id for page in turned.pages]),
                [len(page.sids) for page in turned.pages],
                as_uuids([sid for page in turned.pages for sid in page.sids]),
                [epoch for page in turned.pages for epoch in page.epochs],
                [page.sealed_chain_keys for page in turned.pages],
                as_uuids([chain.tenant_id for chain in turned.chains]),
                as_uuids([chain.sid for chain in turned.chains]),
                [chain.epoch for chain in turned.chains],
                [chain.sealed_chain_key for chain in turned.chains],
            )
            return TurnStage.LED

    async def await_writers(self, bucket: int) -> None:
        """
        Wait until whoever was writing into *bucket* has committed or failed, so that a read that follows sees it all.

        Raises:
            StoreUnavailableError: somebody writes for longer than is waited.
        """
        async with self._connections.transaction() as transaction:
            await transaction.execute("set_lock_timeout", SETTLING_LOCK_TIMEOUT)
            await transaction.execute("await_writers", bucket)

    async def find_turn(self) -> TurnProgress | None:
        """Return how far the newest turn is, or None before the first one."""
        row = await self._connections.fetch_row("find_turn")
        return None if row is None else TurnProgress(**dict(row.items()))


async def _read(transaction: Transaction, bucket: int, bounds: tuple[object, object], *, is_late: bool) -> TurnRange:
    if is_late:
        chains = await transaction.fetch("list_late_chains", bucket, *bounds)
        late = tuple((_owner(row), row["sealed_chain_key"]) for row in chains)
        return TurnRange(chains=late, pages=(), turned=frozenset())
    chains = await transaction.fetch("gather_turn_chains", bucket, *bounds)
    pages = await transaction.fetch("list_turn_pages", bucket, *bounds)
    turned = await transaction.fetch("list_turned", bucket, *bounds)
    return TurnRange(
        chains=tuple(chain for row in chains for chain in _gathered(row)),
        pages=tuple(
            (
                _page(row, TenantId(row["tenant_id"].bytes), bucket - 1),
                tuple(place - 1 for place in row["places"]),
            )
            for row in pages
        ),
        turned=frozenset(map(_owner, turned)),
    )


def _owner(row: asyncpg.Record) -> ChainOwner:
    return TenantId(row["tenant_id"].bytes), SessionId(row["sid"].bytes), row["epoch"]


def _gathered(row: asyncpg.Record) -> Iterator[RestingChain]:
    """Take one tenant's chain keys apart: their ids came as one value."""
    tenant_id, sids = TenantId(row["tenant_id"].bytes), row["sids"]
    for at, epoch, sealed in zip(range(0, len(sids), ID_BYTES), row["epochs"], row["sealed_chain_keys"], strict=True):
        yield (tenant_id, SessionId(sids[at : at + ID_BYTES]), epoch), sealed


def _page(row: asyncpg.Record, tenant_id: TenantId, bucket: int) -> SealedPage:
    return SealedPage(
        tenant_id=tenant_id,
        bucket=bucket,
        sids=tuple(SessionId(sid.bytes) for sid in row["sids"]),
        epochs=tuple(row["epochs"]),
        sealed_chain_keys=row["sealed_chain_keys"],
    )
