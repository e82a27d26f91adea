"""
`qflare serve`: a parent that owns the address and the database folder, and workers that serve.

The parent listens, starts workers that accept from the same socket, starts a new one where one died, and ends them all
in order.  It serves nothing itself and holds no key.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import qflare.errors
from qflare.errors import ConfigError, QflareError, StoreUnavailableError
from qflare.service.metrics.asking import Questions
from qflare.service.metrics.settings import MetricsSettings
from qflare.service.metrics.tally import Tally
from qflare.service.page.settings import PageSettings, host_and_port
from qflare.service.worker import WorkerOptions, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qflare.service.metrics.facts import Facts

PORT_DEFAULT: Final = 8440
PORT_MAX: Final = 65_535
WORKERS_MAX: Final = 256
START_S: Final = 90.0
"""Longest wait for a worker to be ready: the first one may have to make a database."""
STOP_S: Final = 9.0
"""Longest wait for workers to end in order; then they are killed."""
_ANSWER_S: Final = 0.5
"""What a worker may take beyond the waits inside it to tell its figures."""
_BACKLOG: Final = 2048
_RESTART_FIRST_S: Final = 0.25
_RESTART_MAX_S: Final = 10.0
_RESTART_READY_MAX_S: Final = 1.0
"""The same after a worker that was ready, or was killed: it is not what it starts with that fails."""
_REAP_S: Final = 1.0
_STEADY_S: Final = 30.0
"""A worker that lived that long is restarted at once."""
_log = logging.getLogger("qflare.service.serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """
    Where and how to serve.

    Raises:
        ConfigError: a number is out of its range.
    """

    host: str = "127.0.0.1"
    port: int = PORT_DEFAULT
    """0 takes a free one."""
    workers: int = 1
    dsn: str | None = None
    data_dir: Path | None = None
    """Folder of the embedded PostgreSQL and of the keeper."""
    app: str | None = None
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    page: PageSettings = field(default_factory=PageSettings)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 1 <= self.workers <= WORKERS_MAX:
            raise ConfigError(f"--workers is 1 to {WORKERS_MAX}, got {self.workers}")
        if not 0 <= self.port <= PORT_MAX:
            raise ConfigError(f"--port is 0 to {PORT_MAX}, got {self.port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What the parent says once it serves."""

    url: str
    workers: tuple[int, ...]
    """Process ids."""
    metrics: str | None
    """Where `/metrics` is, None if nowhere."""
    page: str | None
    """Where the live page is, None if nowhere."""


