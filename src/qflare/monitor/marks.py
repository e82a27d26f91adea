"""What was drawn at random, remembered in a fixed table: the same again is a broken source (docs/detection.md)."""

from __future__ import annotations

from typing import NamedTuple

from qflare.monitor.columns import zero_integers
from qflare.monitor.parameters import MARKS_MAX


class Repeated(NamedTuple):
    """A mark that came before."""

    is_same: bool
    """The very same message again, not another one with the same mark."""
    owner: int
    """Whose it was the first time."""


def as_numbers(mark: bytes, other: bytes) -> tuple[int, int]:
    """Return what is remembered of a mark, and of what tells two messages with it apart: 64 bits each."""
    return int.from_bytes(mark[:8], "little") or 1, int.from_bytes(other[-8:], "little")


class RecentMarks:
    """
    Marks of one kind, by their first 64 bits: a mark stands until another falls in its place.

    Two that were drawn at random agree by chance once in 2^64 pairs.

    Args:
        places: How many are remembered, a power of two; 24 bytes each.
    """

    def __init__(self, places: int = MARKS_MAX) -> None:
        self._mask = places - 1
        self._marks = zero_integers("Q", places)
        self._others = zero_integers("Q", places)
        self._owners = zero_integers("Q", places)

    def note(self, mark: bytes, other: bytes, owner: int) -> Repeated | None:
        """Remember a mark; return what is known of it if it came before."""
        return self.note_numbers(*as_numbers(mark, other), owner)

    def note_numbers(self, key: int, told_apart: int, owner: int) -> Repeated | None:
        """As `note`, of what `as_numbers` returned."""
        place = key & self._mask
        if self._marks[place] == key:
            return Repeated(self._others[place] == told_apart, self._owners[place])
        self._marks[place], self._others[place], self._owners[place] = key, told_apart, owner
        return None
