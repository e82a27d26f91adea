"""Sessions claimed (PROTOCOL H8, H9): one transaction a tenant's batch, and the log's signature after it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qflare.errors import QflareError
from qflare.manager.chains import CHAIN_KEY_BYTES, seal_chain_keys, seal_chains
from qflare.manager.deadline import Deadline
from qflare.model.session import ClaimOutcome, ClaimResult, SealedChain, SessionClaim
from qflare.primitives.kdf import chain_advance_many
from qflare.protocol import wire
from qflare.protocol.heading import session_heading
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.credentials import Credentials
    from qflare.manager.log import Log
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.event import LogAppend, NewEvent
    from qflare.model.ids import SessionId, TenantId
    from qflare.model.session_ports import SessionStore
    from qflare.protocol.confirm import Confirmation


class Claims:
    """Commits what finished handshakes claim: device row, handshake row, session, sealed chain key and audit entry."""

    def __init__(
        self,
        *,
        store: SessionStore,
        buckets: Buckets,
        credentials: Credentials,
        log: Log,
        offload: Offload,
        settings: ManagerSettings,
    ) -> None:
        """Write to *store*; receipts are *log*'s."""
        self._store = store
        self._buckets = buckets
        self._credentials = credentials
        self._log = log
        self._offload = offload
        self._deadline = Deadline(settings.store_timeout_s)

    async def commit(
        self, ring: Ring, tenant_id: TenantId, confirmations: list[Confirmation]
    ) -> list[tuple[ClaimOutcome, bytes | None] | QflareError]:
        """Run H8 for one tenant's claims and return each outcome with its receipt, or the error they all share."""
        try:
            proving = {
                its.sid
                for its in confirmations
                if its.form == wire.FORM_OFFER
                and not self._credentials.has_proven_kem(its.tenant_id, its.ref, its.key_version)
            }
            claims, heading = await self._offload.run(partial(_seal_claims, ring, tenant_id, confirmations, proving))
            # H8
            outcomes, append = await self._deadline.of(
                self._store.confirm_sessions(
                    tenant_id, claims, now_s=ring.now_s, live_bucket=ring.first, heading=heading
                )
            )
            await self._carry(confirmations, outcomes)
            receipts = await self._receipts(outcomes, append)
        except QflareError as failure:
            return [failure] * len(confirmations)
        return list(zip(outcomes, receipts, strict=True))

    async def _carry(self, confirmations: Sequence[Confirmation], outcomes: Sequence[ClaimOutcome]) -> None:
        """
        Carry sessions that began before the present bucket into it: its sweep may be over and their KEK dies.

        The clock is read after the commit, however long that took: what a slow worker commits is carried by itself.
        """
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            late = [
                confirmation
                for confirmation, outcome in zip(confirmations, outcomes, strict=True)
                if outcome.log_index is not None and confirmation.start < ring.current
            ]
            if late:
                sealed = await self._offload.run(partial(_step_late, ring, late))
                await self._deadline.of(self._store.save_chains(sealed))

    async def _receipts(self, outcomes: Sequence[ClaimOutcome], append: LogAppend | None) -> list[bytes | None]:
        # H9: one signature for the batch, after the commit.
        fresh = await self._log.receipts(append) if append is not None else []
        first = append.first_index if append is not None else 0
        receipts: list[bytes | None] = [None] * len(outcomes)
        old: list[int] = []
        for position, outcome in enumerate(outcomes):
            if outcome.log_index is None:
                continue
            if outcome.result is ClaimResult.CREATED and append is not None:
                receipts[position] = fresh[outcome.log_index - first]
            else:
                old.append(position)
        indices = [index for position in old if (index := outcomes[position].log_index) is not None]
        for position, receipt in zip(old, await self._log.receipts_at(indices), strict=True):
            receipts[position] = receipt
        return receipts


def _seal_claims(
    ring: Ring, tenant_id: TenantId, confirmations: Sequence[Confirmation], proving: AbstractSet[SessionId]
) -> tuple[list[SessionClaim], NewEvent]:
    """
    Seal each CK_start under the KEK of its own bucket and make the claims of H8, and the heading of their entries.

    Those *proving* show a KEM key.
    """
    sealed: dict[SessionId, bytes] = {}
    by_start: dict[int, list[Confirmation]] = {}
    for confirmation in confirmations:
        by_start.setdefault(confirmation.start, []).append(confirmation)
    for start, group in by_start.items():
        with _chain_keys_of(group) as chain_keys:
            owners = [(confirmation.tenant_id, confirmation.sid, 0) for confirmation in group]
            values = seal_chain_keys(ring, start, owners, chain_keys)
        sealed.update(zip([confirmation.sid for confirmation in group], values, strict=True))
    claims = [
        # In the order of the fields: naming them costs as much again.
        SessionClaim(
            confirmation.form,
            confirmation.ticket_bucket,
            confirmation.sid,
            confirmation.tenant_id,
            confirmation.ref,
            confirmation.key_version,
            confirmation.start,
            confirmation.lifetime,
            confirmation.policy,
            confirmation.th3_hash,
            confirmation.leaf_hash,
            confirmation.leaf_data,
            confirmation.start,
            sealed[confirmation.sid],
            confirmation.sid in proving,
        )
        for confirmation in confirmations
    ]
    return claims, session_heading(tenant_id, ring.now_s)


def _chain_keys_of(confirmations: Sequence[Confirmation]) -> SecretBytes:
    """Copy the chain keys of *confirmations* behind each other."""
    block = confirmations[0].chain_keys
    if len(block) == len(confirmations) * CHAIN_KEY_BYTES and all(
        its.chain_keys is block and its.row == row for row, its in enumerate(confirmations)
    ):
        # What nearly always is: all that were confirmed together.
        return SecretBytes.copy_of(block)
    keys = SecretBytes.zeros(len(confirmations) * CHAIN_KEY_BYTES)
    for row, its in enumerate(confirmations):
        keys.row(row, CHAIN_KEY_BYTES)[:] = its.chain_keys.row(its.row, CHAIN_KEY_BYTES)
    return keys


def _step_late(ring: Ring, late: Sequence[Confirmation]) -> list[SealedChain]:
    with _chain_keys_of(late) as old:
        sids = b"".join(confirmation.sid for confirmation in late)
        starts = [confirmation.start for confirmation in late]
        with chain_advance_many(old, sids, starts, ring.current) as fresh:
            owners = [(confirmation.tenant_id, confirmation.sid, 0) for confirmation in late]
            return seal_chains(ring, ring.current, owners, fresh)
