"""Enrolment tokens and enrolments (PROTOCOL E1-E3): a token lets one device in, once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.clock import Clock, utc
from qflare.errors import AlreadyExistsError, QflareError, RefusedError, UncoveredError, UsageError
from qflare.manager.batcher import Batcher
from qflare.manager.deadline import Deadline
from qflare.manager.devices import Devices, new_device
from qflare.model.call import call_about
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import TokenId
from qflare.model.observation import ENROL, Observation
from qflare.model.refusal import Refusal
from qflare.model.token import EnrolmentClaim, EnrolmentOutcome, EnrolmentResult, TokenRecord
from qflare.protocol.enrolment import (
    EnrolmentRequest,
    OpenedEnrolments,
    answer_enrolments,
    check_enrolments,
    open_enrolments,
)
from qflare.protocol.identity import device_ref
from qflare.protocol.new_event import Draft
from qflare.protocol.token import new_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Buckets
    from qflare.manager.log import Log
    from qflare.manager.offload import Offload
    from qflare.manager.refusals import Refusals
    from qflare.manager.settings import ManagerSettings
    from qflare.model.device_ports import DeviceStore
    from qflare.model.ids import CallId, DeviceId, TenantId

VALID_S_MAX: Final = 366 * 86_400


def require_validity(valid_s: int) -> None:
    """Raise `UsageError` unless a token may be valid for so many seconds."""
    if type(valid_s) is not int or not 1 <= valid_s <= VALID_S_MAX:
        raise UsageError(f"valid_s must be 1 to {VALID_S_MAX} whole seconds, got {valid_s!r}")


class Enrolments:
    """Issues tokens and answers ENROLs in batches."""

    def __init__(
        self,
        *,
        store: DeviceStore,
        buckets: Buckets,
        devices: Devices,
        log: Log,
        refusals: Refusals,
        offload: Offload,
        clock: Clock,
        server_id: bytes,
        settings: ManagerSettings,
    ) -> None:
        """Keep one queue."""
        self._log = log
        self._store = store
        self._buckets = buckets
        self._devices = devices
        self._refusals = refusals
        self._offload = offload
        self._clock = clock
        self._server_id = server_id
        self._deadline = Deadline(settings.store_timeout_s)
        self.queue: Batcher[bytes, bytes] = Batcher(
            "enrol", self._answer_batch, items_max=settings.batch_max, waiting_max=settings.waiting_max
        )

    async def issue(
        self, tenant_id: TenantId, device_id: DeviceId, *, valid_s: int, call_id: CallId | None = None
    ) -> str:
        """
        Make a token for one device and return its text, which is secret; the database keeps a hash (E1).

        Raises:
            AlreadyExistsError: a token was issued under this *call_id*; nothing holds its text.
            UsageError: the name or *valid_s* is out of range.
        """
        require_validity(valid_s)
        ref = device_ref(tenant_id, device_id)
        now_s = self._clock.now_s()
        token_id = None if call_id is None else TokenId(call_about(call_id, b"token"))
        with new_token(tenant_id=tenant_id, server_id=self._server_id, token_id=token_id) as token:
            record = TokenRecord(
                token_id=token.token_id,
                tenant_id=tenant_id,
                device_id=device_id,
                secret_hash=token.secret_hash,
                expires_at=utc(now_s + valid_s),
            )
            event = self._devices.event(
                tenant_id,
                SecurityEventType.TOKEN_ISSUED,
                {"token_id": token.token_id.hex(), "ref": ref.hex(), "expires_s": now_s + valid_s},
                device_id=device_id,
            )
            try:
                await self._deadline.of(self._store.add_token(record, event=event))
            except AlreadyExistsError:
                raise AlreadyExistsError(
                    f"token {token.token_id.hex()} was issued under this call_id, and its text is told once: "
                    "revoke it, and issue another under a new call_id"
                ) from None
            return token.encode()

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        await self.queue.close(timeout_s)

    async def _answer_batch(self, messages: Sequence[bytes]) -> list[bytes | QflareError]:
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            opened = await self._offload.run(
                partial(open_enrolments, messages, ring.keyring, server_bucket=ring.current),
                wipe=OpenedEnrolments.wipe,
            )
            with opened:
                tokens, details = await self._tokens(opened)
                verdicts = await self._offload.run(
                    partial(check_enrolments, opened, [None if token is None else token.device_id for token in tokens])
                )
                ended, outcomes = await self._enrol(opened, tokens, verdicts)
                answers = await self._offload.run(partial(answer_enrolments, opened, ended, bucket_mark=ring.current))
        uncovered = await self._uncovered(ended)
        if self._refusals.observations.is_observed:
            self._refusals.observations.note(
                [
                    Observation(ENROL, None, claim.tenant_id, ref, claim.key_hash, ref)
                    for place, claim in enumerate(opened.claims)
                    if isinstance(claim, EnrolmentRequest)
                    and not isinstance(answers[place], Refusal)
                    and (token := tokens[place]) is not None
                    and (ref := device_ref(claim.tenant_id, token.device_id))
                ]
            )
        return [
            self._refuse(answer, opened.claims[place], details[place], outcomes.get(place))
            if isinstance(answer, Refusal)
            else uncovered or answer
            for place, answer in enumerate(answers)
        ]

    async def _uncovered(self, ended: Sequence[int | Refusal]) -> UncoveredError | None:
        """Wait for a head over what was enrolled, one for the batch; return why there is none."""
        if all(isinstance(end, Refusal) for end in ended):
            return None
        try:
            await self._log.cover()
        except UncoveredError as failure:
            return failure
        return None

    async def _tokens(self, opened: OpenedEnrolments) -> tuple[list[TokenRecord | None], list[EnrolmentResult | None]]:
        """Find each request's token, or say what is wrong with it; None and None where its secret is not known here."""
        found: dict[tuple[TenantId, TokenId], TokenRecord] = {}
        wanted: dict[TenantId, list[TokenId]] = {}
        for claim in opened.claims:
            if isinstance(claim, EnrolmentRequest):
                wanted.setdefault(claim.tenant_id, []).append(claim.token_id)
        for tenant_id, token_ids in wanted.items():
            rows = await self._deadline.of(self._store.find_tokens(tenant_id, list(dict.fromkeys(token_ids))))
            found.update({(tenant_id, token_id): row for token_id, row in rows.items()})
        now = utc(self._clock.now_s())
        tokens: list[TokenRecord | None] = []
        details: list[EnrolmentResult | None] = []
        for claim in opened.claims:
            token = found.get((claim.tenant_id, claim.token_id)) if isinstance(claim, EnrolmentRequest) else None
            detail: EnrolmentResult | None = None
            if token is not None and isinstance(claim, EnrolmentRequest):
                if not claim.has_secret_of(token.secret_hash):
                    token = None
                elif token.used_key_hash is not None and token.used_key_hash != claim.key_hash:
                    token, detail = None, EnrolmentResult.TOKEN_USED
                elif now >= token.expires_at:
                    token, detail = None, EnrolmentResult.TOKEN_EXPIRED
                else:
                    detail = EnrolmentResult.ENROLLED
            tokens.append(token)
            details.append(detail)
        return tokens, details

    async def _enrol(
        self, opened: OpenedEnrolments, tokens: Sequence[TokenRecord | None], verdicts: Sequence[Refusal | None]
    ) -> tuple[list[int | Refusal], dict[int, EnrolmentOutcome]]:
        """Run E3 for every request without a refusal; one transaction a tenant, each claim by itself."""
        ended: list[int | Refusal] = [Refusal.INTERNAL if verdict is None else verdict for verdict in verdicts]
        outcomes: dict[int, EnrolmentOutcome] = {}
        groups: dict[TenantId, dict[TokenId, list[int]]] = {}
        for place, (claim, verdict) in enumerate(zip(opened.claims, verdicts, strict=True)):
            if verdict is None and isinstance(claim, EnrolmentRequest):
                groups.setdefault(claim.tenant_id, {}).setdefault(claim.token_id, []).append(place)
        for tenant_id, by_token in groups.items():
            firsts = [places[0] for places in by_token.values()]
            claims = [self._claim(tenant_id, opened.claims[place], tokens[place]) for place in firsts]
            drafts = [
                Draft(
                    SecurityEventType.DEVICE_ENROLMENT,
                    EventSeverity.INFO,
                    {"token_id": claim.token_id.hex(), "ref": claim.device.ref.hex(), "key_hash": claim.key_hash.hex()},
                    claim.device.device_id,
                )
                for claim in claims
            ]
            events = self._devices.events(tenant_id, drafts)
            results, _ = await self._deadline.of(
                self._store.enrol_devices(tenant_id, claims, events=events, now_s=self._clock.now_s())
            )
            for wanted, places, outcome in zip(claims, by_token.values(), results, strict=True):
                for place in places:
                    request = opened.claims[place]
                    # Another request with the same token in this batch: the same keys get the same answer, others none.
                    is_same = isinstance(request, EnrolmentRequest) and request.key_hash == wanted.key_hash
                    outcomes[place] = outcome if is_same else EnrolmentOutcome(result=EnrolmentResult.TOKEN_USED)
                    key_version = outcomes[place].key_version
                    stands = outcomes[place].result in (EnrolmentResult.ENROLLED, EnrolmentResult.REPEATED)
                    ended[place] = key_version if stands and key_version is not None else Refusal.TOKEN
        return ended, outcomes

    def _claim(
        self, tenant_id: TenantId, request: EnrolmentRequest | Refusal, token: TokenRecord | None
    ) -> EnrolmentClaim:
        if not isinstance(request, EnrolmentRequest) or token is None:
            raise UsageError("an enrolment without request or token came as far as its claim")
        device = new_device(
            tenant_id,
            token.device_id,
            verification_key=request.verification_key,
            encapsulation_key=request.encapsulation_key,
        )
        return EnrolmentClaim(token_id=request.token_id, key_hash=request.key_hash, device=device)

    def _refuse(
        self,
        reason: Refusal,
        claim: EnrolmentRequest | Refusal,
        detail: EnrolmentResult | None,
        outcome: EnrolmentOutcome | None,
    ) -> RefusedError:
        if isinstance(claim, Refusal):
            return self._refusals.refuse("enrol", reason)
        result = outcome.result if outcome is not None else detail or EnrolmentResult.TOKEN_UNKNOWN
        return self._refusals.refuse(
            "enrol",
            reason,
            # Only who showed the token's secret writes into its tenant's log.
            tenant_id=claim.tenant_id if detail is not None else None,
            evidence={"token_id": claim.token_id.hex(), "detail": result.value},
        )
