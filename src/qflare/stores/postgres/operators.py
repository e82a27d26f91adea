"""Operators in PostgreSQL."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

from qflare.errors import IllegalTransitionError, KeyNotFoundError
from qflare.model.call import call_about, fresh_call
from qflare.model.operator import NewOperator, Operator, OperatorState, Verifier
from qflare.stores.postgres.calls import carried_out
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    import asyncpg

    from qflare.model.event import NewEvent
    from qflare.model.ids import CallId, TenantId
    from qflare.stores.postgres.connections import Transaction


class Operators(Connected):
    """Table operator."""

    async def add_operator(self, operator: NewOperator, *, event: NewEvent) -> None:
        """Store an operator; `AlreadyExistsError` if the tenant has one of that name, revoked ones too."""
        change, verifier = fresh_call(), operator.verifier

        async def add() -> int:
            async with self._connections.transaction(operator.tenant_id) as transaction:
                await transaction.execute(
                    "insert_operator",
                    transaction.tenant_id,
                    operator.name,
                    *astuple(verifier),
                )
                await transaction.write_events([event])
                await transaction.note_call(change, "operator")
            return 1

        await carried_out(self._connections, operator.tenant_id, change, add, is_given=False)

    async def renew_operator(self, operator: NewOperator, *, event: NewEvent) -> None:
        """Replace an operator's verifier; `IllegalTransitionError` if it is revoked, `KeyNotFoundError` if absent."""
        tenant_id, name, verifier = operator.tenant_id, operator.name, operator.verifier
        change = fresh_call()

        async def renew() -> int:
            async with self._connections.transaction(tenant_id) as transaction:
                await _change(transaction, "renew_operator", name, *astuple(verifier))
                await transaction.write_events([event])
                await transaction.note_call(change, "operator")
            return 1

        await carried_out(self._connections, tenant_id, change, renew, is_given=False)

    async def find_operator(self, tenant_id: TenantId, name: str) -> Operator | None:
        """Return one operator of the tenant, or None."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("find_operator", transaction.tenant_id, name)
        return None if row is None else _operator(row, tenant_id)

    async def find_verifier(self, tenant_id: TenantId, name: str) -> Verifier | None:
        """Return what an operator's secret is compared with; None if there is no such operator, or it is revoked."""
        async with self._connections.transaction(tenant_id) as transaction:
            row = await transaction.fetch_row("find_verifier", transaction.tenant_id, name)
        return None if row is None else Verifier(**dict(row.items()))

    async def list_operators(
        self, tenant_id: TenantId, *, limit: int, after: str | None = None
    ) -> tuple[Operator, ...]:
        """Return up to *limit* operators in order of name, bytewise, from the one after *after* on."""
        async with self._connections.transaction(tenant_id) as transaction:
            rows = await transaction.fetch("list_operators", transaction.tenant_id, after or "", limit)
        return tuple(_operator(row, tenant_id) for row in rows)

    async def revoke_operator(
        self, tenant_id: TenantId, name: str, *, reason: str, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Take an operator's access; `IllegalTransitionError` if that was done, `KeyNotFoundError` if absent."""
        change = call_about(call_id, b"operator-revoked", name.encode())

        async def revoke() -> int:
            async with self._connections.transaction(tenant_id) as transaction:
                await _change(transaction, "revoke_operator", name, reason)
                await transaction.write_events([event])
                await transaction.note_call(change, "operator")
            return 1

        await carried_out(self._connections, tenant_id, change, revoke, is_given=call_id is not None)


async def _change(transaction: Transaction, query: str, name: str, *values: object) -> None:
    """Run a change of an active operator, and say what is wrong where there is none."""
    if await transaction.fetch_row(query, transaction.tenant_id, name, *values) is not None:
        return
    if await transaction.fetch_row("find_operator", transaction.tenant_id, name) is None:
        raise KeyNotFoundError(f"no operator {name!r} in this tenant; list them")
    raise IllegalTransitionError("the operator was revoked, for good: add one under another name")


def _operator(row: asyncpg.Record, tenant_id: TenantId) -> Operator:
    return Operator(
        tenant_id=tenant_id,
        name=row["name"],
        state=OperatorState(row["state"]),
        reason=row["state_reason"],
        created_at=row["created_at"],
        changed_at=row["state_changed_at"],
    )
