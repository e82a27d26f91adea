"""
Offers (PROTOCOL O1): the server begins, for devices whose KEM key is on the roster.

Whoever asks for an offer by ref alone always gets one: for a device that does not exist, or may not begin a session, it
is made to a key that nobody holds, so that existence is not told.
"""

from __future__ import annotations

import hmac
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from qflare.errors import KeyNotFoundError, KeyRevokedError, QflareError
from qflare.manager.batcher import Batcher
from qflare.model.device import Device, KeyState
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.engine import lanes_items
from qflare.protocol.offer import Offer, OfferTarget, make_offers
from qflare.protocol.ticket import offer_expiry_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Buckets
    from qflare.manager.credentials import Credentials
    from qflare.manager.encapsulations import Encapsulations
    from qflare.manager.offload import Offload
    from qflare.manager.refusals import Refusals
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import DeviceId, DeviceRef, SessionId, TenantId
    from qflare.protocol.bucket import BucketKeys


class OfferRequest(NamedTuple):
    """One offer asked for: by name and key (the caller's own doing), or by ref alone (from the network)."""

    tenant_id: TenantId
    ref: DeviceRef
    device_id: DeviceId | None = None
    encapsulation_key: bytes | None = None


class MadeOffer(NamedTuple):
    """An OFFER with its terms."""

    message: bytes
    sid: SessionId
    bucket: int
    expires_s: int
    """Unix seconds: answers are taken before it."""


class Offers:
    """Makes OFFERs in batches."""

    def __init__(
        self,
        *,
        buckets: Buckets,
        credentials: Credentials,
        refusals: Refusals,
        offload: Offload,
        encapsulations: Encapsulations,
        settings: ManagerSettings,
    ) -> None:
        """Draw the key of which nobody keeps the private half."""
        self._buckets = buckets
        self._credentials = credentials
        self._refusals = refusals
        self._offload = offload
        self._encapsulations = encapsulations
        self._lifetime = settings.lifetime
        self._width_s = settings.bucket_width_s
        pair = kem.generate()
        pair.decapsulation_key.wipe()
        self._nobody = pair.encapsulation_key
        self.queue: Batcher[OfferRequest, MadeOffer] = Batcher(
            "offer",
            self._make_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            lanes=lanes_items(),
        )

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        await self.queue.close(timeout_s)

    async def _make_batch(self, batch: Sequence[OfferRequest]) -> list[MadeOffer | QflareError]:
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            rows = await self._credentials.find_devices([(request.tenant_id, request.ref) for request in batch])
            targets = [self._target(request, row) for request, row in zip(batch, rows, strict=True)]
            places = [place for place, target in enumerate(targets) if isinstance(target, OfferTarget)]
            good = [target for target in targets if isinstance(target, OfferTarget)]
            ahead = [
                self._encapsulations.take(target.tenant_id, target.ref, target.encapsulation_key) for target in good
            ]
            made = await self._offload.run(
                partial(_make, good, ahead, ring.keyring[ring.current], lifetime=self._lifetime)
            )
            results: list[MadeOffer | QflareError] = [
                KeyNotFoundError("no offer was made") if isinstance(target, OfferTarget) else target
                for target in targets
            ]
            expires_s = offer_expiry_s(ring.current, self._width_s)
            for place, offer in zip(places, made, strict=True):
                results[place] = (
                    MadeOffer(offer.message, offer.sid, ring.current, expires_s)
                    if isinstance(offer, Offer)
                    else self._refusals.refuse("offer", offer)
                )
            return results

    def _target(self, request: OfferRequest, device: Device | None) -> OfferTarget | QflareError:
        if request.encapsulation_key is None:
            if device is None or device.state is not KeyState.ACTIVE:
                if device is None:
                    self._refusals.refuse("offer", Refusal.UNKNOWN_DEVICE)
                else:
                    self._refusals.refuse("offer", Refusal.DEVICE_STATE, tenant_id=request.tenant_id, ref=request.ref)
                return OfferTarget(request.tenant_id, request.ref, 1, self._nobody)
            return OfferTarget(request.tenant_id, request.ref, device.key_version, device.encapsulation_key)
        # O1: the caller names device and key; both must be the roster's.
        if device is None:
            return KeyNotFoundError(
                f"device {request.device_id!r} is not registered, so its key proves nothing: let it enrol with a token "
                "(issue_enrolment_token), register its keys (register_device), or let it start with a hello "
                "(answer_hello)"
            )
        if device.state is not KeyState.ACTIVE:
            return KeyRevokedError(f"device {request.device_id!r} is {device.state.value}: no session can begin")
        if not hmac.compare_digest(device.encapsulation_key, request.encapsulation_key):
            return KeyNotFoundError(
                f"client_public_key is not the current key of device {request.device_id!r} (key version "
                f"{device.key_version}): use get_device_public_key, enrol the device with a token, or let it start "
                "with a hello (answer_hello)"
            )
        return OfferTarget(request.tenant_id, request.ref, device.key_version, device.encapsulation_key)


def _make(
    targets: Sequence[OfferTarget], ahead: Sequence[kem.Encapsulated | None], keys: BucketKeys, *, lifetime: int
) -> list[Offer | Refusal]:
    """Make offers, and wipe what was made ahead of them: it has served."""
    try:
        return make_offers(targets, keys, lifetime=lifetime, made_ahead=ahead if any(ahead) else None)
    finally:
        for made in ahead:
            if made is not None:
                made.shared_secret.wipe()
