"""What the workers' detectors tell each other: what each has counted, and how far its clock is off."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from qflare.model.ids import WorkerId

SHARE_BYTES_MAX: Final = 2**20
"""Most bytes of a share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one worker counted between two exchanges; it counts once, by its worker and number."""

    worker_id: WorkerId
    number: int
    """Counts the worker's shares from 1 on, without a gap."""
    counts: bytes
    """As `monitor.tally` encodes them, 1 to `SHARE_BYTES_MAX` bytes."""
    written_at: datetime | None = field(default=None, compare=False)
    """When the database wrote it, by its clock; None of one that is on its way there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerClock:
    """How far one worker's clock is off."""

    worker_id: WorkerId
    offset_ms: int
    """Its clock less the database's."""
