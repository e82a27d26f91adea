"""A manager over a store in memory: the short way for users' own tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.service.assembly import Place
from qflare.service.key_manager import QuantumKeyManager
from qflare.testing.keeper import MemoryKeeper
from qflare.testing.memory.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qflare.clock import Clock
    from qflare.manager.settings import ManagerSettings


@asynccontextmanager
async def memory_manager(
    *,
    clock: Clock | None = None,
    store: MemoryStore | None = None,
    keeper: MemoryKeeper | None = None,
    tenant: TenantId = DEFAULT_TENANT,
    config: ManagerSettings | None = None,
) -> AsyncIterator[QuantumKeyManager]:
    """
    Open a `QuantumKeyManager` with real cryptography and no PostgreSQL; for tests alone.

    Args:
        clock: What tells the time to manager and store, such as a `TurnableClock`; the machine's if not given.
        store: One that is shared, with *keeper*, by several managers or outlives this one; a fresh one if not given.
        keeper: Of *store*; a fresh one, wiped at the end, if not given.
        tenant: As for `QuantumKeyManager`.
        config: As for `QuantumKeyManager`; what it says of pools and keepers is about neither of these.
    """
    its_store = MemoryStore(clock) if store is None else store
    its_keeper = MemoryKeeper() if keeper is None else keeper
    place = Place(database=None, data_dir=None, keeper=its_keeper, store=its_store)
    try:
        async with QuantumKeyManager.at(place, tenant=tenant, config=config, clock=clock) as manager:
            yield manager
    finally:
        if keeper is None:
            its_keeper.wipe()
