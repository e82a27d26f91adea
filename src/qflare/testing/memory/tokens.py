"""Enrolment tokens in memory (PROTOCOL E1, E3)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.errors import AlreadyExistsError, BatchError, KeyNotFoundError
from qflare.model.call import call_about
from qflare.model.device import KeyState
from qflare.model.ids import ID_BYTES, NAME_BYTES_MAX, TenantId, TokenId
from qflare.model.token import (
    EnrolmentClaim,
    EnrolmentOutcome,
    EnrolmentResult,
    IssuedToken,
    TokenRecord,
    TokenState,
)
from qflare.testing.memory.constraints import REASON_BYTES_MAX, require_size, require_text
from qflare.testing.memory.devices import Devices
from qflare.testing.memory.rows import TokenRow
from qflare.testing.memory.states import no_move

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from qflare.model.event import LogAppend, NewEvent
    from qflare.model.ids import CallId

_HASH_BYTES: Final = 64


class Tokens(Devices):
    """Tokens and the devices that enrol with them."""

    async def add_token(self, token: TokenRecord, *, event: NewEvent) -> None:
        """Store a token; `AlreadyExistsError` if its id is taken."""
        key = (token.tenant_id, token.token_id)
        async with self._transaction(*key) as tables:
            require_text(token.device_id, "enrolment_token_device_id_size", 1, NAME_BYTES_MAX)
            require_size(token.secret_hash, "enrolment_token_secret_hash_size", _HASH_BYTES)
            if token.tenant_id not in tables.tenants:
                raise KeyNotFoundError("no such tenant; create it first")
            row = TokenRow(
                token_id=token.token_id,
                tenant_id=token.tenant_id,
                device_id=token.device_id,
                secret_hash=token.secret_hash,
                expires_at=token.expires_at,
                created_at=self._now,
            )
            if not tables.tokens.put_new(key, row):
                raise AlreadyExistsError("a token of that id exists already")
            self._write_events(token.tenant_id, [event])

    async def find_tokens(self, tenant_id: TenantId, token_ids: Sequence[TokenId]) -> dict[TokenId, TokenRecord]:
        """Return the tokens found among *token_ids*."""
        async with self._transaction(tenant_id, *token_ids) as tables:
            found = {name: row for name in token_ids if (row := tables.tokens.get((tenant_id, name))) is not None}
            return {
                name: TokenRecord(
                    token_id=row.token_id,
                    tenant_id=row.tenant_id,
                    device_id=row.device_id,
                    secret_hash=row.secret_hash,
                    expires_at=row.expires_at,
                    used_at=row.used_at,
                    used_key_hash=row.used_key_hash,
                )
                for name, row in found.items()
            }

    async def list_tokens(
        self, tenant_id: TenantId, *, limit: int, after: TokenId | None = None
    ) -> tuple[IssuedToken, ...]:
        """Return up to *limit* tokens in order of id."""
        first = bytes(ID_BYTES) if after is None else after
        async with self._transaction(tenant_id, first) as tables:
            mine = [row for row in tables.tokens.values() if row.tenant_id == tenant_id and row.token_id > first]
            return tuple(self._issued(row) for row in sorted(mine, key=lambda row: row.token_id)[:limit])

    async def get_token(self, tenant_id: TenantId, token_id: TokenId) -> IssuedToken:
        """Return one token; `KeyNotFoundError` if there is none."""
        async with self._transaction(tenant_id, token_id):
            return self._issued(self._get_token(tenant_id, token_id))

    async def revoke_token(
        self, tenant_id: TenantId, token_id: TokenId, *, reason: str, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Take a token back; `IllegalTransitionError` if it was used or revoked, `KeyNotFoundError` if absent."""
        change = call_about(call_id, b"token-revoked", token_id)
        async with self._transaction(tenant_id, token_id) as tables:
            if self._carried_out(tenant_id, change) is not None:
                return
            row = self._get_token(tenant_id, token_id)
            if row.state is not TokenState.ACTIVE:
                raise no_move("enrolment token", row.state.value, TokenState.REVOKED.value)
            require_text(reason, "enrolment_token_state_reason_size", 0, REASON_BYTES_MAX)
            revoked = replace(row, state=TokenState.REVOKED, reason=reason, changed_at=self._now)
            tables.tokens.put((tenant_id, token_id), revoked)
            self._write_events(tenant_id, [event])
            self._note_call(tenant_id, change)

    async def enrol_devices(
        self, tenant_id: TenantId, claims: Sequence[EnrolmentClaim], *, events: Sequence[NewEvent], now_s: int
    ) -> tuple[tuple[EnrolmentOutcome, ...], LogAppend | None]:
        """Consume tokens and register devices; each claim ends by itself (E3). `events[i]` is written if it enrols."""
        if len(events) != len(claims):
            raise BatchError(f"{len(claims)} enrolments need as many events, got {len(events)}")
        if not claims:
            return (), None
        async with self._transaction(tenant_id, *(claim.token_id for claim in claims)):
            now = utc(now_s)
            # In order of ref, as PostgreSQL takes them.
            order = sorted(range(len(claims)), key=lambda place: (claims[place].device.ref, place))
            outcomes = {place: self._enrol(tenant_id, claims[place], now) for place in order}
            kept = [event for place, event in enumerate(events) if outcomes[place].result is EnrolmentResult.ENROLLED]
            return tuple(outcomes[place] for place in range(len(claims))), self._write_events(tenant_id, kept)

    def _get_token(self, tenant_id: TenantId, token_id: TokenId) -> TokenRow:
        row = self._tables.tokens.get((tenant_id, token_id))
        if row is None:
            raise KeyNotFoundError(f"no token {token_id.hex()} in this tenant; list them")
        return row

    def _enrol(self, tenant_id: TenantId, claim: EnrolmentClaim, now: datetime) -> EnrolmentOutcome:
        tables = self._tables
        token = tables.tokens.get((tenant_id, claim.token_id))
        if token is None or token.device_id != claim.device.device_id or token.state is TokenState.REVOKED:
            return EnrolmentOutcome(result=EnrolmentResult.TOKEN_UNKNOWN)
        if token.used_at is not None:
            # The same keys again are answered afresh, as long as the device still stands.
            device = tables.devices.get((tenant_id, claim.device.ref))
            stands = device is not None and device.state is KeyState.ACTIVE and device.key_version == 1
            if stands and token.used_key_hash == claim.key_hash:
                return EnrolmentOutcome(result=EnrolmentResult.REPEATED, key_version=1)
            return EnrolmentOutcome(result=EnrolmentResult.TOKEN_USED)
        if token.expires_at <= now:
            return EnrolmentOutcome(result=EnrolmentResult.TOKEN_EXPIRED)
        if not self._register(tenant_id, claim.device):
            return EnrolmentOutcome(result=EnrolmentResult.DEVICE_EXISTS)
        require_size(claim.key_hash, "enrolment_token_used_key_hash_size", _HASH_BYTES)
        used = replace(
            token,
            state=TokenState.USED,
            reason="a device enrolled with it",
            changed_at=now,
            used_at=now,
            used_key_hash=claim.key_hash,
        )
        tables.tokens.put((tenant_id, claim.token_id), used)
        return EnrolmentOutcome(result=EnrolmentResult.ENROLLED, key_version=1)

    def _issued(self, row: TokenRow) -> IssuedToken:
        is_over = row.state is TokenState.ACTIVE and row.expires_at <= self._now
        return IssuedToken(
            token_id=row.token_id,
            tenant_id=row.tenant_id,
            device_id=row.device_id,
            state=TokenState.EXPIRED if is_over else row.state,
            reason=row.reason,
            created_at=row.created_at,
            expires_at=row.expires_at,
            changed_at=row.changed_at,
        )
