"""
One worker process of `qflare serve`: a manager, an Aggregator and uvicorn over a socket that the parent listens on.

Started with the number of its control socket: options come in over it as one JSON line (so that no secret stands on a
command line or in an environment), one line goes back when the worker is ready or cannot be, and its end says that the
parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import inspect
import json
import logging
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, cast

import uvicorn

from qflare.errors import ConfigError, QflareError
from qflare.manager.settings import ManagerSettings
from qflare.service.aggregator import Aggregator, AggregatorSettings
from qflare.service.collector import settle_collector
from qflare.service.config import is_debug, read_settings
from qflare.service.key_manager import QuantumKeyManager
from qflare.service.logs import set_up_logging
from qflare.service.metrics.asking import answer
from qflare.service.metrics.call_times import watch_calls
from qflare.service.metrics.settings import MetricsSettings
from qflare.service.page.server import serving_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from qflare.service.metrics.facts import Facts

CLOSE_S: Final = 3.0
"""Longest wait for the manager's own work after the last request was answered."""
KEEP_ALIVE_S: Final = 75
"""Above the 5 s after which httpx drops an idle connection, so that the server never closes one under a request."""
_OPTIONS_BYTES_MAX: Final = 64 * 2**10
_log = logging.getLogger("qflare.service.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the parent tells a worker."""

    listener: int
    """File descriptor of the listening socket."""
    dsn: str | None
    data_dir: str | None
    app: str | None
    """`module:factory` of the application, None for none."""
    is_watched: bool = False
    """Whether the parent shows metrics."""
    page: int | None = None
    """File descriptor of the live page's listening socket; None: another worker serves it, or nobody."""

    def encode(self) -> bytes:
        """Write the options as one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Read what `encode` wrote."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """What a worker tells its parent, once."""

    error: str | None = None
    """Name of the error's class; None: ready."""
    message: str = ""

    def encode(self) -> bytes:
        """Write the status as one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Read what `encode` wrote."""
        return cls(**json.loads(line))


async def build_aggregator(manager: QuantumKeyManager, app: str | None, settings: AggregatorSettings) -> Aggregator:
    """
    Make the Aggregator for `--app module:factory`.

    The factory is called with the manager and returns either the function for records or an `Aggregator` of its own;
    it may be a coroutine function.

    Raises:
        ConfigError: there is no such factory, or it returned something else.
    """
    if app is None:
        _log.warning("no --app given: records are opened, accepted and dropped")
        return Aggregator(manager, settings=settings)
    made: object = _load(app)(manager)
    if inspect.isawaitable(made):
        made = await made
    if isinstance(made, Aggregator):
        return made
    if not callable(made):
        raise ConfigError(f"--app {app} must return a function for records or an Aggregator, not {type(made).__name__}")
    return Aggregator(manager, on_record=made, settings=settings)


def _load(app: str) -> Callable[[QuantumKeyManager], object]:
    module_name, _, name = app.partition(":")
    if not module_name or not name:
        raise ConfigError(f"--app is module:factory, got {app!r}")
    # As `python -m` does: the application lies where the server is started.
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory: object = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as failure:
        raise ConfigError(f"--app {app} cannot be loaded: {failure}") from None
    if not callable(factory):
        raise ConfigError(f"--app {app} is no function")
    return cast("Callable[[QuantumKeyManager], object]", factory)


class _Server(uvicorn.Server):
    """A uvicorn server that says when it listens, and ends by SIGTERM with exit code 0."""

    def __init__(self, config: uvicorn.Config, control: socket.socket) -> None:
        super().__init__(config)
        self._control = control

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell the parent."""
        await super().startup(sockets=sockets)
        self._control.sendall(WorkerStatus().encode())

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End in order at SIGTERM and SIGINT; uvicorn would raise the signal again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Take no more connections, finish what was accepted, and end."""
        self.should_exit = True


async def work(options: WorkerOptions, control: socket.socket) -> None:
    """
    Serve until told to end.

    Raises:
        QflareError: the manager cannot open, or the application cannot be loaded.
    """
    listener = socket.socket(fileno=options.listener)
    settings = read_settings(AggregatorSettings)
    managing = read_settings(ManagerSettings)
    # The requests are answered before the manager closes: what it still has to do is its own.
    managing = dataclasses.replace(managing, close_timeout_s=min(managing.close_timeout_s, CLOSE_S))
    async with QuantumKeyManager(options.dsn, data_dir=options.data_dir, config=managing) as manager:
        aggregator = await build_aggregator(manager, options.app, settings)
        if managing.detection:
            await manager.start_responding()
        if options.is_watched:
            watch_calls()
        settle_collector()
        server = _Server(
            uvicorn.Config(
                aggregator,
                lifespan="off",  # the manager is opened here, where its errors can be told
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(settings.drain_s)),
                limit_concurrency=settings.connections_max,
            ),
            control,
        )
        give = partial(aggregator.figures, timeout_s=read_settings(MetricsSettings).metrics_timeout_s)
        async with (
            _parent_watched(control, server, give),
            serving_page(manager, options.page),
            _ended_by_restoring(manager, server),
        ):
            await server.serve(sockets=[listener])
        await aggregator.drain()


@contextlib.asynccontextmanager
async def _ended_by_restoring(manager: QuantumKeyManager, server: _Server) -> AsyncIterator[None]:
    """
    End the server when the database under it was restored.

    The next worker looks at the database as one that starts: it begins anew on it, or says that nobody accepted it.

    Raises:
        RestoredError: that happened.
    """

    async def wait() -> None:
        try:
            await manager.until_restored()
        finally:
            server.stop()

    waiting = asyncio.create_task(wait(), name="qflare-restored")
    try:
        yield
    finally:
        waiting.cancel()
        await asyncio.wait({waiting})
    if not waiting.cancelled() and (failure := waiting.exception()) is not None:
        raise failure


@contextlib.asynccontextmanager
async def _parent_watched(
    control: socket.socket, server: _Server, give: Callable[[], Awaitable[Facts]]
) -> AsyncIterator[None]:
    """Answer the parent, and end the server when its end of the control socket closes, however the parent ended."""
    # A descriptor of its own: what this worker says of its start and end still goes over *control*.
    reader, writer = await asyncio.open_unix_connection(sock=control.dup())

    async def listen() -> None:
        with contextlib.suppress(ConnectionError):
            await answer(reader, writer, give)
        _log.warning("the parent process is gone: ending")
        server.stop()

    listening = asyncio.create_task(listen(), name="qflare-control")
    try:
        yield
    finally:
        listening.cancel()
        await asyncio.wait({listening})
        writer.close()


def main(descriptor: int) -> int:
    """Run one worker over the control socket of that number, and return its exit code."""
    control = socket.socket(fileno=descriptor)
    set_up_logging()
    with control, control.makefile("rb") as lines:
        options = WorkerOptions.decode(lines.readline(_OPTIONS_BYTES_MAX))
        try:
            _run(options, control)
        except (QflareError, OSError) as failure:
            if is_debug():
                _log.exception("the worker ends")
            with contextlib.suppress(OSError):
                control.setblocking(True)
                control.sendall(WorkerStatus(error=type(failure).__name__, message=str(failure)).encode())
            return 1
    return 0


def _run(options: WorkerOptions, control: socket.socket) -> None:
    try:
        import uvloop
    except ImportError:  # an operator's choice: slower, not different
        asyncio.run(work(options, control))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work(options, control))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
