"""The longest wait for the store, the same for every call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from qflare.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


class Deadline:
    """Bounds waits for the store by one setting."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float) -> None:
        """Allow *seconds* for each wait."""
        self._seconds = seconds

    async def of(self, answer: Awaitable[T]) -> T:
        """
        Await *answer*.

        Raises:
            StoreUnavailableError: it did not come in time; whether a change was committed is then unknown.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await answer
        except TimeoutError:
            raise StoreUnavailableError(
                f"the store did not answer within {self._seconds:g} s; check the database, or raise store_timeout_s",
                outcome_unknown=True,
            ) from None
