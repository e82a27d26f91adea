"""Enrolment tokens in PostgreSQL (PROTOCOL E1, E3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import BatchError, KeyNotFoundError
from qflare.model.call import call_about, fresh_call
from qflare.model.ids import ID_BYTES, DeviceId, TenantId, TokenId
from qflare.model.token import (
    EnrolmentClaim,
    EnrolmentOutcome,
    EnrolmentResult,
    IssuedToken,
    TokenRecord,
    TokenState,
)
from qflare.stores.postgres.calls import carried_out
from qflare.stores.postgres.columns import as_time, as_uuid, as_uuids, event_columns, hashed_append
from qflare.stores.postgres.connections import Connected
from qflare.stores.postgres.devices import kem_state_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from qflare.model.event import LogAppend, NewEvent
    from qflare.model.ids import CallId


class Tokens(Connected):
    """Table enrolment_token."""

    async def add_token(self, token: TokenRecord, *, event: NewEvent) -> None:
        """Store a token; `AlreadyExistsError` if its id is taken."""
        change = fresh_call()

        async def add() -> int:
            async with self._connections.transaction(token.tenant_id) as transaction:
                await transaction.execute(
                    "insert_token",
                    transaction.tenant_id,
                    as_uuid(token.token_id),
                    token.device_id,
                    token.secret_hash,
                    token.expires_at,
                )
                await transaction.write_events([event])
                await transaction.note_call(change, "token")
            return 1

        await carried_out(self._connections, token.tenant_id, change, add, is_given=False)

    async def find_tokens(self, tenant_id: TenantId, token_ids: Sequence[TokenId]) -> dict[TokenId, TokenRecord]:
        """Return the tokens found among *token_ids*."""
        if not token_ids:
            return {}
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("find_tokens", transaction.tenant_id, as_uuids(token_ids))
        return {
            TokenId(row["token_id"].bytes): TokenRecord(
                token_id=TokenId(row["token_id"].bytes),
                tenant_id=tenant_id,
                device_id=DeviceId(row["device_id"]),
                secret_hash=row["secret_hash"],
                expires_at=row["expires_at"],
                used_at=row["used_at"],
                used_key_hash=row["used_key_hash"],
            )
            for row in rows
        }

    async def list_tokens(
        self, tenant_id: TenantId, *, limit: int, after: TokenId | None = None
    ) -> tuple[IssuedToken, ...]:
        """Return up to *limit* tokens in order of id."""
        async with self._connections.transaction(tenant_id) as transaction:
            first = as_uuid(bytes(ID_BYTES) if after is None else after)
            rows = await transaction.fetch("list_tokens", transaction.tenant_id, first, limit)
        return tuple(_issued(row, tenant_id) for row in rows)

    async def get_token(self, tenant_id: TenantId, token_id: TokenId) -> IssuedToken:
        """Return one token; `KeyNotFoundError` if there is none."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("get_token", transaction.tenant_id, as_uuid(token_id))
        if row is None:
            raise KeyNotFoundError(f"no token {token_id.hex()} in this tenant; list them")
        return _issued(row, tenant_id)

    async def revoke_token(
        self, tenant_id: TenantId, token_id: TokenId, *, reason: str, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Take a token back; `IllegalTransitionError` if it was used or revoked, `KeyNotFoundError` if absent."""
        change = call_about(call_id, b"token-revoked", token_id)

        async def revoke() -> int:
            (row,) = await self._connections.attempt(
                "revoke_token",
                *(as_uuid(tenant_id), as_uuid(token_id), reason),
                *event_columns([event]),
                as_uuid(change),
            )
            if not row["is_known"]:
                raise KeyNotFoundError(f"no token {token_id.hex()} in this tenant; list them")
            return 1

        await carried_out(self._connections, tenant_id, change, revoke, is_given=call_id is not None)

    async def enrol_devices(
        self, tenant_id: TenantId, claims: Sequence[EnrolmentClaim], *, events: Sequence[NewEvent], now_s: int
    ) -> tuple[tuple[EnrolmentOutcome, ...], LogAppend | None]:
        """Consume tokens and register devices; each claim ends by itself (E3). `events[i]` is written if it enrols."""
        if len(events) != len(claims):
            raise BatchError(f"{len(claims)} enrolments need as many events, got {len(events)}")
        if not claims:
            return (), None
        row = await self._connections.get_row(
            "enrol_devices",
            as_uuid(tenant_id),
            as_uuids([claim.token_id for claim in claims]),
            [claim.key_hash for claim in claims],
            [claim.device.ref for claim in claims],
            [claim.device.device_id for claim in claims],
            [claim.device.sig_algorithm for claim in claims],
            [claim.device.verification_key for claim in claims],
            [claim.device.kem_algorithm for claim in claims],
            [claim.device.encapsulation_key for claim in claims],
            [kem_state_of(claim.device) for claim in claims],
            *event_columns(events),
            as_time(now_s),
        )
        outcomes = tuple(
            EnrolmentOutcome(result=EnrolmentResult(result), key_version=key_version)
            for result, key_version in zip(row["results"], row["key_versions"], strict=True)
        )
        hashes = [
            event.leaf_hash
            for event, outcome in zip(events, outcomes, strict=True)
            if outcome.result is EnrolmentResult.ENROLLED
        ]
        return outcomes, hashed_append(row, hashes)


def _issued(row: asyncpg.Record, tenant_id: TenantId) -> IssuedToken:
    return IssuedToken(
        token_id=TokenId(row["token_id"].bytes),
        tenant_id=tenant_id,
        device_id=DeviceId(row["device_id"]),
        state=TokenState(row["state"]),
        reason=row["state_reason"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        changed_at=row["state_changed_at"],
    )
