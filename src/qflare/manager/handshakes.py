"""
Hellos answered and handshakes finished (PROTOCOL H3-H10, O3), in batches.

The server keeps nothing between M1 and M3.  What ends a handshake is one transaction: device row, handshake row,
session, sealed chain key and audit entry; M4 exists only after it, and only with the log's signature.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.errors import DecodeError, QflareError, RefusedError, StoreUnavailableError
from qflare.manager.batcher import Batcher
from qflare.manager.chains import CHAIN_KEY_BYTES, seal_chain_keys, seal_chains
from qflare.manager.deadline import Deadline
from qflare.manager.outcomes import Outcomes
from qflare.manager.tenancy import by_tenant
from qflare.model.observation import CONFIRM, HELLO, Observation
from qflare.model.refusal import Refusal
from qflare.model.session import ClaimOutcome, ClaimResult, SealedChain, SessionClaim
from qflare.primitives.engine import lanes_items
from qflare.primitives.kdf import chain_advance_many
from qflare.protocol import wire
from qflare.protocol.confirm import Confirmation, confirm_hellos, encode_confirmation, split_glued
from qflare.protocol.hello import HelloClaim, OpenedHellos, answer_hellos, open_hellos
from qflare.protocol.offer import AnswerClaim, OpenedAnswers, confirm_answers, open_answers
from qflare.protocol.seen import SeenHellos
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.devices import Devices
    from qflare.manager.limits import Limits
    from qflare.manager.log import Log
    from qflare.manager.offload import Offload
    from qflare.manager.refusals import Refusals
    from qflare.manager.settings import ManagerSettings
    from qflare.model.event import LogAppend
    from qflare.model.ids import DeviceRef, SessionId, TenantId
    from qflare.model.session_ports import SessionStore
    from qflare.protocol.credential import DeviceCredential

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
    """Both forms, on the server's side."""

    def __init__(
        self,
        *,
        store: SessionStore,
        buckets: Buckets,
        devices: Devices,
        log: Log,
        refusals: Refusals,
        limits: Limits,
        offload: Offload,
        server_id: bytes,
        settings: ManagerSettings,
    ) -> None:
        """Keep one queue for hellos and one for what ends a handshake."""
        self._store = store
        self._buckets = buckets
        self._devices = devices
        self._log = log
        self._refusals = refusals
        self._limits = limits
        self._offload = offload
        self._server_id = server_id
        self._lifetime = settings.lifetime
        self._deadline = Deadline(settings.store_timeout_s)
        self._seen = SeenHellos(settings.seen_max)
        self.outcomes = Outcomes()
        self.hellos: Batcher[bytes, bytes] = Batcher(
            "hello",
            self._answer_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
            lanes=lanes_items(),
        )
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
        await self.hellos.close(timeout_s)
        await self.finishes.close(timeout_s)

    # --- M1 to M2 ---------------------------------------------------------------------------------

    async def _answer_batch(self, messages: Sequence[bytes]) -> list[bytes | QflareError]:
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            opened = await self._offload.run(
                partial(open_hellos, messages, ring.keyring, server_bucket=ring.current, seen=self._seen),
                wipe=OpenedHellos.wipe,
            )
            with opened, ExitStack() as psks:
                credentials = await self._devices.credentials(
                    [
                        (claim.tenant_id, claim.ref, claim.key_version) if isinstance(claim, HelloClaim) else None
                        for claim in opened.claims
                    ],
                    is_fresh=True,
                )
                _own_psks(psks, credentials)
                answers = await self._offload.run(
                    partial(
                        answer_hellos,
                        opened,
                        credentials,
                        ring.keyring,
                        server_bucket=ring.current,
                        now_s=ring.now_s,
                        lifetime=self._lifetime,
                    )
                )
                answers = [self._limited(claim, answer) for claim, answer in zip(opened.claims, answers, strict=True)]
                if self._refusals.observations.is_observed:
                    self._refusals.observations.note(
                        [
                            Observation(HELLO, None, claim.tenant_id, claim.ref, _ek_mark(message), message[-8:])
                            for message, claim, answer in zip(messages, opened.claims, answers, strict=True)
                            if isinstance(claim, HelloClaim) and not isinstance(answer, Refusal)
                        ]
                    )
                return [
                    self._refuse_hello(answer, opened.claims[position], credentials[position])
                    if isinstance(answer, Refusal)
                    else answer
                    for position, answer in enumerate(answers)
                ]

    def _limited(self, claim: HelloClaim | Refusal, answer: bytes | Refusal) -> bytes | Refusal:
        """Count a hello that holds, or refuse it where its device has used up what it may."""
        if isinstance(claim, Refusal) or isinstance(answer, Refusal):
            return answer
        if self._limits.is_over(claim.tenant_id, claim.ref):
            return Refusal.RATE_LIMITED
        self._limits.charge(claim.tenant_id, claim.ref)
        return answer

    def _refuse_hello(
        self, reason: Refusal, claim: HelloClaim | Refusal, credential: DeviceCredential | None
    ) -> RefusedError:
        if isinstance(claim, Refusal):
            return self._refusals.refuse("hello", reason)
        if credential is None and reason is Refusal.SIGNATURE:
            # The dummy key's verdict; inside it is told apart.
            reason = Refusal.UNKNOWN_DEVICE
        # The tenant is what the message claims: the event goes there only if it names a device of it.
        tenant_id = claim.tenant_id if credential is not None else None
        return self._refusals.refuse(
            "hello",
            reason,
            tenant_id=tenant_id,
            evidence={"ref": claim.ref.hex()},
            ref=claim.ref if credential is not None else None,
        )

    # --- M3 or ANSWER to M4 -----------------------------------------------------------------------

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
                ended = await self._commit(ring, tenant_id, confirmations)
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
            credentials = await self._devices.credentials(
                [
                    (claim.tenant_id, claim.ref, claim.key_version) if isinstance(claim, AnswerClaim) else None
                    for claim in opened.claims
                ]
            )
            _own_psks(psks, credentials)
            return await self._offload.run(
                partial(
                    confirm_answers,
                    opened,
                    [None if credential is None else credential.psk for credential in credentials],
                    server_id=self._server_id,
                ),
                wipe=_wipe_confirmations,
            )

    async def _commit(
        self, ring: Ring, tenant_id: TenantId, confirmations: list[Confirmation]
    ) -> list[tuple[ClaimOutcome, bytes | None] | QflareError]:
        """Run H8 for one tenant's claims and return each outcome with its receipt, or the error they all share."""
        try:
            proving = {
                its.sid
                for its in confirmations
                if its.form == wire.FORM_OFFER
                and not self._devices.has_proven_kem(its.tenant_id, its.ref, its.key_version)
            }
            claims = await self._offload.run(partial(_seal_claims, ring, confirmations, proving))
            # H8
            outcomes, append = await self._deadline.of(
                self._store.confirm_sessions(tenant_id, claims, now_s=ring.now_s, live_bucket=ring.first)
            )
            await self._carry(confirmations, outcomes)
            receipts = await self._receipts(outcomes, append)
        except QflareError as failure:
            return [failure] * len(confirmations)
        return list(zip(outcomes, receipts, strict=True))

    async def _carry(self, confirmations: Sequence[Confirmation], outcomes: Sequence[ClaimOutcome]) -> None:
        """
        Carry sessions that began before the present bucket into it: its sweep may be over and their KEK dies.

        The clock is read after the commit, however long that took: what a slow worker commits is carried by itself.
        """
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            late = [
                confirmation
                for confirmation, outcome in zip(confirmations, outcomes, strict=True)
                if outcome.log_index is not None and confirmation.start < ring.current
            ]
            if late:
                sealed = await self._offload.run(partial(_step_late, ring, late))
                await self._deadline.of(self._store.save_chains(sealed))

    async def _receipts(self, outcomes: Sequence[ClaimOutcome], append: LogAppend | None) -> list[bytes | None]:
        # H9: one signature for the batch, after the commit.
        fresh = await self._log.receipts(append) if append is not None else []
        first = append.first_index if append is not None else 0
        receipts: list[bytes | None] = [None] * len(outcomes)
        old: list[int] = []
        for position, outcome in enumerate(outcomes):
            if outcome.log_index is None:
                continue
            if outcome.result is ClaimResult.CREATED and append is not None:
                receipts[position] = fresh[outcome.log_index - first]
            else:
                old.append(position)
        indices = [index for position in old if (index := outcomes[position].log_index) is not None]
        for position, receipt in zip(old, await self._log.receipts_at(indices), strict=True):
            receipts[position] = receipt
        return receipts

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


