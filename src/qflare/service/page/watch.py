"""
One tenant's page kept up to date while somebody looks: one look for all who watch, and of it only what has changed.

A page is made of parts.  Each part has the number of the look that changed it last; who has seen number n gets the
parts changed since.  The numbers begin with a random word, so that those of another worker's life mean nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from contextvars import Context
from typing import TYPE_CHECKING, Final

from qflare.errors import QflareError
from qflare.primitives.random import random_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from qflare.service.markup import Markup
    from qflare.service.page.look import Look, Seen

PACE: Final = 9
"""Looks take a tenth of the time at most: after one of a second the next is nine seconds later."""
PAUSE_MAX_S: Final = 60.0
_log = logging.getLogger("qflare.service.page")


class Watch:
    """The parts of one tenant's page, and the loop that looks while somebody watches."""

    def __init__(self, look: Look, render: Callable[[Seen], Mapping[str, Markup]], *, refresh_s: float) -> None:
        """Look with *look*, make parts of it with *render*, every *refresh_s* seconds at most."""
        self.look = look
        self._render = render
        self._refresh_s = refresh_s
        self._life = random_bytes(4).hex()
        self._number = 0
        self._parts: dict[str, tuple[int, Markup]] = {}
        self.trouble: str | None = None
        """Why the last look failed; None if it did not."""
        self._told = asyncio.Condition()
        self._looking = asyncio.Lock()
        self._looked_at = 0.0
        self._took_s = 0.0
        self._watchers = 0
        self._loop: asyncio.Task[None] | None = None

    @property
    def mark(self) -> str:
        """Return what names the present state, as the id of an event."""
        return f"{self._life}-{self._number}"

    @property
    def parts(self) -> dict[str, Markup]:
        """Return every part as it is now."""
        return {name: part for name, (_, part) in self._parts.items()}

    def since(self, mark: str) -> dict[str, Markup]:
        """Return the parts changed since the state that *mark* names; all of them if it is none of ours."""
        life, _, number = mark.partition("-")
        seen = int(number) if life == self._life and number.isascii() and number.isdecimal() else -1
        return {name: part for name, (changed, part) in self._parts.items() if changed > seen}

    async def refresh(self) -> None:
        """
        Look now, unless the last look is fresh enough.

        Raises:
            QflareError: the look failed; what was seen before stays.
        """
        async with self._looking:
            if self._parts and time.monotonic() - self._looked_at < self._pause_s():
                return
            began = time.monotonic()
            try:
                seen = await self.look.see()
            except QflareError as failure:
                self.trouble = type(failure).__name__
                raise
            finally:
                self._looked_at = time.monotonic()
                self._took_s = self._looked_at - began
            self.trouble = None
            changed = {
                name: part for name, part in self._render(seen).items() if self._parts.get(name, (0, ""))[1] != part
            }
            if changed:
                self._number += 1
                self._parts.update({name: (self._number, part) for name, part in changed.items()})

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Keep the parts up to date while the block runs."""
        self._watchers += 1
        if self._loop is None:
            # In nobody's context: who came first is not the one it looks for.
            self._loop = asyncio.get_running_loop().create_task(self._run(), name="page", context=Context())
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                await self.close()

    async def changed(self, mark: str, trouble: str | None) -> None:
        """Wait until there is something that *mark* has not seen, or the trouble is another than *trouble*."""
        async with self._told:
            await self._told.wait_for(lambda: self.mark != mark or self.trouble != trouble)

    async def close(self) -> None:
        """End the loop."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.cancel()
            await asyncio.wait({loop})

    def _pause_s(self) -> float:
        return min(max(self._refresh_s, PACE * self._took_s), PAUSE_MAX_S)

    async def _run(self) -> None:
        while True:
            try:
                await self.refresh()
            except QflareError as failure:
                _log.warning("the page was not refreshed: %s", type(failure).__name__)
            except Exception:  # noqa: BLE001 - one look must not end all that follow
                # A fault of ours: pages say that they are not up to date, and the log has the traceback.
                self.trouble = "internal error"
                _log.exception("the page was not refreshed")
            async with self._told:
                self._told.notify_all()
            await asyncio.sleep(self._pause_s())
