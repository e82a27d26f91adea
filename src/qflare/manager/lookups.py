"""Session look-ups, many callers in one statement (DESIGN, decision 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qflare.errors import KeyNotFoundError, QflareError
from qflare.manager.batcher import Batcher
from qflare.manager.deadline import Deadline
from qflare.manager.tenancy import by_tenant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import SessionId, TenantId
    from qflare.model.session import Session
    from qflare.model.session_ports import SessionStore


@dataclass(frozen=True, slots=True)
class Wanted:
    """A session looked for inside one tenant."""

    tenant_id: TenantId
    sid: SessionId


class Lookups:
    """Reads sessions' terms and states as the database has them now."""

    def __init__(self, *, store: SessionStore, settings: ManagerSettings) -> None:
        """Keep one queue."""
        self._store = store
        self._deadline = Deadline(settings.store_timeout_s)
        # Reading holds no lock: several batches may be under way, so that no caller waits for another's.
        self.queue: Batcher[Wanted, Session] = Batcher(
            "session look-up",
            self._find_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
        )

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        await self.queue.close(timeout_s)

    async def _find_batch(self, batch: Sequence[Wanted]) -> list[Session | QflareError]:
        found: dict[tuple[TenantId, SessionId], Session] = {}
        for tenant_id, group in by_tenant(batch, lambda wanted: wanted.tenant_id).items():
            sids = list(dict.fromkeys(wanted.sid for wanted in group))
            rows = await self._deadline.of(self._store.find_sessions(tenant_id, sids))
            found |= {(tenant_id, sid): session for sid, session in rows.items()}
        return [
            found.get((wanted.tenant_id, wanted.sid))
            or KeyNotFoundError(f"no session {wanted.sid.hex()} in this tenant: finish a handshake first")
            for wanted in batch
        ]
