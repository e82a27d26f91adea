"""
A device's session: its records both ways, requests and late replies (R6), and its next epoch (R7).

Everything is saved before it leaves: a record that was opened, a key that a reply will need, a rekey that was begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from qflare.errors import (
    AuthenticationError,
    ConfigError,
    DecodeError,
    KeyNotFoundError,
    ReplayError,
    SessionExpiredError,
    SessionUsedUpError,
    UnexpectedMessageError,
    UsageError,
)
from qflare.protocol import wire
from qflare.protocol.envelope import split_envelope
from qflare.protocol.record import (
    KIND_CONTROL,
    KIND_DATA,
    KIND_REPLY,
    KIND_REQUEST,
    RecordHeader,
    new_header,
    open_record,
    read_header,
    seal_record,
)
from qflare.protocol.rekey import accept_rekeyed, make_rekey
from qflare.protocol.reply import new_reply_header, new_request_header, request_id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.device.state import DeviceState
    from qflare.model.ids import RequestId
    from qflare.protocol.chain import SessionChain
    from qflare.protocol.evidence import Evidence
    from qflare.secret import SecretBytes

Form = Literal["hello", "offer"]
SESSION_RECORDS_MAX: Final = 2**32
SESSION_BYTES_MAX: Final = 2**44
"""What a session carries at most (R9, decision 0051); the server counts both directions, the device its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTerms:
    """The terms of the device's session; no secret in it."""

    sid: bytes
    form: Form
    start: int
    lifetime: int
    """Buckets; the last is start + lifetime - 1."""
    policy: int
    bucket: int
    """The bucket the device writes under now."""
    epoch: int = 0
    """How often the session was rekeyed (R7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A record of the server's that has opened; the caller wipes the plaintext."""

    plaintext: SecretBytes
    aad: bytes
    """The associated data that came with it, authentic since it is bound into the record."""
    kind: int = KIND_DATA
    """0 data, 1 control, 2 a late reply, 3 a request whose reply may come late (R6)."""
    request_id: bytes | None = None
    """Of a request its own id, of a late reply its request's; None of any other record."""


