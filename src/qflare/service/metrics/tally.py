"""The facts of all workers together: over the end of any of them, no counter goes back while the parent lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.service.metrics.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Mapping


class Tally:
    """What living workers told last, and what ended ones have left."""

    def __init__(self) -> None:
        """Begin with no worker."""
        self._last: dict[int, Facts] = {}
        """By process id."""
        self._left = Facts()

    def forget(self, worker: int) -> None:
        """Keep what an ended worker has counted; what it counted since it was last asked went with it."""
        told = self._last.pop(worker, None)
        if told is not None:
            self._left.join(told, counted_only=True)

    def take(self, told: Mapping[int, Facts | None]) -> Facts:
        """Take what workers told, None of one that is silent and whose last facts stand; return all together."""
        self._last.update({worker: facts for worker, facts in told.items() if facts is not None})
        together = Facts()
        together.join(self._left)
        for facts in self._last.values():
            together.join(facts)
        return together
