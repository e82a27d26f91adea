"""Changes by id: each is carried out once, and whoever repeats one gets its outcome (decision 0031)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import ConflictError, KeyStateError, StoreUnavailableError
from qflare.model.ids import CallId
from qflare.stores.postgres.buckets import EMPTYING_LOCK_TIMEOUT
from qflare.stores.postgres.columns import as_uuid, as_uuids
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qflare.model.ids import TenantId
    from qflare.stores.postgres.connections import Connections

CALL_ONCE: Final = "call_once"
"""The constraint that refuses what was carried out before."""


async def find_calls(connections: Connections, tenant_id: TenantId, changes: Sequence[CallId]) -> dict[CallId, int]:
    """Return the outcomes of those that were carried out; one attempt."""
    rows = await connections.attempt("find_calls", as_uuid(tenant_id), as_uuids(changes))
    return {CallId(row["call_id"].bytes): row["outcome"] for row in rows}


async def carried_out(
    connections: Connections,
    tenant_id: TenantId,
    change: CallId,
    call: Callable[[], Awaitable[int]],
    *,
    is_given: bool,
) -> int:
    """
    Carry *change* out once and return its outcome, that of the first time if it was carried out before.

    Args:
        connections: The store's.
        tenant_id: Whose change it is.
        change: Its id, which *call* notes in the transaction that carries it out.
        call: One attempt; returns the outcome.
        is_given: The caller chose the id, so that it may have been carried out before the first attempt.
    """
    may_stand = is_given

    async def attempt() -> int:
        nonlocal may_stand
        if may_stand and (found := await find_calls(connections, tenant_id, [change])):
            return found[change]
        is_first, may_stand = not may_stand, True
        try:
            return await call()
        except (ConflictError, KeyStateError):
            # Another attempt may have committed between the look and the call, and changed what the call met.
            found = {} if is_first else await find_calls(connections, tenant_id, [change])
            if not found:
                raise
            return found[change]

    return await connections.repeat(attempt)


class Calls(Connected):
    """Table call, as a whole."""

    async def find_calls(self, tenant_id: TenantId, changes: Sequence[CallId]) -> dict[CallId, int]:
        """Return the outcomes of those of *changes* that were carried out."""
        if not changes:
            return {}
        return await self._connections.repeat(partial(find_calls, self._connections, tenant_id, changes))

    async def forget_calls(self) -> bool:
        """Empty what is a day old or older; False if it could not be had in time and stays until the next call."""
        try:
            async with self._connections.transaction() as transaction:
                await transaction.execute("set_lock_timeout", EMPTYING_LOCK_TIMEOUT)
                await transaction.execute("empty_call_slots")
        except StoreUnavailableError:
            return False
        return True
