"""
Handshakes of both forms finished, M3 or ANSWER to M4 (PROTOCOL H8-H10, O3), in batches.

The server keeps nothing between M1 and M3.  What ends a handshake is one transaction (`claims`): M4 exists only after
it, and only with the log's signature.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.errors import DecodeError, QflareError, RefusedError, StoreUnavailableError
from qflare.manager.batcher import Batcher
from qflare.manager.credentials import own_psks
from qflare.manager.outcomes import Outcomes
from qflare.manager.tenancy import by_tenant
from qflare.model.observation import CONFIRM, Observation
from qflare.model.refusal import Refusal
from qflare.model.session import ClaimOutcome, ClaimResult
from qflare.primitives.engine import lanes_items
from qflare.protocol import wire
from qflare.protocol.confirm import Confirmation, confirm_hellos, encode_confirmation, split_glued
from qflare.protocol.offer import AnswerClaim, OpenedAnswers, confirm_answers, open_answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.claims import Claims
    from qflare.manager.credentials import Credentials
    from qflare.manager.limits import Limits
    from qflare.manager.offload import Offload
    from qflare.manager.refusals import Refusals
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import DeviceRef, SessionId, TenantId

_REFUSALS: Final = {
    ClaimResult.CONFLICT: Refusal.CONFLICT,
    ClaimResult.UNKNOWN_DEVICE: Refusal.UNKNOWN_DEVICE,
    ClaimResult.DEVICE_STATE: Refusal.DEVICE_STATE,
    ClaimResult.KEY_VERSION: Refusal.KEY_VERSION,
    ClaimResult.EXPIRED: Refusal.EXPIRED,
}


class Finish(NamedTuple):
    """M3 or ANSWER on its way through a batch, the record behind it split off."""

    message: bytes
    record: bytes | None
    expected_sid: SessionId | None
    """The session that the caller says it is for; another one is refused before anything is written."""


class Confirmed(NamedTuple):
    """A session that stands, and its M4."""

    sid: SessionId
    tenant_id: TenantId
    ref: DeviceRef
    key_version: int
    form: int
    start: int
    lifetime: int
    policy: int
    message: bytes
    """M4."""
    log_index: int
    is_repeated: bool
    """The session stood already: the same M3 or ANSWER came again."""


class Handshakes:
    """Finishes handshakes of both forms."""

    def __init__(
        self,
        *,
        buckets: Buckets,
        credentials: Credentials,
        claims: Claims,
        refusals: Refusals,
        limits: Limits,
        offload: Offload,
        server_id: bytes,
        settings: ManagerSettings,
    ) -> None:
        """Keep one queue for what ends a handshake."""
        self._buckets = buckets
        self._credentials = credentials
        self._claims = claims
        self._refusals = refusals
        self._limits = limits
        self._offload = offload
        self._server_id = server_id
        self.outcomes = Outcomes()
        self.finishes: Batcher[Finish, Confirmed] = Batcher(
            "confirm",
            self._confirm_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
            lanes=lanes_items(),
        )

    def finish(self, message: bytes, *, expected_sid: SessionId | None = None) -> Finish:
        """
        Split the glued record from M3 or ANSWER.

        Raises:
            RefusedError: what follows the fixed part is no record (N3).
        """
        try:
            glued = split_glued(message)
        except DecodeError:
            refusal: RefusedError | None = self._refusals.refuse("confirm", Refusal.LENGTH)
        else:
            refusal = None
        if refusal is not None:
            self.outcomes.fails(message, refusal)
            raise refusal
        return Finish(glued.message, glued.record, expected_sid)

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        await self.finishes.close(timeout_s)

    async def _confirm_batch(self, batch: Sequence[Finish]) -> list[Confirmed | QflareError]:
        try:
            results = await self._finish_batch(batch)
        except QflareError as failure:
            for finish in batch:
                self.outcomes.fails(finish.message, failure)
            raise
        firsts: list[bytes] = []
        repeated: list[bytes] = []
        for finish, result in zip(batch, results, strict=True):
            if isinstance(result, QflareError):
                self.outcomes.fails(finish.message, result)
            else:
                (repeated if result.is_repeated else firsts).append(finish.message)
        self.outcomes.stand(firsts, is_repeated=False)
        self.outcomes.stand(repeated, is_repeated=True)
        return results

    async def _finish_batch(self, batch: Sequence[Finish]) -> list[Confirmed | QflareError]:
        await self._buckets.refresh()
        with self._buckets.lend() as ring, ExitStack() as secrets:
            verdicts = await self._check(ring, batch)
            for block in {
                id(its.chain_keys): its.chain_keys for its in verdicts if isinstance(its, Confirmation)
            }.values():
                secrets.enter_context(block)
            results: list[Confirmed | QflareError | None] = [None] * len(batch)
            standing = self._sort(batch, verdicts, results)
            firsts = [verdicts[positions[0]] for positions in standing.values()]
            claims = [first for first in firsts if isinstance(first, Confirmation)]
            for tenant_id, confirmations in by_tenant(claims, lambda claim: claim.tenant_id).items():
                ended = await self._claims.commit(ring, tenant_id, confirmations)
                for confirmation, end in zip(confirmations, ended, strict=True):
                    for number, position in enumerate(standing[confirmation.sid]):
                        result = self._result(confirmation, end, is_copy=number > 0)
                        results[position] = result
                        is_first = isinstance(result, Confirmed) and not result.is_repeated
                        if is_first and confirmation.form == wire.FORM_OFFER:
                            self._limits.charge(tenant_id, confirmation.ref)
            if self._refusals.observations.is_observed:
                self._refusals.observations.note(
                    [
                        Observation(
                            CONFIRM,
                            None,
                            result.tenant_id,
                            result.ref,
                            _ct_mark(item.message),
                            result.sid,
                            result.log_index + 1,
                        )
                        for item, result in zip(batch, results, strict=True)
                        if isinstance(result, Confirmed) and not result.is_repeated
                    ]
                )
            return [_complete(result) for result in results]

    def _sort(
        self,
        batch: Sequence[Finish],
        verdicts: Sequence[Confirmation | Refusal],
        results: list[Confirmed | QflareError | None],
    ) -> dict[SessionId, list[int]]:
        """Put refusals into *results*; return the positions of what goes on, by session."""
        standing: dict[SessionId, list[int]] = {}
        for position, verdict in enumerate(verdicts):
            if isinstance(verdict, Refusal):
                results[position] = self._refusals.refuse("confirm", verdict)
            elif batch[position].expected_sid not in (None, verdict.sid):
                results[position] = self._refusals.refuse("confirm", Refusal.UNKNOWN_SESSION)
            elif verdict.form == wire.FORM_OFFER and self._limits.is_over(verdict.tenant_id, verdict.ref):
                # Of the hello form the hello was counted.
                results[position] = self._refusals.refuse(
                    "confirm", Refusal.RATE_LIMITED, tenant_id=verdict.tenant_id, ref=verdict.ref
                )
            else:
                standing.setdefault(verdict.sid, []).append(position)
        for positions in standing.values():
            first = verdicts[positions[0]]
            # The same message twice in one batch is one claim. Two ANSWERs to one OFFER have one sid and two
            # transcripts: the first stands, as it would if the second had come a batch later.
            others = [position for position in positions[1:] if not _is_same(verdicts[position], first)]
            for position in others:
                positions.remove(position)
                results[position] = self._refusals.refuse(
                    "confirm",
                    Refusal.CONFLICT,
                    tenant_id=first.tenant_id if isinstance(first, Confirmation) else None,
                    ref=first.ref if isinstance(first, Confirmation) else None,
                )
        return standing

    async def _check(self, ring: Ring, batch: Sequence[Finish]) -> list[Confirmation | Refusal]:
        verdicts: list[Confirmation | Refusal] = [Refusal.TYPE] * len(batch)
        places: dict[int, list[int]] = {wire.TYPE_M3: [], wire.TYPE_ANSWER: []}
        for position, item in enumerate(batch):
            if not item.message:
                verdicts[position] = Refusal.LENGTH
            elif item.message[0] in places:
                places[item.message[0]].append(position)
        hellos, answers = places[wire.TYPE_M3], places[wire.TYPE_ANSWER]
        if hellos:
            found = await self._offload.run(
                partial(
                    confirm_hellos,
                    [batch[position].message for position in hellos],
                    ring.keyring,
                    now_s=ring.now_s,
                    server_id=self._server_id,
                ),
                wipe=_wipe_confirmations,
            )
            for position, verdict in zip(hellos, found, strict=True):
                verdicts[position] = verdict
        if answers:
            found = await self._confirm_answers(ring, [batch[position].message for position in answers])
            for position, verdict in zip(answers, found, strict=True):
                verdicts[position] = verdict
        return verdicts

    async def _confirm_answers(self, ring: Ring, messages: list[bytes]) -> list[Confirmation | Refusal]:
        # O3
        opened = await self._offload.run(
            partial(open_answers, messages, ring.keyring, now_s=ring.now_s), wipe=OpenedAnswers.wipe
        )
        with opened, ExitStack() as psks:
            credentials = await self._credentials.find_many(
                [
                    (claim.tenant_id, claim.ref, claim.key_version) if isinstance(claim, AnswerClaim) else None
                    for claim in opened.claims
                ]
            )
            own_psks(psks, credentials)
            return await self._offload.run(
                partial(
                    confirm_answers,
                    opened,
                    [None if credential is None else credential.psk for credential in credentials],
                    server_id=self._server_id,
                ),
                wipe=_wipe_confirmations,
            )

    def _result(
        self, confirmation: Confirmation, end: tuple[ClaimOutcome, bytes | None] | QflareError, *, is_copy: bool
    ) -> Confirmed | QflareError:
        if isinstance(end, QflareError):
            return end
        outcome, receipt = end
        reason = _REFUSALS.get(outcome.result)
        if reason is not None or receipt is None or outcome.log_index is None:
            return self._refusals.refuse(
                "confirm",
                reason or Refusal.INTERNAL,
                tenant_id=confirmation.tenant_id if reason is not Refusal.UNKNOWN_DEVICE else None,
                evidence={"sid": confirmation.sid.hex(), "ref": confirmation.ref.hex()},
                ref=confirmation.ref if reason is not Refusal.UNKNOWN_DEVICE else None,
            )
        # In the order of the fields: naming them costs as much again.
        return Confirmed(
            confirmation.sid,
            confirmation.tenant_id,
            confirmation.ref,
            confirmation.key_version,
            confirmation.form,
            confirmation.start,
            confirmation.lifetime,
            confirmation.policy,
            encode_confirmation(confirmation.sid, confirmation.server_tag, receipt),
            outcome.log_index,
            is_copy or outcome.result is ClaimResult.REPEATED,
        )


def _is_same(one: Confirmation | Refusal, other: Confirmation | Refusal) -> bool:
    return (
        isinstance(one, Confirmation)
        and isinstance(other, Confirmation)
        and (one.form, one.tenant_id, one.ticket_bucket, one.th3_hash)
        == (other.form, other.tenant_id, other.ticket_bucket, other.th3_hash)
    )


def _ct_mark(message: bytes) -> bytes:
    # M3 has nothing that its device draws.
    return message[wire.ANSWER_CT_AT : wire.ANSWER_CT_AT + 8] if message[0] == wire.TYPE_ANSWER else b""


def _wipe_confirmations(verdicts: Sequence[Confirmation | Refusal]) -> None:
    for verdict in verdicts:
        if isinstance(verdict, Confirmation):
            verdict.wipe()


def _complete(result: Confirmed | QflareError | None) -> Confirmed | QflareError:
    # Every position was filled above; a hole would be our own mistake and must not become an answer.
    return (
        result if result is not None else StoreUnavailableError("confirm: no outcome for this message; send it again")
    )
