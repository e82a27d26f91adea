"""What the monitor asks of whoever writes and signs the log, and of whoever runs its batches: two small ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qflare.errors import QflareError
    from qflare.model.event import LoggedEvent, SignedCheckpoint
    from qflare.model.ids import CallId, TenantId
    from qflare.protocol.new_event import PreparedEvent

T = TypeVar("T")


class EventLog(Protocol):
    """Appends events in batches and signs the head."""

    async def log_event(
        self, tenant_id: TenantId, event: PreparedEvent, *, call_id: CallId | None = None
    ) -> LoggedEvent:
        """Append one event and return where it stands, with its receipt; once for one change."""

    async def log_events(self, tenant_id: TenantId, events: Sequence[PreparedEvent]) -> list[LoggedEvent | QflareError]:
        """Append events in batches; one result or error each."""

    async def checkpoint(self) -> SignedCheckpoint:
        """Sign the log as it stands."""


class Runner(Protocol):
    """Runs slow work beside the event loop."""

    async def run(self, work: Callable[[], T], *, wipe: Callable[[T], None] | None = None) -> T:
        """Run *work* in a thread and return its result."""
