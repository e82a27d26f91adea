"""The audit log in PostgreSQL: entries, tree nodes and signed heads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.errors import BatchError, ConflictError, EvidenceError, StoreUnavailableError
from qflare.model.call import fresh_call
from qflare.model.event import (
    RUN_MAX,
    AuditEntry,
    EventSeverity,
    LogAppend,
    LogHead,
    NewEvent,
    SealedKey,
    SecurityEventType,
    SessionRun,
)
from qflare.model.event import SignedCheckpoint as Checkpoint
from qflare.model.ids import CallId, DeviceId, TenantId
from qflare.stores.postgres.calls import CALL_ONCE, find_calls
from qflare.stores.postgres.columns import (
    as_time,
    as_uuid,
    as_uuids,
    hashed_append,
    joined,
    shortened,
    split_frontier,
)
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import asyncpg

    from qflare.stores.postgres.connections import Connections

_RACES_MAX: Final = 8
"""Most times that another caller with the same call ids may be first before an append gives up."""


class Log(Connected):
    """Tables audit_entry, log_head, log_node and checkpoint."""

    async def append_events(
        self, tenant_id: TenantId, events: Sequence[NewEvent], *, call_ids: Sequence[CallId | None] | None = None
    ) -> LogAppend:
        """
        Append *events* in order, in one transaction; those whose change was carried out before stand already.

        `indexes` says where each stands.
        """
        if not events:
            raise BatchError("an append needs at least one event")
        if call_ids is not None and len(call_ids) != len(events):
            raise BatchError(f"{len(events)} events need as many call ids or None, got {len(call_ids)}")
        entries = _Entries(self._connections, tenant_id, events, call_ids or [None] * len(events))
        return await self._connections.repeat(entries.attempt)

    async def log_head(self) -> LogHead:
        """
        Return size and frontier as committed.

        Raises:
            EvidenceError: there is no head.
        """
        return head_of(await self._connections.fetch("log_head"))

    async def list_entries(self, tenant_id: TenantId | None, *, first: int, limit: int) -> tuple[AuditEntry, ...]:
        """Return entries from index *first* on; None reads all tenants and needs the auditor's role."""
        if tenant_id is None:
            async with self._connections.transaction() as transaction:
                await transaction.execute("become_auditor")
                rows = await transaction.fetch("list_all_entries", first, limit)
        else:
            async with self._connections.transaction(tenant_id) as transaction:
                rows = await transaction.fetch("list_entries", transaction.tenant_id, first, limit)
        return tuple(entry_of(row) for row in rows)

    async def list_acts(
        self, tenant_id: TenantId, *, first: int, last: int, types: Collection[SecurityEventType]
    ) -> tuple[AuditEntry, ...]:
        """Return entries of *types* from index *first* to the one before *last*."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch(
                "list_acts", transaction.tenant_id, first, last, [each.value for each in types]
            )
        return tuple(entry_of(row) for row in rows)

    async def find_entry(self, tenant_id: TenantId, index: int) -> AuditEntry | None:
        """Return one entry of the tenant, or None."""
        found = await self.list_entries(tenant_id, first=index, limit=1)
        return found[0] if found and found[0].index == index else None

    async def find_subject_entries(self, tenant_id: TenantId, subject: bytes, *, limit: int) -> tuple[int, ...]:
        """Return the first *limit* indexes of a subject's entries that can still be opened."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("find_subject_entries", transaction.tenant_id, subject, limit)
        return tuple(row["log_index"] for row in rows)

    async def find_entry_keys(self, tenant_id: TenantId, indexes: Sequence[int]) -> dict[int, SealedKey]:
        """Return the keys of sealed entries by index, of those alone that can still be opened."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("find_entry_keys", transaction.tenant_id, list(indexes))
        return {row["log_index"]: SealedKey(row["subject"], row["sealed_key"]) for row in rows}

    async def count_named_entries(self, tenant_id: TenantId, device_id: DeviceId) -> int:
        """Return how many entries of type 2 name a device in their leaves: these nothing erases."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("count_named_entries", transaction.tenant_id, device_id)
        return 0 if row is None else row["entries"]

    async def erase_entries(
        self, tenant_id: TenantId, subject: bytes, indexes: Sequence[int], *, event: NewEvent
    ) -> None:
        """Destroy the keys of a subject's entries and write the *event* that says so, both or neither."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("drop_entry_keys", transaction.tenant_id, subject, list(indexes))
            if len(rows) != len(indexes):
                raise ConflictError("some of these entries were erased meanwhile: look again which are left")
            await transaction.write_events([event])

    async def find_run(self, tenant_id: TenantId, index: int) -> SessionRun:
        """
        Return the tenant's entry at *index* and the sessions' before it, of all tenants.

        A run under a heading is one tenant's, who reads it whole; only where it is not, the auditor's role is needed.
        """
        async with self._connections.transaction(tenant_id) as transaction:
            run = _run_of(await transaction.fetch("find_run", index, RUN_MAX), index)
        if run.head is not None:
            return run
        async with self._connections.transaction() as transaction:
            await transaction.execute("become_auditor")
            return _run_of(await transaction.fetch("find_run", index, RUN_MAX), index)

    async def find_nodes(self, nodes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return hashes of complete subtrees by (level, index); level 0 are the leaves."""
        if not nodes:
            return {}
        inner = [node for node in nodes if node[0] > 0]
        rows = await self._connections.fetch(
            "find_hashes",
            [level for level, _ in inner],
            [index for _, index in inner],
            [index for level, index in nodes if level == 0],
        )
        return {(level, index): node_hash for level, index, node_hash in rows}

    async def find_leaf_pairs(self, indexes: Sequence[int]) -> dict[int, bytes]:
        """Return both leaf hashes below nodes of level 1, 64 bytes, as kept with the node; of old ones none are."""
        if not indexes:
            return {}
        rows = await self._connections.fetch("find_leaf_pairs", list(indexes))
        return {row["node_index"]: row["leaf_pair"] for row in rows}

    async def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a signed head; the same size again keeps the first."""
        async with self._connections.transaction() as transaction:
            await transaction.execute(
                "save_checkpoint", checkpoint.size, checkpoint.root, checkpoint.time_s, checkpoint.signature
            )

    async def latest_checkpoint(self) -> Checkpoint | None:
        """Return the signed head of the largest size, or None."""
        row = await self._connections.fetch_row("latest_checkpoint")
        return None if row is None else checkpoint_of(row)

    async def list_checkpoints(self, *, first: int, limit: int) -> tuple[Checkpoint, ...]:
        """Return signed heads of *first* entries and more, the smallest first."""
        rows = await self._connections.fetch("list_checkpoints", first, limit)
        return tuple(checkpoint_of(row) for row in rows)

    async def list_archived_leaves(self, *, first: int, limit: int) -> tuple[tuple[int, bytes], ...]:
        """Return index and leaf hash of entries that were archived and dropped, from index *first* on."""
        async with self._connections.transaction() as transaction:
            await transaction.execute("become_auditor")
            rows = await transaction.fetch("list_archived_leaves", first, limit)
        return tuple((row["log_index"], row["leaf_hash"]) for row in rows)

    async def count_events(self, tenant_id: TenantId, *, since_s: int) -> dict[tuple[str, str], int]:
        """Return counts by (event type, severity) since a time."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("count_events", transaction.tenant_id, as_time(since_s))
        return {(row["event_type"], row["severity"]): row["events"] for row in rows}

    async def latest_events(
        self, tenant_id: TenantId, *, severities: Collection[EventSeverity], limit: int, among: int
    ) -> tuple[int, ...]:
        """Return where the newest entries but sessions' and headings' stand, newest first, *among* the last so many."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch(
                "latest_events", transaction.tenant_id, limit, among, [each.value for each in severities]
            )
        return tuple(row["log_index"] for row in rows)


class _Entries:
    """One append on its way, over all its attempts."""

    def __init__(
        self,
        connections: Connections,
        tenant_id: TenantId,
        events: Sequence[NewEvent],
        call_ids: Sequence[CallId | None],
    ) -> None:
        self._connections = connections
        self._tenant_id = tenant_id
        self._events = events
        self._changes = call_ids
        self._batch = fresh_call()
        self._given = list(dict.fromkeys(change for change in call_ids if change is not None))
        self._may_stand = bool(self._given)
        self._sent: list[int] = []
        """Places of the events that the last attempt appends."""

    async def attempt(self) -> LogAppend:
        for _ in range(_RACES_MAX):
            found: dict[CallId, int] = {}
            if self._may_stand:
                found = await find_calls(self._connections, self._tenant_id, [self._batch, *self._given])
            self._may_stand = True
            first = found.pop(self._batch, None)
            if first is not None:
                # An earlier attempt was committed: what it sent stands from there on.
                return self._whole(found, first)
            self._sent = self._lacking(found)
            if not self._sent:
                return self._whole(found, 0)
            try:
                row = await self._append()
            except ConflictError as refusal:
                if refusal.constraint != CALL_ONCE:
                    raise
                # Another caller with one of these ids was committed meanwhile: look again.
                continue
            append = hashed_append(row, [self._events[place].leaf_hash for place in self._sent])
            if append is not None:
                return replace(append, indexes=self._indexes(found, append.first_index))
        raise StoreUnavailableError("the same changes are being made elsewhere; retry with the same ids")

    async def _append(self) -> asyncpg.Record:
        named = [(number, change) for number, place in enumerate(self._sent) if (change := self._changes[place])]
        events = [self._events[place] for place in self._sent]
        # The driver takes a microsecond for each value of a column: most are alike, and the others go as one.
        types, severities, device_ids, data, leaves, hashes, times_ms, stored, keys = zip(*events, strict=True)
        keyed = [(number, key) for number, key in enumerate(keys) if key is not None]
        rows_data, data_edges = joined([each if row is None else row for each, row in zip(data, stored, strict=True)])
        leaf_data, leaf_edges = joined(leaves)
        rows = await self._connections.attempt(
            "append_events",
            as_uuid(self._tenant_id),
            [each._value_ for each in shortened(types)],
            [each._value_ for each in shortened(severities)],
            # Of entry type 3 the device stands in what is stored, sealed.
            shortened([each if row is None else None for each, row in zip(device_ids, stored, strict=True)]),
            rows_data,
            data_edges,
            leaf_data,
            leaf_edges,
            b"".join(hashes),
            shortened(times_ms),
            [number for number, _ in keyed],
            b"".join([part for _, key in keyed for part in key]),
            as_uuids([self._batch, *(change for _, change in named)]),
            [0, *(number for number, _ in named)],
        )
        return rows[0]

    def _lacking(self, found: Mapping[CallId, int]) -> list[int]:
        """Return the places of events that do not stand yet; of one id given twice the first."""
        taken = set(found)
        lacking: list[int] = []
        if not self._given:
            return list(range(len(self._events)))
        for place, change in enumerate(self._changes):
            if change is None or change not in taken:
                lacking.append(place)
            if change is not None:
                taken.add(change)
        return lacking

    def _whole(self, found: Mapping[CallId, int], first: int) -> LogAppend:
        return LogAppend(first_index=0, old_frontier=(), leaf_hashes=(), indexes=self._indexes(found, first))

    def _indexes(self, found: Mapping[CallId, int], first: int) -> tuple[int, ...]:
        """Return where each event stands: known by its change, or sent as one of those from *first* on."""
        if not self._given:
            return tuple(range(first, first + len(self._sent)))
        places = {place: first + number for number, place in enumerate(self._sent)}
        known = dict(found)
        for place, index in places.items():
            change = self._changes[place]
            if change is not None:
                known.setdefault(change, index)
        return tuple(places[place] if change is None else known[change] for place, change in enumerate(self._changes))


def checkpoint_of(row: asyncpg.Record) -> Checkpoint:
    """Return a signed head as the database holds it."""
    return Checkpoint(size=row["size"], root=row["root"], time_s=row["time_s"], signature=row["signature"])


def head_of(rows: Sequence[asyncpg.Record]) -> LogHead:
    """Return the head that was read, and raise `EvidenceError` where its row is gone."""
    if not rows:
        raise EvidenceError("the log's head was deleted: every append moves it, and nothing takes it away", index=0)
    (row,) = rows
    return LogHead(size=row["size"], frontier=split_frontier(row["frontier"]), headed_from=row["headed_from"])


def _run_of(rows: Sequence[asyncpg.Record], index: int) -> SessionRun:
    """Return what stands before *index* without a gap, of rows with the last one first."""
    run = [row for place, row in enumerate(rows) if row["log_index"] == index - place][::-1]
    leaves = tuple(row["leaf_data"] for row in run)
    head = entry_of(run[0]) if run and not run[0]["is_session"] else None
    return SessionRun(index + 1 - len(run), leaves, head)


def entry_of(row: asyncpg.Record) -> AuditEntry:
    """
    Return an entry as the database holds it.

    Raises:
        EvidenceError: its type or severity is none that there is.
    """
    device_id = row["device_id"]
    try:
        event_type, severity = SecurityEventType(row["event_type"]), EventSeverity(row["severity"])
    except ValueError:
        index = row["log_index"]
        raise EvidenceError(
            f"entry {index} was altered: its event type or severity is none that was ever written", index=index
        ) from None
    return AuditEntry(
        index=row["log_index"],
        entry_type=row["entry_type"],
        tenant_id=TenantId(row["tenant_id"].bytes),
        leaf_hash=row["leaf_hash"],
        leaf_data=row["leaf_data"],
        event_type=event_type,
        severity=severity,
        device_id=None if device_id is None else DeviceId(device_id),
        data=row["data"],
        recorded_at=row["recorded_at"],
        sealed_key=None if row["sealed_key"] is None else SealedKey(row["subject"], row["sealed_key"]),
    )
