"""
Rate limits that operators set: so many authentic messages a minute of a device or a tenant, requests of an address.

What is counted for a device has proven that it comes from it, and is new: whoever forges messages in its name, or sends
its own again, uses nothing of it up.  Each worker counts by itself.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import QflareError
from qflare.manager.deadline import Deadline
from qflare.model.response import ResponseAction

if TYPE_CHECKING:
    from qflare.clock import Clock
    from qflare.manager.background import Background
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.model.response import Limit
    from qflare.model.response_ports import ResponseStore

_log = logging.getLogger("qflare.manager")
_MINUTE_NS: Final = 60 * 10**9

_Key = tuple[ResponseAction, bytes, bytes]
"""The kind of limit, the tenant, and the device's ref or the address; empty where there is none."""


class _Allowance:
    """What one limit still lets through: a minute's worth at most, refilled evenly."""

    __slots__ = ("at_ns", "left", "per_minute")

    def __init__(self, per_minute: int, at_ns: int) -> None:
        """Begin with a whole minute's worth."""
        self.per_minute = per_minute
        self.left = float(per_minute)
        self.at_ns = at_ns

    def has(self, now_ns: int) -> bool:
        """Whether one more is let through."""
        if now_ns > self.at_ns:
            refill = (now_ns - self.at_ns) * self.per_minute / _MINUTE_NS
            self.left = min(float(self.per_minute), self.left + refill)
            self.at_ns = now_ns
        return self.left >= 1.0


class Limits:
    """The limits that stand, and what this worker has let through under each."""

    def __init__(self, *, store: ResponseStore, clock: Clock, settings: ManagerSettings) -> None:
        """Limit nothing yet; `reload` reads what stands, `run` does so twice a second."""
        self._store = store
        self._clock = clock
        self._poll_s = settings.change_poll_s
        self._deadline = Deadline(settings.store_timeout_s)
        self._allowances: dict[_Key, _Allowance] = {}

    async def open(self) -> Self:
        """Read the limits that stand, and return itself."""
        await self.reload()
        return self

    async def reload(self) -> None:
        """Read the limits that stand; what was let through under those that stood already stays counted."""
        now_ns = self._clock.monotonic_ns()
        fresh: dict[_Key, _Allowance] = {}
        for limit in await self._deadline.of(self._store.list_limits()):
            key = _key(limit)
            per_minute = min(limit.per_minute, fresh[key].per_minute) if key in fresh else limit.per_minute
            old = self._allowances.get(key)
            kept = old is not None and old.per_minute == per_minute
            fresh[key] = old if old is not None and kept else _Allowance(per_minute, now_ns)
        self._allowances = fresh

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

    def is_over(self, tenant_id: TenantId, ref: DeviceRef) -> bool:
        """Whether a device, or its tenant, has used up what it may."""
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
