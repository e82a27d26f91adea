"""
Chain keys as they rest (PROTOCOL R1, R8): sealed under the KEK of their bucket, stepped into the next one at a turn.

A turn only inserts what is absent, so any number of workers may run it, again and again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.manager.deadline import Deadline
from qflare.manager.sealing import CHAIN_COLUMN, Place, seal_rows, unseal_rows
from qflare.model.session import SealedChain
from qflare.primitives.kdf import chain_step_many
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import SessionId, TenantId
    from qflare.model.ports import SessionStore

CHAIN_KEY_BYTES: Final = 64


def chain_place(tenant_id: TenantId, sid: SessionId, bucket: int) -> Place:
    """Say where a chain key rests: what the seal is bound to."""
    return Place(CHAIN_COLUMN, sid, bucket, tenant_id)


def seal_chains(
    ring: Ring, bucket: int, owners: Sequence[tuple[TenantId, SessionId, int]], chain_keys: SecretBytes
) -> list[SealedChain]:
    """
    Seal chain keys of one *bucket*.

    Args:
        ring: Holds KEK of *bucket*.
        bucket: Whose chain keys they are.
        owners: (tenant, sid, epoch), one a row.
        chain_keys: ``n × 64`` bytes; the caller wipes them.
    """
    places = [chain_place(tenant_id, sid, bucket) for tenant_id, sid, _ in owners]
    sealed = seal_rows(ring.kek(bucket), chain_keys, CHAIN_KEY_BYTES, places)
    return [
        SealedChain(tenant_id=tenant_id, sid=sid, bucket=bucket, epoch=epoch, sealed_chain_key=value)
        for (tenant_id, sid, epoch), value in zip(owners, sealed, strict=True)
    ]


def unseal_chains(ring: Ring, chains: Sequence[SealedChain]) -> list[SecretBytes | None]:
    """Open chain keys of any live buckets; None where the bucket is gone, or the row does not open in its place."""
    opened: list[SecretBytes | None] = [None] * len(chains)
    by_bucket: dict[int, list[int]] = {}
    for position, chain in enumerate(chains):
        if ring.has(chain.bucket):
            by_bucket.setdefault(chain.bucket, []).append(position)
    for bucket, positions in by_bucket.items():
        rows = [chains[position] for position in positions]
        keys = unseal_rows(
            ring.kek(bucket),
            [row.sealed_chain_key for row in rows],
            [chain_place(row.tenant_id, row.sid, bucket) for row in rows],
        )
        for position, key in zip(positions, keys, strict=True):
            opened[position] = key
    return opened


class Turns:
    """Steps every live session's chain key into the current bucket, page by page."""

    def __init__(self, *, store: SessionStore, buckets: Buckets, offload: Offload, settings: ManagerSettings) -> None:
        """Work on *store* with the keys of *buckets*."""
        self._store = store
        self._buckets = buckets
        self._offload = offload
        self._page = settings.turn_page
        self._deadline = Deadline(settings.store_timeout_s)

    async def sweep(self) -> int:
        """Step what rests in the bucket before the current one; return how many rows were new."""
        stepped = 0
        after: SessionId | None = None
        while True:
            # A lease a page: a long sweep must not keep old keys in memory after their end.
            with self._buckets.lend() as ring:
                bucket = ring.current
                if not ring.has(bucket - 1):
                    return stepped
                page = await self._deadline.of(self._store.list_chains(bucket - 1, limit=self._page, after=after))
                if not page:
                    return stepped
                after = page[-1].sid
                fresh = await self._offload.run(partial(_step_page, ring, bucket, page))
            if fresh:
                stepped += await self._deadline.of(self._store.save_chains(fresh))
            if len(page) < self._page:
                return stepped


def _step_page(ring: Ring, bucket: int, page: Sequence[SealedChain]) -> list[SealedChain]:
    """Step one page of chain keys of ``bucket - 1`` in one C call and seal them for *bucket*."""
    keys = unseal_chains(ring, page)
    rows = [(chain, key) for chain, key in zip(page, keys, strict=True) if key is not None]
    if not rows:
        return []
    with SecretBytes.join([key for _, key in rows]) as old:
        for _, key in rows:
            key.wipe()
        with chain_step_many(old, b"".join(chain.sid for chain, _ in rows), bucket) as new:
            return seal_chains(ring, bucket, [(chain.tenant_id, chain.sid, chain.epoch) for chain, _ in rows], new)
