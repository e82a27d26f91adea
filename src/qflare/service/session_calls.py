"""The key manager's calls about sessions that stand: keys, records, looking and ending."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import AuthenticationError, QflareError, UsageError
from qflare.manager.lookups import Wanted
from qflare.manager.record import KeyRequest, OpenedRecord, PlainRecord, SealedRecord
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import SessionId
from qflare.model.session import Session, SessionState
from qflare.protocol.purpose import encode_purpose
from qflare.protocol.record import KIND_DATA, claimed_sid
from qflare.protocol.wire import DIRECTION_TO_SERVER
from qflare.secret import SecretBytes
from qflare.service.arguments import (
    Message,
    as_bucket,
    as_buffer,
    as_bytes,
    as_call_id,
    as_direction,
    as_kind,
    as_list,
    as_plaintext,
    as_rows,
    as_sid,
    raised,
    require_kind,
)
from qflare.service.covered import covered
from qflare.service.exchange import SessionKeyRequest
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import TenantId
    from qflare.service.assembly import Engine


class SessionCalls(TenantView):
    """Mixed into `QuantumKeyManager`; records name their own session, calls by session id are inside the tenant."""

    async def derive_session_key(
        self,
        session_id: SessionId | bytes,
        purpose: str,
        *,
        bucket: int | None = None,
        direction: int = DIRECTION_TO_SERVER,
    ) -> SecretBytes:
        """
        Derive the application's key for *purpose*, 64 bytes, the same on both sides (R2); the caller wipes it.

        Args:
            session_id: 16 bytes.
            purpose: ``[a-z0-9._-]{1,64}``, not beginning ``qfx.``.
            bucket: Which bucket's key; the server's present one if not given.
            direction: 1 device to server, 2 back; 1 where none is meant.

        Raises:
            KeyNotFoundError: no such session.
            SessionExpiredError: the session has ended.
            StaleBucketError: the bucket's key is erased, or not published yet.
        """
        request = SessionKeyRequest(session_id=as_sid(session_id), purpose=purpose, bucket=bucket, direction=direction)
        return raised((await self.derive_session_keys_many([request]))[0])

    async def derive_session_keys_many(
        self, requests: Sequence[SessionKeyRequest]
    ) -> tuple[SecretBytes | QflareError, ...]:
        """Derive many keys; one key or error each. The caller wipes them."""
        wanted = [
            KeyRequest(
                self.tenant,
                as_sid(request.session_id),
                encode_purpose(request.purpose),
                as_bucket(request.bucket),
                as_direction(request.direction),
            )
            for request in _key_requests(requests)
        ]
        engine = await self._engine()
        return tuple(await engine.records.keys.submit_many(wanted, tenant_id=self.tenant))

    async def verify_session_key(
        self,
        session_id: SessionId | bytes,
        key: SecretBytes | bytes,
        *,
        purpose: str,
        bucket: int | None = None,
        direction: int = DIRECTION_TO_SERVER,
    ) -> Session:
        """
        Check that *key* is the session's key for *purpose*, in constant time, and return the session.

        Raises:
            AuthenticationError: it is another key.
            KeyNotFoundError: no such session; and the other errors of `derive_session_key`.
        """
        require_kind(
            key, (SecretBytes, bytes, bytearray, memoryview), name="key", remedy="pass its 64 bytes or a SecretBytes"
        )
        with await self.derive_session_key(session_id, purpose, bucket=bucket, direction=direction) as own:
            if not own.equals(key):
                raise AuthenticationError
        return await self.find_session(session_id)

    async def find_session(self, session_id: SessionId | bytes) -> Session:
        """Return the terms and state of a session of this tenant, ended ones too. `KeyNotFoundError` if absent."""
        sid = as_sid(session_id)
        engine = await self._engine()
        return await engine.lookups.queue.submit(Wanted(self.tenant, sid), tenant_id=self.tenant)

    @covered
    async def end_session(
        self,
        session_id: SessionId | bytes,
        *,
        reason: str = "ended by the application",
        call_id: bytes | None = None,
    ) -> bool:
        """
        End a session of this tenant now, on every worker; False if it was not live.

        *call_id* is 16 random bytes: the same change again, within a day, gets the answer of the first time.
        """
        sid = as_sid(session_id)
        change = as_call_id(call_id)
        engine = await self._engine()
        event = engine.devices.event(
            self.tenant,
            SecurityEventType.SESSION_ENDED,
            {"sid": sid.hex(), "reason": reason},
            device_id=None,
            severity=EventSeverity.INFO,
        )
        foundation = engine.foundation
        ended = await foundation.deadline.of(
            foundation.store.end_sessions(
                self.tenant, [sid], SessionState.ENDED, events=[event], reason=reason, call_id=change
            )
        )
        engine.sessions.forget(sid)
        return ended > 0

    async def open_record(self, message: Message, *, aad: bytes = b"") -> OpenedRecord:
        """
        Open a record of a device and accept it, once (R1-R4).

        Args:
            message: The whole record; a view is not copied, so leave its memory alone until the call returns.
            aad: The application's associated data, as the device gave it.

        Returns:
            The record; the caller wipes its plaintext.  It was accepted in a transaction that saw its session live.
            Its `header.kind` says what it is, and its `request_id` which request it is or answers (R6).

        Raises:
            RefusedError: it is altered, was accepted before, or its session, bucket or device does not live.
        """
        engine = await self._engine()
        record = SealedRecord(as_buffer(message), as_bytes(aad, name="aad"))
        return await engine.records.opens.submit(record, tenant_id=_tenant_in(engine, record))

    async def open_records_many(
        self, messages: Sequence[Message], aads: Sequence[bytes] | None = None
    ) -> tuple[OpenedRecord | QflareError, ...]:
        """Open many records; one record or error each."""
        given = as_list(messages, name="messages")
        associated = [b""] * len(given) if aads is None else as_list(aads, name="aads")
        if len(associated) != len(given):
            raise UsageError(f"pass one of aads for each message: {len(associated)} for {len(given)}")
        records = [
            SealedRecord(as_buffer(message), as_bytes(aad, name="aad"))
            for message, aad in zip(given, associated, strict=True)
        ]
        engine = await self._engine()
        tenant_id = _tenant_in(engine, records[0]) if records else None
        return tuple(await engine.records.opens.submit_many(records, tenant_id=tenant_id))

    async def seal_record(
        self, session_id: SessionId | bytes, plaintext: Message, *, aad: bytes = b"", kind: int = KIND_DATA
    ) -> bytes:
        """
        Seal a message to a device in the server's present bucket (R3).

        Raises:
            KeyNotFoundError: no such session.
            SessionExpiredError: it has ended, or its device was revoked.
        """
        engine = await self._engine()
        return await engine.records.seals.submit(
            PlainRecord(
                self.tenant, as_sid(session_id), as_plaintext(plaintext), as_bytes(aad, name="aad"), as_kind(kind)
            ),
            tenant_id=self.tenant,
        )

    async def seal_records_many(
        self, messages: Sequence[tuple[SessionId | bytes, Message]], *, aad: bytes = b"", kind: int = KIND_DATA
    ) -> tuple[bytes | QflareError, ...]:
        """Seal many (session_id, plaintext); one record or error each."""
        engine = await self._engine()
        associated = as_bytes(aad, name="aad")
        records = [
            PlainRecord(self.tenant, as_sid(sid), as_plaintext(plaintext), associated, as_kind(kind))
            for sid, plaintext in as_rows(messages, name="messages", columns=("session_id", "plaintext"))
        ]
        return tuple(await engine.records.seals.submit_many(records, tenant_id=self.tenant))

    async def answer_control(self, record: OpenedRecord) -> bytes:
        """
        Do what a control record asks (E4: rotate the device's keys, R7: rekey) and return the sealed answer.

        Raises:
            RefusedError: it asks for nothing that exists, or what it asks does not hold; the session stands.
        """
        require_kind(record, OpenedRecord, name="record", remedy="pass what open_record() returned")
        engine = await self._engine()
        return await engine.controls.answer(record)


def _key_requests(requests: Sequence[SessionKeyRequest]) -> list[SessionKeyRequest]:
    wanted = as_list(requests, name="requests")
    for request in wanted:
        require_kind(request, SessionKeyRequest, name="a request", remedy="pass a list of SessionKeyRequest")
    return wanted


def _tenant_in(engine: Engine, record: SealedRecord) -> TenantId | None:
    """Return whose turn a record takes, as far as this worker knows: that of its session's tenant."""
    return engine.sessions.tenant_of(claimed_sid(record.message))
