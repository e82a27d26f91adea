"""Operators in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from qflare.errors import AlreadyExistsError, IllegalTransitionError, KeyNotFoundError
from qflare.model.call import call_about
from qflare.model.event import NewEvent
from qflare.model.ids import NAME_BYTES_MAX, CallId, TenantId
from qflare.model.operator import SALT_BYTES, VERIFIER_BYTES, NewOperator, Operator, OperatorState, Verifier
from qflare.testing.memory.constraints import REASON_BYTES_MAX, require, require_size, require_text
from qflare.testing.memory.entries import Logging

_COSTS: Final = range(10, 21)
_FACTORS: Final = range(1, 17)


class Operators(Logging):
    """Operators and what their secrets are compared with."""

    async def add_operator(self, operator: NewOperator, *, event: NewEvent) -> None:
        """Store an operator; `AlreadyExistsError` if the tenant has one of that name, revoked ones too."""
        key, verifier = (operator.tenant_id, operator.name), operator.verifier
        async with self._transaction(operator.tenant_id) as tables:
            require_text(operator.name, "operator_name_size", 1, NAME_BYTES_MAX)
            _require_verifier(verifier)
            if operator.tenant_id not in tables.tenants:
                raise KeyNotFoundError("no such tenant; create it first")
            row = Operator(
                tenant_id=operator.tenant_id,
                name=operator.name,
                state=OperatorState.ACTIVE,
                reason="",
                created_at=self._now,
                changed_at=None,
            )
            if not tables.operators.put_new(key, row):
                raise AlreadyExistsError("an operator of that name exists already; names are not used again")
            tables.verifiers.put(key, verifier)
            self._write_events(operator.tenant_id, [event])

    async def renew_operator(self, operator: NewOperator, *, event: NewEvent) -> None:
        """Replace an operator's verifier; `IllegalTransitionError` if it is revoked, `KeyNotFoundError` if absent."""
        key = (operator.tenant_id, operator.name)
        async with self._transaction(operator.tenant_id) as tables:
            _require_active(tables.operators.get(key), operator.name)
            _require_verifier(operator.verifier)
            tables.verifiers.put(key, operator.verifier)
            self._write_events(operator.tenant_id, [event])

    async def find_operator(self, tenant_id: TenantId, name: str) -> Operator | None:
        """Return one operator of the tenant, or None."""
        async with self._transaction(tenant_id) as tables:
            return tables.operators.get((tenant_id, name))

    async def find_verifier(self, tenant_id: TenantId, name: str) -> Verifier | None:
        """Return what an operator's secret is compared with; None if there is no such operator, or it is revoked."""
        async with self._transaction(tenant_id) as tables:
            row = tables.operators.get((tenant_id, name))
            if row is None or row.state is OperatorState.REVOKED:
                return None
            return tables.verifiers[tenant_id, name]

    async def list_operators(
        self, tenant_id: TenantId, *, limit: int, after: str | None = None
    ) -> tuple[Operator, ...]:
        """Return up to *limit* operators in order of name, bytewise, from the one after *after* on."""
        first = (after or "").encode()
        async with self._transaction(tenant_id) as tables:
            mine = [
                row for row in tables.operators.values() if row.tenant_id == tenant_id and row.name.encode() > first
            ]
            return tuple(sorted(mine, key=lambda row: row.name.encode())[:limit])

    async def revoke_operator(
        self, tenant_id: TenantId, name: str, *, reason: str, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Take an operator's access; `IllegalTransitionError` if that was done, `KeyNotFoundError` if absent."""
        change = call_about(call_id, b"operator-revoked", name.encode())
        async with self._transaction(tenant_id) as tables:
            if self._carried_out(tenant_id, change) is not None:
                return
            row = _require_active(tables.operators.get((tenant_id, name)), name)
            require_text(reason, "operator_state_reason_size", 0, REASON_BYTES_MAX)
            revoked = replace(row, state=OperatorState.REVOKED, reason=reason, changed_at=self._now)
            tables.operators.put((tenant_id, name), revoked)
            self._write_events(tenant_id, [event])
            self._note_call(tenant_id, change)


def _require_active(row: Operator | None, name: str) -> Operator:
    if row is None:
        raise KeyNotFoundError(f"no operator {name!r} in this tenant; list them")
    if row.state is not OperatorState.ACTIVE:
        raise IllegalTransitionError("the operator was revoked, for good: add one under another name")
    return row


def _require_verifier(verifier: Verifier) -> None:
    require_size(verifier.salt, "operator_salt_size", SALT_BYTES)
    require_size(verifier.secret_hash, "operator_secret_hash_size", VERIFIER_BYTES)
    is_known_cost = verifier.log2_n in _COSTS and verifier.r in _FACTORS and verifier.p in _FACTORS
    require(is_known_cost, "operator_cost_range")
