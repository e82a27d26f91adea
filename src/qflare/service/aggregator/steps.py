"""What each POST address does with a body that was read: protocol bytes in, an answer out (docs/http.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError, RefusedError
from qflare.model.ids import DeviceRef, TenantId
from qflare.model.refusal import Refusal
from qflare.protocol import wire
from qflare.protocol.envelope import AAD_BYTES_MAX, ENVELOPE_HEADER_BYTES, split_envelope
from qflare.service.aggregator.answer import Answer, octets

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from qflare.service.aggregator.intake import Intake
    from qflare.service.key_manager import QuantumKeyManager

OFFER_REQUEST_BYTES: Final = wire.REF_BYTES + wire.TENANT_BYTES
"""``ref ‖ tenant_id``: who asks for an OFFER; nothing in it is secret or proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRoute:
    """One POST address."""

    name: str
    """The last part of its path."""
    size_max: int
    """Largest body, in bytes; a longer one is not read."""
    take: Callable[[bytes], Awaitable[Answer]]


class Steps:
    """The protocol's steps over one manager."""

    def __init__(
        self,
        manager: QuantumKeyManager,
        intake: Intake,
        *,
        record_bytes_max: int,
        refusals: Counter[tuple[str, str]],
    ) -> None:
        """Answer for *manager*; what is no message of the protocol at all is counted in *refusals*."""
        self._manager = manager
        self._intake = intake
        self._refusals = refusals
        self._record_bytes_max = record_bytes_max

    def routes(self) -> tuple[StepRoute, ...]:
        """Return every POST address with its largest body."""
        handshake_max = max(wire.M3_BYTES, wire.ANSWER_BYTES)
        envelope_max = ENVELOPE_HEADER_BYTES + AAD_BYTES_MAX + self._record_bytes_max
        return (
            StepRoute(name="record", size_max=envelope_max, take=self.record),
            StepRoute(name="confirm", size_max=handshake_max + self._record_bytes_max, take=self.confirm),
            StepRoute(name="hello", size_max=wire.M1_BYTES, take=self.hello),
            StepRoute(name="offer", size_max=OFFER_REQUEST_BYTES, take=self.offer),
            StepRoute(name="enrol", size_max=wire.ENROL_BYTES, take=self.enrol),
        )

    async def enrol(self, body: bytes) -> Answer:
        """ENROL in, ENROLLED out (E2, E3)."""
        return octets(await self._manager.answer_enrolment(body))

    async def hello(self, body: bytes) -> Answer:
        """M1 in, M2 out (H3 to H5)."""
        return octets(await self._manager.answer_hello(body))

    async def offer(self, body: bytes) -> Answer:
        """``ref ‖ tenant_id`` in, OFFER out (O1); for a device that is not on the roster one that nobody can answer."""
        if len(body) != OFFER_REQUEST_BYTES:
            raise self._refuse("offer", Refusal.LENGTH)
        ref, tenant_id = DeviceRef(body[: wire.REF_BYTES]), TenantId(body[wire.REF_BYTES :])
        return octets(await self._manager.offer_for(ref, tenant_id=tenant_id))

    async def confirm(self, body: bytes) -> Answer:
        """
        M3 or ANSWER in, M4 out (H8, H9, O3).

        A record glued to it is taken after the session stands; behind M4 then comes its reply, nothing if it has none,
        or the refusal's 16 bytes if the record was refused.
        """
        completed = await self._manager.confirm(body)
        if completed.record is not None:
            reply = await self._intake.reply_to(completed.record, b"")
            return octets(completed.confirmation, reply) if reply else octets(completed.confirmation)
        if completed.record_refusal is not None:
            return octets(completed.confirmation, wire.REFUSED)
        return octets(completed.confirmation)

    async def record(self, body: bytes) -> Answer:
        """Envelope with a record in; the reply's envelope out, or nothing (R3, R4)."""
        try:
            aad, record = split_envelope(body)
        except DecodeError:
            raise self._refuse("record", Refusal.LENGTH) from None
        opened = await self._manager.open_record(record, aad=aad)
        return octets(await self._intake.reply_to(opened, aad))

    def _refuse(self, step: str, reason: Refusal) -> RefusedError:
        self._refusals[step, reason.value] += 1
        return RefusedError(f"{step} refused: {reason.value}", reason=reason, step=step)
