"""
Repeating what a lost connection interrupted: in this one place, for every call of the store (decision 0031).

Only calls that end once however often they are made come here: look-ups, changes with a key of their own, and changes
that carry a call id.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final, TypeVar

from qflare.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

PAUSE_FIRST_S: Final = 0.02
PAUSE_MAX_S: Final = 0.5
_JITTER: Final = 1 << 16
_PASSING: Final = ("08", "57P01", "57P02", "57P03", "40001", "40P01")
"""A connection lost or refused, a server that ends or starts, a meeting of two transactions."""


class Attempts:
    """
    Repeats a call while connections are lost, with jittered pauses that double, for a bounded time.

    What waited out a timeout, a disk that is full or a database that is read-only is not repeated: its caller has
    waited long enough, or would wait in vain.  A caller's own deadline ends the attempts as any wait: by cancelling.
    """

    def __init__(self, *, for_s: float, is_over: Callable[[], bool]) -> None:
        """Repeat for *for_s* seconds at most, and not at all once *is_over* says that the store closes."""
        self._for_s = for_s
        self._is_over = is_over

    async def of(self, call: Callable[[], Awaitable[T]]) -> T:
        """
        Await *call*, again if need be.

        Raises:
            StoreUnavailableError: the last attempt's; its outcome is unknown if that of any attempt is.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._for_s
        pause_s = PAUSE_FIRST_S
        is_unknown = False
        while True:
            try:
                return await call()
            except StoreUnavailableError as failure:
                failure.outcome_unknown = is_unknown = is_unknown or failure.outcome_unknown
                is_passing = (failure.sqlstate or "").startswith(_PASSING)
                if not is_passing or loop.time() + pause_s >= until or self._is_over():
                    raise
            # Half of the pause at least: whoever lost the same server must not come back in the same instant.
            await asyncio.sleep(pause_s * (1 + secrets.randbelow(_JITTER) / _JITTER) / 2)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