class DeviceRecords:
    """The device's session, and the records in it."""

    def __init__(self, state: DeviceState, *, save: Callable[[DeviceState], None]) -> None:
        """Work on *state*; *save* makes it durable and is called before any answer leaves."""
        self.state = state
        self._save = save

    def chain(self) -> SessionChain:
        """Return the live session's chain, or say that there is none."""
        chain = self.state.chain
        if chain is None or chain.is_ended:
            message = "the device has no session; connect() first"
            raise SessionExpiredError(message)
        return chain

    def terms(self) -> SessionTerms:
        """Return the terms of the session; `SessionExpiredError` if there is none."""
        chain = self.chain()
        form: Form = "hello" if self.state.form == wire.FORM_HELLO else "offer"
        return SessionTerms(
            sid=chain.sid,
            form=form,
            start=chain.start,
            lifetime=chain.lifetime,
            policy=self.state.policy,
            bucket=self._write_bucket(chain),
            epoch=chain.epoch,
        )

    def _write_bucket(self, chain: SessionChain) -> int:
        latest = self.state.announcement
        return max(chain.bucket, 0 if latest is None else latest.bucket)

    def give_up_session(self) -> None:
        """Erase the session's chains; a new handshake makes the next one."""
        self.state.drop_session()
        self._save(self.state)

    def derive_session_key(self, purpose: str, *, bucket: int | None, direction: int) -> SecretBytes:
        """Return `MK(bucket, direction, purpose)`, 64 bytes (R2), of the present epoch."""
        return self.chain().derive_session_key(purpose, bucket=bucket, direction=direction)

    # --- sealing ----------------------------------------------------------------------------------------------------

    def seal(self, plaintext: bytes | bytearray | memoryview, *, aad: bytes, kind: int = KIND_DATA) -> bytes:
        """
        Seal one record to the server under the latest verified announcement's bucket (R3, R5).

        Raises:
            SessionUsedUpError: the session has carried as much as one may (R9).
        """
        if kind not in {KIND_DATA, KIND_CONTROL}:
            message = f"kind is 0 (data) or 1 (control), got {kind}; requests and replies have calls of their own"
            raise UsageError(message)
        chain = self.chain()
        bucket = self._write_bucket(chain)
        # R7: while a rekey is pending this is the old epoch.
        header = new_header(
            sid=chain.sid, bucket=bucket, direction=wire.DIRECTION_TO_SERVER, kind=kind, epoch=chain.epoch
        )
        return self._seal(chain, header, plaintext, aad)

    def seal_request(
        self, plaintext: bytes | bytearray | memoryview, *, aad: bytes, lifetime: int
    ) -> tuple[RequestId, bytes]:
        """
        Seal a request whose reply may come late (R6); the key of its reply is saved first.

        Raises:
            OverloadedError: too many replies are outstanding.
            SessionUsedUpError: the session has carried as much as one may (R9).
            UsageError: *lifetime* is not 1 to 288 buckets.
        """
        chain = self.chain()
        header = new_request_header(
            sid=chain.sid,
            bucket=self._write_bucket(chain),
            direction=wire.DIRECTION_TO_SERVER,
            epoch=chain.epoch,
        )
        kept = self.state.reply_keys.keep(header, chain, lifetime=lifetime)
        try:
            record = self._seal(chain, header, plaintext, aad)
            self._save(self.state)
        except BaseException:
            self.state.reply_keys.drop(kept.request_id)
            raise
        return kept.request_id, record

    def seal_reply(self, request_id: RequestId, plaintext: bytes | bytearray | memoryview, *, aad: bytes) -> bytes:
        """
        Seal the reply to a request of the server's (R6); its key is erased, durably, before the record leaves.

        Raises:
            KeyNotFoundError: no such reply is outstanding.
        """
        kept = self.state.reply_keys.get(request_id, direction=wire.DIRECTION_TO_SERVER)
        header = new_reply_header(
            sid=kept.sid,
            request_id=request_id,
            request_bucket=kept.request_bucket,
            request_epoch=kept.request_epoch,
            direction=wire.DIRECTION_TO_SERVER,
        )
        record = seal_record(kept.key, header, plaintext, aad=aad)
        self.state.reply_keys.drop(request_id)
        self._save(self.state)
        return record

    def begin_rekey(self) -> bytes:
        """
        Begin a rekey under the latest announcement, or go on with the pending one; return REKEY as a record (R7).

        Each call makes a new record of the same body.  Both chains are saved before it leaves.

        Raises:
            StaleBucketError: a record has shown a later bucket than the latest announcement: fetch it.
        """
        chain, state = self.chain(), self.state
        if state.rekey is None:
            if state.announcement is None:
                message = "fetch an announcement first (refresh)"
                raise UsageError(message)
            state.rekey = make_rekey(chain, state.announcement)
            self._save(state)
        return self.seal(state.rekey.body, aad=b"", kind=KIND_CONTROL)

    def finish_rekey(self, answer: bytes, *, bucket: int, epoch: int) -> None:
        """
        Take the envelope of REKEYED; the record in it is of the new epoch, so the old chain is erased (R7).

        Raises:
            AuthenticationError: it is not authentic, or no REKEYED for that bucket and epoch.
        """
        if not answer:
            message = "the server took a REKEY and did not answer it"
            raise UnexpectedMessageError(message)
        aad, sealed = split_envelope(answer)
        with self.open(sealed, aad=aad).plaintext as plaintext, plaintext.view() as view:
            # A REKEYED holds numbers: nothing in it is secret.
            accept_rekeyed(bytes(view), bucket=bucket, epoch=epoch)

    def _seal(
        self, chain: SessionChain, header: RecordHeader, plaintext: bytes | bytearray | memoryview, aad: bytes
    ) -> bytes:
        self._count(len(plaintext))
        with chain.message_key(header.bucket, direction=header.direction, purpose=header.purpose) as key:
            return seal_record(key, header, plaintext, aad=aad)

    def _count(self, size_bytes: int) -> None:
        state = self.state
        if state.sealed_records >= SESSION_RECORDS_MAX or state.sealed_bytes + size_bytes > SESSION_BYTES_MAX:
            message = "the session has carried as many records or bytes as one may (R9); connect() anew"
            raise SessionUsedUpError(message)
        state.sealed_records += 1
        state.sealed_bytes += size_bytes

    # --- opening ----------------------------------------------------------------------------------------------------

    def open(self, record: bytes | bytearray | memoryview, *, aad: bytes, kind: int | None = None) -> Reply:
        """
        Open one record from the server; its stream is remembered durably before the plaintext is handed on (R4).

        Args:
            record: The whole record.
            aad: The application's associated data.
            kind: What it must be; any if not given.

        Raises:
            AuthenticationError: the record is not authentic.
            ReplayError: it was opened before.
            StaleBucketError: its bucket's key is erased.
            KeyNotFoundError: it is a late reply that is not outstanding.
            OverloadedError: it is a request, and too many replies are outstanding.
            UnexpectedMessageError: it is of another kind than asked for; it was not looked at.
        """
        header = read_header(record)
        if not isinstance(header, RecordHeader):
            message = f"this is no record ({header.value})"
            raise DecodeError(message)
        if kind is not None and header.kind != kind:
            message = f"this is a record of kind {header.kind}, not {kind}"
            raise UnexpectedMessageError(message)
        if header.direction != wire.DIRECTION_TO_DEVICE:
            raise AuthenticationError
        plaintext = (
            self._open_reply(header, record, aad)
            if header.kind == KIND_REPLY
            else self._open_of_session(header, record, aad)
        )
        return Reply(plaintext=plaintext, aad=aad, kind=header.kind, request_id=request_id_of(header))

    def _open_of_session(self, header: RecordHeader, record: bytes | bytearray | memoryview, aad: bytes) -> SecretBytes:
        state, chain = self.state, self._chain_of(header)
        if header.stream_id in state.seen.get(header.bucket, ()):
            message = "this record was opened before"
            raise ReplayError(message)
        if header.kind == KIND_REQUEST:
            state.reply_keys.require_room()
        # R5: on a copy, at most to the session's end; the chain moves only after the tag has verified.
        with chain.message_key(header.bucket, direction=header.direction, purpose=header.purpose) as key:
            plaintext = open_record(key, record, aad=aad)
        try:
            if header.kind == KIND_REQUEST:
                state.reply_keys.keep(header, chain, lifetime=wire.LIFETIME_MAX)
            self._note_epoch(header)
            state.advance_to(header.bucket)
            state.seen.setdefault(header.bucket, set()).add(header.stream_id)
            self._save(state)
        except BaseException:
            plaintext.wipe()
            raise
        return plaintext

    def _chain_of(self, header: RecordHeader) -> SessionChain:
        """Return the chain of a record's epoch: the session's, or that of a rekey which is pending (R7)."""
        chain, pending = self.chain(), self.state.rekey
        if header.sid == chain.sid and header.epoch == chain.epoch:
            return chain
        if pending is not None and header.sid == chain.sid and header.epoch == pending.epoch:
            return pending.chain
        raise AuthenticationError

    def _note_epoch(self, header: RecordHeader) -> None:
        """Learn from an authentic record what became of a rekey that is pending (R7)."""
        pending = self.state.rekey
        if pending is None:
            return
        if header.epoch == pending.epoch:
            self.state.finish_rekey()
        elif pending.is_voided_by(header.bucket):
            self.state.drop_rekey()

    def _open_reply(self, header: RecordHeader, record: bytes | bytearray | memoryview, aad: bytes) -> SecretBytes:
        """Open a late reply under the key of its request, which is erased (R6); it needs no session."""
        request_id = header.request_id
        if request_id is None:  # pragma: no cover - a reply has one
            raise AuthenticationError
        kept = self.state.reply_keys.get(request_id, direction=header.direction)
        latest = self.state.announcement
        if latest is not None and kept.expires_bucket < latest.bucket:
            message = f"the time of request {request_id.hex()} is over; ask again"
            raise KeyNotFoundError(message)
        if (header.sid, header.bucket, header.epoch) != (kept.sid, kept.request_bucket, kept.request_epoch):
            raise AuthenticationError
        plaintext = open_record(kept.key, record, aad=aad)
        try:
            self.state.reply_keys.drop(request_id)
            self._save(self.state)
        except BaseException:
            plaintext.wipe()
            raise
        return plaintext

    def evidence(self) -> Evidence:
        """Return what the device can show to third parties about its session (H9)."""
        self.chain()
        if self.state.evidence is None:
            message = "the device has no evidence; connect() first"
            raise ConfigError(message)
        return self.state.evidence
