"""
Pages of chain keys as they rest (PROTOCOL R8): many sessions of one tenant and bucket under one seal.

A turn of a million sessions then seals and writes a few thousand values.  The seal binds tenant, bucket, and which
session with which epoch stands where on the page, so that neither a page nor a place on it can be given to another.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from qflare.errors import AuthenticationError
from qflare.manager.chains import CHAIN_KEY_BYTES, OpenedChain, seal_chains
from qflare.manager.sealing import PAGE_COLUMN, Place, seal, unseal
from qflare.manager.tenancy import by_tenant
from qflare.model.turn import SealedPage, TurnedRange
from qflare.primitives.hash import sha3_512
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from qflare.manager.buckets import Ring
    from qflare.model.ids import SessionId, TenantId
    from qflare.model.session import SealedChain
    from qflare.model.turn import ChainOwner

PAGE_MIN = 16
"""Fewer chain keys of one tenant are rows of their own: a page would save nothing, and cost each first touch more."""


def page_place(tenant_id: TenantId, bucket: int, sids: Sequence[SessionId], epochs: Sequence[int]) -> Place:
    """Say where a page rests: what its seal is bound to."""
    contents = b"".join(sids) + struct.pack(f">{len(epochs)}I", *epochs)
    return Place(PAGE_COLUMN, sha3_512(contents), bucket, tenant_id)


def seal_owners(
    ring: Ring, bucket: int, owners: Sequence[ChainOwner], chain_keys: SecretBytes, *, page_max: int
) -> TurnedRange:
    """
    Seal chain keys of one *bucket*, in pages where a tenant has enough of them.

    Args:
        ring: Holds KEK of *bucket*.
        bucket: Whose chain keys they are.
        owners: In order of tenant, sid and epoch.
        chain_keys: ``n × 64`` bytes, one an owner; the caller wipes them.
        page_max: Most chain keys of a page; a page is a little larger where it would cut a session's epochs apart.
    """
    pages: list[SealedPage] = []
    chains: list[SealedChain] = []
    for group in by_tenant(range(len(owners)), lambda place: owners[place][0]).values():
        first, end = group[0], group[-1] + 1
        if min(page_max, end - first) < PAGE_MIN:
            with SecretBytes.copy_of(chain_keys.view()[first * CHAIN_KEY_BYTES : end * CHAIN_KEY_BYTES]) as keys:
                chains += seal_chains(ring, bucket, owners[first:end], keys)
            continue
        for begin, stop in _cuts(owners, first, end, page_max):
            tenant_id = owners[begin][0]
            sids = tuple(sid for _, sid, _ in owners[begin:stop])
            epochs = tuple(epoch for _, _, epoch in owners[begin:stop])
            with SecretBytes.copy_of(chain_keys.view()[begin * CHAIN_KEY_BYTES : stop * CHAIN_KEY_BYTES]) as keys:
                sealed = seal(ring.kek(bucket), keys, page_place(tenant_id, bucket, sids, epochs))
            pages.append(
                SealedPage(tenant_id=tenant_id, bucket=bucket, sids=sids, epochs=epochs, sealed_chain_keys=sealed)
            )
    return TurnedRange(pages=tuple(pages), chains=tuple(chains))


def unseal_page(ring: Ring, page: SealedPage) -> SecretBytes | None:
    """Open a page, ``n × 64`` bytes; None where its bucket is gone, or it is not the page that was sealed here."""
    if not ring.has(page.bucket):
        return None
    try:
        return unseal(
            ring.kek(page.bucket),
            page.sealed_chain_keys,
            page_place(page.tenant_id, page.bucket, page.sids, page.epochs),
        )
    except AuthenticationError:
        return None


def open_pages(ring: Ring, pages: Sequence[SealedPage], wanted: Collection[SessionId]) -> list[OpenedChain]:
    """Take the chain keys of the *wanted* sessions from pages; what does not open is left out."""
    opened: list[OpenedChain] = []
    for page in pages:
        keys = unseal_page(ring, page)
        if keys is None:
            continue
        with keys:
            opened += [
                OpenedChain(sid, page.bucket, page.epochs[place], keys.take_row(place, CHAIN_KEY_BYTES))
                for place, sid in enumerate(page.sids)
                if sid in wanted
            ]
    return opened


def _cuts(owners: Sequence[ChainOwner], first: int, end: int, page_max: int) -> list[tuple[int, int]]:
    """Cut owners *first* to *end* into pages of about the same size; one session's epochs stay together."""
    count = -(-(end - first) // page_max)
    size = -(-(end - first) // count)
    cuts: list[tuple[int, int]] = []
    begin = first
    while begin < end:
        stop = min(end, begin + size)
        while stop < end and owners[stop][1] == owners[stop - 1][1]:
            stop += 1
        cuts.append((begin, stop))
        begin = stop
    return cuts
