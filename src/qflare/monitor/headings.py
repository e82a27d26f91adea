"""
Headings: in one pass over the log, whether each session's row says what the entry before its run says.

A session's leaf names neither tenant nor time (PROTOCOL H9): that both are the heading's binds these two columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qflare.model.event import SESSION_ENTRY, SecurityEventType

if TYPE_CHECKING:
    from qflare.model.ids import TenantId


@dataclass(slots=True)
class Headings:
    """What the pass has read last; of each entry it is told after the entry was checked against its own leaf."""

    tenant_id: TenantId | None = None
    """Of the heading under which the next sessions stand; None if the last entry that was no session is none."""
    recorded_at_ms: int | None = None
    first: int | None = None
    """Index of the first heading that was read: from it on every session stands under one."""

    def problem_of(
        self,
        index: int,
        entry_type: int,
        event_type: SecurityEventType,
        *,
        tenant_id: TenantId,
        recorded_at_ms: int | None,
    ) -> str | None:
        """
        Take the next entry and return what is wrong with its row, if anything is.

        Args:
            index: Where it stands.
            entry_type: 1 of a session.
            event_type: What another one is about.
            tenant_id: As its row says.
            recorded_at_ms: As its row says, Unix milliseconds; None for a time that no entry was ever written with.
        """
        if entry_type != SESSION_ENTRY:
            is_heading = event_type is SecurityEventType.SESSION_HEADING
            self.tenant_id = tenant_id if is_heading else None
            self.recorded_at_ms = recorded_at_ms if is_heading else None
            if is_heading and self.first is None:
                self.first = index
            return None
        return misfit(
            None if self.tenant_id is None else (self.tenant_id, self.recorded_at_ms),
            (tenant_id, recorded_at_ms),
            is_due=self.first is not None,
        )


def misfit(
    heading: tuple[TenantId, int | None] | None, row: tuple[TenantId, int | None], *, is_due: bool
) -> str | None:
    """
    Return what is wrong with the row of a session under a heading, None if nothing is.

    Args:
        heading: Tenant and Unix milliseconds of the heading, None if the session stands under none.
        row: The same of the session's row.
        is_due: Whether it has to stand under one.
    """
    if heading is None:
        return "no heading says whose session it is and when it was made" if is_due else None
    for name, stated, stored in zip(("tenant", "time"), heading, row, strict=True):
        if stated != stored:
            return f"its column {name!r} is not what the heading of its sessions says"
    return None
