"""The whole store in memory: its parts by noun, put together."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from qflare.clock import Clock, SystemClock
from qflare.testing.memory.calls import Calls
from qflare.testing.memory.chains import Chains
from qflare.testing.memory.changes import Changes
from qflare.testing.memory.devices import Tenants
from qflare.testing.memory.identity import Identities
from qflare.testing.memory.incidents import Incidents
from qflare.testing.memory.key_records import KeyRecords
from qflare.testing.memory.log import Log
from qflare.testing.memory.operators import Operators
from qflare.testing.memory.reply_keys import ReplyKeys
from qflare.testing.memory.responses import Responses
from qflare.testing.memory.restores import Restores
from qflare.testing.memory.rotations import Rotations
from qflare.testing.memory.shares import Shares
from qflare.testing.memory.statistics import Statistics
from qflare.testing.memory.tables import Tables
from qflare.testing.memory.tokens import Tokens
from qflare.testing.memory.turns import Turns
from qflare.testing.memory.two_person_control import TwoPersonControls

if TYPE_CHECKING:
    from qflare.model.ports import Store


class TestingOnlyWarning(UserWarning):
    """Something was made that is for tests alone and must never serve devices."""

    __test__ = False


class MemoryStore(
    Responses,
    Identities,
    Tenants,
    Tokens,
    Rotations,
    Chains,
    Turns,
    ReplyKeys,
    Restores,
    Log,
    Calls,
    Statistics,
    KeyRecords,
    Changes,
    Incidents,
    Shares,
    Operators,
    TwoPersonControls,
):
    """
    `model.ports.Store` in the memory of one process, for tests alone: what it held is gone with it.

    It passes the contract that PostgreSQL passes (docs/testing.md), row-level security included: a method with a tenant
    sees no other's rows.  Making one is a `TestingOnlyWarning`; using it in another process is refused.

    Args:
        clock: What PostgreSQL's own clock is; the machine's if not given.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        warnings.warn(
            "this store is in memory and for tests alone: no device of yours may depend on it",
            TestingOnlyWarning,
            stacklevel=2,
        )
        super().__init__(Tables(clock or SystemClock()))

    async def check(self) -> None:
        """Do nothing but look that it is used where it was made: it is always there, and has the right schema."""
        async with self._transaction():
            pass

    def pool_statistics(self) -> None:
        """Return None: there are no connections."""

    async def close(self) -> None:
        """Do nothing: whoever made the store may open another manager over it."""

    def __repr__(self) -> str:
        """Say what it is and how much is in it."""
        return f"<MemoryStore with {len(self._tables.devices)} devices and {len(self._tables.entries)} log entries>"


if TYPE_CHECKING:

    def _fits_the_port(store: MemoryStore) -> Store:
        return store
