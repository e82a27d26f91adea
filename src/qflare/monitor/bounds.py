"""Between which entries the first bad one stands, by signed heads and by what others hold; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qflare.monitor.known import Known
    from qflare.protocol.log import Node


class Bounds:
    """What a pass over the entries showed to be right or wrong."""

    def __init__(self, known: Known) -> None:
        """Compare with what is *known* from outside."""
        self._known = known
        self.low = 0
        """Entries before this one are right: they stand under a head that was signed and holds."""
        self.failing: int | None = None
        """Size of the first signed head whose root is not that of the entries."""
        self._right: list[tuple[int, int]] = []
        self._wrong: list[tuple[int, int]] = []

    def begin(self, size: int) -> None:
        """Note that the entries before *size* stand under a head that was kept."""
        self.low = max(self.low, size)

    def note_head(self, size: int, *, holds: bool) -> None:
        """Note whether the root at *size* is the one that a key which is trusted signed; heads in their order."""
        if self.failing is not None:
            return
        if holds:
            self.low = max(self.low, size)
        else:
            self.failing = size

    def compare(self, node: Node, computed: bytes) -> None:
        """Compare a node, as computed from the entries, with the one that others show."""
        true = self._known.nodes.get(node)
        if true is not None:
            (self._right if true == computed else self._wrong).append(range_of(node))

    @property
    def is_contradicted(self) -> bool:
        """Whether something that others show is not so."""
        return bool(self._wrong)

    @property
    def is_bad(self) -> bool:
        """Whether a signed head or something that others show is not so."""
        return self.failing is not None or self.is_contradicted

    def narrow(self, low: int, high: int) -> tuple[int, int]:
        """Take from a range what is shown to be right; the first bad entry is not behind a node that is wrong."""
        for _, last in self._wrong:
            high = min(high, last)
        for first, last in sorted(self._right):
            if first <= low <= last:
                low = last + 1
        for first, last in sorted(self._right, key=lambda each: each[1], reverse=True):
            if first <= high <= last:
                high = first - 1
        return (low, high) if low <= high else (self.low, max(self.low, high))


def range_of(node: Node) -> tuple[int, int]:
    """Return the first and the last leaf below a node."""
    level, position = node
    return position << level, ((position + 1) << level) - 1
