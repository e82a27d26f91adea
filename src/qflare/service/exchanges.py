"""The key manager's calls about enrolment and handshakes: what devices send before there is a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.errors import LengthError, QflareError, RefusedError, UsageError
from qflare.manager.algorithm import KEM_STANDARD
from qflare.manager.handshakes import Confirmed, Finish
from qflare.manager.offers import MadeOffer, OfferRequest
from qflare.manager.record import OpenedRecord, SealedRecord
from qflare.model.device import KeyState
from qflare.model.ids import REF_BYTES, DeviceId, DeviceRef, SessionId, TenantId
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.protocol.identity import device_refs_many
from qflare.protocol.record import RecordHeader, read_header
from qflare.service.arguments import Message, as_bytes, as_list, as_rows, as_sid, as_tenant, raised, require_name
from qflare.service.exchange import CompletedExchange, KeyExchange
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.service.assembly import Engine


_PREPARED_AT_ONCE: Final = 1024
"""Devices read in one statement."""


class Exchanges(TenantView):
    """Mixed into `QuantumKeyManager`; messages name their own tenant, calls by device name are about the view's."""

    # --- enrolment --------------------------------------------------------------------------------

    async def answer_enrolment(self, message: Message) -> bytes:
        """Answer ENROL with ENROLLED once token, device and audit entry are committed (E2, E3); `RefusedError`."""
        engine = await self._engine()
        return await engine.enrolments.queue.submit(as_bytes(message), tenant_id=self.tenant)

    async def answer_enrolments_many(self, messages: Sequence[Message]) -> tuple[bytes | QflareError, ...]:
        """Answer many ENROLs; one answer or error each."""
        wanted = [as_bytes(message) for message in as_list(messages, name="messages")]
        engine = await self._engine()
        return tuple(await engine.enrolments.queue.submit_many(wanted, tenant_id=self.tenant))

    # --- handshakes -------------------------------------------------------------------------------

    async def answer_hello(self, hello: Message) -> bytes:
        """Answer M1 with M2 (H3-H5); nothing is kept of it here. `RefusedError` if it is refused."""
        engine = await self._engine()
        return await engine.hellos.queue.submit(as_bytes(hello), tenant_id=self.tenant)

    async def answer_hellos_many(self, hellos: Sequence[Message]) -> tuple[bytes | QflareError, ...]:
        """Answer many M1s; one M2 or error each."""
        messages = [as_bytes(hello) for hello in as_list(hellos, name="hellos")]
        engine = await self._engine()
        return tuple(await engine.hellos.queue.submit_many(messages, tenant_id=self.tenant))

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
        names: list[DeviceId] = []
        keys: list[bytes] = []
        for device_id, key in as_rows(devices, name="devices", columns=("device_id", "client_public_key")):
            public = as_bytes(key, name="client_public_key")
            if len(public) != kem.EK_BYTES:
                raise LengthError("client_public_key", expected=kem.EK_BYTES, actual=len(public))
            names.append(require_name(device_id))
            keys.append(public)
        tenant_id = self.tenant
        refs = device_refs_many([(tenant_id, name) for name in names])
        requests = [
            OfferRequest(tenant_id, ref, name, public) for ref, name, public in zip(refs, names, keys, strict=True)
        ]
        engine = await self._engine()
        made = await engine.offers.queue.submit_many(requests, tenant_id=tenant_id)
        return tuple(
            _exchange(offer, request.device_id) if isinstance(offer, MadeOffer) and request.device_id else _error(offer)
            for offer, request in zip(made, requests, strict=True)
        )

    async def prepare_offers(self, device_ids: Sequence[str]) -> int:
        """
        Encapsulate ahead for devices, such as those of the next round, so that their offers cost no KEM (O1).

        Each serves one offer; rotation and revocation void it, and it is wiped unused after `reserve_max_age_s`.

        Args:
            device_ids: Registered devices; beyond `reserve_offers_max` of them the rest is left out.

        Returns:
            How many of them have one now; devices that are not active get none.

        Raises:
            KeyNotFoundError: names the first that is not registered.
        """
        names = [require_name(device_id) for device_id in as_list(device_ids, name="device_ids")]
        engine = await self._engine()
        devices = [
            device
            for at in range(0, len(names), _PREPARED_AT_ONCE)
            for device in await engine.devices.get_many(self.tenant, names[at : at + _PREPARED_AT_ONCE])
        ]
        return await engine.encapsulations.prepare(
            self.tenant,
            [(device.ref, device.encapsulation_key) for device in devices if device.state is KeyState.ACTIVE],
        )

    async def offer_for(self, ref: DeviceRef | bytes, *, tenant_id: TenantId | None = None) -> bytes:
        """Return an OFFER for whoever says to be *ref* (32 bytes); one that nobody can answer if there is none."""
        return raised((await self.offers_for_many([(self.tenant if tenant_id is None else tenant_id, ref)]))[0])

    async def offers_for_many(
        self, refs: Sequence[tuple[TenantId, DeviceRef | bytes]]
    ) -> tuple[bytes | QflareError, ...]:
        """Return an OFFER for each (tenant_id, ref)."""
        wanted = [
            OfferRequest(as_tenant(tenant_id, name="tenant_id"), _as_ref(ref))
            for tenant_id, ref in as_rows(refs, name="refs", columns=("tenant_id", "ref"))
        ]
        engine = await self._engine()
        made = await engine.offers.queue.submit_many(wanted, tenant_id=wanted[0].tenant_id if wanted else None)
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
        return await self._complete(as_bytes(message), expected_sid=None)

    async def confirm_many(self, messages: Sequence[Message]) -> tuple[CompletedExchange | QflareError, ...]:
        """Finish many handshakes; one result or error each."""
        given = [as_bytes(message) for message in as_list(messages, name="messages")]
        engine = await self._engine()
        finishes: list[Finish | QflareError] = []
        for message in given:
            try:
                finishes.append(engine.handshakes.finish(message))
            except RefusedError as refusal:
                finishes.append(refusal)
        wanted = [finish for finish in finishes if isinstance(finish, Finish)]
        ended = iter(
            zip(wanted, await engine.handshakes.finishes.submit_many(wanted, tenant_id=self.tenant), strict=True)
        )
        results = [finish if isinstance(finish, QflareError) else next(ended) for finish in finishes]
        return tuple(
            [
                result
                if isinstance(result, QflareError)
                else result[1]
                if isinstance(result[1], QflareError)
                else _completed(result[1])
                if result[0].record is None
                else await self._with_record_or_error(engine, result[0], result[1])
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
        sid = None if session_id is None else as_sid(session_id)
        return await self._complete(as_bytes(response, name="response"), expected_sid=sid)

    async def _complete(self, message: bytes, *, expected_sid: SessionId | None) -> CompletedExchange:
        engine = await self._engine()
        finish = engine.handshakes.finish(message, expected_sid=expected_sid)
        confirmed = await engine.handshakes.finishes.submit(finish, tenant_id=self.tenant)
        return await self._with_record(engine, finish, confirmed)

    async def _with_record_or_error(
        self, engine: Engine, finish: Finish, confirmed: Confirmed
    ) -> CompletedExchange | QflareError:
        try:
            return await self._with_record(engine, finish, confirmed)
        except QflareError as failure:
            # Its own caller sends it again; what the others sent is taken already and goes to them.
            return failure

    async def _with_record(self, engine: Engine, finish: Finish, confirmed: Confirmed) -> CompletedExchange:
        record: OpenedRecord | None = None
        refusal: Refusal | None = None
        if finish.record is not None:
            try:
                record = await self._open_glued(engine, finish.record, confirmed)
            except RefusedError as refused:
                refusal = Refusal(refused.reason) if refused.reason is not None else Refusal.INTERNAL
        return _completed(confirmed, record, refusal)

    async def _open_glued(self, engine: Engine, message: bytes, confirmed: Confirmed) -> OpenedRecord:
        header = read_header(message)
        if isinstance(header, RecordHeader) and header.sid != confirmed.sid:
            # H10: it is this session's own. Another session's would be taken for this device's words.
            raise engine.foundation.refusals.refuse(
                "record",
                Refusal.UNKNOWN_SESSION,
                tenant_id=confirmed.tenant_id,
                evidence={"sid": confirmed.sid.hex(), "of": header.sid.hex()},
            )
        return await engine.records.opens.submit(SealedRecord(message, b""), tenant_id=confirmed.tenant_id)


def _completed(
    confirmed: Confirmed, record: OpenedRecord | None = None, refusal: Refusal | None = None
) -> CompletedExchange:
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


def _exchange(offer: MadeOffer, device_id: DeviceId) -> KeyExchange:
    return KeyExchange(
        session_id=offer.sid,
        device_id=device_id,
        offer=offer.message,
        bucket=offer.bucket,
        expires_at=utc(offer.expires_s),
        algorithm=KEM_STANDARD,
    )


def _error(result: object) -> QflareError:
    return result if isinstance(result, QflareError) else UsageError("the offer names no device")


def _as_ref(ref: DeviceRef | bytes) -> DeviceRef:
    reference = as_bytes(ref, name="ref")
    if len(reference) != REF_BYTES:
        raise LengthError("ref", expected=REF_BYTES, actual=len(reference))
    return DeviceRef(reference)
