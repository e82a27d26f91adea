"""
What sessions carry: counted in memory, flushed into the database, and bounded (PROTOCOL R9, decision 0051).

Every record has its own AES-256-GCM key (R3), so what can wear out is not a key but a session: at 2^32 records two of
its random stream ids meet with probability 2^-65, and at 2^44 bytes in records of at most 2^31 an adversary's advantage
against all its keys together is below 2^-61 (decision 0051 has the sum and its sources).  A session that has carried as
much is refused, and a new handshake begins another.

Counts are exact but for the last flush: a worker that is killed loses what it counted since, which is at most
`PENDING_RECORDS_MAX` records, `PENDING_BYTES_MAX` bytes, or the time between two flushes, whichever comes first; what
other workers have not flushed yet is not seen either.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import QflareError
from qflare.manager.deadline import Deadline
from qflare.model.rotation import SessionUse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import DeviceRef, SessionId, TenantId
    from qflare.model.rotation_ports import RotationStore
    from qflare.model.session import Session

PENDING_RECORDS_MAX: Final = 2**16
PENDING_BYTES_MAX: Final = 2**32
PENDING_SESSIONS_MAX: Final = 4096
"""A flush is due when the worker has counted as much; one flush writes them all."""
FLUSH_PAGE: Final = 256
"""Sessions written in one transaction, which their records wait for."""
OVERDUE_MAX: Final = 65_536
"""Overdue devices one worker remembers; beyond it the oldest is looked at again when it next carries a record."""


@dataclass(slots=True)
class _Use:
    records: int = 0
    bytes: int = 0


class Uses:
    """Counts for one worker, and knows which sessions are used up and which devices are overdue."""

    def __init__(self, *, store: RotationStore, settings: ManagerSettings) -> None:
        """Count from nothing; sums of earlier flushes come back with the first one."""
        self._store = store
        self._records_max = settings.session_records_max
        self._bytes_max = settings.session_bytes_max
        self._capacity = settings.sessions_cached_max
        self._deadline = Deadline(settings.store_timeout_s)
        self._pending: dict[TenantId, dict[SessionId, _Use]] = {}
        self._sessions = 0
        self._records = 0
        self._bytes = 0
        self._known: OrderedDict[SessionId, _Use] = OrderedDict()
        """What the database said at the last flush."""
        self._overdue: OrderedDict[tuple[TenantId, DeviceRef], SessionId] = OrderedDict()
        """Devices past their grace, each with a session by which to ask again."""

    @property
    def is_flush_due(self) -> bool:
        """Whether as much was counted as may be lost."""
        return (
            self._records >= PENDING_RECORDS_MAX
            or self._bytes >= PENDING_BYTES_MAX
            or self._sessions >= PENDING_SESSIONS_MAX
        )

    def count(self, session: Session, size_bytes: int) -> None:
        """Count one record of *size_bytes*, sealed, in either direction."""
        sessions = self._pending.setdefault(session.tenant_id, {})
        use = sessions.get(session.sid)
        if use is None:
            use = sessions[session.sid] = _Use()
            self._sessions += 1
        use.records += 1
        use.bytes += size_bytes
        self._records += 1
        self._bytes += size_bytes

    async def carry(self, carried: Sequence[tuple[Session, int]]) -> None:
        """Count one record for each (session, bytes sealed), and flush if that is due."""
        for session, size_bytes in carried:
            self.count(session, size_bytes)
        if self.is_flush_due:
            with contextlib.suppress(QflareError):
                # The records stand. What was counted is kept, and flushed with the next batch.
                await self.flush()

    def is_used_up(self, session: Session) -> bool:
        """Whether a session has carried all that it may."""
        known = self._known.get(session.sid)
        pending = self._pending.get(session.tenant_id, {}).get(session.sid)
        records = (known.records if known else 0) + (pending.records if pending else 0)
        size = (known.bytes if known else 0) + (pending.bytes if pending else 0)
        return records >= self._records_max or size >= self._bytes_max

    def is_overdue(self, session: Session) -> bool:
        """Whether the device's keys are due and the policy's grace is over, as of the last flush."""
        return (session.tenant_id, session.ref) in self._overdue

    def forget_overdue(self, tenant_id: TenantId, ref: DeviceRef) -> None:
        """Take a device's data again: it has rotated here."""
        self._overdue.pop((tenant_id, ref), None)

    async def flush(self) -> None:
        """
        Write down what was counted, and learn the sums and who is overdue.

        Raises:
            StoreUnavailableError: what was counted is kept; it may be counted twice then, never lost.
        """
        pending, self._pending = self._pending, {}
        self._sessions = self._records = self._bytes = 0
        # Who is overdue sends nothing that counts: it is asked about by a session of its own.
        for (tenant_id, _), sid in self._overdue.items():
            pending.setdefault(tenant_id, {}).setdefault(sid, _Use())
        while pending:
            tenant_id, uses = pending.popitem()
            page = dict([uses.popitem() for _ in range(min(FLUSH_PAGE, len(uses)))])
            if uses:
                pending[tenant_id] = uses
            try:
                await self._flush_page(tenant_id, page)
            except BaseException:
                pending[tenant_id] = uses | page
                self._take_back(pending)
                raise

    async def _flush_page(self, tenant_id: TenantId, uses: dict[SessionId, _Use]) -> None:
        totals = await self._deadline.of(
            self._store.count_use(
                tenant_id, [SessionUse(sid=sid, records=use.records, bytes=use.bytes) for sid, use in uses.items()]
            )
        )
        overdue = {item.ref: item.sid for item in totals if item.is_overdue}
        for item in totals:
            self._known[item.sid] = _Use(item.records, item.bytes)
            self._known.move_to_end(item.sid)
            if item.ref not in overdue:
                self._overdue.pop((tenant_id, item.ref), None)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
        for ref, sid in overdue.items():
            self._overdue[tenant_id, ref] = sid
        while len(self._overdue) > OVERDUE_MAX:
            self._overdue.popitem(last=False)

    def _take_back(self, pending: dict[TenantId, dict[SessionId, _Use]]) -> None:
        for tenant_id, uses in pending.items():
            sessions = self._pending.setdefault(tenant_id, {})
            for sid, use in uses.items():
                if not use.records:
                    continue
                held = sessions.get(sid)
                if held is None:
                    held = sessions[sid] = _Use()
                    self._sessions += 1
                held.records += use.records
                held.bytes += use.bytes
                self._records += use.records
                self._bytes += use.bytes
