"""Changes that others must hear of: listed for those who poll, told at once to those who listen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from qflare.model.change import Change, ChangePage
from qflare.testing.memory.tables import Held

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.testing.memory.tables import Tables

_KEPT_S: Final = 86_400
_PROVEN_EVERY_S: Final = 10.0


class Changes(Held):
    """Devices and sessions that changed."""

    async def list_changes(self, since: int | None, *, limit: int) -> ChangePage:
        """Return what changed since the mark of the last page; None reads only where to begin."""
        async with self._transaction() as tables:
            mark, bucket = tables.next_change.value, tables.bucket_mark.value
            if since is None:
                return ChangePage(mark=mark, changes=(), is_cut=False, bucket=bucket)
            found = [row.change for number, row in tables.changes.items() if number >= since]
            return ChangePage(mark=mark, changes=tuple(found[:limit]), is_cut=len(found) > limit, bucket=bucket)

    async def drop_changes(self) -> int:
        """Delete changes older than a day; return how many."""
        async with self._transaction() as tables:
            before = tables.clock.now_s() - _KEPT_S
            old = {number for number, row in tables.changes.items() if row.at_s < before}
            return tables.changes.drop_all(where=old.__contains__)

    def listener(self) -> ChangeListener:
        """Return what hears of changes as they are committed."""
        return ChangeListener(self._tables)


class ChangeListener:
    """Hears of changes of one store."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def listen(self, hear: Callable[[Change | None], None]) -> None:
        """Call *hear* for each change until cancelled, and with None now and then: it always hears."""
        self._tables.hearers.append(hear)
        try:
            while True:
                hear(None)
                await asyncio.sleep(_PROVEN_EVERY_S)
        finally:
            self._tables.hearers.remove(hear)
