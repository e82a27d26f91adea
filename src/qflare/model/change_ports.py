"""Ports to what changed, for workers that remember it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from qflare.model.change import Change, ChangePage


class ChangeListener(Protocol):
    """Hears of changes as they are committed."""

    async def listen(self, hear: Callable[[Change | None], None]) -> None:
        """
        Call *hear* for each change until cancelled, and with None when it is proven that messages arrive.

        Raises `StoreUnavailableError` when it hears no more: whatever came meanwhile is to be looked for.
        """


class ChangeStore(Protocol):
    """Devices and sessions that changed, for workers that remember them."""

    async def list_changes(self, since: int | None, *, limit: int) -> ChangePage:
        """Return what changed since the mark of the last page, some perhaps again; None reads only the mark."""

    async def drop_changes(self) -> int:
        """Delete changes older than a day; return how many."""

    def listener(self) -> ChangeListener | None:
        """Return what hears of changes, None where polling alone must do."""
