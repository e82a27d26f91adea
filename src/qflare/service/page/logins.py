"""Logging in and out: each is in the audit log of the operator's tenant before it counts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError, QflareError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.service.operator_secret import decode_secret
from qflare.service.page.exchange import RequestError
from qflare.service.page.guesses import Guesses
from qflare.service.page.visits import Visits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qflare.clock import Clock
    from qflare.model.ids import TenantId
    from qflare.service.key_manager import QuantumKeyManager
    from qflare.service.page.settings import PageSettings
    from qflare.service.page.visits import Visit

CHECKING_MAX: Final = 8
"""Logins that wait for the one that is checked; a check is 0.1 s and 32 MiB."""
WRONG: Final = "Name or secret is wrong."
_log = logging.getLogger("qflare.service.page")


class WaitError(RequestError):
    """Too many guesses; `wait_s` says how long none is taken."""

    def __init__(self, wait_s: int) -> None:
        """Ask to wait."""
        super().__init__(429, f"Too many wrong logins. Try again in {wait_s} s.")
        self.wait_s = wait_s


class Logins:
    """The door of the page."""

    def __init__(self, manager: QuantumKeyManager, settings: PageSettings, clock: Clock) -> None:
        """Let in operators of any tenant of *manager*'s database."""
        self._manager = manager
        self.visits = Visits(
            clock,
            visit_s=settings.page_visit_s,
            idle_s=settings.page_idle_s,
            visits_max=settings.page_visits_max,
        )
        most = {"name_max": settings.page_guesses_max, "all_max": settings.page_guesses_all_max}
        self._guesses = Guesses(clock, **most)
        self._again = Guesses(clock, **most)
        """Of operators who are logged in: whoever guesses at the login form keeps none of them from deciding."""
        self._checking = asyncio.Lock()
        self._waiting = 0

    async def log_in(self, name: str, text: str) -> str:
        """
        Begin a visit of operator *name* with the secret in *text* and return the key for its cookie.

        Raises:
            QflareError: the database did not answer or the log did not take the entry: nobody is let in.
            RequestError: name or secret is wrong, or too many were.
        """
        name = name.strip()
        async with self._guess(self._guesses, name):
            return await self._check(name, text)

    async def require_secret(self, visit: Visit, text: str) -> None:
        """
        Have the operator of a visit prove who they are once more, within bounds as those of logins, and beside them.

        Raises:
            RequestError: the secret is wrong, or too many were.
        """
        whose = f"{visit.tenant_id.hex()}/{visit.name}"
        async with self._guess(self._again, whose):
            if not await self._is_of(visit, text):
                await self._note_wrong()
                raise RequestError(403, "The secret is wrong.")
            self._again.was_right(whose)

    async def log_out(self, visit: Visit) -> None:
        """End a visit, whatever the log says to it."""
        self.visits.end(visit)
        await self._note(visit.name, visit.tenant_id, "logged out")

    async def look_after(self) -> None:
        """End visits that are over and those of operators whose access was taken."""
        self.visits.end_over()
        for visit in self.visits.all:
            if not await self.is_valid(visit):
                self.visits.end(visit)

    async def is_valid(self, visit: Visit) -> bool:
        """Tell whether the visit's operator still has access, by the secret that it began with."""
        return await self._manager.for_tenant(visit.tenant_id).find_secret_id(visit.name) == visit.secret_id

    @contextlib.asynccontextmanager
    async def _guess(self, guesses: Guesses, name: str) -> AsyncIterator[None]:
        """Count a guess before it is looked at, and look at one at a time."""
        wait_s = guesses.begin(name)
        if wait_s:
            raise WaitError(wait_s)
        if self._waiting >= CHECKING_MAX:
            raise WaitError(1)
        self._waiting += 1
        try:
            async with self._checking:
                yield
        finally:
            self._waiting -= 1

    async def _is_of(self, visit: Visit, text: str) -> bool:
        """Tell whether *text* is the secret that the visit began with."""
        try:
            given = decode_secret(text)
        except DecodeError:
            return False
        del text
        with given.secret as secret:
            if given.tenant_id != visit.tenant_id or not await self.is_valid(visit):
                return False
            return await self._manager.for_tenant(visit.tenant_id).check_operator(visit.name, secret)

    async def _check(self, name: str, text: str) -> str:
        try:
            given = decode_secret(text)
        except DecodeError:
            await self._note_wrong()
            raise RequestError(403, WRONG) from None
        del text
        tenant = self._manager.for_tenant(given.tenant_id)
        secret_id: bytes | None = None
        with given.secret as secret:
            if name and "\0" not in name:
                # Before the check: of a secret that is renewed meanwhile the visit ends at the next look.
                secret_id = await tenant.find_secret_id(name)
                if not await tenant.check_operator(name, secret):
                    secret_id = None
        if secret_id is None:
            await self._note_wrong()
            raise RequestError(403, WRONG)
        # Before anybody is let in: what is not in the log did not happen.
        await self._note(name, given.tenant_id, "logged in")
        self._guesses.was_right(name)
        key, _ = self.visits.begin(given.tenant_id, name, secret_id=secret_id)
        return key

    async def _note(self, name: str, tenant_id: TenantId, what: str) -> None:
        await self._manager.for_tenant(tenant_id).monitor.log_security_event(
            SecurityEventType.OPERATOR_ACTION, EventSeverity.INFO, {"what": f"operator {what}", "operator": name}
        )

    async def _note_wrong(self) -> None:
        """Log a wrong login in the manager's own tenant, as often as guesses are taken at all."""
        # Not the name: somebody may have typed the secret there. Not the tenant: whoever guesses chooses it.
        try:
            await self._manager.monitor.log_security_event(
                SecurityEventType.AUTHENTICATION_FAILURE, EventSeverity.WARNING, {"what": "operator login refused"}
            )
        except QflareError as failure:
            # It is refused whatever the log says.
            _log.warning("a refused login was not logged: %s", type(failure).__name__)
