"""What this worker saw, handed to whoever observes it; nobody does where detection is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qflare.model.observation import Observation, Observer


class Observations:
    """Passes observations on, whole batches at a time."""

    def __init__(self) -> None:
        """Know no observer yet."""
        self.observer: Observer | None = None

    @property
    def is_observed(self) -> bool:
        """Whether it is worth making observations at all."""
        return self.observer is not None

    def note(self, observations: list[Observation]) -> None:
        """Hand *observations* over."""
        if self.observer is not None and observations:
            self.observer.note(observations)
