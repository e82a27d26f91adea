"""Two-person control in PostgreSQL; what it refuses is refused by triggers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import IllegalTransitionError
from qflare.model.incident import REVOKED
from qflare.model.two_person_control import NEVER_ON, TOO_FEW, TwoPersonControl
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    import asyncpg

    from qflare.model.event import NewEvent
    from qflare.model.ids import TenantId
    from qflare.stores.postgres.connections import Transaction


class TwoPersonControls(Connected):
    """Table two_person_control."""

    async def find_two_person_control(self, tenant_id: TenantId) -> TwoPersonControl:
        """Return how it stands."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("find_two_person_control", transaction.tenant_id)
        return _control(row)

    async def require_two_persons(self, tenant_id: TenantId, *, by: str, event: NewEvent) -> TwoPersonControl:
        """Turn it on, or forget that somebody asked for its end."""

        async def require() -> TwoPersonControl:
            async with self._connections.transaction(tenant_id) as transaction:
                found = await transaction.fetch_row("lock_two_person_control", transaction.tenant_id)
                if found is not None and found["is_on"] and found["off_by"] is None:
                    return _control(found)
                counted = await transaction.fetch_row("count_active_operators", transaction.tenant_id)
                if counted is None or counted["operators"] < 2:  # noqa: PLR2004 - two persons
                    raise IllegalTransitionError(TOO_FEW)
                row = await transaction.fetch_row("require_two_persons", transaction.tenant_id, by)
                await _require_active(transaction, by)
                await transaction.write_events([event])
            return _control(row)

        return await self._connections.repeat(require)

    async def allow_one_person(
        self, tenant_id: TenantId, *, by: str, asked: NewEvent, ended: NewEvent
    ) -> TwoPersonControl:
        """Note that *by* wants it off, or turn it off if another operator wanted that within a day."""

        async def allow() -> TwoPersonControl:
            async with self._connections.transaction(tenant_id) as transaction:
                found = await transaction.fetch_row("lock_two_person_control", transaction.tenant_id)
                if found is None or not found["is_on"]:
                    return _control(found)
                if found["is_asked_off"] and found["off_by"] == by:
                    return _control(found)
                query = "allow_one_person" if found["is_asked_off"] else "ask_one_person"
                await _require_active(transaction, by)
                row = await transaction.fetch_row(query, transaction.tenant_id, by)
                await transaction.write_events([ended if found["is_asked_off"] else asked])
            return _control(row)

        return await self._connections.repeat(allow)


async def _require_active(transaction: Transaction, by: str) -> None:
    """Refuse a revoked operator; one that never was, the foreign keys refuse."""
    row = await transaction.fetch_row("count_revoked_operators", transaction.tenant_id, [by])
    if row is not None and row["operators"]:
        raise IllegalTransitionError(REVOKED)


def _control(row: asyncpg.Record | None) -> TwoPersonControl:
    if row is None:
        return NEVER_ON
    return TwoPersonControl(
        is_on=row["is_on"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
        off_by=row["off_by"],
        off_at=row["off_at"],
    )
