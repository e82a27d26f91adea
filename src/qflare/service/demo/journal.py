"""What happened when in a run, and where the audit log has it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.model.event import SecurityEventType
from qflare.service.demo.result import EventKind, TimelineEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from qflare.model.event import AuditEntry
    from qflare.service.security_monitor import SecurityMonitor

_PAGE: Final = 100
_SEARCH_S: Final = 5.0
"""Refusals are logged beside the answer, a moment later."""
_POLL_S: Final = 0.05


class Journal:
    """The run's clock and its timeline."""

    def __init__(self) -> None:
        """Begin the run now."""
        self._began = time.monotonic()
        self._events: list[TimelineEvent] = []
        self._buckets: dict[int, int] = {}

    @property
    def now_s(self) -> float:
        """Return seconds since the start of the run."""
        return time.monotonic() - self._began

    @property
    def turns(self) -> int:
        """Return how many bucket turns were seen."""
        return len(self._buckets)

    @property
    def timeline(self) -> tuple[TimelineEvent, ...]:
        """Return what happened so far, in order."""
        return tuple(self._events)

    def add(
        self,
        kind: EventKind,
        title: str,
        detail: str = "",
        *,
        device_id: str | None = None,
        entry_index: int | None = None,
        at_s: float | None = None,
    ) -> None:
        """Write down something that happened now, or at *at_s*."""
        self._events.append(
            TimelineEvent(
                at_s=self.now_s if at_s is None else at_s,
                kind=kind,
                title=title,
                detail=detail,
                device_id=device_id,
                entry_index=entry_index,
            )
        )

    def add_turn(self, bucket: int) -> None:
        """Write down that *bucket* became current; `find_turns` looks up its log entry at the end."""
        self._buckets[bucket] = len(self._events)
        self.add(
            EventKind.BUCKET,
            "Bucket turn",
            f"Bucket {bucket} became current; keys of {bucket - 2} were destroyed.",
        )

    async def find_turns(self, monitor: SecurityMonitor) -> None:
        """Look up the log entry of each bucket turn."""
        async for entry in entries(monitor, first=0):
            if entry.event_type is SecurityEventType.BUCKET_TURN:
                bucket = event_data(entry).get("bucket")
                place = self._buckets.get(bucket) if isinstance(bucket, int) else None
                if place is not None and self._events[place].entry_index is None:
                    self._events[place] = replace(self._events[place], entry_index=entry.index)


async def entries(monitor: SecurityMonitor, *, first: int) -> AsyncIterator[AuditEntry]:
    """Yield the log's entries from index *first* on, as far as it goes now."""
    while page := await monitor.list_events(first=first, limit=_PAGE):
        for entry in page:
            yield entry
        first = page[-1].index + 1


async def find_event(
    monitor: SecurityMonitor,
    *,
    first: int,
    facts: Mapping[str, object],
    event_type: SecurityEventType | None = None,
    device_id: str | None = None,
) -> int | None:
    """
    Return the index of the first entry from *first* on whose data holds *facts*; None if none comes within 5 s.

    Args:
        monitor: Reads the log.
        first: Index to begin at.
        facts: What the event's data must hold.
        event_type: If given, what the event must be.
        device_id: If given, whom it must be about.
    """
    deadline = time.monotonic() + _SEARCH_S
    while True:
        async for entry in entries(monitor, first=first):
            data = event_data(entry)
            is_wanted = (
                event_type in (None, entry.event_type)
                and device_id in (None, entry.device_id)
                and all(data.get(name) == value for name, value in facts.items())
            )
            if is_wanted:
                return entry.index
        if time.monotonic() >= deadline:
            return None
        await asyncio.sleep(_POLL_S)


def event_data(entry: AuditEntry) -> dict[str, object]:
    """Return what an event says; nothing for a session's entry, which has no data."""
    if not entry.data:
        return {}
    data: object = json.loads(entry.data)
    return data if isinstance(data, dict) else {}
