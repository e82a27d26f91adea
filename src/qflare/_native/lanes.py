"""How wide the Keccak of this thread's batches runs, and a way for tests to take the narrower paths."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from qflare._native._qflare import lib
from qflare.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def forced_width(width: int) -> Iterator[None]:
    """
    Let this thread's batches advance *width* Keccak states at once: 1, 4 or 8; for tests.

    Raises:
        UsageError: no such width, or wider than this machine.
    """
    if type(width) is not int or width not in {1, 4, 8} or lib.qfl_lanes_force(width) != lib.QFL_OK:
        message = f"a width of {width} is not to be had; this machine has up to {lib.qfl_lanes_width()}: use 1, 4 or 8"
        raise UsageError(message)
    try:
        yield
    finally:
        # 0 is always accepted; a width that is nested in another is not restored, since no test needs it.
        lib.qfl_lanes_force(0)
