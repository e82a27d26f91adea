"""Opening at the first await: who opens, who waits, who closes, and a warning for who forgets."""

from __future__ import annotations

import asyncio
import warnings
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import Context
from typing import TYPE_CHECKING, Generic, TypeVar

from qflare.errors import KeyStateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Opening(Generic[T]):
    """
    A resource that opens itself when it is first needed, once, in one event loop.

    Whoever made it closes it.  Cancelling a caller that waits for the opening does not undo it for the others.
    """

    def __init__(self, name: str, opener: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        """Open nothing yet."""
        self._name = name
        self._opener = opener
        self._stack: AsyncExitStack | None = None
        self._value: T | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[T] | None = None
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        """Whether it has been opened and not closed."""
        return self._value is not None and not self._is_closed

    @property
    def value(self) -> T | None:
        """What was opened, None before and after."""
        return None if self._is_closed else self._value

    def held(self) -> T:
        """
        Return what was opened, while it closes too: what it accepted before ends with it.

        Raises:
            KeyStateError: nothing is open, or closing is over.
        """
        if self._value is None:
            raise KeyStateError(f"this {self._name} is closed: make a new one")
        return self._value

    async def get(self) -> T:
        """
        Return what is open, opening it first if need be.

        Raises:
            KeyStateError: it was closed.
            UsageError: it was opened in another event loop.
        """
        if self._is_closed:
            raise KeyStateError(f"this {self._name} is closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise UsageError(f"this {self._name} was opened in another event loop: make one for each loop")
        if self._value is not None:
            return self._value
        task = self._task
        if task is None:
            self._loop = loop
            # In nobody's context: what is opened outlives the request that needed it first.
            task = self._task = loop.create_task(self._open(), name=f"qflare-open-{self._name}", context=Context())
            task.add_done_callback(_look_at)
        try:
            return await asyncio.shield(task)
        except BaseException:
            # A failed opening may be tried again; one that only this caller gave up goes on for the others.
            if task.done() and self._task is task:
                self._task = None
            raise

    async def close(self) -> None:
        """Close what was opened; safe to call twice, or before anything was opened."""
        self._is_closed = True
        if self._task is not None:
            await asyncio.wait({self._task})
        stack, self._stack, self._task = self._stack, None, None
        if stack is not None:
            try:
                await stack.aclose()
            finally:
                self._value = None

    def warn_if_forgotten(self, owner: object) -> None:
        """Warn that *owner* is collected while it is open; called from its `__del__`."""
        if self.is_open:
            warnings.warn(
                f"unclosed {owner!r}: use async with, or await close()", ResourceWarning, source=owner, stacklevel=3
            )

    async def _open(self) -> T:
        async with AsyncExitStack() as stack:
            value = await stack.enter_async_context(self._opener())
            self._stack = stack.pop_all()
        self._value = value
        return value


def _look_at(task: asyncio.Task[T]) -> None:
    # Every caller may have been cancelled meanwhile; the failure shows again at the next attempt.
    if not task.cancelled():
        task.exception()
