"""A load from its beginning to its end: server, devices, trials, report."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError
from qflare.manager.settings import ManagerSettings
from qflare.service.bench.machine import describe_machine
from qflare.service.config import read_settings
from qflare.service.key_manager import QuantumKeyManager
from qflare.service.load.client import Client
from qflare.service.load.fleet import FORMS, register_fleet
from qflare.service.load.latency import Latencies
from qflare.service.load.report import LoadReport
from qflare.service.load.search import find_saturation
from qflare.service.load.target import serving
from qflare.service.load.trial import STRETCH_S_MAX, Trial, run_trial

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_RATE: Final = 100.0
_CONNECTIONS_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """
    What to offer, to what.

    Raises:
        ConfigError: a value is out of its range.
    """

    form: str = "hello"
    rate: float | None = None
    """Handshakes a second; None searches for the highest that holds."""
    seconds: float = 5.0
    """A stretch."""
    stretches: int = 2
    """At one rate."""
    latency_ms: float = 250.0
    """What 99 of 100 requests stay below at a rate that holds."""
    devices: int = 2_000
    connections: int = 256
    workers: int = 2
    dsn: str | None = None
    """A PostgreSQL to use, whose log and roster will keep what the load wrote; None runs one of its own."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.form not in FORMS:
            raise ConfigError(f"--form is {' or '.join(FORMS)}, got {self.form!r}")
        for name, value, first, last in (
            ("--rate", self.rate if self.rate is not None else 1.0, 0.1, 1e6),
            ("--seconds", self.seconds, 0.5, STRETCH_S_MAX),
            ("--stretches", self.stretches, 1, 1000),
            ("--latency-ms", self.latency_ms, 1, 60_000),
            ("--devices", self.devices, 1, 10_000_000),
            ("--connections", self.connections, 1, _CONNECTIONS_MAX),
        ):
            if not first <= value <= last:
                raise ConfigError(f"{name} is {first:g} to {last:g}, got {value:g}")


async def run_load(options: LoadOptions, *, say: Callable[[str], None]) -> LoadReport:
    """
    Start a server, register devices, offer the load and say what came of it.

    Args:
        options: What to offer.
        say: Called with a line of progress now and then.

    Raises:
        MissingExtraError: hdrhistogram is not installed.
        StoreUnavailableError: the server did not start, or takes no connections.
        AuthenticationError: a confirmation was none.
    """
    Latencies()  # what is missing is said before anything is started
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qflare-load-")))
        say(f"starting {options.workers} workers")
        target = await stack.enter_async_context(serving(data_dir=folder, dsn=options.dsn, workers=options.workers))
        manager = await stack.enter_async_context(
            QuantumKeyManager(options.dsn, data_dir=folder, config=read_settings(ManagerSettings))
        )
        say(f"registering {options.devices:,} devices")
        fleet = await register_fleet(manager, options.devices, prefix=f"load-{secrets.token_hex(4)}")
        stack.callback(fleet.close)
        client = Client(target.host, target.port)
        stack.callback(client.close)
        await client.connect(options.connections)

        async def attempt(rate: float) -> Trial:
            return await run_trial(
                client,
                fleet,
                target,
                form=options.form,
                rate=rate,
                stretches=options.stretches,
                seconds=options.seconds,
                say=say,
            )

        if options.rate is None:
            trials = await find_saturation(attempt, first=_FIRST_RATE, latency_ms=options.latency_ms)
        else:
            trials = [await attempt(options.rate)]
        return LoadReport(
            trials=trials,
            latency_ms=options.latency_ms,
            is_search=options.rate is None,
            workers=options.workers,
            devices=options.devices,
            machine=describe_machine(),
        )
