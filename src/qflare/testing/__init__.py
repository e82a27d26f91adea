"""
What users' own tests need of QFLARE, with its real cryptography and without PostgreSQL (docs/testing.md).

Nothing here may serve devices: making a store is a `TestingOnlyWarning`, and nothing of the package below imports this
module, so that no setting, argument or command chooses any of it.
"""

from __future__ import annotations

from qflare.testing.memory.store import MemoryStore, TestingOnlyWarning

__all__ = ["MemoryStore", "TestingOnlyWarning"]
