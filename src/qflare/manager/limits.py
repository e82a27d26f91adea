"""
Rate limits that operators set: so many authentic messages a minute of a device or a tenant, requests of an address.

What is counted for a device has proven that it comes from it, and is new: whoever forges messages in its name, or sends
its own again, uses nothing of it up.

Workers share a limit: each that serves says so every few seconds, and lets through its even part of what is allowed.
So all together let through no more than the limit, whichever worker messages come to; those of a device that keeps to
one of several get through less often than it says (decision 0078).
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import QflareError
from qflare.manager.deadline import Deadline
from qflare.model.ids import ID_BYTES, WorkerId
from qflare.model.response import ResponseAction
from qflare.primitives.random import random_bytes

if TYPE_CHECKING:
    from qflare.clock import Clock
    from qflare.manager.background import Background
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.model.response import Limit
    from qflare.model.response_ports import ResponseStore

_log = logging.getLogger("qflare.manager")
_MINUTE_NS: Final = 60 * 10**9
_BEAT_NS: Final = 5 * 10**9
LATELY_S: Final = 20
"""A worker that has not said for so long that it serves is not counted any more: it said so every five seconds."""

_Key = tuple[ResponseAction, bytes, bytes]
"""The kind of limit, the tenant, and the device's ref or the address; empty where there is none."""


class _Allowance:
    """What this worker's part of one limit still lets through: a minute's worth at most, refilled evenly."""

    __slots__ = ("_part", "at_ns", "left", "per_minute")

    def __init__(self, per_minute: int, workers: int, at_ns: int) -> None:
        """Begin with a whole minute's worth of one of *workers*."""
        self.per_minute = per_minute
        self._part = per_minute / workers
        self.left = self._most
        self.at_ns = at_ns

    @property
    def _most(self) -> float:
        # One at least, or a limit below the number of workers would let nothing through.
        return max(1.0, self._part)

    def share(self, workers: int, now_ns: int) -> None:
        """Take part with so many workers from now on."""
        self._refill(now_ns)
        self._part = self.per_minute / workers
        self.left = min(self.left, self._most)

    def has(self, now_ns: int) -> bool:
        """Whether one more is let through."""
        self._refill(now_ns)
        return self.left >= 1.0

    def _refill(self, now_ns: int) -> None:
        if now_ns > self.at_ns:
            self.left = min(self._most, self.left + (now_ns - self.at_ns) * self._part / _MINUTE_NS)
            self.at_ns = now_ns


class Limits:
    """The limits that stand, and what this worker has let through under each."""

    def __init__(self, *, store: ResponseStore, clock: Clock, settings: ManagerSettings) -> None:
        """Limit nothing yet; `reload` reads what stands, `run` does so twice a second."""
        self._store = store
        self._clock = clock
        self._poll_s = settings.change_poll_s
        self._deadline = Deadline(settings.store_timeout_s)
        self._allowances: dict[_Key, _Allowance] = {}
        self._worker_id = WorkerId(random_bytes(ID_BYTES))
        self._is_serving = False
        """Whether anything was asked of it: a command that opens a manager is no worker."""
        self._beaten_ns: int | None = None
        self._workers = 1

    async def open(self) -> Self:
        """Read the limits that stand, and return itself."""
        await self.reload()
        return self

    async def reload(self) -> None:
        """Read the limits that stand; what was let through under those that stood already stays counted."""
        limits = await self._deadline.of(self._store.list_limits())
        await self._beat()
        if limits:
            others = await self._deadline.of(self._store.count_workers(self._worker_id, lately_s=LATELY_S))
            self._workers = others + 1
        now_ns = self._clock.monotonic_ns()
        fresh: dict[_Key, _Allowance] = {}
        for limit in limits:
            key = _key(limit)
            per_minute = min(limit.per_minute, fresh[key].per_minute) if key in fresh else limit.per_minute
            old = self._allowances.get(key)
            if old is None or old.per_minute != per_minute:
                old = _Allowance(per_minute, self._workers, now_ns)
            old.share(self._workers, now_ns)
            fresh[key] = old
        self._allowances = fresh

    async def _beat(self) -> None:
        """Say that this worker serves, if it does and has not said so for a while."""
        now_ns = self._clock.monotonic_ns()
        if not self._is_serving or (self._beaten_ns is not None and now_ns - self._beaten_ns < _BEAT_NS):
            return
        await self._deadline.of(self._store.beat_worker(self._worker_id, lately_s=LATELY_S))
        self._beaten_ns = now_ns

    async def run(self, background: Background) -> None:
        """Reload until the manager closes; while the database is away what stood stands."""
        is_away = False
        while not background.stop.is_set():
            try:
                await self.reload()
                is_away = False
            except QflareError as failure:
                if not is_away:
                    _log.info("rate limits stay as they were (%s)", type(failure).__name__)
                is_away = True
            await background.pause(self._poll_s)
        if self._beaten_ns is not None:
            # The others have more from now on; one that is killed is missed after a while.
            with contextlib.suppress(QflareError, TimeoutError):
                await self._deadline.of(self._store.forget_worker(self._worker_id, lately_s=LATELY_S))

    def is_over(self, tenant_id: TenantId, ref: DeviceRef) -> bool:
        """Whether a device, or its tenant, has used up what it may."""
        self._is_serving = True
        if not self._allowances:
            return False
        now_ns = self._clock.monotonic_ns()
        return any(not each.has(now_ns) for each in self._of(tenant_id, ref))

    def charge(self, tenant_id: TenantId, ref: DeviceRef) -> None:
        """Count a message of a device that was taken."""
        for each in self._of(tenant_id, ref) if self._allowances else ():
            each.left -= 1.0

    def admit_source(self, source: str) -> bool:
        """Count a request from a network address; False if it has used up what it may."""
        self._is_serving = True
        if not self._allowances:
            return True
        try:
            address = ipaddress.ip_address(source)
        except ValueError:
            return True
        found = self._allowances.get((ResponseAction.LIMIT_SOURCE, b"", str(address).encode()))
        if found is None:
            return True
        is_admitted = found.has(self._clock.monotonic_ns())
        if is_admitted:
            found.left -= 1.0
        return is_admitted

    def _of(self, tenant_id: TenantId, ref: DeviceRef) -> list[_Allowance]:
        keys: tuple[_Key, ...] = (
            (ResponseAction.LIMIT_DEVICE, tenant_id, ref),
            (ResponseAction.LIMIT_TENANT, tenant_id, b""),
        )
        return [found for key in keys if (found := self._allowances.get(key)) is not None]


def _key(limit: Limit) -> _Key:
    if limit.source is not None:
        return limit.action, b"", limit.source.encode()
    return limit.action, limit.tenant_id, limit.ref or b""
