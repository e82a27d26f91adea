"""What a run of the demo is asked to do, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from qflare.errors import ConfigError

DEVICES_MIN: Final = 4
"""One sleeps, one is revoked, one is attacked, and one does nothing special."""
DEVICES_MAX: Final = 200
ROUNDS_MIN: Final = 4
ROUNDS_MAX: Final = 1000
WIDTH_MIN_S: Final = 2
WIDTH_MAX_S: Final = 300
PROCESSES_MAX: Final = 10
"""Device processes; more devices share them."""
SEED_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """
    A run's size and place.

    Attributes:
        devices: 4 to 200.
        rounds: 4 to 1,000.
        folder: Where data, logs, evidence and the report go; an earlier run's output there is replaced.
        seed: Of the data split and of training, 0 to 2^32 - 1.
        width_s: Seconds of a bucket, 2 to 300; short, so that a run sees several turns.
        is_watched: Whether the live page is shown from the beginning, and kept open after the end until a signal.

    Raises:
        ConfigError: a value is out of range; the message names it.
    """

    devices: int = 10
    rounds: int = 20
    folder: Path = field(default_factory=lambda: Path("demo-output"))
    seed: int = 7
    width_s: int = 6
    is_watched: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name, low, high in (
            ("devices", DEVICES_MIN, DEVICES_MAX),
            ("rounds", ROUNDS_MIN, ROUNDS_MAX),
            ("seed", 0, SEED_MAX),
            ("width_s", WIDTH_MIN_S, WIDTH_MAX_S),
        ):
            value: object = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"the demo takes {name} from {low} to {high}, got {value!r}")

    @property
    def processes(self) -> int:
        """Return how many processes the devices run in."""
        return min(self.devices, PROCESSES_MAX)
