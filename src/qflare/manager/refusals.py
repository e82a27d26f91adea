"""
What was refused and why: counted exactly inside, told to nobody outside (PROTOCOL N5).

Refusals that are evidence of an attack also go into the audit log, at most so many a minute and reason, so that who
floods the server does not flood the log; what was left out is counted in the next entry.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import RefusedError
from qflare.manager.observations import Observations
from qflare.model.event import EventSeverity, NewEvent, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, DeviceRef, TenantId
from qflare.model.observation import Observation
from qflare.model.refusal import Refusal
from qflare.protocol.leaf import JsonValue
from qflare.protocol.new_event import new_event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qflare.clock import Clock
    from qflare.manager.background import Background

_log = logging.getLogger("qflare.manager")

_TYPES: Final[dict[tuple[str, Refusal], tuple[SecurityEventType, EventSeverity]]] = {
    ("hello", Refusal.SEEN): (SecurityEventType.REPLAY_DETECTED, EventSeverity.WARNING),
    ("hello", Refusal.DRAWN_TWICE): (SecurityEventType.POLICY_VIOLATION, EventSeverity.ERROR),
    ("hello", Refusal.SIGNATURE): (SecurityEventType.AUTHENTICATION_FAILURE, EventSeverity.WARNING),
    ("confirm", Refusal.CONFLICT): (SecurityEventType.REPLAY_DETECTED, EventSeverity.WARNING),
    ("record", Refusal.REPLAY): (SecurityEventType.REPLAY_DETECTED, EventSeverity.WARNING),
    ("enrol", Refusal.TOKEN): (SecurityEventType.POLICY_VIOLATION, EventSeverity.WARNING),
    ("enrol", Refusal.SIGNATURE): (SecurityEventType.AUTHENTICATION_FAILURE, EventSeverity.WARNING),
}
"""Steps and reasons whose event type is not that of the reason alone."""
_TYPES_OF_REASON: Final[dict[Refusal, tuple[SecurityEventType, EventSeverity]]] = {
    Refusal.TAG: (SecurityEventType.TAMPER_DETECTED, EventSeverity.WARNING),
    Refusal.TICKET: (SecurityEventType.TAMPER_DETECTED, EventSeverity.WARNING),
    Refusal.TRUNCATED: (SecurityEventType.TAMPER_DETECTED, EventSeverity.WARNING),
    Refusal.REPLAY: (SecurityEventType.REPLAY_DETECTED, EventSeverity.WARNING),
    Refusal.DEVICE_STATE: (SecurityEventType.POLICY_VIOLATION, EventSeverity.WARNING),
    Refusal.SESSION_ENDED: (SecurityEventType.POLICY_VIOLATION, EventSeverity.WARNING),
    Refusal.KEY_VERSION: (SecurityEventType.POLICY_VIOLATION, EventSeverity.INFO),
}
_WAITING_MAX: Final = 1024
_WINDOW_NS: Final = 60 * 10**9
_BATCH_MAX: Final = 128


@dataclass(slots=True)
class _Window:
    """How many events of one step and reason were written since its minute began, and how many were left out."""

    began_ns: int
    written: int = 0
    left_out: int = 0


class Refusals:
    """Counts every refusal and hands those with value as evidence to the log, in the background."""

    def __init__(self, *, clock: Clock, per_minute: int, observations: Observations | None = None) -> None:
        """Start with nothing refused; *observations* hear of each refusal."""
        self.observations = Observations() if observations is None else observations
        """Also for those who take messages: what the detector hears goes through here."""
        self.counts: Counter[tuple[str, Refusal]] = Counter()
        self.events_left_out = 0
        """Events not written because of the bound or because the log did not take them."""
        self._clock = clock
        self._per_minute = per_minute
        self._windows: dict[tuple[str, Refusal], _Window] = {}
        self._waiting: deque[tuple[TenantId, NewEvent]] = deque()
        self._is_waiting = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def refuse(
        self,
        step: str,
        reason: Refusal,
        *,
        tenant_id: TenantId | None = None,
        evidence: dict[str, JsonValue] | None = None,
        ref: DeviceRef | None = None,
        marks: tuple[bytes, bytes] = (b"", b""),
    ) -> RefusedError:
        """
        Count a refusal, note its event if it has one, and return the error for the caller.

        Args:
            step: Which message was refused: hello, offer, confirm, enrol, record, control.
            reason: The true reason.
            tenant_id: Where the event belongs; the default tenant if the message did not get as far as that.
            evidence: Public facts for the event, such as a sid in hex.
            ref: In whose name the message came, if it names a device of the tenant.
            marks: `mark` and `other` of its observation, where what was drawn twice is the reason.
        """
        self.counts[step, reason] += 1
        if self.observations.is_observed:
            self.observations.note([Observation(step, reason, tenant_id, ref, *marks)])
        kind = _TYPES.get((step, reason)) or _TYPES_OF_REASON.get(reason)
        if kind is not None and (left_out := self._admit(step, reason)) is not None:
            data: dict[str, JsonValue] = {"step": step, "reason": reason.value, **(evidence or {})}
            if left_out:
                data["left_out_before"] = left_out
            self._note(tenant_id or DEFAULT_TENANT, kind, data)
        return RefusedError(f"{step} refused: {reason.value}", reason=reason, step=step)

    async def write(
        self, append: Callable[[TenantId, list[NewEvent]], Awaitable[object]], background: Background
    ) -> None:
        """Append what waits, in batches of one tenant, until the manager closes and nothing waits."""
        while not (background.stop.is_set() and not self._waiting):
            if not self._waiting:
                self._is_idle.set()
                self._is_waiting.clear()
                await background.pause_until(self._is_waiting)
                continue
            tenant_id = self._waiting[0][0]
            batch: list[NewEvent] = []
            while self._waiting and self._waiting[0][0] == tenant_id and len(batch) < _BATCH_MAX:
                batch.append(self._waiting.popleft()[1])
            try:
                await append(tenant_id, batch)
            except Exception as failure:  # noqa: BLE001 - one batch that cannot be written must not end the writing
                # A refusal was refused whatever the log says: nothing was answered that would need the entry.
                self.events_left_out += len(batch)
                _log.warning("%d events about refusals were not logged: %s", len(batch), type(failure).__name__)
        self._is_idle.set()

    async def settled(self) -> None:
        """Wait until every event noted so far was written or given up."""
        await self._is_idle.wait()

    def _admit(self, step: str, reason: Refusal) -> int | None:
        """Return how many events were left out before this one, or None if this one is left out too."""
        now_ns = self._clock.monotonic_ns()
        window = self._windows.setdefault((step, reason), _Window(now_ns))
        if now_ns - window.began_ns >= _WINDOW_NS:
            window.began_ns, window.written = now_ns, 0
        if window.written >= self._per_minute or len(self._waiting) >= _WAITING_MAX:
            window.left_out += 1
            self.events_left_out += 1
            return None
        window.written += 1
        left_out, window.left_out = window.left_out, 0
        return left_out

    def _note(
        self, tenant_id: TenantId, kind: tuple[SecurityEventType, EventSeverity], data: dict[str, JsonValue]
    ) -> None:
        event = new_event(kind[0], kind[1], data, tenant_id=tenant_id, occurred_at_ms=self._clock.now_ms())
        self._waiting.append((tenant_id, event))
        self._is_idle.clear()
        self._is_waiting.set()
