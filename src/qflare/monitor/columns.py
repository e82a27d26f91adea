"""Columns of numbers in memory of a fixed size, which the system gives page by page as it is first touched."""

from __future__ import annotations

import mmap
from array import array
from typing import Literal


def zero_integers(code: Literal["H", "I", "Q"], count: int) -> memoryview[int]:
    """Return *count* unsigned integers of `array`'s type *code*, all 0."""
    return _memory(array(code).itemsize * count).cast(code)


def zero_floats(count: int) -> memoryview[float]:
    """Return *count* floats of 32 bits, all 0."""
    return _memory(4 * count).cast("f")


def _memory(size: int) -> memoryview[int]:
    # Not an array: that would touch, and so take, all of it at once.
    return memoryview(mmap.mmap(-1, size)).cast("B")
