"""Chain keys as they rest, each for itself (PROTOCOL R1, R8): sealed under the KEK of their bucket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qflare.manager.sealing import CHAIN_COLUMN, Place, encode_place, seal_encoded, unseal_rows
from qflare.model.session import SealedChain
from qflare.protocol.wire import u32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Ring
    from qflare.model.ids import SessionId, TenantId
    from qflare.secret import SecretBytes

CHAIN_KEY_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class OpenedChain:
    """A chain key out of its seal; whoever takes it owns and wipes it."""

    sid: SessionId
    bucket: int
    epoch: int
    chain_key: SecretBytes = field(repr=False)


def chain_place(tenant_id: TenantId, sid: SessionId, bucket: int, epoch: int) -> Place:
    """Say where a chain key rests: what the seal is bound to."""
    return Place(CHAIN_COLUMN, _row_of(sid, epoch), bucket, tenant_id)


def chain_places(bucket: int, owners: Sequence[tuple[TenantId, SessionId, int]]) -> list[bytes]:
    """Say where chain keys of one *bucket* rest, encoded; one a (tenant, sid, epoch)."""
    return [encode_place(CHAIN_COLUMN, _row_of(sid, epoch), bucket, tenant_id) for tenant_id, sid, epoch in owners]


def _row_of(sid: SessionId, epoch: int) -> bytes:
    # A session that was never rekeyed (R7) has its sid alone in the row's id.
    return sid + u32(epoch) if epoch else sid


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
    sealed = seal_chain_keys(ring, bucket, owners, chain_keys)
    return [
        SealedChain(tenant_id=tenant_id, sid=sid, bucket=bucket, epoch=epoch, sealed_chain_key=value)
        for (tenant_id, sid, epoch), value in zip(owners, sealed, strict=True)
    ]


def seal_chain_keys(
    ring: Ring, bucket: int, owners: Sequence[tuple[TenantId, SessionId, int]], chain_keys: SecretBytes
) -> list[bytes]:
    """Seal as `seal_chains` does, and return the sealed values alone, one an owner."""
    return seal_encoded(ring.kek(bucket), chain_keys, CHAIN_KEY_BYTES, chain_places(bucket, owners))


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
            [chain_place(row.tenant_id, row.sid, bucket, row.epoch) for row in rows],
        )
        for position, key in zip(positions, keys, strict=True):
            opened[position] = key
    return opened


def open_chains(ring: Ring, chains: Sequence[SealedChain]) -> list[OpenedChain]:
    """Open chain keys as `unseal_chains` does, and leave out what does not open."""
    return [
        OpenedChain(chain.sid, chain.bucket, chain.epoch, key)
        for chain, key in zip(chains, unseal_chains(ring, chains), strict=True)
        if key is not None
    ]
