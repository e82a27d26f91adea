"""Headings: what says in the log whose sessions are and when they were made (docs/audit.md, headings)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.model.event import EventSeverity, NewEvent, SecurityEventType
from qflare.protocol.new_event import new_event

if TYPE_CHECKING:
    from qflare.model.ids import TenantId


def session_heading(tenant_id: TenantId, now_s: int) -> NewEvent:
    """
    Return the entry that stands before the sessions of one transaction.

    A session's leaf names neither (H9), so what binds its row is this entry: its tenant and its time are theirs.

    Args:
        tenant_id: Whose the sessions are, 16 bytes.
        now_s: When they are made, POSIX seconds.
    """
    return new_event(
        SecurityEventType.SESSION_HEADING, EventSeverity.INFO, {}, tenant_id=tenant_id, occurred_at_ms=now_s * 1000
    )
