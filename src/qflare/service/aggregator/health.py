"""`/healthz` and `/readyz`: whether the process lives, and whether it can do its work; no secret in either."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qflare.errors import QflareError
from qflare.service.aggregator.answer import Answer, report

if TYPE_CHECKING:
    from starlette.types import Scope

    from qflare.service.key_manager import QuantumKeyManager

_log = logging.getLogger("qflare.service.aggregator")


class Health:
    """The state of one worker."""

    def __init__(self, manager: QuantumKeyManager, *, timeout_s: float) -> None:
        """Look at *manager*, *timeout_s* seconds at most."""
        self._manager = manager
        self._timeout_s = timeout_s
        self.is_draining = False
        """Whether the worker is about to end and wants no new requests."""

    async def alive(self, _scope: Scope) -> Answer:
        """Say that the process lives and its loop turns."""
        return report(200, {"status": "alive"})

    async def ready(self, _scope: Scope) -> Answer:
        """Say whether database, bucket key and keeper can be used, and which cannot."""
        if self.is_draining:
            return report(503, {"status": "draining"})
        try:
            # The manager bounds each look; opening it at the first request is bounded here.
            async with asyncio.timeout(2 * self._timeout_s):
                readiness = await self._manager.readiness(timeout_s=self._timeout_s)
        except TimeoutError:
            return report(503, {"status": "not ready", "manager": f"did not open within {2 * self._timeout_s:g} s"})
        except QflareError as failure:
            return report(503, {"status": "not ready", "manager": type(failure).__name__})
        checks = {
            "database": readiness.database,
            "bucket": readiness.bucket,
            "keeper": readiness.keeper,
        }
        is_ready = readiness.is_ready
        status = {"status": "ready" if is_ready else "not ready"}
        if readiness.turn is not None:
            # Said only when there is something to say, and no reason to send devices elsewhere.
            status["turn"] = _outside(readiness.turn)
        for problem in filter(None, (*checks.values(), readiness.turn)):
            _log.warning("not ready: %s", problem)
        return report(200 if is_ready else 503, status | {name: _outside(problem) for name, problem in checks.items()})


def _outside(problem: str | None) -> str:
    """Return what anybody may know of a problem: what, and its class; its text may name a folder of the server."""
    return "ok" if problem is None else ": ".join(problem.split(": ")[:2])
