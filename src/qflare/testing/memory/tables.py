"""All that the memory store holds, and the frame of its calls: one transaction each."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from qflare.clock import Clock
from qflare.errors import UsageError
from qflare.model.change import Change
from qflare.model.ids import DEFAULT_TENANT, ID_BYTES
from qflare.model.turn import TurnProgress
from qflare.model.two_person_control import TwoPersonControl
from qflare.protocol.log import Frontier
from qflare.testing.memory.constraints import require_ids
from qflare.testing.memory.journal import Cell, Journal, Table
from qflare.testing.memory.rows import (
    CallRow,
    ChangeRow,
    DeviceKeyRow,
    DeviceRow,
    MarkRow,
    ResponseRow,
    ServerKeyRow,
    SessionCount,
    SessionRow,
    TokenRow,
    Use,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from qflare.model.bucket import SealedBucket, SealedIdentity
    from qflare.model.event import AuditEntry, SignedCheckpoint
    from qflare.model.ids import (
        CallId,
        DeviceRef,
        IncidentId,
        RequestId,
        ResponseId,
        SessionId,
        StreamId,
        TenantId,
        TokenId,
        WorkerId,
    )
    from qflare.model.incident import DetectorState, Incident
    from qflare.model.key_record import KeyRecord
    from qflare.model.operator import Operator, Verifier
    from qflare.model.reply import SealedReplyKey
    from qflare.model.rotation import RotationPolicy
    from qflare.model.session import SealedChain
    from qflare.model.turn import SealedPage

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Tables:
    """What PostgreSQL's tables are, by the same nouns."""

    def __init__(self, clock: Clock) -> None:  # noqa: PLR0915 - a statement a table
        self.clock = clock
        self.process = os.getpid()
        self.journal = journal = Journal()
        self.tenants: Table[TenantId, str] = Table(journal)
        self.devices: Table[tuple[TenantId, DeviceRef], DeviceRow] = Table(journal)
        self.device_keys: Table[tuple[TenantId, DeviceRef, int, str], DeviceKeyRow] = Table(journal)
        self.psks: Table[tuple[TenantId, DeviceRef, int], KeyRecord] = Table(journal)
        """By psk version; the psk that stands lies with its device."""
        self.tokens: Table[tuple[TenantId, TokenId], TokenRow] = Table(journal)
        self.policies: Table[TenantId, RotationPolicy] = Table(journal)
        self.marks: Table[tuple[TenantId, DeviceRef], MarkRow] = Table(journal)
        self.uses: Table[tuple[TenantId, DeviceRef, int], Use] = Table(journal)
        self.identities: Table[int, SealedIdentity] = Table(journal)
        self.server_keys: Table[bytes, ServerKeyRow] = Table(journal)
        self.buckets: Table[int, SealedBucket] = Table(journal)
        self.bucket_records: Table[tuple[int, bytes], KeyRecord] = Table(journal)
        """By bucket and SHA-256 of its first announcement."""
        self.bucket_mark = Cell(journal, 0)
        self.expired_before = Cell(journal, 0)
        self.pulse = Cell(journal, 0)
        self.life = Cell(journal, os.urandom(ID_BYTES))
        self.turns: Table[int, TurnProgress] = Table(journal)
        self.leading: set[int] = set()
        """Buckets into which somebody turns just now."""
        self.handshakes: Table[tuple[int, TenantId, SessionId], bytes] = Table(journal)
        self.sessions: Table[SessionId, SessionRow] = Table(journal)
        self.session_counts: Table[tuple[TenantId, int], SessionCount] = Table(journal)
        self.chains: Table[tuple[int, TenantId, SessionId, int], SealedChain] = Table(journal)
        self.pages: Table[tuple[int, TenantId, SessionId], SealedPage] = Table(journal)
        self.streams: Table[tuple[int, TenantId, SessionId, int, StreamId], None] = Table(journal)
        self.reply_keys: Table[tuple[TenantId, SessionId, RequestId], SealedReplyKey] = Table(journal)
        self.entries: Table[int, AuditEntry] = Table(journal)
        self.nodes: Table[tuple[int, int], bytes] = Table(journal)
        self.leaf_pairs: Table[int, bytes] = Table(journal)
        self.head = Cell(journal, Frontier())
        self.headed_from: Cell[int | None] = Cell(journal, None)
        self.checkpoints: Table[int, SignedCheckpoint] = Table(journal)
        self.calls: Table[tuple[TenantId, CallId], CallRow] = Table(journal)
        self.changes: Table[int, ChangeRow] = Table(journal)
        self.incidents: Table[tuple[TenantId, IncidentId], Incident] = Table(journal)
        self.detector_states: Table[TenantId, DetectorState] = Table(journal)
        self.shares: Table[tuple[WorkerId, int], tuple[bytes, int]] = Table(journal)
        """What was counted, and when, by worker and number."""
        self.clocks: Table[WorkerId, tuple[int, int]] = Table(journal)
        """Offset, and when it was noted, by worker."""
        self.operators: Table[tuple[TenantId, str], Operator] = Table(journal)
        self.verifiers: Table[tuple[TenantId, str], Verifier] = Table(journal)
        self.responses: Table[tuple[TenantId, ResponseId], ResponseRow] = Table(journal)
        self.beats: Table[WorkerId, datetime] = Table(journal)
        self.two_person_controls: Table[TenantId, TwoPersonControl] = Table(journal)
        self.next_change = Cell(journal, 1)
        self.untold: list[Change] = []
        """Of the present transaction, told when it is committed."""
        self.hearers: list[Callable[[Change | None], None]] = []
        self.tenants.put(DEFAULT_TENANT, "default")


class Held:
    """A part of the store, on the tables that all parts share."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    @asynccontextmanager
    async def _transaction(self, *identifiers: bytes) -> AsyncIterator[Tables]:
        """
        Lend the tables for one transaction, whose block awaits nothing.

        Others run before it, as they do while PostgreSQL is asked: what races there races here.
        """
        require_ids(*identifiers)
        tables = self._tables
        if os.getpid() != tables.process:
            raise UsageError(
                "a memory store lives in one process and is for tests alone; workers share a PostgreSQL database"
            )
        await asyncio.sleep(0)
        tables.untold.clear()
        with tables.journal.transaction():
            yield tables
        for change in tables.untold:
            for hear in tuple(tables.hearers):
                hear(change)

    @property
    def _now(self) -> datetime:
        """The store's clock: what PostgreSQL's own is."""
        return EPOCH + timedelta(milliseconds=self._tables.clock.now_ms())

    def _note_change(self, tenant_id: TenantId, *, ref: DeviceRef | None = None, sid: SessionId | None = None) -> None:
        tables = self._tables
        number = tables.next_change.value
        change = Change(tenant_id=tenant_id, ref=ref, sid=sid)
        tables.changes.put(number, ChangeRow(change=change, at_s=tables.clock.now_s()))
        tables.untold.append(change)
        tables.next_change.put(number + 1)
