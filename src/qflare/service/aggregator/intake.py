"""From an opened record to its reply: control answered by the manager, everything else by the application."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from qflare.errors import ConfigError, OverloadedError, QflareError
from qflare.manager.batcher import Batcher
from qflare.protocol.envelope import AAD_BYTES_MAX, encode_envelope
from qflare.protocol.record import KIND_CONTROL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qflare.manager.record import OpenedRecord
    from qflare.model.ids import RequestId
    from qflare.service.key_manager import QuantumKeyManager


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to a device: a message, and associated data that travels in the clear, bound to it."""

    plaintext: bytes | bytearray | memoryview
    aad: bytes = b""
    """At most 16 KiB."""
    request_id: RequestId | None = None
    """Which of the device's requests it answers, late (PROTOCOL R6); None for a message of its own."""
    reply_lifetime: int | None = None
    """In how many buckets the device may answer it (R6), 1 to 288; None if it is no request."""


Answerable: TypeAlias = Reply | bytes | None
"""What an application may return: a reply, bytes for a reply without associated data, None for no reply."""
OnRecord: TypeAlias = "Callable[[OpenedRecord, bytes], Awaitable[Answerable]]"
"""Takes one record, its own from then on (it wipes the plaintext), and its associated data; returns the reply."""
OnRecords: TypeAlias = "Callable[[Sequence[tuple[OpenedRecord, bytes]]], Awaitable[Sequence[Answerable]]]"
"""The same for as many records as came while the last call was running; one answer each, in order."""

_WAITING_MAX: Final = 65_536
"""Above what the worker admits (`requests_max`): admission is the bound that is met first."""
_log = logging.getLogger("qflare.service.aggregator")


class ApplicationError(QflareError):
    """The application's own code failed; the record stays accepted."""


class Intake:
    """Hands records on, once each, and seals what is to go back."""

    def __init__(
        self,
        manager: QuantumKeyManager,
        *,
        on_record: OnRecord | None,
        on_records: OnRecords | None,
        batch_max: int,
    ) -> None:
        """
        Prepare for one application; without either function records are opened, accepted and dropped.

        Raises:
            ConfigError: both functions are given.
        """
        if on_record is not None and on_records is not None:
            raise ConfigError("give either on_record or on_records, not both")
        self._manager = manager
        self._on_record = on_record
        self._on_records = on_records
        self._batches: Batcher[tuple[OpenedRecord, bytes], Reply | None] = Batcher(
            "on_records", self._call_many, items_max=batch_max, waiting_max=_WAITING_MAX
        )

    async def reply_to(self, record: OpenedRecord, aad: bytes) -> bytes:
        """
        Return the reply to *record* as an envelope, empty if there is none.

        Raises:
            ApplicationError: the application failed; what it said is in the log alone.
            QflareError: the reply could not be sealed.
        """
        if record.header.kind == KIND_CONTROL:
            with record:
                return encode_envelope(b"", await self._manager.answer_control(record))
        reply = await self._call(record, aad)
        if reply is None:
            return b""
        return encode_envelope(reply.aad, await self._seal(record, reply))

    async def _seal(self, record: OpenedRecord, reply: Reply) -> bytes:
        tenant, sid = self._manager.for_tenant(record.session.tenant_id), record.session.sid
        if reply.request_id is not None:
            return await tenant.seal_reply(sid, reply.request_id, reply.plaintext, aad=reply.aad)
        if reply.reply_lifetime is not None:
            request = await tenant.seal_request(
                sid, reply.plaintext, aad=reply.aad, reply_lifetime=reply.reply_lifetime
            )
            return request.record
        return await tenant.seal_record(sid, reply.plaintext, aad=reply.aad)

    async def close(self, timeout_s: float) -> None:
        """Let the batches under way end."""
        await self._batches.close(timeout_s)

    async def _call(self, record: OpenedRecord, aad: bytes) -> Reply | None:
        if self._on_records is not None:
            try:
                return await self._batches.submit((record, aad), tenant_id=record.session.tenant_id)
            except OverloadedError:
                record.plaintext.wipe()
                raise
        if self._on_record is None:
            record.plaintext.wipe()
            return None
        try:
            return _as_reply(await self._on_record(record, aad))
        except Exception:  # noqa: BLE001 - the application may raise anything
            record.plaintext.wipe()
            _log.exception("on_record failed; the record stays accepted")
            raise ApplicationError("on_record failed") from None

    async def _call_many(self, items: Sequence[tuple[OpenedRecord, bytes]]) -> Sequence[Reply | QflareError | None]:
        if self._on_records is None:  # pragma: no cover - _call asks only with it
            raise AssertionError
        try:
            replies = [_as_reply(answer) for answer in await self._on_records(items)]
            _require_one_each(len(replies), len(items))
        except Exception:  # noqa: BLE001 - the application may raise anything
            for record, _ in items:
                record.plaintext.wipe()
            _log.exception("on_records failed; its %d records stay accepted", len(items))
            raise ApplicationError("on_records failed") from None
        return replies


def _as_reply(answer: object) -> Reply | None:
    """Return what the application answered as a reply, or say what it may answer."""
    if isinstance(answer, bytes | bytearray | memoryview):
        return Reply(answer)
    if answer is not None and not isinstance(answer, Reply):
        raise TypeError(f"an application answers with bytes, a Reply or None, not {type(answer).__name__}")
    if answer is not None and len(answer.aad) > AAD_BYTES_MAX:
        raise ValueError(f"associated data has at most {AAD_BYTES_MAX} bytes, got {len(answer.aad)}")
    if answer is not None and answer.request_id is not None and answer.reply_lifetime is not None:
        raise ValueError("a reply answers a request or is one: give request_id or reply_lifetime, not both")
    return answer


def _require_one_each(replies: int, records: int) -> None:
    if replies != records:
        raise TypeError(f"on_records returned {replies} answers for {records} records")