def _seal_claims(
    ring: Ring, confirmations: Sequence[Confirmation], proving: AbstractSet[SessionId]
) -> list[SessionClaim]:
    """Seal each CK_start under the KEK of its own bucket and make the claims of H8; those *proving* show a KEM key."""
    sealed: dict[SessionId, bytes] = {}
    by_start: dict[int, list[Confirmation]] = {}
    for confirmation in confirmations:
        by_start.setdefault(confirmation.start, []).append(confirmation)
    for start, group in by_start.items():
        with _chain_keys_of(group) as chain_keys:
            owners = [(confirmation.tenant_id, confirmation.sid, 0) for confirmation in group]
            values = seal_chain_keys(ring, start, owners, chain_keys)
        sealed.update(zip([confirmation.sid for confirmation in group], values, strict=True))
    return [
        # In the order of the fields: naming them costs as much again.
        SessionClaim(
            confirmation.form,
            confirmation.ticket_bucket,
            confirmation.sid,
            confirmation.tenant_id,
            confirmation.ref,
            confirmation.key_version,
            confirmation.start,
            confirmation.lifetime,
            confirmation.policy,
            confirmation.th3_hash,
            confirmation.leaf_hash,
            confirmation.leaf_data,
            confirmation.start,
            sealed[confirmation.sid],
            confirmation.sid in proving,
        )
        for confirmation in confirmations
    ]


