"""Hellos answered, M1 to M2 (PROTOCOL H3-H5), in batches; the server keeps nothing of them."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from qflare.manager.batcher import Batcher
from qflare.manager.credentials import own_psks
from qflare.model.observation import HELLO, Observation
from qflare.model.refusal import Refusal
from qflare.primitives.engine import lanes_items
from qflare.protocol import wire
from qflare.protocol.hello import HelloClaim, OpenedHellos, answer_hellos, open_hellos
from qflare.protocol.seen import SeenHellos

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.errors import QflareError, RefusedError
    from qflare.manager.buckets import Buckets
    from qflare.manager.credentials import Credentials
    from qflare.manager.limits import Limits
    from qflare.manager.offload import Offload
    from qflare.manager.refusals import Refusals
    from qflare.manager.settings import ManagerSettings
    from qflare.protocol.credential import DeviceCredential


class Hellos:
    """Answers M1s."""

    def __init__(
        self,
        *,
        buckets: Buckets,
        credentials: Credentials,
        refusals: Refusals,
        limits: Limits,
        offload: Offload,
        settings: ManagerSettings,
    ) -> None:
        """Keep one queue, and this worker's memory of hellos."""
        self._buckets = buckets
        self._credentials = credentials
        self._refusals = refusals
        self._limits = limits
        self._offload = offload
        self._lifetime = settings.lifetime
        self.seen = SeenHellos(settings.seen_max)
        self.queue: Batcher[bytes, bytes] = Batcher(
            "hello",
            self._answer_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
            lanes=lanes_items(),
        )

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        await self.queue.close(timeout_s)

    async def _answer_batch(self, messages: Sequence[bytes]) -> list[bytes | QflareError]:
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            opened = await self._offload.run(
                partial(open_hellos, messages, ring.keyring, server_bucket=ring.current, seen=self.seen),
                wipe=OpenedHellos.wipe,
            )
            with opened, ExitStack() as psks:
                credentials = await self._credentials.find_many(
                    [
                        (claim.tenant_id, claim.ref, claim.key_version) if isinstance(claim, HelloClaim) else None
                        for claim in opened.claims
                    ],
                    is_fresh=True,
                )
                own_psks(psks, credentials)
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
                    self._refuse_hello(answer, opened.claims[position], credentials[position], messages[position])
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
        self, reason: Refusal, claim: HelloClaim | Refusal, credential: DeviceCredential | None, message: bytes
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
            marks=(_ek_mark(message), message[-8:]) if reason is Refusal.DRAWN_TWICE else (b"", b""),
        )


def _ek_mark(m1: bytes) -> bytes:
    # The seed of ek_e's matrix: its last bytes, which the device drew and which nothing was computed of.
    return m1[wire.M1_CT_AT - 8 : wire.M1_CT_AT]
