"""The port of operators: where they and the hashes of their secrets are kept."""

from __future__ import annotations

from typing import Protocol

from qflare.model.event import NewEvent
from qflare.model.ids import CallId, TenantId
from qflare.model.operator import NewOperator, Operator, Verifier


class OperatorStore(Protocol):
    """Operators of tenants; every method is one transaction inside one tenant."""

    async def add_operator(self, operator: NewOperator, *, event: NewEvent) -> None:
        """Store an operator; `AlreadyExistsError` if the tenant has one of that name, revoked ones too."""

    async def renew_operator(self, operator: NewOperator, *, event: NewEvent) -> None:
        """Replace an operator's verifier; `IllegalTransitionError` if it is revoked, `KeyNotFoundError` if absent."""

    async def find_operator(self, tenant_id: TenantId, name: str) -> Operator | None:
        """Return one operator of the tenant, or None."""

    async def find_verifier(self, tenant_id: TenantId, name: str) -> Verifier | None:
        """Return what an operator's secret is compared with; None if there is no such operator, or it is revoked."""

    async def list_operators(
        self, tenant_id: TenantId, *, limit: int, after: str | None = None
    ) -> tuple[Operator, ...]:
        """Return up to *limit* operators in order of name, bytewise, from the one after *after* on."""

    async def revoke_operator(
        self, tenant_id: TenantId, name: str, *, reason: str, event: NewEvent, call_id: CallId | None = None
    ) -> None:
        """Take an operator's access; `IllegalTransitionError` if that was done, `KeyNotFoundError` if absent."""
