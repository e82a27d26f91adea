"""Sessions in memory: H8, look-ups, rekeys, ends and expiry."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.errors import UsageError
from qflare.model.call import call_about
from qflare.model.device import KeyState
from qflare.model.event import require_heading
from qflare.model.ids import ID_BYTES, CallId, DeviceRef, SessionId, TenantId
from qflare.model.session import (
    OVER,
    ClaimOutcome,
    ClaimResult,
    RekeyClaim,
    RekeyResult,
    SealedChain,
    Session,
    SessionClaim,
    SessionState,
)
from qflare.testing.memory.constraints import (
    REASON_BYTES_MAX,
    UINT32_MAX,
    require,
    require_ids,
    require_size,
    require_text,
)
from qflare.testing.memory.entries import Logging, event_entry, session_entry
from qflare.testing.memory.rows import SessionCount, SessionRow
from qflare.testing.memory.states import moved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from qflare.model.event import LogAppend, NewEvent

LIVE_MAX: Final = 4
"""Most live sessions of a device (PROTOCOL H8)."""
_LIFETIME_MAX: Final = 288
_GROUP: Final = 192
"""Buckets by last bucket that share a group of sessions, which goes as a whole, as in database/schema.sql."""
_GROUPS: Final = 4
_HASH_BYTES: Final = 64
_SEALED_KEY_BYTES: Final = (80, 128)
_FORMS: Final = (1, 2)
_SUPERSEDED: Final = "newer sessions of its device took its place"


class Sessions(Logging):
    """Handshakes, sessions and their counts."""

    async def confirm_sessions(
        self,
        tenant_id: TenantId,
        claims: Sequence[SessionClaim],
        *,
        now_s: int,
        live_bucket: int,
        heading: NewEvent,
    ) -> tuple[tuple[ClaimOutcome, ...], LogAppend | None]:
        """Run H8 for each claim, in one transaction; `LogAppend` lists *heading* and the created ones in order."""
        if not claims:
            return (), None
        if any(claim.tenant_id != tenant_id for claim in claims):
            raise UsageError("every claim of a batch must be of the batch's tenant; make one batch a tenant")
        require_heading(heading, now_s)
        async with self._transaction(tenant_id, *(claim.sid for claim in claims)):
            now = utc(now_s)
            outcomes = [self._refusal_of(claim, live_bucket) for claim in claims]
            places = [place for place, refusal in enumerate(outcomes) if refusal is None and self._claim(claims[place])]
            append = self._create([claims[place] for place in places], heading, now=now, live_bucket=live_bucket)
            for number, place in enumerate(places, 1):
                first = 0 if append is None else append.first_index
                outcomes[place] = ClaimOutcome(result=ClaimResult.CREATED, log_index=first + number)
            return tuple(
                outcome or self._repetition_of(claim, live_bucket)
                for claim, outcome in zip(claims, outcomes, strict=True)
            ), append

    async def find_session_tenants(self, sids: Sequence[SessionId]) -> dict[SessionId, TenantId]:
        """Return which tenant each known session belongs to."""
        async with self._transaction(*sids) as tables:
            return {sid: tables.sessions[sid].tenant_id for sid in sids if sid in tables.sessions}

    async def find_sessions(self, tenant_id: TenantId, sids: Sequence[SessionId]) -> dict[SessionId, Session]:
        """Return the sessions found among *sids*, ended ones too until their group is emptied."""
        async with self._transaction(tenant_id, *sids):
            return {sid: self._told(row) for sid in sids if (row := self._find(tenant_id, sid)) is not None}

    async def list_sessions(
        self, tenant_id: TenantId, *, limit: int, after: SessionId | None = None, ref: DeviceRef | None = None
    ) -> tuple[Session, ...]:
        """Return up to *limit* sessions in order of id; with *ref* that device's live ones."""
        first = bytes(ID_BYTES) if after is None else after
        async with self._transaction(tenant_id, first) as tables:
            mine = [row for row in tables.sessions.values() if row.tenant_id == tenant_id]
            if ref is None:
                mine = [row for row in mine if row.sid > first]
            else:
                mine = [row for row in mine if row.ref == ref and row.state is SessionState.LIVE]
            return tuple(self._told(row) for row in sorted(mine, key=lambda row: row.sid)[:limit])

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
        async with self._transaction(tenant_id, *sids):
            if (outcome := self._carried_out(tenant_id, change)) is not None:
                return outcome
            found = [self._find(tenant_id, sid) for sid in dict.fromkeys(sids)]
            live = [row for row in found if row is not None and row.state is SessionState.LIVE]
            for row in live:
                self._end(row, state, reason)
            if live:
                self._write_events(tenant_id, events)
            self._note_call(tenant_id, change, outcome=len(live))
            return len(live)

    async def rekey_session(self, tenant_id: TenantId, claim: RekeyClaim, *, event: NewEvent) -> RekeyResult:
        """Make the claim's epoch the session's by compare-and-swap, with chain keys and event (R7)."""
        async with self._transaction(tenant_id, claim.sid) as tables:
            mark = tables.bucket_mark.value
            if mark != claim.current:
                return RekeyResult.MOVED
            row = self._find(tenant_id, claim.sid)
            is_live = row is not None and row.state is SessionState.LIVE and row.last >= tables.expired_before.value
            if row is None or not is_live:
                return RekeyResult.ENDED
            if (row.epoch, row.rekey_hash) == (claim.epoch, claim.body_hash) and mark <= (row.rekey_bucket or 0) + 1:
                return RekeyResult.REPEATED
            if row.epoch + 1 != claim.epoch:
                return RekeyResult.CONFLICT
            are_live = claim.chains and all(chain.bucket in tables.buckets for chain in claim.chains)
            if not mark - 1 <= claim.first <= mark + 1 or not are_live:
                return RekeyResult.EXPIRED
            require_size(claim.body_hash, "session_rekey_hash_size", _HASH_BYTES)
            require(claim.epoch <= UINT32_MAX, "session_epoch_range")
            tables.sessions.put(row.sid, replace(row, epoch=claim.epoch, rekey_hash=claim.body_hash, rekey_bucket=mark))
            for chain in claim.chains:
                self._put_chain(replace(chain, tenant_id=tenant_id, sid=claim.sid))
            self._write_events(tenant_id, [event])
            return RekeyResult.REKEYED

    async def expire_sessions(self, *, before_bucket: int) -> int:
        """Count and mark as expired the live sessions whose last bucket is below *before_bucket*, of every tenant."""
        async with self._transaction() as tables:
            count = 0
            if (first := tables.expired_before.value) < before_bucket:
                counts = tables.session_counts.items()
                count = sum(row.live for (_, last), row in counts if first <= last < before_bucket)
                tables.expired_before.put(before_bucket)
            self._empty_groups()
            return count

    def _find(self, tenant_id: TenantId, sid: SessionId) -> SessionRow | None:
        row = self._tables.sessions.get(sid)
        return row if row is not None and row.tenant_id == tenant_id else None

    def _told(self, row: SessionRow) -> Session:
        is_over = row.state is SessionState.LIVE and row.last < self._tables.expired_before.value
        return Session(
            sid=row.sid,
            tenant_id=row.tenant_id,
            device_id=self._tables.devices[row.tenant_id, row.ref].device_id,
            ref=row.ref,
            key_version=row.key_version,
            form=row.form,
            start=row.start,
            lifetime=row.last - row.start + 1,
            policy=row.policy,
            state=SessionState.EXPIRED if is_over else row.state,
            epoch=row.epoch,
            created_at=row.created_at,
            log_index=row.log_index,
            ended_at=row.ended_at,
            reason=OVER if is_over else row.reason,
        )

    def _refusal_of(self, claim: SessionClaim, live_bucket: int) -> ClaimOutcome | None:
        tables = self._tables
        buckets = (claim.ticket_bucket, claim.state_bucket)
        device = tables.devices.get((claim.tenant_id, claim.ref))
        if claim.ticket_bucket < live_bucket or any(bucket not in tables.buckets for bucket in buckets):
            return ClaimOutcome(result=ClaimResult.EXPIRED)
        if device is None:
            return ClaimOutcome(result=ClaimResult.UNKNOWN_DEVICE)
        if device.state is not KeyState.ACTIVE:
            return ClaimOutcome(result=ClaimResult.DEVICE_STATE)
        if device.key_version != claim.key_version:
            return ClaimOutcome(result=ClaimResult.KEY_VERSION)
        return None

    def _claim(self, claim: SessionClaim) -> bool:
        """Insert the handshake row and say whether it makes the session: once, and with an id that nobody has."""
        tables = self._tables
        require_size(claim.th3_hash, "handshake_th3_hash_size", _HASH_BYTES)
        is_new = tables.handshakes.put_new((claim.ticket_bucket, claim.tenant_id, claim.sid), claim.th3_hash)
        if not is_new or claim.sid in tables.sessions:
            return False
        # The row holds the id; its place in the log follows.
        tables.sessions.put(claim.sid, _new_session(claim))
        return True

    def _create(
        self, claims: Sequence[SessionClaim], heading: NewEvent, *, now: datetime, live_bucket: int
    ) -> LogAppend | None:
        if not claims:
            return None
        tables = self._tables
        append = self._append_sessions(
            event_entry(claims[0].tenant_id, heading),
            [
                session_entry(
                    claim.tenant_id,
                    leaf_hash=claim.leaf_hash,
                    leaf_data=claim.leaf_data,
                    at=now,
                )
                for claim in claims
            ],
        )
        for number, claim in enumerate(claims, 1):
            row = tables.sessions[claim.sid]
            tables.sessions.put(row.sid, replace(row, log_index=append.first_index + number, created_at=now))
            key = (row.tenant_id, row.last)
            count = tables.session_counts.get(key, SessionCount(live=0, total=0))
            tables.session_counts.put(key, SessionCount(live=count.live + 1, total=count.total + 1))
            require_size(claim.sealed_chain_key, "session_state_sealed_chain_key_size", *_SEALED_KEY_BYTES)
            self._put_chain(_first_chain(claim))
            if claim.proves_kem:
                self._prove_kem(claim)
        for ref in dict.fromkeys(claim.ref for claim in claims):
            self._supersede(claims[0].tenant_id, ref, since=append.first_index, live_bucket=live_bucket)
        return append

    def _repetition_of(self, claim: SessionClaim, live_bucket: int) -> ClaimOutcome:
        """Say what a claim that makes no session is: the same M4 is due for the same handshake of a live session."""
        known = self._tables.handshakes.get((claim.ticket_bucket, claim.tenant_id, claim.sid))
        row = self._find(claim.tenant_id, claim.sid)
        if (
            row is None
            or known != claim.th3_hash
            or row.ref != claim.ref
            or row.state is not SessionState.LIVE
            or row.last < live_bucket
        ):
            return ClaimOutcome(result=ClaimResult.CONFLICT)
        return ClaimOutcome(result=ClaimResult.REPEATED, log_index=row.log_index)

    def _prove_kem(self, claim: SessionClaim) -> None:
        """Make a KEM key that was shown active (E3); of a device's keys at most the current one is pre-active."""
        keys = self._tables.device_keys
        for key, row in list(keys.items()):
            is_kem = (key[0], key[1], key[3]) == (claim.tenant_id, claim.ref, "kem")
            if is_kem and row.record.state is KeyState.PRE_ACTIVE:
                record = moved(row.record, KeyState.ACTIVE, what="device key", reason="", at=self._now)
                keys.put(key, replace(row, record=record))

    def _supersede(self, tenant_id: TenantId, ref: DeviceRef, *, since: int, live_bucket: int) -> None:
        """Leave a device four live sessions: the new ones, then those that carried records, then the youngest."""
        live = [
            row
            for row in self._tables.sessions.values()
            if (row.tenant_id, row.ref, row.state) == (tenant_id, ref, SessionState.LIVE) and row.last >= live_bucket
        ]
        live.sort(key=lambda row: (row.log_index >= since, row.has_carried, row.log_index), reverse=True)
        for row in live[LIVE_MAX:]:
            self._end(row, SessionState.SUPERSEDED, _SUPERSEDED)

    def _end(self, row: SessionRow, state: SessionState, reason: str) -> None:
        tables = self._tables
        require_text(reason, "session_end_reason_size", 0, REASON_BYTES_MAX)
        ended = replace(row, state=state, ended_at=self._now, reason=reason or "no reason given")
        tables.sessions.put(row.sid, ended)
        key = (row.tenant_id, row.last)
        count = tables.session_counts[key]
        tables.session_counts.put(key, replace(count, live=count.live - 1))
        if state is not SessionState.SUPERSEDED:
            # A newer session of the device is no revocation: nobody has to hear of it.
            self._note_change(row.tenant_id, sid=row.sid)

    def _stop_sessions_of(self, tenant_id: TenantId, ref: DeviceRef, reason: str) -> None:
        """Revoke a device's live sessions."""
        for row in list(self._tables.sessions.values()):
            if (row.tenant_id, row.ref, row.state) == (tenant_id, ref, SessionState.LIVE):
                self._end(row, SessionState.REVOKED, reason)

    def _put_chain(self, chain: SealedChain) -> bool:
        """Insert a chain key where absent."""
        require_ids(chain.tenant_id, chain.sid)
        require_size(chain.sealed_chain_key, "session_state_sealed_chain_key_size", *_SEALED_KEY_BYTES)
        require(0 <= chain.epoch <= UINT32_MAX, "session_state_epoch_range")
        return self._tables.chains.put_new((chain.bucket, chain.tenant_id, chain.sid, chain.epoch), chain)

    def _empty_groups(self) -> None:
        """Delete groups of sessions that are all over."""
        tables = self._tables
        first = tables.expired_before.value
        # Every session that is not over ends within a lifetime of the newest published bucket.
        last = max(first, tables.bucket_mark.value, max(tables.buckets, default=0)) + _LIFETIME_MAX + 1
        kept = {group % _GROUPS for group in range(first // _GROUP, last // _GROUP + 1)}
        over = {sid for sid, row in tables.sessions.items() if row.last // _GROUP % _GROUPS not in kept}
        tables.sessions.drop_all(where=over.__contains__)


def _new_session(claim: SessionClaim) -> SessionRow:
    require(claim.form in _FORMS, "session_form_known")
    require(0 <= claim.policy <= UINT32_MAX, "session_policy_range")
    require(claim.start >= 0 and 1 <= claim.lifetime <= _LIFETIME_MAX, "session_lifetime_range")
    return SessionRow(
        tenant_id=claim.tenant_id,
        sid=claim.sid,
        ref=claim.ref,
        key_version=claim.key_version,
        form=claim.form,
        start=claim.start,
        last=claim.start + claim.lifetime - 1,
        policy=claim.policy,
        state=SessionState.LIVE,
        log_index=0,
        created_at=utc(0),
    )


def _first_chain(claim: SessionClaim) -> SealedChain:
    return SealedChain(
        tenant_id=claim.tenant_id,
        sid=claim.sid,
        bucket=claim.state_bucket,
        epoch=0,
        sealed_chain_key=claim.sealed_chain_key,
    )
