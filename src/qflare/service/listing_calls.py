"""The key manager's calls that list sessions, tokens and keys a page at a time, and take single ones back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import IllegalTransitionError, KeyNotFoundError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import SessionId, TokenId
from qflare.model.reason import require_reason
from qflare.model.session import SessionState
from qflare.protocol.identity import device_ref
from qflare.service.arguments import as_call_id, as_identifier, as_sid, require_name, require_whole
from qflare.service.covered import covered
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from qflare.model.key_record import KeyRecord
    from qflare.model.session import Session
    from qflare.model.token import IssuedToken

PAGE_MAX: Final = 1000
REASON_BYTES_MAX: Final = 1000


class Listings(TenantView):
    """Mixed into `QuantumKeyManager`; everything is of the view's tenant unless it is the server's own."""

    async def list_sessions(
        self, *, limit: int = 100, after: SessionId | bytes | None = None, device_id: str | None = None
    ) -> tuple[Session, ...]:
        """
        Return up to *limit* sessions in order of id, from the one after *after* on; ended ones too until they are gone.

        With *device_id* only that device's live sessions, of which there are four at most.
        """
        _require_limit(limit)
        ref = None if device_id is None else device_ref(self.tenant, require_name(device_id))
        last = None if after is None else as_sid(after)
        foundation = (await self._engine()).foundation
        return await foundation.deadline.of(
            foundation.store.list_sessions(self.tenant, limit=limit, after=last, ref=ref)
        )

    @covered
    async def revoke_session(self, session_id: SessionId | bytes, *, reason: str, call_id: bytes | None = None) -> bool:
        """
        Revoke one session of this tenant, on every worker; False if it was not live. The device may begin another.

        Raises:
            UsageError: *reason* is not 1 to 1000 bytes.
        """
        sid, change = as_sid(session_id), as_call_id(call_id)
        _require_reason(reason)
        engine = await self._engine()
        event = engine.devices.event(
            self.tenant,
            SecurityEventType.SESSION_ENDED,
            {"sid": sid.hex(), "state": SessionState.REVOKED.value, "reason": reason},
            device_id=None,
            severity=EventSeverity.WARNING,
        )
        foundation = engine.foundation
        ended = await foundation.deadline.of(
            foundation.store.end_sessions(
                self.tenant, [sid], SessionState.REVOKED, events=[event], reason=reason, call_id=change
            )
        )
        engine.sessions.forget(sid)
        return ended > 0

    async def list_enrolment_tokens(
        self, *, limit: int = 100, after: TokenId | bytes | None = None
    ) -> tuple[IssuedToken, ...]:
        """Return up to *limit* tokens in order of id, from the one after *after* on; nothing that opens them."""
        _require_limit(limit)
        last = None if after is None else _as_token_id(after)
        foundation = (await self._engine()).foundation
        return await foundation.deadline.of(foundation.store.list_tokens(self.tenant, limit=limit, after=last))

    async def find_enrolment_token(self, token_id: TokenId | bytes) -> IssuedToken:
        """Return one token's state. `KeyNotFoundError` if there is none."""
        wanted = _as_token_id(token_id)
        foundation = (await self._engine()).foundation
        return await foundation.deadline.of(foundation.store.get_token(self.tenant, wanted))

    @covered
    async def revoke_enrolment_token(
        self, token_id: TokenId | bytes, *, reason: str, call_id: bytes | None = None
    ) -> IssuedToken:
        """
        Take a token back before it is used: nobody enrols with it.

        *call_id* is 16 random bytes: the same change again, within a day, is done once.

        Raises:
            IllegalTransitionError: it was used or revoked; a device that enrolled is revoked by `revoke_device`.
            KeyNotFoundError: no such token.
            UsageError: *reason* is not 1 to 1000 bytes.
        """
        wanted, change = _as_token_id(token_id), as_call_id(call_id)
        _require_reason(reason)
        engine = await self._engine()
        foundation = engine.foundation
        token = await foundation.deadline.of(foundation.store.get_token(self.tenant, wanted))
        event = engine.devices.event(
            self.tenant,
            SecurityEventType.KEY_REVOCATION,
            {"what": "enrolment token", "token_id": wanted.hex(), "reason": reason},
            device_id=token.device_id,
            severity=EventSeverity.WARNING,
        )
        try:
            await foundation.deadline.of(
                foundation.store.revoke_token(self.tenant, wanted, reason=reason, event=event, call_id=change)
            )
        except IllegalTransitionError:
            raise IllegalTransitionError(
                f"token {wanted.hex()} was used or revoked already; a device that enrolled is revoked by revoke_device"
            ) from None
        return await foundation.deadline.of(foundation.store.get_token(self.tenant, wanted))

    async def list_device_keys(
        self, device_id: str, *, limit: int = 100, before: int | None = None
    ) -> tuple[KeyRecord, ...]:
        """Return the lives of a device's keys and psks, newest first, of versions below *before*."""
        _require_limit(limit)
        require_whole(before, name="before")
        ref = device_ref(self.tenant, require_name(device_id))
        foundation = (await self._engine()).foundation
        keys = await foundation.deadline.of(
            foundation.store.list_device_records(self.tenant, ref, limit=limit, before=before)
        )
        if not keys and before is None:
            raise KeyNotFoundError(f"no device {device_id!r} in this tenant: register or enrol it first")
        return keys

    async def list_bucket_keys(self, *, limit: int = 100, before: int | None = None) -> tuple[KeyRecord, ...]:
        """Return the lives of buckets' keys, newest first, of buckets below *before*; destroyed ones too."""
        _require_limit(limit)
        require_whole(before, name="before")
        foundation = (await self._engine()).foundation
        return await foundation.deadline.of(foundation.store.list_bucket_records(limit=limit, before=before))

    async def list_server_keys(self, *, limit: int = 100) -> tuple[KeyRecord, ...]:
        """Return the lives of the identity's keys: root, announce and log, newest first."""
        _require_limit(limit)
        foundation = (await self._engine()).foundation
        return await foundation.deadline.of(foundation.store.list_server_records(limit=limit))


def _require_limit(limit: int) -> None:
    if type(limit) is not int or not 1 <= limit <= PAGE_MAX:
        raise UsageError(f"limit must be 1 to {PAGE_MAX}, got {limit!r}; read on page by page")


def _require_reason(reason: str) -> None:
    require_reason(reason, bytes_max=REASON_BYTES_MAX, remedy="say why the state changes")


def _as_token_id(token_id: TokenId | bytes) -> TokenId:
    return TokenId(as_identifier(token_id, name="token_id"))