def _chain_keys_of(confirmations: Sequence[Confirmation]) -> SecretBytes:
    """Copy the chain keys of *confirmations* behind each other."""
    block = confirmations[0].chain_keys
    if len(block) == len(confirmations) * CHAIN_KEY_BYTES and all(
        its.chain_keys is block and its.row == row for row, its in enumerate(confirmations)
    ):
        # What nearly always is: all that were confirmed together.
        return SecretBytes.copy_of(block)
    keys = SecretBytes.zeros(len(confirmations) * CHAIN_KEY_BYTES)
    for row, its in enumerate(confirmations):
        keys.row(row, CHAIN_KEY_BYTES)[:] = its.chain_keys.row(its.row, CHAIN_KEY_BYTES)
    return keys


def _step_late(ring: Ring, late: Sequence[Confirmation]) -> list[SealedChain]:
    with _chain_keys_of(late) as old:
        sids = b"".join(confirmation.sid for confirmation in late)
        starts = [confirmation.start for confirmation in late]
        with chain_advance_many(old, sids, starts, ring.current) as fresh:
            owners = [(confirmation.tenant_id, confirmation.sid, 0) for confirmation in late]
            return seal_chains(ring, ring.current, owners, fresh)


def _is_same(one: Confirmation | Refusal, other: Confirmation | Refusal) -> bool:
    return (
        isinstance(one, Confirmation)
        and isinstance(other, Confirmation)
        and (one.form, one.tenant_id, one.ticket_bucket, one.th3_hash)
        == (other.form, other.tenant_id, other.ticket_bucket, other.th3_hash)
    )


def _ek_mark(m1: bytes) -> bytes:
    # The seed of ek_e's matrix: its last bytes, which the device drew and which nothing was computed of.
    return m1[wire.M1_CT_AT - 8 : wire.M1_CT_AT]


def _ct_mark(message: bytes) -> bytes:
    # M3 has nothing that its device draws.
    return message[wire.ANSWER_CT_AT : wire.ANSWER_CT_AT + 8] if message[0] == wire.TYPE_ANSWER else b""


def _own_psks(stack: ExitStack, credentials: Sequence[DeviceCredential | None]) -> None:
    for credential in credentials:
        if credential is not None and credential.psk is not None:
            stack.enter_context(credential.psk)


def _wipe_confirmations(verdicts: Sequence[Confirmation | Refusal]) -> None:
    for verdict in verdicts:
        if isinstance(verdict, Confirmation):
            verdict.wipe()


def _complete(result: Confirmed | QflareError | None) -> Confirmed | QflareError:
    # Every position was filled above; a hole would be our own mistake and must not become an answer.
    return (
        result if result is not None else StoreUnavailableError("confirm: no outcome for this message; send it again")
    )
