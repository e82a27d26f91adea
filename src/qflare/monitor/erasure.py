"""
Erasure of a subject in the log: the keys of its entries are destroyed, and an entry says of which.

The erasing entry names indexes, never the subject: it stays when the subject is gone.  The check of the log refuses an
entry whose key is gone and of which no later entry says that it was erased.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError
from qflare.model.event import FIELDS_ENTRY, EventSeverity, SecurityEventType
from qflare.primitives.random import random_bytes
from qflare.protocol.entry import open_stored
from qflare.protocol.new_event import new_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qflare.clock import Clock
    from qflare.model.erasure_ports import ErasureStore
    from qflare.model.event import AuditEntry
    from qflare.model.ids import DeviceId, TenantId
    from qflare.monitor.subject import SubjectVault

WHAT: Final = "log entries erased"
"""The `what` of an erasing entry; nobody else may write it."""
ARCHIVED: Final = "log entries archived"
"""The `what` of an entry that tells of an archive; the same holds for it, and the database reads it."""
_CHUNK: Final = 1000
"""Entries that one erasing entry names."""
_PART_MAX: Final = 40
"""Longest range: two indexes of 63 bits."""
_COUNT_MAX: Final = 10**7
"""Most entries that an erasing entry is read to name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasurePlan:
    """What erasing a device in the log would do, or did."""

    entries: int
    """Entries about it that can be opened, whose keys are destroyed."""
    mentions: int
    """Incidents and responses that name it, in which an alias takes its place."""
    named: int
    """Entries of type 2 that name it for good: nothing erases what the leaf itself says."""


async def plan_erasure(
    tenant_id: TenantId, device_id: DeviceId, *, store: ErasureStore, vault: SubjectVault
) -> ErasurePlan:
    """Say what `erase_device` would do, and change nothing."""
    subject = vault.subject(tenant_id, device_id)
    found = await store.find_subject_entries(tenant_id, subject, limit=_COUNT_MAX)
    return ErasurePlan(
        entries=len(found),
        mentions=await store.count_mentions(tenant_id, device_id),
        named=await store.count_named_entries(tenant_id, device_id),
    )


async def erase_device(
    tenant_id: TenantId, device_id: DeviceId, *, store: ErasureStore, vault: SubjectVault, clock: Clock
) -> ErasurePlan:
    """
    Destroy the keys of all entries about a device that stand now, some at a time, with an entry each time to say so.

    Called again it goes on where it was interrupted, and does nothing where nothing is left.

    Raises:
        ConflictError: somebody else erases the same entries just now; call again.
        StoreUnavailableError: the store did not answer; call again.
    """
    subject = vault.subject(tenant_id, device_id)
    erased = 0
    while indexes := await store.find_subject_entries(tenant_id, subject, limit=_CHUNK):
        event = new_event(
            SecurityEventType.OPERATOR_ACTION,
            EventSeverity.WARNING,
            {"what": WHAT, "count": len(indexes), "indexes": encode_indexes(indexes)},
            tenant_id=tenant_id,
            occurred_at_ms=clock.now_ms(),
        )
        await store.erase_entries(tenant_id, subject, indexes, event=event)
        erased += len(indexes)
    # Last: while an entry can be opened, somebody may still want to see what was done about it.
    event = new_event(
        SecurityEventType.OPERATOR_ACTION,
        EventSeverity.WARNING,
        {"what": "incidents and responses erased"},
        tenant_id=tenant_id,
        occurred_at_ms=clock.now_ms(),
    )
    # By chance, and another each time: nobody tells by it whose it was.
    alias = f"erased-{random_bytes(8).hex()}"
    mentions = await store.erase_mentions(tenant_id, device_id, alias=alias, event=event)
    named = await store.count_named_entries(tenant_id, device_id)
    return ErasurePlan(entries=erased, mentions=mentions, named=named)


def encode_indexes(indexes: Sequence[int]) -> str:
    """Return rising indexes as ranges, such as ``3-5,9``."""
    ranges: list[list[int]] = []
    for index in indexes:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def erased_by(entry: AuditEntry) -> Iterator[int]:
    """Give the indexes that an entry says were erased; none for any entry but an erasing one."""
    stored = entry.data if entry.stored is None else entry.stored
    if entry.entry_type != FIELDS_ENTRY or entry.event_type is not SecurityEventType.OPERATOR_ACTION:
        return
    data: object = None
    try:
        opening = open_stored(entry.tenant_id, stored)
        data = None if opening is None else json.loads(opening.data)
    except (DecodeError, ValueError, RecursionError):
        # A row that was altered tells of nothing; that it was altered, the check of it says.
        return
    if not isinstance(data, dict) or data.get("what") != WHAT:
        return
    budget = _COUNT_MAX
    for part in str(data.get("indexes", "")).split(","):
        first, _, last = part.partition("-")
        # Only what `encode_indexes` writes: another spelling names nothing, and its entries stay unexplained.
        if len(part) > _PART_MAX or not first.isdecimal() or not (last or first).isdecimal():
            return
        size = int(last or first) - int(first) + 1
        budget -= size
        if size < 1 or budget < 0:
            return
        yield from range(int(first), int(last or first) + 1)
