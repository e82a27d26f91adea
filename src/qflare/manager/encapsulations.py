"""
Encapsulations made ahead for the devices of the next round (PROTOCOL O1), so that their offers cost no KEM.

Each is made to one device's `ek_D` and serves that key alone, once: a rotation makes another key current, a revocation
ends the device, and either way what was made for it is wiped when it is next looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.manager.forks import wipe_after_fork
from qflare.manager.reserve import ReserveStatistics, Tally
from qflare.primitives import kem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.clock import Clock
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.primitives.kem import Encapsulated

CHUNK: Final = 64
"""Encapsulations made in one job, about 2 ms."""
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Made:
    made_ns: int
    encapsulation_key: bytes
    encapsulated: Encapsulated


class Encapsulations:
    """Holds at most one encapsulation a device, in memory alone; wiped by age, at closing, and in a forked child."""

    def __init__(self, *, offload: Offload, clock: Clock, settings: ManagerSettings) -> None:
        """Hold nothing yet; `prepare` makes them."""
        self._offload = offload
        self._clock = clock
        self._capacity = settings.reserve_offers_max
        self._age_ns = settings.reserve_max_age_s * _NS
        self._ready: OrderedDict[tuple[TenantId, DeviceRef], _Made] = OrderedDict()
        self._is_closed = False
        self._tally = Tally()
        wipe_after_fork(self.close)

    def __len__(self) -> int:
        """Return how many are ready."""
        return len(self._ready)

    def __repr__(self) -> str:
        """Say how much there is, no secret."""
        return f"<Encapsulations for {len(self._ready)} devices>"

    @property
    def statistics(self) -> ReserveStatistics:
        """What it did since it was made."""
        return self._tally.statistics(ready=len(self._ready))

    async def prepare(self, tenant_id: TenantId, devices: Sequence[tuple[DeviceRef, bytes]]) -> int:
        """
        Make an encapsulation for each (ref, `ek_D`) that has none yet; without room the oldest of others leave.

        Returns:
            How many of these devices have one now.
        """
        self.discard_old()
        wanted = dict(devices[: self._capacity])
        missing = [
            (ref, key)
            for ref, key in wanted.items()
            if (held := self._ready.get((tenant_id, ref))) is None or held.encapsulation_key != key
        ]
        for at in range(0, len(missing), CHUNK):
            chunk = missing[at : at + CHUNK]
            keys = [key for _, key in chunk]
            # Several short jobs: whoever comes meanwhile gets a thread in between.
            made = await self._offload.run(partial(_encapsulate, keys), wipe=_wipe)
            self._add(tenant_id, chunk, made)
        return sum((tenant_id, ref) in self._ready for ref in wanted)

    def take(self, tenant_id: TenantId, ref: DeviceRef, encapsulation_key: bytes) -> Encapsulated | None:
        """
        Return the device's encapsulation to *encapsulation_key*, which nobody else has or gets; the taker wipes it.

        None if there is none, or one to another key, which is wiped.
        """
        held = self._ready.pop((tenant_id, ref), None)
        if held is not None and (
            held.encapsulation_key != encapsulation_key or held.made_ns <= self._clock.monotonic_ns() - self._age_ns
        ):
            self._discard(held)
            held = None
        if held is None:
            self._tally.missed += 1
            return None
        self._tally.taken += 1
        return held.encapsulated

    def forget(self, tenant_id: TenantId, ref: DeviceRef) -> None:
        """Wipe what was made for a device: its keys or its state changed here."""
        held = self._ready.pop((tenant_id, ref), None)
        if held is not None:
            self._discard(held)

    def discard_old(self) -> None:
        """Wipe what is older than the settings' age."""
        oldest_ns = self._clock.monotonic_ns() - self._age_ns
        while self._ready and next(iter(self._ready.values())).made_ns <= oldest_ns:
            self._discard(self._ready.popitem(last=False)[1])

    def close(self) -> None:
        """Wipe everything, and hold nothing from then on. Safe to call twice."""
        self._is_closed = True
        while self._ready:
            self._discard(self._ready.popitem()[1])

    def _add(
        self, tenant_id: TenantId, chunk: Sequence[tuple[DeviceRef, bytes]], made: Sequence[Encapsulated | None]
    ) -> None:
        now_ns = self._clock.monotonic_ns()
        for (ref, key), encapsulated in zip(chunk, made, strict=True):
            if encapsulated is None:
                continue
            self._tally.made += 1
            fresh = _Made(now_ns, key, encapsulated)
            if self._is_closed:
                self._discard(fresh)
                continue
            self.forget(tenant_id, ref)
            self._ready[tenant_id, ref] = fresh
            while len(self._ready) > self._capacity:
                self._discard(self._ready.popitem(last=False)[1])

    def _discard(self, made: _Made) -> None:
        made.encapsulated.shared_secret.wipe()
        self._tally.discarded += 1


def _encapsulate(keys: Sequence[bytes]) -> list[Encapsulated | None]:
    made = kem.encapsulate_many(b"".join(keys))
    with made.shared_secrets as secrets:
        return [
            None
            if status
            else kem.Encapsulated(
                bytes(made.ciphertexts[row * kem.CT_BYTES : (row + 1) * kem.CT_BYTES]),
                secrets.take_row(row, kem.SS_BYTES),
            )
            for row, status in enumerate(made.status)
        ]


def _wipe(made: Sequence[Encapsulated | None]) -> None:
    for encapsulated in made:
        if encapsulated is not None:
            encapsulated.shared_secret.wipe()
