"""The key manager's calls about requests whose replies may come late (PROTOCOL R6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import LengthError, QflareError, UsageError
from qflare.manager.record import PlainRecord
from qflare.manager.replies import PlainReply
from qflare.model.ids import ID_BYTES, RequestId, SessionId
from qflare.protocol.record import KIND_REQUEST, decode_header
from qflare.protocol.wire import LIFETIME_MAX
from qflare.service.arguments import Message, as_bytes, as_plaintext, as_rows, as_sid, raised
from qflare.service.exchange import SealedRequest
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from collections.abc import Sequence


class ReplyCalls(TenantView):
    """Mixed into `QuantumKeyManager`; replies of devices are opened by `open_record` like any other record."""

    async def seal_request(
        self,
        session_id: SessionId | bytes,
        plaintext: Message,
        *,
        aad: bytes = b"",
        reply_lifetime: int = LIFETIME_MAX,
    ) -> SealedRequest:
        """
        Seal a message to a device whose reply may come late: hours later, to another worker, after restarts (R6).

        Args:
            session_id: 16 bytes.
            plaintext: The message.
            aad: The application's associated data.
            reply_lifetime: In how many buckets, from this one on, the reply is taken, 1 to 288; not beyond the
                session's end.

        Returns:
            The record and the request id; the reply's record has the same `request_id`.

        Raises:
            KeyNotFoundError: no such session.
            OverloadedError: the session has as many replies outstanding as it may.
            SessionExpiredError: it has ended, or its device was revoked.
        """
        return raised(
            (await self.seal_requests_many([(session_id, plaintext)], aad=aad, reply_lifetime=reply_lifetime))[0]
        )

    async def seal_requests_many(
        self,
        messages: Sequence[tuple[SessionId | bytes, Message]],
        *,
        aad: bytes = b"",
        reply_lifetime: int = LIFETIME_MAX,
    ) -> tuple[SealedRequest | QflareError, ...]:
        """Seal many (session_id, plaintext) as requests; one or an error each."""
        if type(reply_lifetime) is not int or not 1 <= reply_lifetime <= LIFETIME_MAX:
            raise UsageError(f"reply_lifetime is 1 to {LIFETIME_MAX} buckets, got {reply_lifetime!r}")
        associated = as_bytes(aad, name="aad")
        engine = await self._engine()
        records = [
            PlainRecord(self.tenant, as_sid(sid), as_plaintext(plaintext), associated, KIND_REQUEST, reply_lifetime)
            for sid, plaintext in as_rows(messages, name="messages", columns=("session_id", "plaintext"))
        ]
        results = await engine.records.seals.submit_many(records, tenant_id=self.tenant)
        return tuple(result if isinstance(result, QflareError) else _sealed(result) for result in results)

    async def seal_reply(
        self, session_id: SessionId | bytes, request_id: RequestId | bytes, plaintext: Message, *, aad: bytes = b""
    ) -> bytes:
        """
        Seal the reply to a device's request, once, however late and on whatever worker (R6).

        Args:
            session_id: The request's, 16 bytes.
            request_id: `OpenedRecord.request_id` of the request, 16 bytes.
            plaintext: The message.
            aad: The application's associated data.

        Returns:
            The record, to be sent as often as needed: the device takes it once.  The key of the reply is gone then.

        Raises:
            KeyNotFoundError: no such request is outstanding: it was answered, its time is over, or it never came.
            SessionExpiredError: the session has ended, or its device was revoked.
        """
        return raised((await self.seal_replies_many([(session_id, request_id, plaintext)], aad=aad))[0])

    async def seal_replies_many(
        self, replies: Sequence[tuple[SessionId | bytes, RequestId | bytes, Message]], *, aad: bytes = b""
    ) -> tuple[bytes | QflareError, ...]:
        """Seal many (session_id, request_id, plaintext) as replies; one record or error each."""
        associated = as_bytes(aad, name="aad")
        engine = await self._engine()
        wanted = [
            PlainReply(self.tenant, as_sid(sid), as_request_id(request_id), as_plaintext(plaintext), associated)
            for sid, request_id, plaintext in as_rows(
                replies, name="replies", columns=("session_id", "request_id", "plaintext")
            )
        ]
        return tuple(await engine.replies.seals.submit_many(wanted, tenant_id=self.tenant))


def as_request_id(request_id: RequestId | bytes) -> RequestId:
    """Return a request id, 16 bytes; `UsageError` or `LengthError` if it is none."""
    given: object = request_id
    if not isinstance(given, bytes | bytearray | memoryview):
        raise UsageError(f"request_id must be bytes, got {type(request_id).__name__}")
    if len(request_id) != ID_BYTES:
        raise LengthError("request_id", expected=ID_BYTES, actual=len(request_id))
    return RequestId(bytes(request_id))


def _sealed(record: bytes) -> SealedRequest:
    return SealedRequest(request_id=RequestId(decode_header(record).stream_id), record=record)
