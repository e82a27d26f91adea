"""The key manager's calls about operators: people who may look at a tenant's page."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from qflare.errors import KeyNotFoundError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import NAME_BYTES_MAX
from qflare.model.operator import NewOperator, Operator
from qflare.model.reason import require_reason
from qflare.model.response import RULE_PREFIX
from qflare.secret import SecretBytes
from qflare.service.arguments import as_call_id, require_kind, require_text
from qflare.service.covered import covered, leave, told_once
from qflare.service.operator_secret import is_secret_of, make_verifier, new_secret
from qflare.service.tenant_view import TenantView

if TYPE_CHECKING:
    from typing import Protocol

    from qflare.model.event import NewEvent

    class _Keep(Protocol):
        """Keeps an operator's verifier, with its event."""

        async def __call__(self, operator: NewOperator, *, event: NewEvent) -> None: ...


PAGE_MAX: Final = 1000
REASON_BYTES_MAX: Final = 1000


class OperatorCalls(TenantView):
    """Mixed into `QuantumKeyManager`; everything here is about one tenant's operators."""

    @told_once(leave, remedy="renew the operator's secret, or revoke the operator")
    async def add_operator(self, name: str) -> str:
        """
        Add an operator and return the secret with which they log in, 77 characters; it is shown once.

        Args:
            name: 1 to 255 bytes of UTF-8, printable; stands in the log at each login.

        Raises:
            AlreadyExistsError: there is or was an operator of that name.
            KeyNotFoundError: there is no such tenant.
        """
        require_operator_name(name)
        engine = await self._engine()
        event = engine.devices.event(
            self.tenant,
            SecurityEventType.OPERATOR_ACTION,
            {"what": "operator added", "operator": name},
            device_id=None,
        )
        return await self._give_secret(name, engine.foundation.store.add_operator, event)

    @told_once(leave, remedy="renew the operator's secret again")
    async def renew_operator(self, name: str, *, reason: str) -> str:
        """
        Replace an operator's secret, which was lost or seen, and return the new one, 77 characters; it is shown once.

        The one before lets nobody in any more, and whoever is logged in with it is logged out within seconds.

        Raises:
            IllegalTransitionError: the operator was revoked.
            KeyNotFoundError: no such operator.
            UsageError: *reason* is not 1 to 1000 bytes.
        """
        require_operator_name(name)
        _require_reason(reason, "say why there is another secret")
        engine = await self._engine()
        event = engine.devices.event(
            self.tenant,
            SecurityEventType.OPERATOR_ACTION,
            {"what": "operator renewed", "operator": name, "reason": reason},
            device_id=None,
            severity=EventSeverity.WARNING,
        )
        return await self._give_secret(name, engine.foundation.store.renew_operator, event)

    async def _give_secret(self, name: str, keep: _Keep, event: NewEvent) -> str:
        engine = await self._engine()
        await engine.foundation.log.require_signer()
        made = new_secret(self.tenant)
        with made.secret as secret:
            # Not among the threads of the C batches: devices would wait for it.
            verifier = await asyncio.to_thread(make_verifier, secret)
            operator = NewOperator(tenant_id=self.tenant, name=name, verifier=verifier)
            await engine.foundation.deadline.of(keep(operator, event=event))
            return made.encode()

    async def list_operators(self, *, limit: int = 100, after: str | None = None) -> tuple[Operator, ...]:
        """Return up to *limit* operators in order of name, from the one after *after* on, revoked ones too."""
        if type(limit) is not int or not 1 <= limit <= PAGE_MAX:
            raise UsageError(f"limit must be 1 to {PAGE_MAX}, got {limit!r}; read on page by page")
        if after is not None:
            require_text(after, name="after")
        foundation = (await self._engine()).foundation
        return await foundation.deadline.of(foundation.store.list_operators(self.tenant, limit=limit, after=after))

    async def find_operator(self, name: str) -> Operator:
        """Return one operator; `KeyNotFoundError` if there is none."""
        foundation = (await self._engine()).foundation
        found = await foundation.deadline.of(foundation.store.find_operator(self.tenant, require_operator_name(name)))
        if found is None:
            raise KeyNotFoundError(f"no operator {name!r} in this tenant; list them")
        return found

    @covered
    async def revoke_operator(self, name: str, *, reason: str, call_id: bytes | None = None) -> Operator:
        """
        Take an operator's access, for good: no login any more, and pages that are open end within seconds.

        *call_id* is 16 random bytes: the same change again, within a day, is done once.

        Raises:
            IllegalTransitionError: that was done before.
            KeyNotFoundError: no such operator.
            UsageError: *reason* is not 1 to 1000 bytes.
        """
        require_operator_name(name)
        _require_reason(reason, "say why the access ends")
        change = as_call_id(call_id)
        engine = await self._engine()
        foundation = engine.foundation
        event = engine.devices.event(
            self.tenant,
            SecurityEventType.OPERATOR_ACTION,
            {"what": "operator revoked", "operator": name, "reason": reason},
            device_id=None,
            severity=EventSeverity.WARNING,
        )
        await foundation.deadline.of(
            foundation.store.revoke_operator(self.tenant, name, reason=reason, event=event, call_id=change)
        )
        return await self.find_operator(name)

    async def find_secret_id(self, name: str) -> bytes | None:
        """Return 16 bytes that name an active operator's present secret, others after each renewal; None if none is."""
        require_text(name, name="name")
        foundation = (await self._engine()).foundation
        verifier = await foundation.deadline.of(foundation.store.find_verifier(self.tenant, name))
        return None if verifier is None else verifier.salt

    async def check_operator(self, name: str, secret: SecretBytes) -> bool:
        """
        Tell whether *secret* is that of this tenant's active operator *name*; as slow if there is none.

        Nothing is logged and nothing limited here: that is the page's, which knows who asks.
        """
        require_text(name, name="name")
        require_kind(secret, SecretBytes, name="secret", remedy="SecretBytes.copy_of() holds what was typed")
        foundation = (await self._engine()).foundation
        verifier = await foundation.deadline.of(foundation.store.find_verifier(self.tenant, name))
        return await asyncio.to_thread(is_secret_of, secret, verifier)


def _require_reason(reason: str, remedy: str) -> None:
    require_reason(reason, bytes_max=REASON_BYTES_MAX, remedy=remedy)


def require_operator_name(name: str) -> str:
    """Return *name*, or raise `UsageError` if it can be no operator's."""
    given: object = name
    if (
        not isinstance(given, str)
        or not 1 <= len(given.encode(errors="replace")) <= NAME_BYTES_MAX
        or not given.isprintable()
        or given != given.strip()
    ):
        raise UsageError(f"an operator's name is printable text of 1 to {NAME_BYTES_MAX} bytes, without spaces around")
    if given.startswith(RULE_PREFIX):
        raise UsageError(f"an operator's name cannot begin with {RULE_PREFIX!r}: the log says so of a playbook's rules")
    return given
