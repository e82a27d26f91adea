"""`QuantumKeyManager`: sessions, keys and devices of an aggregation server, through one object."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from qflare.manager.settings import ManagerSettings
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.model.observation import ANNOUNCEMENT, Observation
from qflare.service.arguments import as_tenant, require_seconds, require_whole
from qflare.service.assembly import Engine, Place, open_engine, open_foundation
from qflare.service.control_calls import ControlCalls
from qflare.service.covered import covered
from qflare.service.exchanges import Exchanges
from qflare.service.identity_calls import IdentityCalls
from qflare.service.listing_calls import Listings
from qflare.service.log_calls import LogCalls
from qflare.service.opening import Opening
from qflare.service.operator_calls import OperatorCalls
from qflare.service.policy_calls import PolicyCalls
from qflare.service.readiness import look_ready
from qflare.service.reply_calls import ReplyCalls
from qflare.service.response_calls import ResponseCalls
from qflare.service.roster import Roster
from qflare.service.security_monitor import SecurityMonitor
from qflare.service.session_calls import SessionCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from qflare.clock import Clock
    from qflare.manager.log import Log
    from qflare.manager.maintenance import CleanupReport
    from qflare.manager.reserve import ReserveStatistics
    from qflare.model.keeper_ports import Keeper
    from qflare.model.refusal import Refusal
    from qflare.model.statistics import KeyStatistics, QueueStatistics
    from qflare.service.exchange import Readiness
    from qflare.service.metrics.facts import Facts


class QuantumKeyManager(
    Roster,
    PolicyCalls,
    Exchanges,
    SessionCalls,
    ReplyCalls,
    Listings,
    IdentityCalls,
    OperatorCalls,
    LogCalls,
    ResponseCalls,
    ControlCalls,
):
    """
    The server's side of QFX-1 over one database; any number of managers may share it.

    Use it as ``async with``, or as it stands: the first await opens it, and forgetting to close it is a
    ResourceWarning.  Concurrent calls are gathered into batches; `…_many` forms take batches as they are.

    A message of a peer that is refused raises `RefusedError` with the true `reason`; the peer is told N5's bytes only.

    Args:
        dsn_or_pool: ``postgresql://…``, or a pool of asyncpg that the caller closes; None runs the embedded PostgreSQL.
        data_dir: Folder of the embedded PostgreSQL and of the file keeper; ``~/.local/share/qflare`` if not given.
        tenant: Whose devices the calls by name are about; messages name their own tenant.
        config: Bounds and widths.
        clock: What tells the time.
        keeper: Where sealing keys are kept, if not where the settings say.
    """

    def __init__(
        self,
        dsn_or_pool: str | asyncpg.Pool | None = None,
        *,
        data_dir: str | Path | None = None,
        tenant: TenantId = DEFAULT_TENANT,
        config: ManagerSettings | None = None,
        clock: Clock | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        place = Place(database=dsn_or_pool, data_dir=None if data_dir is None else Path(data_dir), keeper=keeper)
        self._begin(place, tenant=tenant, config=config, clock=clock)

    @classmethod
    def at(
        cls, place: Place, *, tenant: TenantId, config: ManagerSettings | None = None, clock: Clock | None = None
    ) -> Self:
        """Return a manager of what was put together elsewhere, such as in `qflare.testing`."""
        manager = cls.__new__(cls)
        manager._begin(place, tenant=tenant, config=config, clock=clock)  # noqa: SLF001 - its own
        return manager

    def _begin(self, place: Place, *, tenant: TenantId, config: ManagerSettings | None, clock: Clock | None) -> None:
        chosen = as_tenant(tenant)
        settings = config or ManagerSettings()

        @asynccontextmanager
        async def opener() -> AsyncIterator[Engine]:
            async with (
                open_foundation(place, settings=settings, clock=clock) as foundation,
                open_engine(foundation) as engine,
            ):
                yield engine

        self._settings = settings
        self._tenant = chosen
        self._opening: Opening[Engine] = Opening("QuantumKeyManager", opener)
        self._is_owner = True

    # --- opening and closing ----------------------------------------------------------------------

    @property
    def tenant(self) -> TenantId:
        """Whose devices the calls by name are about, 16 bytes."""
        return self._tenant

    @property
    def settings(self) -> ManagerSettings:
        """Bounds and widths it works with."""
        return self._settings

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed."""
        return self._opening.is_open

    async def open(self) -> None:
        """Open it now rather than at the first call."""
        await self._opening.get()

    async def close(self) -> None:
        """Finish what was accepted, within the settings' time, and close what was opened; safe to call twice."""
        if self._is_owner:
            await self._opening.close()

    async def __aenter__(self) -> Self:
        """Open it."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    def __del__(self) -> None:
        """Warn if it was forgotten."""
        opening = getattr(self, "_opening", None)
        if opening is not None and self._is_owner:
            opening.warn_if_forgotten(self)

    def __repr__(self) -> str:
        """Say the tenant and whether it is open."""
        return f"<QuantumKeyManager of tenant {self._tenant.hex()}, {'open' if self.is_open else 'not open'}>"

    def for_tenant(self, tenant: TenantId) -> QuantumKeyManager:
        """Return a view that works inside another tenant and shares all else; closing it does nothing."""
        chosen = as_tenant(tenant)
        view = object.__new__(type(self))
        view._settings = self._settings
        view._tenant = chosen
        view._opening = self._opening
        view._is_owner = False
        return view

    async def _engine(self) -> Engine:
        engine = await self._opening.get()
        engine.foundation.marks.require_same()
        return engine

    async def _log(self) -> Log:
        foundation = self._opening.held().foundation
        foundation.marks.require_same()
        return foundation.log

    @property
    def monitor(self) -> SecurityMonitor:
        """The security monitor of this tenant, on the same store, keeper and log."""
        return SecurityMonitor.beside(self._engine, self._log, tenant=self._tenant)

    # --- what devices fetch -----------------------------------------------------------------------

    async def announcement(self, which: str | int = "current") -> bytes:
        """
        Return the announcement of the "current" or the "next" bucket, or of a live one by number (A3).

        Raises:
            KeyNotFoundError: that bucket does not live.
        """
        engine = await self._engine()
        await engine.buckets.refresh()
        engine.foundation.refusals.observations.note([Observation(ANNOUNCEMENT, None)])
        return engine.buckets.announcement(which)

    async def current_bucket(self) -> int:
        """Return the server's bucket."""
        return await (await self._engine()).buckets.refresh()

    # --- care -------------------------------------------------------------------------------------

    @covered
    async def cleanup_expired_keys_and_sessions(self) -> CleanupReport:
        """Destroy and delete what is over, now; the maintenance loop does the same by itself."""
        return await (await self._engine()).maintenance.clean()

    async def get_key_statistics(self) -> KeyStatistics:
        """Return the tenant's figures."""
        engine = await self._engine()
        bucket = await engine.buckets.refresh()
        foundation = engine.foundation
        return await foundation.deadline.of(foundation.store.count_keys(self._tenant, bucket=bucket))

    async def reserve_statistics(self) -> dict[str, ReserveStatistics]:
        """Return what was made ahead by this worker: "keys" of devices, and "offers" of the next round."""
        engine = await self._engine()
        return {"keys": engine.reserve.statistics, "offers": engine.encapsulations.statistics}

    async def queue_statistics(self) -> dict[str, QueueStatistics]:
        """Return how this worker gathered calls into batches since it opened, by operation: sizes and waits."""
        figures = [queue.statistics for queue in (await self._engine()).queues]
        return {its.name: its for its in figures}

    async def figures(self, *, timeout_s: float = 2.0) -> Facts:
        """Return this worker's metrics, as `qflare.service.metrics.exposition.render` writes them for Prometheus."""
        from qflare.service.metrics.gathering import gather

        require_seconds(timeout_s, name="timeout_s")
        return await gather(await self._engine(), timeout_s=timeout_s)

    @covered
    async def turn(self) -> int:
        """Look at the clock now, do what a new bucket asks for, and return the server's bucket."""
        return await (await self._engine()).maintenance.step()

    @covered
    async def accept_clock_jump(self, bucket: int) -> None:
        """Take the wall clock's word up to *bucket*: an operator has looked at the alarm about its jump (A2)."""
        require_whole(bucket, name="bucket", is_needed=True)
        engine = await self._engine()
        engine.buckets.accept_jump(bucket)
        await engine.maintenance.step()

    async def readiness(self, *, timeout_s: float = 2.0) -> Readiness:
        """Look whether database, bucket keys and keeper can be used; never raises for one that cannot."""
        require_seconds(timeout_s, name="timeout_s")
        return await look_ready(await self._opening.get(), timeout_s=timeout_s)

    async def until_restored(self) -> NoReturn:
        """
        Wait until the database under this manager turns out to have been restored, which ends its work.

        From then on every call raises the same error, and nothing is signed, turned or destroyed any more: close it.

        Raises:
            RestoredError: always, when that happens; within two seconds or so.
        """
        marks = (await self._opening.get()).foundation.marks
        await marks.lost.wait()
        marks.require_same()
        raise AssertionError("lost")  # require_same has raised

    def admits_source(self, source: str) -> bool:
        """Whether one more request from a network address is taken, by the limits that operators set; counts it."""
        engine = self._opening.value
        return engine is None or engine.limits.admit_source(source)

    @property
    def refusals(self) -> Counter[tuple[str, Refusal]]:
        """What this worker refused since it was opened, by (step, reason); a copy."""
        engine = self._opening.value
        return Counter() if engine is None else Counter(engine.foundation.refusals.counts)
