"""
What users' own tests need of QFLARE, with its real cryptography and without PostgreSQL (docs/testing.md).

Nothing here may serve devices: making a store is a `TestingOnlyWarning`, and no module of the package but these imports
this one, so that no setting, argument or command chooses any of it.
"""

from __future__ import annotations

from qflare.testing.clock import TurnableClock
from qflare.testing.device import FakeDevice
from qflare.testing.keeper import MemoryKeeper
from qflare.testing.link import ManagerLink
from qflare.testing.manager import memory_manager
from qflare.testing.memory.store import MemoryStore, TestingOnlyWarning

__all__ = [
    "FakeDevice",
    "ManagerLink",
    "MemoryKeeper",
    "MemoryStore",
    "TestingOnlyWarning",
    "TurnableClock",
    "memory_manager",
]
