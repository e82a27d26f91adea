"""Signals that no message carries: clocks, keys and the log itself, judged from what a look has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import EvidenceError
from qflare.model.device import KeyState
from qflare.model.event import EventSeverity
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.signal import Signal
from qflare.monitor.acts import act_of
from qflare.monitor.parameters import AUDIT_LAG_LADDER, CLOCK_SKEW_LADDER, KEY_AGE_LADDER, OPERATOR_ACT_WEIGHTS
from qflare.monitor.proof import check_entry
from qflare.monitor.rates import severity_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import AuditEntry
    from qflare.model.ids import TenantId
    from qflare.model.key_record import KeyRecord
    from qflare.monitor.detector import Detector
    from qflare.monitor.parameters import Ladder
    from qflare.protocol.entry import EntryVault
    from qflare.protocol.leaf import JsonValue


def first_altered(entries: Sequence[AuditEntry], vault: EntryVault) -> EvidenceError | None:
    """Return what is wrong with the first of *entries* whose columns, leaf and hash do not say the same."""
    for entry in entries:
        try:
            check_entry(entry, vault)
        except EvidenceError as failure:
            return failure
    return None


class Gauges:
    """Judges what was measured; remembers the little that takes two looks."""

    def __init__(self, detector: Detector) -> None:
        """Tell *detector*'s suspicions."""
        self._detector = detector
        self._lagging = 0
        self._revoked: dict[TenantId, int] = {}
        self._serial: int | None = None
        self._tenants: int | None = None

    def clocks(self, *, skew_s: float, at_s: int) -> None:
        """Judge this worker's clock against the database's, which all workers share."""
        what = "worker ahead of the database" if skew_s > 0 else "worker behind the database"
        facts: dict[str, JsonValue] = {"skew_ms": int(skew_s * 1000)}
        self._judge(CLOCK_SKEW_LADDER, abs(skew_s), Signal.CLOCK_SKEW, what, facts, at_s=at_s)

    def spread(self, offsets_ms: Sequence[int], *, at_s: int) -> None:
        """
        Judge how far the clocks of workers are apart: two may be off in opposite ways, each by less than is told.

        Args:
            offsets_ms: Each worker's clock less the database's, this one's among them.
            at_s: Now.
        """
        spread_s = (max(offsets_ms) - min(offsets_ms)) / 1000
        facts: dict[str, JsonValue] = {
            "spread_ms": int(spread_s * 1000),
            "most_ahead_ms": max(offsets_ms),
            "most_behind_ms": min(offsets_ms),
            "workers": len(offsets_ms),
        }
        self._judge(CLOCK_SKEW_LADDER, spread_s, Signal.CLOCK_SKEW, "clocks of workers apart", facts, at_s=at_s)

    def log(self, *, size: int, signed: int, at_s: int) -> None:
        """Judge how far signed heads are behind, after a look that asked for one."""
        self._lagging = self._lagging + 1 if signed < size else 0
        facts: dict[str, JsonValue] = {"entries": size, "signed": signed}
        what = "entries without a signed head"
        self._judge(AUDIT_LAG_LADDER, self._lagging, Signal.AUDIT_LAG, what, facts, at_s=at_s)

    def altered(self, tenant_id: TenantId, failure: EvidenceError, *, at_s: int) -> None:
        """Tell of a row of the log that is not what was hashed."""
        self._detector.suspicions.add(
            tenant_id,
            Signal.LOG_ALTERED,
            None,
            EventSeverity.CRITICAL,
            at_s=at_s,
            score=1,
            what="row of the log altered",
            facts={"index": failure.index, "problem": str(failure)[:200]},
        )

    def keys(self, records: Sequence[KeyRecord], *, bucket: int, destroyed_before: int, at_s: int) -> None:
        """
        Judge the oldest key that is not destroyed (A4).

        Args:
            records: Keys of buckets as the database has them.
            bucket: The server's.
            destroyed_before: The keeper's: keys from it on may still be there; 0 where none was destroyed yet.
            at_s: Now.
        """
        kept = [record.number for record in records if record.state is not KeyState.DESTROYED]
        if destroyed_before:
            kept.append(destroyed_before)
        # All that is below bucket - 1 should be gone.
        oldest = min(kept, default=bucket)
        facts: dict[str, JsonValue] = {"oldest_bucket": oldest, "bucket": bucket}
        what = "bucket's key kept beyond its time"
        self._judge(KEY_AGE_LADDER, bucket - 1 - oldest, Signal.KEY_NOT_DESTROYED, what, facts, at_s=at_s)

    def out_of_service(self, tenant_id: TenantId, revoked: int, *, at_s: int) -> None:
        """Judge how many devices were taken out of service since the last look, by whichever process."""
        before = self._revoked.get(tenant_id)
        self._revoked[tenant_id] = revoked
        for _ in range(0 if before is None else revoked - before):
            self._act(tenant_id, "device taken out of service", at_s)

    def certificates(self, serial: int, *, at_s: int) -> None:
        """Judge how often the server's identity was rotated since the last look."""
        before, self._serial = self._serial, serial
        for _ in range(0 if before is None else serial - before):
            self._act(DEFAULT_TENANT, "server certificate in force", at_s)

    def tenants(self, count: int, *, at_s: int) -> None:
        """Judge how many tenants were created since the last look; it is the default tenant that is told of it."""
        before, self._tenants = self._tenants, count
        for _ in range(0 if before is None else count - before):
            self._act(DEFAULT_TENANT, "tenant created", at_s)

    def acts(self, tenant_id: TenantId, entries: Sequence[AuditEntry], *, at_s: int) -> None:
        """Judge what operators did, as the log has it."""
        for entry in entries:
            act = act_of(entry)
            if act is not None:
                self._act(tenant_id, act, at_s)

    def _act(self, tenant_id: TenantId, act: str, at_s: int) -> None:
        weight = OPERATOR_ACT_WEIGHTS[act]
        if weight:
            self._detector.count(Signal.OPERATOR_ACTS, tenant_id, at_s=at_s, what=act, weight=weight)

    def _judge(
        self, ladder: Ladder, score: float, signal: Signal, what: str, facts: dict[str, JsonValue], *, at_s: int
    ) -> None:
        """Tell of what is on the *ladder*; the server's own gauges are the default tenant's to hear of."""
        severity = severity_of(ladder, score)
        if severity is not None:
            self._detector.suspicions.add(
                DEFAULT_TENANT, signal, None, severity, at_s=at_s, score=score, what=what, facts=facts
            )
