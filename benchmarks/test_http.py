"""Over HTTP."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from raw import FOLDER

from qflare.manager.settings import ManagerSettings
from qflare.service.key_manager import QuantumKeyManager
from qflare.service.load.client import Client
from qflare.service.load.fleet import register_fleet
from qflare.service.load.search import find_saturation, highest_held
from qflare.service.load.target import serving
from qflare.service.load.trial import Trial, run_trial

FIRST_RATE = 800.0
GOAL = 2500
LATENCY_MS = 250.0
SECONDS = 1.0
"""A stretch."""
TRIALS_MAX = 7
TRIALS_MAX_FINE = 16
"""With --http; seven find a rate within a sixth of the highest, in under a minute."""
CONNECTIONS = 256
WORKERS = 2


async def _trials(form: str, *, is_quick: bool, trials_max: int) -> list[Trial]:
    """Search for the highest rate that two workers hold, as `qflare bench load` does, with short trials."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="http-", dir=FOLDER)))
        target = await stack.enter_async_context(serving(data_dir=folder, dsn=None, workers=WORKERS))
        manager = await stack.enter_async_context(QuantumKeyManager(None, data_dir=folder, config=ManagerSettings()))
        fleet = await register_fleet(manager, 256 if is_quick else 2000, prefix="bench-http")
        stack.callback(fleet.close)
        client = Client(target.host, target.port)
        stack.callback(client.close)
        await client.connect(CONNECTIONS)

        async def attempt(rate: float) -> Trial:
            return await run_trial(
                client, fleet, target, form=form, rate=rate, stretches=1, seconds=SECONDS, say=lambda _line: None
            )

        return await find_saturation(
            attempt,
            first=50.0 if is_quick else FIRST_RATE,
            latency_ms=LATENCY_MS,
            trials_max=1 if is_quick else trials_max,
        )


@pytest.mark.parametrize("form", ["hello", "offer"])
def test_rate(request, bench, form):
    """Handshakes a second that `qflare serve --workers 2` confirms over HTTP, with the client on the same cores."""
    is_fine = request.config.getoption("--http")
    if form == "offer" and not is_fine:
        pytest.skip("offers over HTTP only with --http")
    trials: list[Trial] = []
    search = _trials(form, is_quick=bench.is_quick, trials_max=TRIALS_MAX_FINE if is_fine else TRIALS_MAX)
    bench.once(lambda: trials.extend(asyncio.run(search)))
    best = highest_held(trials, latency_ms=LATENCY_MS)
    rate = 0.0 if best is None else best.rate
    shown = trials[-1] if best is None else best
    postgres_us = shown.postgres_us or 0.0
    bench.at_least(
        f"{form} form over HTTP, {WORKERS} workers",
        [rate],
        "handshakes/s",
        GOAL,
        note=f"{len(trials)} trials of {SECONDS:g} s, two requests a handshake, 99 of 100 within {LATENCY_MS:g} ms; "
        f"CPU a handshake: server {shown.server_us:,.0f} µs, PostgreSQL {postgres_us:,.0f} µs, client "
        f"{shown.client_us:,.0f} µs, all on {len(os.sched_getaffinity(0))} cores; the most that was confirmed "
        f"a second at any rate: {max(trial.achieved for trial in trials):,.0f}; offers, and a finer search, by --http",
    )
