"""
Chain keys of many sessions in few blocks of wiped memory, a row each, instead of an object each.

A row belongs to whoever took it until he gives it back, which wipes it.  Blocks are made when rows run out and let go
when none of their rows is taken.
"""

from __future__ import annotations

from array import array
from typing import Final

from qflare.secret import SecretBytes, zeroize

BLOCK_ROWS: Final = 1024


class _Block:
    """Some rows, and which of them are free."""

    __slots__ = ("free", "memory")

    def __init__(self, size: int) -> None:
        # The view keeps the memory, which wipes itself when both are gone.
        self.memory: memoryview = SecretBytes.zeros(BLOCK_ROWS * size).view()
        self.free = array("H", range(BLOCK_ROWS - 1, -1, -1))


class KeyRows:
    """Rows of one size; taken and read by the event loop alone, given back from anywhere."""

    def __init__(self, size: int) -> None:
        """Hold nothing yet; *size* is of a row, in bytes."""
        self._size = size
        self._blocks: dict[int, _Block] = {}
        self._open: dict[int, None] = {}
        """Blocks with free rows."""
        self._returned: list[int] = []
        """Wiped rows that are not in their block's list yet."""

    def __len__(self) -> int:
        """Return how many rows are taken."""
        self._sort_in()
        return sum(BLOCK_ROWS - len(block.free) for block in self._blocks.values())

    @property
    def size_bytes(self) -> int:
        """Memory of all blocks."""
        return len(self._blocks) * BLOCK_ROWS * self._size

    def take(self, key: memoryview) -> int:
        """Copy *key* into a free row and return the row's number; the caller still owns and wipes what it gave."""
        self._sort_in()
        if not self._open:
            number = next(number for number in range(len(self._blocks) + 1) if number not in self._blocks)
            self._blocks[number] = _Block(self._size)
            self._open[number] = None
        number = next(iter(self._open))
        block = self._blocks[number]
        place = block.free.pop()
        if not block.free:
            del self._open[number]
        block.memory[place * self._size : (place + 1) * self._size] = key
        return number * BLOCK_ROWS + place

    def view(self, row: int) -> memoryview:
        """Return a view of a taken row."""
        at = row % BLOCK_ROWS * self._size
        return self._blocks[row // BLOCK_ROWS].memory[at : at + self._size]

    def give_back(self, row: int) -> None:
        """Wipe a taken row, which may be another's from then on."""
        zeroize(self.view(row))
        # The collector may call this from any thread and in the middle of anything, `take` included: an append is one
        # step, and the lists are changed by the loop alone.
        self._returned.append(row)

    def wipe(self) -> None:
        """Wipe every row, taken or not; rows stay with those who took them, as zeros."""
        for block in self._blocks.values():
            zeroize(block.memory)

    def _sort_in(self) -> None:
        while self._returned:
            number, place = divmod(self._returned.pop(), BLOCK_ROWS)
            block = self._blocks[number]
            block.free.append(place)
            if len(block.free) < BLOCK_ROWS:
                self._open[number] = None
            elif len(self._open) > 1:
                # Another block has room: this one is not kept for the next row.
                del self._blocks[number], self._open[number]
