"""Everything that a run's acts need at hand, opened by `run` and closed by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qflare.service.demo.attacks import Attacker
    from qflare.service.demo.coordinator import Coordinator
    from qflare.service.demo.crew import Crew
    from qflare.service.demo.data import DigitsSplit
    from qflare.service.demo.journal import Journal
    from qflare.service.demo.options import DemoOptions
    from qflare.service.demo.output import Output
    from qflare.service.demo.progress import Progress
    from qflare.service.demo.result import RotationRecord
    from qflare.service.demo.servers import Servers
    from qflare.service.demo.story import Story
    from qflare.service.key_manager import QuantumKeyManager


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is open during a run."""

    options: DemoOptions
    story: Story
    output: Output
    progress: Progress
    journal: Journal
    split: DigitsSplit
    manager: QuantumKeyManager
    """The operator's own; the workers have theirs over the same database."""
    dsn: str
    page_url: str | None
    """Where the live page of the run is, None unless somebody watches."""
    coordinator: Coordinator
    servers: Servers
    crew: Crew
    attacker: Attacker


@dataclass(slots=True)
class Tally:
    """What devices did so far."""

    handshakes: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each finished handshake by device id."""
    sids: dict[str, bytes] = field(default_factory=dict)
    """The session each device has now."""
    rounds: dict[str, list[int]] = field(default_factory=dict)
    sealed_bytes: dict[str, int] = field(default_factory=dict)
    deliveries: list[float] = field(default_factory=list)
    """Seconds from sending an update to its verified receipt."""
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    """Enrolment tokens, as the operator handed them out."""
    rotations: list[RotationRecord] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def note(self, device_id: str, text: str) -> None:
        """Add to what was special about a device."""
        before = self.notes.get(device_id)
        self.notes[device_id] = text if before is None else f"{before}; {text}"
