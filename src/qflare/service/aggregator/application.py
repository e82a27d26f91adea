"""`Aggregator`: routes, limits and the lifespan of the server side."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from qflare.clock import Clock, SystemClock
from qflare.errors import ConfigError, MissingExtraError, QflareError
from qflare.service import correlation
from qflare.service.aggregator import answer
from qflare.service.aggregator.body import Bodies
from qflare.service.aggregator.endpoint import PublicEndpoint, StepEndpoint
from qflare.service.aggregator.health import Health
from qflare.service.aggregator.intake import Intake, OnRecord, OnRecords
from qflare.service.aggregator.latencies import OTHER, Latencies, StatusWatch
from qflare.service.aggregator.notices import Notices
from qflare.service.aggregator.publication import Publication
from qflare.service.aggregator.settings import AggregatorSettings
from qflare.service.aggregator.steps import Steps
from qflare.service.aggregator.tiles import Tiles

try:
    from starlette.routing import Route, Router
except ImportError:
    raise MissingExtraError(feature="the Aggregator", extra="server", package="starlette") from None

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from qflare.service.key_manager import QuantumKeyManager
    from qflare.service.metrics.facts import Facts

INTAKE_CLOSE_S: Final = 1.0
"""Longest wait at shutdown for a batch of `on_records` whose senders are gone."""
_log = logging.getLogger("qflare.service.aggregator")


class Aggregator:
    """
    An aggregation server's QFX-1 addresses as an ASGI application, served by itself or mounted in another.

    Served by itself it opens the manager at start-up and closes what it opened at shutdown.  Mounted, nobody tells it
    of start-up (ASGI has no such message for parts): give `lifespan` to the application around it, or open and close
    the manager yourself.
    """

    def __init__(
        self,
        manager: QuantumKeyManager,
        *,
        on_record: OnRecord | None = None,
        on_records: OnRecords | None = None,
        prefix: str = "/v1",
        settings: AggregatorSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        Make the application.

        Args:
            manager: Whose sessions it serves.
            on_record: Takes each record that opened, which it owns from then on, and the associated data that came
                with it; returns the reply: bytes, a `Reply`, or None.
            on_records: The same for batches; give one of the two.
            prefix: What stands before the protocol's addresses; "" for none.
            settings: Bounds and waits.
            clock: Says how long public answers may be cached, and how long requests took.

        Raises:
            ConfigError: both `on_record` and `on_records` are given, or the prefix is no path.
        """
        if prefix and (not prefix.startswith("/") or prefix.endswith("/") or "{" in prefix):
            raise ConfigError(f"a prefix begins with '/' and does not end with it, got {prefix!r}")
        self._manager = manager
        self._settings = settings = settings or AggregatorSettings()
        self._bodies = Bodies(requests_max=settings.requests_max, bytes_max=settings.bodies_bytes_max)
        self._intake = Intake(
            manager,
            on_record=on_record,
            on_records=on_records,
            batch_max=settings.on_record_batch_max,
        )
        self._http_refusals: Counter[tuple[str, str]] = Counter()
        self._health = Health(manager, timeout_s=settings.ready_timeout_s)
        steps = Steps(
            manager,
            self._intake,
            record_bytes_max=manager.settings.record_bytes_max,
            refusals=self._http_refusals,
        )
        self._clock = its_clock = clock or SystemClock()
        self._latencies = Latencies()
        public, notices = Publication(manager, its_clock), Notices(its_clock)
        tiles = Tiles(manager, its_clock)
        # The busiest first: routes are tried in order.
        self._router = Router(
            [
                *(
                    Route(
                        f"{prefix}/{route.name}",
                        StepEndpoint(
                            route,
                            self._bodies,
                            settings,
                            refusals=self._http_refusals,
                            notices=notices,
                            admits=manager.admits_source,
                        ),
                    )
                    for route in steps.routes()
                ),
                *(
                    Route(path, PublicEndpoint(name, give, notices=notices, retry_after_s=settings.retry_after_s))
                    for path, name, give in (
                        (f"{prefix}/announcement/{{which}}", "announcement", public.announcement),
                        (f"{prefix}/identity", "identity", public.identity),
                        (f"{prefix}/checkpoint", "checkpoint", tiles.checkpoint),
                        (f"{prefix}/tile/{{path:path}}", "tile", tiles.tile),
                        ("/healthz", "healthz", self._health.alive),
                        ("/readyz", "readyz", self._health.ready),
                    )
                ),
            ],
            redirect_slashes=False,
            default=_not_found,
        )

    @property
    def manager(self) -> QuantumKeyManager:
        """Return the manager it serves."""
        return self._manager

    @property
    def http_refusals(self) -> Counter[tuple[str, str]]:
        """Return how often a request was refused before its bytes reached the protocol, by step and reason; a copy."""
        return self._http_refusals.copy()

    async def figures(self, *, timeout_s: float = 2.0) -> Facts:
        """Return this worker's metrics: the manager's, and what requests there are and were refused here."""
        facts = await self._manager.figures(timeout_s=timeout_s)
        for (step, reason), count in self._http_refusals.items():
            facts.add("qflare_http_refusals_total", count, step, reason)
        self._latencies.tell(facts)
        facts.add("qflare_http_requests", self._bodies.requests)
        facts.add("qflare_http_body_bytes", self._bodies.bytes)
        return facts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        begun_ns, watch = self._clock.monotonic_ns(), StatusWatch(send)
        request = correlation.begin()
        try:
            await self._router(scope, receive, watch)
        finally:
            correlation.end(request)
            if scope["type"] == "http":
                # Where it was routed to, which the router leaves here.
                endpoint: object = scope.get("endpoint")
                route = endpoint.name if isinstance(endpoint, StepEndpoint | PublicEndpoint) else OTHER
                self._latencies.note(route, watch.status, self._clock.monotonic_ns() - begun_ns)

    async def drain(self) -> None:
        """Report as not ready, and wait for the requests under way, `drain_s` seconds at most."""
        self._health.is_draining = True
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._bodies.settled()
        except TimeoutError:
            _log.warning("%d requests were still under way at shutdown", self._bodies.requests)
        # Whoever waited for a batch was answered or given up by now.
        await self._intake.close(INTAKE_CLOSE_S)

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """Open the manager, and at the end drain and close; for an application around it: ``FastAPI(lifespan=…)``."""
        is_owner = not self._manager.is_open
        await self._manager.open()
        try:
            yield
        finally:
            await self.drain()
            if is_owner:
                await self._manager.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        life = self.lifespan()
        try:
            await life.__aenter__()
        except Exception as failure:  # noqa: BLE001 - the server must hear of it, else it serves without a manager
            if isinstance(failure, QflareError):
                reason = str(failure)
            else:
                _log.exception("the manager did not open")
                reason = "the manager did not open; the log says why"
            await send({"type": "lifespan.startup.failed", "message": reason})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await life.__aexit__(None, None, None)
        await send({"type": "lifespan.shutdown.complete"})


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    await answer.NOT_FOUND.send(send, is_closing=True)
