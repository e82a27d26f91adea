"""What the parts of the key manager have in common: whose devices they are about, and the engine behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qflare.manager.log import Log
    from qflare.model.ids import TenantId
    from qflare.service.assembly import Engine


class TenantView(ABC):
    """One tenant's view of a running engine."""

    @property
    @abstractmethod
    def tenant(self) -> TenantId:
        """Whose devices the calls by name are about, 16 bytes."""

    @abstractmethod
    async def _engine(self) -> Engine:
        """Return the running engine, opening it first if need be."""

    async def _log(self) -> Log:
        """Return the log under which changes are answered (`covered`), of those that end while all closes too."""
        return (await self._engine()).foundation.log
