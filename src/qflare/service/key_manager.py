"""`QuantumKeyManager`: sessions, keys and devices of an aggregation server, through one object."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qflare.clock import Clock, utc
from qflare.errors import AuthenticationError, KeyNotFoundError, LengthError, QflareError, RefusedError, UsageError
from qflare.manager.algorithm import KEM_STANDARD
from qflare.manager.handshakes import Confirmed, Finish
from qflare.manager.maintenance import CleanupReport
from qflare.manager.offers import MadeOffer, OfferRequest
from qflare.manager.records import KeyRequest, OpenedRecord, PlainRecord, SealedRecord
from qflare.manager.settings import ManagerSettings
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, ID_BYTES, REF_BYTES, DeviceId, DeviceRef, SessionId, TenantId
from qflare.model.ports import Keeper
from qflare.model.refusal import Refusal
from qflare.model.session import Session, SessionState
from qflare.model.statistics import KeyStatistics
from qflare.primitives import kem
from qflare.protocol.identity import device_ref
from qflare.protocol.purpose import encode_purpose
from qflare.protocol.record import KIND_CONTROL, KIND_DATA
from qflare.protocol.wire import DIRECTION_TO_DEVICE, DIRECTION_TO_SERVER
from qflare.secret import SecretBytes
from qflare.service.assembly import Engine, Place, open_engine, open_foundation
from qflare.service.exchange import CompletedExchange, KeyExchange, Readiness, SessionKeyRequest
from qflare.service.opening import Opening
from qflare.service.readiness import look_ready
from qflare.service.roster import Roster, raised, require_name
from qflare.service.security_monitor import SecurityMonitor

if TYPE_CHECKING:
    import asyncpg

Message = bytes | bytearray | memoryview


class QuantumKeyManager(Roster):
    """
    The server's side of QFX-1 over one database; any number of managers may share it.

    Use it as ``async with``, or as it stands: the first await opens it, and forgetting to close it is a
    ResourceWarning.  Concurrent calls are gathered into batches; `…_many` forms take batches as they are.

    A message of a peer that is refused raises `RefusedError` with the true `reason`; tell the peer nothing but N5's bytes.

    Args:
        dsn_or_pool: ``postgresql://…``, or a pool of asyncpg that the caller closes; None runs the embedded PostgreSQL.
        data_dir: Folder of the embedded PostgreSQL and of the file keeper; ``~/.local/share/qflare`` if not given.
        tenant: Whose devices the calls by name are about; messages name their own tenant.
        config: Bounds and widths.
        clock: What tells the time.
        keeper: Where sealing keys are kept, if not in files.
    """

    def __init__(
        self,
        dsn_or_pool: str | asyncpg.Pool | None = None,
        *,
        data_dir: str | Path | None = None,
        tenant: TenantId = DEFAULT_TENANT,
        config: ManagerSettings | None = None,
        clock: Clock | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        if len(tenant) != ID_BYTES:
            raise LengthError("tenant", expected=ID_BYTES, actual=len(tenant))
        settings = config or ManagerSettings()
        place = Place(
            database=dsn_or_pool, data_dir=None if data_dir is None else Path(data_dir), keeper=keeper
        )

        @asynccontextmanager
        async def opener() -> AsyncIterator[Engine]:
            async with open_foundation(place, settings=settings, clock=clock) as foundation:
                async with open_engine(foundation) as engine:
                    yield engine

        self._settings = settings
        self._tenant = tenant
        self._opening: Opening[Engine] = Opening("QuantumKeyManager", opener)
        self._is_owner = True

    # --- opening and closing --------------------------------------------------------------------------------------------

    @property
    def tenant(self) -> TenantId:
        """Whose devices the calls by name are about, 16 bytes."""
        return self._tenant

    @property
    def settings(self) -> ManagerSettings:
        """Bounds and widths it works with."""
        return self._settings

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed."""
        return self._opening.is_open

    async def open(self) -> None:
        """Open it now rather than at the first call."""
        await self._opening.get()

    async def close(self) -> None:
        """Finish what was accepted, within the settings' time, and close what was opened; safe to call twice."""
        if self._is_owner:
            await self._opening.close()

    async def __aenter__(self) -> Self:
        """Open it."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    def __del__(self) -> None:
        """Warn if it was forgotten."""
        opening = getattr(self, "_opening", None)
        if opening is not None and self._is_owner:
            opening.warn_if_forgotten(self)

    def __repr__(self) -> str:
        """Say the tenant and whether it is open."""
        return f"<QuantumKeyManager of tenant {self._tenant.hex()}, {'open' if self.is_open else 'not open'}>"

    def for_tenant(self, tenant: TenantId) -> QuantumKeyManager:
        """Return a view that works inside another tenant and shares all else; closing it does nothing."""
        if len(tenant) != ID_BYTES:
            raise LengthError("tenant", expected=ID_BYTES, actual=len(tenant))
        view = object.__new__(type(self))
        view._settings = self._settings
        view._tenant = tenant
        view._opening = self._opening
        view._is_owner = False
        return view

    async def _engine(self) -> Engine:
        return await self._opening.get()

    @property
    def monitor(self) -> SecurityMonitor:
        """The security monitor of this tenant, on the same store, keeper and log."""
        return SecurityMonitor.beside(self._engine, tenant=self._tenant)

    # --- what devices fetch ---------------------------------------------------------------------------------------------

    async def identity(self) -> bytes:
        """Return ``root vk ‖ CERT`` as it is served (A1)."""
        return (await self._engine()).foundation.identity.public.served

    async def server_id(self) -> bytes:
        """Return the id that devices pin, 32 bytes."""
        return (await self._engine()).foundation.identity.server_id

    async def announcement(self, which: str | int = "current") -> bytes:
        """
        Return the announcement of the "current" or the "next" bucket, or of a live one by number (A3).

        Raises:
            KeyNotFoundError: that bucket does not live.
        """
        engine = await self._engine()
        await engine.buckets.refresh()
        return engine.buckets.announcement(which)

    async def current_bucket(self) -> int:
        """Return the server's bucket."""
        return await (await self._engine()).buckets.refresh()

    # --- enrolment ------------------------------------------------------------------------------------------------------

    async def answer_enrolment(self, message: Message) -> bytes:
        """Answer ENROL with ENROLLED once token, device and audit entry are committed (E2, E3); `RefusedError`."""
        engine = await self._engine()
        return await engine.enrolments.queue.submit(_bytes(message))

    async def answer_enrolments_many(self, messages: Sequence[Message]) -> tuple[bytes | QflareError, ...]:
        """Answer many ENROLs; one answer or error each."""
        engine = await self._engine()
        return tuple(await engine.enrolments.queue.submit_many([_bytes(message) for message in messages]))

    # --- handshakes -----------------------------------------------------------------------------------------------------

    async def answer_hello(self, hello: Message) -> bytes:
        """Answer M1 with M2 (H3-H5); nothing is kept of it here. `RefusedError` if it is refused."""
        engine = await self._engine()
        return await engine.handshakes.hellos.submit(_bytes(hello))

    async def answer_hellos_many(self, hellos: Sequence[Message]) -> tuple[bytes | QflareError, ...]:
        """Answer many M1s; one M2 or error each."""
        engine = await self._engine()
        return tuple(await engine.handshakes.hellos.submit_many([_bytes(hello) for hello in hellos]))

    async def initiate_temporal_key_exchange(self, device_id: str, client_public_key: bytes) -> KeyExchange:
        """
        Begin a session with a device (O1): the result's `offer` goes to it.

        Args:
            device_id: A registered device.
            client_public_key: Its current ML-KEM-1024 key, 1568 bytes, as registered.

        Raises:
            KeyNotFoundError: device or key are not registered; the message names the remedies.
            KeyRevokedError: the device is suspended or revoked.
        """
        return raised((await self.initiate_temporal_key_exchanges_many([(device_id, client_public_key)]))[0])

    async def initiate_temporal_key_exchanges_many(
        self, devices: Sequence[tuple[str, bytes]]
    ) -> tuple[KeyExchange | QflareError, ...]:
        """Begin a session with each (device_id, client_public_key), such as the devices of a round; one result each."""
        requests: list[OfferRequest] = []
        for device_id, key in devices:
            public = _bytes(key, name="client_public_key")
            if len(public) != kem.EK_BYTES:
                raise LengthError("client_public_key", expected=kem.EK_BYTES, actual=len(public))
            name = require_name(device_id)
            requests.append(OfferRequest(self._tenant, device_ref(self._tenant, name), name, public))
        engine = await self._engine()
        made = await engine.offers.queue.submit_many(requests)
        return tuple(
            _exchange(offer, request.device_id) if isinstance(offer, MadeOffer) and request.device_id else _error(offer)
            for offer, request in zip(made, requests, strict=True)
        )

    async def offer_for(self, ref: DeviceRef | bytes, *, tenant_id: TenantId | None = None) -> bytes:
        """Return an OFFER for whoever says to be *ref* (32 bytes); one that nobody can answer if there is no such device."""
        return raised((await self.offers_for_many([(tenant_id or self._tenant, ref)]))[0])

    async def offers_for_many(self, refs: Sequence[tuple[TenantId, DeviceRef | bytes]]) -> tuple[bytes | QflareError, ...]:
        """Return an OFFER for each (tenant_id, ref)."""
        for tenant_id, ref in refs:
            if len(tenant_id) != ID_BYTES or len(ref) != REF_BYTES:
                raise LengthError("tenant_id and ref", expected=f"{ID_BYTES} and {REF_BYTES}", actual=len(tenant_id) + len(ref))
        engine = await self._engine()
        made = await engine.offers.queue.submit_many(
            [OfferRequest(tenant_id, DeviceRef(bytes(ref))) for tenant_id, ref in refs]
        )
        return tuple(offer.message if isinstance(offer, MadeOffer) else offer for offer in made)

    async def confirm(self, message: Message) -> CompletedExchange:
        """
        Finish a handshake with M3 or ANSWER, with or without a record glued to it (H8, O3).

        Returns:
            The session that stands and its M4.  A glued record that is refused does not undo the session:
            `record_refusal` says why.

        Raises:
            RefusedError: the message is refused; no session stands by it.
            StoreUnavailableError: the database did not answer; whether the session stands shows when it is sent again.
        """
        return await self._complete(_bytes(message), expected_sid=None)

    async def confirm_many(self, messages: Sequence[Message]) -> tuple[CompletedExchange | QflareError, ...]:
        """Finish many handshakes; one result or error each."""
        engine = await self._engine()
        finishes: list[Finish | QflareError] = []
        for message in messages:
            try:
                finishes.append(engine.handshakes.finish(_bytes(message)))
            except RefusedError as refusal:
                finishes.append(refusal)
        wanted = [finish for finish in finishes if isinstance(finish, Finish)]
        ended = iter(zip(wanted, await engine.handshakes.finishes.submit_many(wanted), strict=True))
        results = [finish if isinstance(finish, QflareError) else next(ended) for finish in finishes]
        return tuple(
            [
                result
                if isinstance(result, QflareError)
                else result[1]
                if isinstance(result[1], QflareError)
                else await self._with_record(engine, result[0], result[1])
                for result in results
            ]
        )

    async def complete_key_exchange(self, session_id: SessionId | bytes | None, response: Message) -> CompletedExchange:
        """
        Finish the exchange that `initiate_temporal_key_exchange` began, or a hello's, with ANSWER or M3.

        Args:
            session_id: Which session the response must be of; None takes any.
            response: ANSWER or M3.

        Raises:
            RefusedError: as `confirm`, and if the response is of another session.
        """
        sid = None if session_id is None else _sid(session_id)
        return await self._complete(_bytes(response, name="response"), expected_sid=sid)

    async def _complete(self, message: bytes, *, expected_sid: SessionId | None) -> CompletedExchange:
        engine = await self._engine()
        finish = engine.handshakes.finish(message, expected_sid=expected_sid)
        confirmed = await engine.handshakes.finishes.submit(finish)
        return await self._with_record(engine, finish, confirmed)

    async def _with_record(self, engine: Engine, finish: Finish, confirmed: Confirmed) -> CompletedExchange:
        record: OpenedRecord | None = None
        refusal: Refusal | None = None
        if finish.record is not None:
            try:
                record = await engine.records.opens.submit(SealedRecord(finish.record, b""))
            except RefusedError as refused:
                refusal = Refusal(refused.reason) if refused.reason is not None else Refusal.INTERNAL
        return CompletedExchange(
            session_id=confirmed.sid,
            tenant_id=confirmed.tenant_id,
            ref=confirmed.ref,
            key_version=confirmed.key_version,
            form=confirmed.form,
            start=confirmed.start,
            lifetime=confirmed.lifetime,
            confirmation=confirmed.message,
            log_index=confirmed.log_index,
            is_repeated=confirmed.is_repeated,
            record=record,
            record_refusal=refusal,
        )

    # --- sessions -------------------------------------------------------------------------------------------------------

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
        request = SessionKeyRequest(
            session_id=SessionId(bytes(session_id)), purpose=purpose, bucket=bucket, direction=direction
        )
        return raised((await self.derive_session_keys_many([request]))[0])

    async def derive_session_keys_many(
        self, requests: Sequence[SessionKeyRequest]
    ) -> tuple[SecretBytes | QflareError, ...]:
        """Derive many keys; one key or error each. The caller wipes them."""
        wanted = [
            KeyRequest(self._tenant, _sid(request.session_id), encode_purpose(request.purpose), request.bucket, _direction(request.direction))
            for request in requests
        ]
        engine = await self._engine()
        return tuple(await engine.records.keys.submit_many(wanted))

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
        with await self.derive_session_key(session_id, purpose, bucket=bucket, direction=direction) as own:
            if not own.equals(key):
                raise AuthenticationError
        return await self.find_session(session_id)

    async def find_session(self, session_id: SessionId | bytes) -> Session:
        """Return the terms and state of a session of this tenant, ended ones too. `KeyNotFoundError` if there is none."""
        sid = _sid(session_id)
        engine = await self._engine()
        found = await engine.foundation.store.find_sessions(self._tenant, [sid])
        if sid not in found:
            raise KeyNotFoundError(f"no session {sid.hex()} in this tenant: finish a handshake first")
        return found[sid]

    async def end_session(self, session_id: SessionId | bytes, *, reason: str = "ended by the application") -> bool:
        """End a session of this tenant now, on every worker; False if it was not live."""
        sid = _sid(session_id)
        engine = await self._engine()
        event = engine.devices.event(
            self._tenant,
            SecurityEventType.SESSION_ENDED,
            {"sid": sid.hex(), "reason": reason},
            device_id=None,
            severity=EventSeverity.INFO,
        )
        ended = await engine.foundation.store.end_sessions(self._tenant, [sid], SessionState.ENDED, events=[event])
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

        Raises:
            RefusedError: it is altered, was accepted before, or its session, bucket or device does not live.
        """
        engine = await self._engine()
        return await engine.records.opens.submit(SealedRecord(_buffer(message), aad))

    async def open_records_many(
        self, messages: Sequence[Message], aads: Sequence[bytes] | None = None
    ) -> tuple[OpenedRecord | QflareError, ...]:
        """Open many records; one record or error each."""
        engine = await self._engine()
        associated = [b""] * len(messages) if aads is None else list(aads)
        records = [SealedRecord(_buffer(message), aad) for message, aad in zip(messages, associated, strict=True)]
        return tuple(await engine.records.opens.submit_many(records))

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
        return await engine.records.seals.submit(PlainRecord(self._tenant, _sid(session_id), plaintext, aad, _kind(kind)))

    async def seal_records_many(
        self, messages: Sequence[tuple[SessionId | bytes, Message]], *, aad: bytes = b"", kind: int = KIND_DATA
    ) -> tuple[bytes | QflareError, ...]:
        """Seal many (session_id, plaintext); one record or error each."""
        engine = await self._engine()
        records = [PlainRecord(self._tenant, _sid(sid), plaintext, aad, _kind(kind)) for sid, plaintext in messages]
        return tuple(await engine.records.seals.submit_many(records))

    async def answer_control(self, record: OpenedRecord) -> bytes:
        """Do what a control record asks (E4: rotate the device's keys) and return the sealed answer; `RefusedError`."""
        engine = await self._engine()
        return await engine.rotations.answer(record)

    # --- care -----------------------------------------------------------------------------------------------------------

    async def cleanup_expired_keys_and_sessions(self) -> CleanupReport:
        """Destroy and delete what is over, now; the maintenance loop does the same by itself."""
        return await (await self._engine()).maintenance.clean()

    async def get_key_statistics(self) -> KeyStatistics:
        """Return the tenant's figures."""
        engine = await self._engine()
        bucket = await engine.buckets.refresh()
        return await engine.foundation.store.count_keys(self._tenant, bucket=bucket)

    async def turn(self) -> int:
        """Look at the clock now, do what a new bucket asks for, and return the server's bucket."""
        return await (await self._engine()).maintenance.step()

    async def accept_clock_jump(self, bucket: int) -> None:
        """Take the wall clock's word up to *bucket*: an operator has looked at the alarm about its jump (A2)."""
        engine = await self._engine()
        engine.buckets.accept_jump(bucket)
        await engine.maintenance.step()

    async def readiness(self, *, timeout_s: float = 2.0) -> Readiness:
        """Look whether database, bucket keys and keeper can be used; never raises for one that cannot."""
        return await look_ready(await self._engine(), timeout_s=timeout_s)

    @property
    def refusals(self) -> Counter[tuple[str, Refusal]]:
        """What this worker refused since it was opened, by (step, reason); a copy."""
        engine = self._opening.value
        return Counter() if engine is None else Counter(engine.foundation.refusals.counts)


def _exchange(offer: MadeOffer, device_id: DeviceId) -> KeyExchange:
    expires_at: datetime = utc(offer.expires_s)
    return KeyExchange(
        session_id=offer.sid,
        device_id=device_id,
        offer=offer.message,
        bucket=offer.bucket,
        expires_at=expires_at,
        algorithm=KEM_STANDARD,
    )


def _error(result: object) -> QflareError:
    return result if isinstance(result, QflareError) else UsageError("the offer names no device")


def _bytes(message: Message, *, name: str = "message") -> bytes:
    given: object = message
    if not isinstance(given, bytes | bytearray | memoryview):
        raise UsageError(f"{name} must be bytes, got {type(message).__name__}")
    return bytes(message)


def _buffer(message: Message) -> Message:
    given: object = message
    if not isinstance(given, bytes | bytearray | memoryview):
        raise UsageError(f"message must be bytes, got {type(message).__name__}")
    return message


def _sid(session_id: SessionId | bytes) -> SessionId:
    given: object = session_id
    if not isinstance(given, bytes | bytearray | memoryview):
        raise UsageError(f"session_id must be bytes, got {type(session_id).__name__}")
    if len(session_id) != ID_BYTES:
        raise LengthError("session_id", expected=ID_BYTES, actual=len(session_id))
    return SessionId(bytes(session_id))


def _kind(kind: int) -> int:
    if kind not in {KIND_DATA, KIND_CONTROL}:
        raise UsageError(f"kind is 0 (data) or 1 (control), got {kind!r}")
    return kind


def _direction(direction: int) -> int:
    if direction not in {DIRECTION_TO_SERVER, DIRECTION_TO_DEVICE}:
        raise UsageError(f"direction is 1 (device to server) or 2 (back), got {direction!r}")
    return direction

