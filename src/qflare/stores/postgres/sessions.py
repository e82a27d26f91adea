"""Sessions in PostgreSQL: H8, lookups, ends and expiry."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from qflare.errors import StoreUnavailableError, UsageError
from qflare.model.call import call_about
from qflare.model.event import require_heading
from qflare.model.ids import ID_BYTES, CallId, DeviceId, DeviceRef, SessionId, TenantId
from qflare.model.session import (
    OVER,
    ClaimOutcome,
    ClaimResult,
    RekeyClaim,
    RekeyResult,
    Session,
    SessionClaim,
    SessionState,
)
from qflare.stores.postgres.buckets import EMPTYING_LOCK_TIMEOUT
from qflare.stores.postgres.calls import carried_out
from qflare.stores.postgres.columns import as_time, as_uuid, as_uuids, event_columns, hashed_append, shortened
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from qflare.model.event import LogAppend, NewEvent

_log = logging.getLogger(__name__)

# A dictionary answers four times as quickly as the enumeration itself.
_RESULTS: Final = {result.value: result for result in ClaimResult}


class Sessions(Connected):
    """Tables handshake, session, session_route and session_count."""

    async def confirm_sessions(
        self,
        tenant_id: TenantId,
        claims: Sequence[SessionClaim],
        *,
        now_s: int,
        live_bucket: int,
        heading: NewEvent,
    ) -> tuple[tuple[ClaimOutcome, ...], LogAppend | None]:
        """
        Run H8 for each claim: one statement, one transaction.

        `LogAppend` lists *heading* and the created ones in order.
        """
        if not claims:
            return (), None
        if any(claim.tenant_id != tenant_id for claim in claims):
            raise UsageError("every claim of a batch must be of the batch's tenant; make one batch a tenant")
        require_heading(heading, now_s)
        row = await self._connections.get_row(
            "head_sessions",
            as_uuid(tenant_id),
            shortened([claim.form for claim in claims]),
            shortened([claim.ticket_bucket for claim in claims]),
            as_uuids([claim.sid for claim in claims]),
            [claim.ref for claim in claims],
            shortened([claim.key_version for claim in claims]),
            shortened([claim.start for claim in claims]),
            shortened([claim.lifetime for claim in claims]),
            shortened([claim.policy for claim in claims]),
            [claim.th3_hash for claim in claims],
            [claim.leaf_hash for claim in claims],
            [claim.leaf_data for claim in claims],
            shortened([claim.state_bucket for claim in claims]),
            [claim.sealed_chain_key for claim in claims],
            shortened([claim.proves_kem for claim in claims]),
            as_time(now_s),
            live_bucket,
            heading.leaf_data,
            heading.stored,
        )
        outcomes = tuple(
            ClaimOutcome(_RESULTS[result], log_index)
            for result, log_index in zip(row["results"], row["log_indexes"], strict=True)
        )
        hashes = [
            claim.leaf_hash
            for claim, outcome in zip(claims, outcomes, strict=True)
            if outcome.result is ClaimResult.CREATED
        ]
        return outcomes, hashed_append(row, [heading.leaf_hash, *hashes])

    async def find_session_tenants(self, sids: Sequence[SessionId]) -> dict[SessionId, TenantId]:
        """Return which tenant each known session belongs to."""
        if not sids:
            return {}
        rows = await self._connections.fetch("find_session_tenants", as_uuids(sids))
        return {SessionId(row["sid"].bytes): TenantId(row["tenant_id"].bytes) for row in rows}

    async def find_sessions(self, tenant_id: TenantId, sids: Sequence[SessionId]) -> dict[SessionId, Session]:
        """Return the sessions found among *sids*, ended ones too until their group is emptied."""
        if not sids:
            return {}
        rows = await self._connections.fetch("find_sessions", as_uuid(tenant_id), as_uuids(sids))
        return {SessionId(row["sid"].bytes): _session(row, tenant_id) for row in rows}

    async def list_sessions(
        self, tenant_id: TenantId, *, limit: int, after: SessionId | None = None, ref: DeviceRef | None = None
    ) -> tuple[Session, ...]:
        """Return up to *limit* sessions in order of id; with *ref* that device's live ones."""
        async with self._connections.transaction(tenant_id) as transaction:
            if ref is None:
                first = as_uuid(bytes(ID_BYTES) if after is None else after)
                page = await transaction.fetch("list_session_ids", transaction.tenant_id, first, limit)
            else:
                page = await transaction.fetch("list_live_session_ids", transaction.tenant_id, ref, limit)
            rows = await transaction.fetch("find_sessions", transaction.tenant_id, [row["sid"] for row in page])
        return tuple(sorted((_session(row, tenant_id) for row in rows), key=lambda session: session.sid))

    async def end_sessions(
        self,
        tenant_id: TenantId,
        sids: Sequence[SessionId],
        state: SessionState,
        *,
        events: Sequence[NewEvent],
        reason: str = "",
        call_id: CallId | None = None,
    ) -> int:
        """End live sessions; return how many were live. Without any live one, no event is written. Once a change."""
        if state in {SessionState.LIVE, SessionState.EXPIRED}:
            raise UsageError(f"a session is not ended by calling it {state.value!r}; use ended, revoked or superseded")
        if not sids:
            return 0
        change = call_about(call_id, b"session-end", state.value.encode(), *sids)

        async def end() -> int:
            rows = await self._connections.attempt(
                "end_sessions",
                *(as_uuid(tenant_id), as_uuids(sids), state.value),
                *event_columns(events),
                as_uuid(change),
                reason,
            )
            ended: int = rows[0]["ended"]
            return ended

        return await carried_out(self._connections, tenant_id, change, end, is_given=call_id is not None)

    async def rekey_session(self, tenant_id: TenantId, claim: RekeyClaim, *, event: NewEvent) -> RekeyResult:
        """Make the claim's epoch the session's by compare-and-swap, with chain keys and event (R7)."""
        row = await self._connections.get_row(
            "rekey_session",
            as_uuid(tenant_id),
            as_uuid(claim.sid),
            claim.epoch,
            claim.body_hash,
            claim.first,
            [chain.bucket for chain in claim.chains],
            [chain.epoch for chain in claim.chains],
            [chain.sealed_chain_key for chain in claim.chains],
            *event_columns([event]),
            claim.current,
        )
        return RekeyResult(row["result"])

    async def expire_sessions(self, *, before_bucket: int) -> int:
        """
        Count and mark as expired the live sessions whose last bucket is below *before_bucket*, of every tenant.

        The mark is one row (`bucket_mark.expired_before`), so that the cost does not grow with the sessions. Groups
        of sessions that are all over are emptied afterwards.
        """
        count = 0
        async with self._connections.transaction() as transaction:
            await transaction.execute("hold_rekeys")
            mark = await transaction.fetch_row("lock_expired_before")
            if mark is not None and mark["expired_before"] < before_bucket:
                row = await transaction.fetch_row("count_expired", mark["expired_before"], before_bucket)
                count = 0 if row is None else int(row["sessions"])
                await transaction.execute("set_expired_before", before_bucket)
        try:
            async with self._connections.transaction() as transaction:
                await transaction.execute("set_lock_timeout", EMPTYING_LOCK_TIMEOUT)
                await transaction.execute("empty_session_slots")
        except StoreUnavailableError as error:
            _log.info("partitions of expired sessions stay until the next turn: %s", error)
        return count


def _session(row: asyncpg.Record, tenant_id: TenantId) -> Session:
    state = SessionState(row["state"])
    return Session(
        sid=SessionId(row["sid"].bytes),
        tenant_id=tenant_id,
        device_id=DeviceId(row["device_id"]),
        ref=DeviceRef(row["ref"]),
        key_version=row["key_version"],
        form=row["form"],
        start=row["start_bucket"],
        lifetime=row["last_bucket"] - row["start_bucket"] + 1,
        policy=row["policy"],
        state=state,
        epoch=row["epoch"],
        created_at=row["created_at"],
        log_index=row["log_index"],
        ended_at=row["ended_at"],
        reason=OVER if state is SessionState.EXPIRED else row["end_reason"] or "",
    )
