"""Suspicions on their way into incidents: added up by signal and device, in a bounded place."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qflare.model.incident import EVIDENCE_BYTES_MAX, SEVERITIES
from qflare.monitor.parameters import OPENED_PER_FLUSH, PENDING_MAX
from qflare.protocol.leaf import JsonValue, encode_event_data

if TYPE_CHECKING:
    from qflare.model.event import EventSeverity
    from qflare.model.ids import DeviceRef, TenantId
    from qflare.model.signal import Signal

_KINDS_MAX: Final = 16


@dataclass(slots=True)
class Suspicion:
    """All that is the same since the last report."""

    tenant_id: TenantId
    signal: Signal
    ref: DeviceRef | None
    severity: EventSeverity
    first_s: int
    last_s: int
    count: int = 0
    score: float = 0.0
    seen: Counter[str] = field(default_factory=Counter)
    """How often what was seen; of at most 16 kinds."""
    facts: dict[str, JsonValue] = field(default_factory=dict)
    """Anything else that helps to judge it."""

    def evidence(self) -> bytes:
        """Return the canonical JSON of what is known."""
        facts: dict[str, JsonValue] = {**self.facts, "score": int(self.score), "seen": dict(self.seen)}
        encoded = encode_event_data(facts)
        if len(encoded) > EVIDENCE_BYTES_MAX:
            encoded = encode_event_data({"score": int(self.score), "seen": dict(self.seen)})
        return encoded


class Suspicions:
    """What was suspected since the last report."""

    def __init__(self) -> None:
        """Suspect nothing."""
        self._drafts: dict[tuple[TenantId, Signal, DeviceRef | None], Suspicion] = {}
        self._devices: Counter[tuple[TenantId, Signal]] = Counter()
        self.folded = 0
        """Observations of devices that went into their fleet's incident for want of room."""

    def __len__(self) -> int:
        """Return how many incidents the next report would be about."""
        return len(self._drafts)

    def add(
        self,
        tenant_id: TenantId,
        signal: Signal,
        ref: DeviceRef | None,
        severity: EventSeverity,
        *,
        at_s: int,
        score: float,
        what: str,
        count: int = 1,
        facts: dict[str, JsonValue] | None = None,
    ) -> None:
        """Add an observation that reached *severity*; *what* says what was seen, in a few words."""
        draft = self._drafts.get((tenant_id, signal, ref)) or self._begin(tenant_id, signal, ref, severity, at_s)
        if SEVERITIES.index(severity) > SEVERITIES.index(draft.severity):
            draft.severity = severity
        draft.first_s = min(draft.first_s, at_s)
        draft.last_s = max(draft.last_s, at_s)
        draft.count += count
        draft.score = max(draft.score, score)
        if what in draft.seen or len(draft.seen) < _KINDS_MAX:
            draft.seen[what] += count
        if facts:
            draft.facts.update(facts)

    def take(self) -> list[Suspicion]:
        """Return what there is and begin anew."""
        drafts = list(self._drafts.values())
        self._drafts.clear()
        self._devices.clear()
        return drafts

    def _begin(
        self, tenant_id: TenantId, signal: Signal, ref: DeviceRef | None, severity: EventSeverity, at_s: int
    ) -> Suspicion:
        if ref is not None and (
            self._devices[tenant_id, signal] >= OPENED_PER_FLUSH or len(self._drafts) >= PENDING_MAX
        ):
            # Devices beyond the bound are counted alone: who attacks ten thousand fills no list.
            self.folded += 1
            found = self._drafts.get((tenant_id, signal, None))
            if found is None:
                found = self._draft(tenant_id, signal, None, severity, at_s)
            found.facts["folded"] = _number(found.facts.get("folded")) + 1
            return found
        if ref is not None:
            self._devices[tenant_id, signal] += 1
        return self._draft(tenant_id, signal, ref, severity, at_s)

    def _draft(
        self, tenant_id: TenantId, signal: Signal, ref: DeviceRef | None, severity: EventSeverity, at_s: int
    ) -> Suspicion:
        draft = Suspicion(tenant_id, signal, ref, severity, first_s=at_s, last_s=at_s)
        self._drafts[tenant_id, signal, ref] = draft
        return draft


def _number(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0