def listen(host: str, port: int, *, name: str = "--host") -> socket.socket:
    """
    Open a listening socket; *name* is where its address was given, for the error.

    Raises:
        ConfigError: the address is taken, not ours, or no address.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as failure:
        raise ConfigError(f"{name} {host} is no address of this machine: {failure}") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as failure:
        listener.close()
        raise ConfigError(_bind_message(host, port, failure, name)) from None
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address as devices write it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


async def serve(options: ServeOptions, *, announce: Callable[[Serving], None]) -> None:
    """
    Serve until SIGTERM or SIGINT, then end in order within ten seconds.

    Args:
        options: Where and how.
        announce: Called once, when the first worker answers.

    Raises:
        ConfigError: the address or a folder cannot be used.
        StoreUnavailableError: the database cannot be reached.
        SchemaMismatchError: its schema is not ours.
    """
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(listen(options.host, options.port)))
        page: socket.socket | None = None
        if options.page.page_address is not None:
            host, port = host_and_port(options.page.page_address)
            page = stack.enter_context(contextlib.closing(listen(host, port, name="page_address")))
        crew = _Crew(options, listener, page)
        page_url = None if page is None else url_of(page)
        metrics_url: str | None = None
        if options.metrics.metrics_address is not None:
            from qflare.service.metrics.endpoint import showing

            host, port = options.metrics.split()
            shown = stack.enter_context(contextlib.closing(listen(host, port, name="metrics_address")))
            metrics_url = f"{url_of(shown)}/metrics"
            await stack.enter_async_context(showing(shown, crew.facts))
        if options.dsn is None:
            # WHY: as long as the parent is a user of the folder, PostgreSQL outlives the restart of any worker.
            from qflare.stores.embedded import open_embedded

            await stack.enter_async_context(await open_embedded(_data_dir(options)))
        url = url_of(listener)
        await crew.run(lambda pids: announce(Serving(url=url, workers=pids, metrics=metrics_url, page=page_url)))


def _data_dir(options: ServeOptions) -> Path:
    from qflare.service.config import read_data_dir

    return options.data_dir or read_data_dir()


class _KilledError(StoreUnavailableError):
    """A worker was ended by a signal while it started: by a person or the kernel, not by what it starts with."""


class _Worker:
    """One worker process and the parent's end of its control socket."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket, *, has_page: bool) -> None:
        self.process = process
        self.has_page = has_page
        self._control = control
        self.questions = Questions(control)
        self.is_ready = False

    @classmethod
    async def start(cls, options: ServeOptions, listener: socket.socket, page: socket.socket | None) -> _Worker:
        """Start a worker and tell it what to do, with *page* to serve the live page there; it is not ready yet."""
        listeners = [each.fileno() for each in (listener, page) if each is not None]
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "qflare.service.worker",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *listeners),
            )
        ours.setblocking(False)
        told = WorkerOptions(
            listener=listener.fileno(),
            dsn=options.dsn,
            data_dir=None if options.data_dir is None else str(options.data_dir),
            app=options.app,
            is_watched=options.metrics.metrics_address is not None,
            page=None if page is None else page.fileno(),
        )
        # One that was killed already is told by `ready`, as one that is killed later.
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(ours, told.encode())
        return cls(process, ours, has_page=page is not None)

    async def ready(self) -> None:
        """
        Wait until the worker answers.

        Raises:
            QflareError: what the worker said it cannot do.
            StoreUnavailableError: it ended or stayed silent.
        """
        loop = asyncio.get_running_loop()
        line = b""
        try:
            async with asyncio.timeout(START_S):
                # A worker that is killed before it has read its options resets the connection.
                with contextlib.suppress(ConnectionError):
                    while not line.endswith(b"\n"):
                        part = await loop.sock_recv(self._control, 4096)
                        if not part:
                            break
                        line += part
        except TimeoutError:
            raise StoreUnavailableError(f"a worker was not ready within {START_S:g} s; its log says more") from None
        if not line.endswith(b"\n"):
            if await self._was_killed():
                raise _KilledError("a worker was killed before it was ready")
            raise StoreUnavailableError("a worker ended before it was ready; its log says why")
        status = WorkerStatus.decode(line)
        if status.error is not None:
            raise _error_named(status.error, status.message)
        self.is_ready = True

    async def _was_killed(self) -> bool:
        """Tell whether the process, which let go of the control socket, was ended by somebody else."""
        try:
            async with asyncio.timeout(_REAP_S):
                return await self.process.wait() < 0
        except TimeoutError:
            return False

    async def end(self, signal_number: int) -> None:
        """Send a signal, if the process is still there."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal_number)

    def close(self) -> None:
        """Close the control socket, under a question too."""
        if self._control.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        # Closed while the loop watches it, its number would stay watched when another socket gets it.
        loop.remove_reader(self._control)
        loop.remove_writer(self._control)
        self._control.close()


class _Crew:
    """The workers of one parent."""

    def __init__(self, options: ServeOptions, listener: socket.socket, page: socket.socket | None) -> None:
        self._options = options
        self._listener = listener
        self._page = page
        self._stop = asyncio.Event()
        self._workers: dict[int, _Worker] = {}
        """Living workers by process id."""
        self._tally = Tally()
        self._restarts = 0

    async def facts(self) -> Facts:
        """Return the facts of all workers, and of the parent."""
        workers = {pid: worker for pid, worker in self._workers.items() if worker.is_ready}
        timeout_s = self._options.metrics.metrics_timeout_s + _ANSWER_S
        answers = await asyncio.gather(*(its.questions.facts(timeout_s=timeout_s) for its in workers.values()))
        told = dict(zip(workers, answers, strict=True))
        # One that ended meanwhile is silent, and forgotten already.
        facts = self._tally.take({pid: its for pid, its in told.items() if pid in self._workers})
        facts.add("qflare_workers_wanted", self._options.workers)
        facts.add("qflare_workers", sum(worker.is_ready for worker in self._workers.values()))
        facts.add("qflare_workers_silent", sum(its is None for its in told.values()))
        facts.add("qflare_worker_restarts_total", self._restarts)
        return facts

    async def run(self, announce: Callable[[tuple[int, ...]], None]) -> None:
        """Start the workers, keep their number, and end them when told to."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            async with asyncio.TaskGroup() as group:
                # The first alone: it makes what a new database lacks, and its error is the answer to the operator.
                first = await self._start()
                if first is not None:
                    others = [await self._start() for _ in range(self._options.workers - 1)]
                    announce(tuple(self._workers))
                    for worker in (first, *others):
                        if worker is not None:
                            group.create_task(self._keep(worker))
                await self._stop.wait()
                await self._end_all()
        except* QflareError as failures:
            raise failures.exceptions[0] from None
        finally:
            await self._end_all()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _start(self) -> _Worker | None:
        """Start one worker and wait until it is ready; None if the parent is told to stop meanwhile."""
        # WHY: one worker serves the page, since who is logged in is known in its memory alone; the one that takes its
        # place takes the page over, whose visitors log in again.
        is_taken = any(other.has_page for other in self._workers.values())
        worker = await _Worker.start(self._options, self._listener, None if is_taken else self._page)
        self._workers[worker.process.pid] = worker
        ready, stopped = asyncio.ensure_future(worker.ready()), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                return None
            ready.result()
        except QflareError:
            await self._forget(worker)
            raise
        finally:
            stopped.cancel()
            ready.cancel()
        return worker

    async def _keep(self, worker: _Worker) -> None:
        """Wait for the end of *worker*, and put another in its place as long as nobody says stop."""
        delay_s = _RESTART_FIRST_S
        loop = asyncio.get_running_loop()
        current: _Worker | None = worker
        while True:
            if current is not None:
                began = loop.time()
                code = await current.process.wait()
                await self._forget(current)
                if loop.time() - began > _STEADY_S:
                    delay_s = _RESTART_FIRST_S
                # While nobody serves, each second of pause is one of outage; the new worker's start is pause enough.
                delay_s = min(delay_s, _RESTART_READY_MAX_S) if self._workers else _RESTART_FIRST_S
                if not self._stop.is_set():
                    _log.error("worker %d ended with code %d; starting another", current.process.pid, code)
            if self._stop.is_set() or await self._stopped_within(delay_s):
                return
            delay_s = min(2 * delay_s, _RESTART_MAX_S)
            try:
                self._restarts += 1
                current = await self._start()
            except QflareError as failure:
                current = None
                if isinstance(failure, _KilledError):
                    delay_s = min(delay_s, _RESTART_READY_MAX_S)
                _log.error("no new worker: %s; trying again in %g s", failure, delay_s)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    async def _forget(self, worker: _Worker) -> None:
        self._workers.pop(worker.process.pid, None)
        self._tally.forget(worker.process.pid)
        worker.close()
        if worker.process.returncode is None:
            await worker.end(signal.SIGKILL)
            await worker.process.wait()

    async def _end_all(self) -> None:
        workers = list(self._workers.values())
        for worker in workers:
            await worker.end(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                for worker in workers:
                    await worker.process.wait()
        except TimeoutError:
            _log.error("workers did not end within %g s and are killed", STOP_S)
        for worker in workers:
            await self._forget(worker)


def _error_named(name: str, message: str) -> QflareError:
    """Return the worker's error as the class it had, so that the exit code is right."""
    kind: object = getattr(qflare.errors, name, None)
    if isinstance(kind, type) and issubclass(kind, QflareError):
        with contextlib.suppress(TypeError):
            return kind(message)
    return QflareError(message)


def _bind_message(host: str, port: int, failure: OSError, name: str) -> str:
    where = "--port" if name == "--host" else f"the setting {name}"
    if failure.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; choose another with {where}, or 0 for a free one"
    if failure.errno == errno.EACCES:
        return f"port {port} of {host} needs privileges; choose one above 1023 with {where}"
    return f"cannot listen on {host} port {port}: {os.strerror(failure.errno or 0)}"
