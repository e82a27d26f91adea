"""The server under load: `qflare serve` started for it, and the processor time that it uses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from qflare.errors import StoreUnavailableError
from qflare.service.config import child_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_START_S: Final = 120.0
_END_S: Final = 15.0
_CPU_FIELDS: Final = slice(11, 15)
"""utime, stime and those of children that ended, of proc_pid_stat(5), counted from the state on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """Seconds of processor time, up to now."""

    server_s: float
    postgres_s: float | None
    """None where PostgreSQL is not one that runs in the data folder."""
    client_s: float


class Target:
    """A running server; made by `serving`."""

    def __init__(self, url: str, process_id: int, data_dir: Path, *, is_embedded: bool) -> None:
        """Watch the server whose parent process is *process_id*."""
        parts = urlsplit(url)
        self.url = url
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or 80
        self._process_id = process_id
        self._data_dir = data_dir
        self._is_embedded = is_embedded

    def cpu_time(self) -> CpuTime:
        """Return what server, PostgreSQL and this process used so far."""
        own = os.times()
        return CpuTime(
            server_s=_tree_s(self._process_id),
            postgres_s=self._postgres_s(),
            client_s=own.user + own.system,
        )

    def _postgres_s(self) -> float | None:
        if not self._is_embedded:
            return None
        found = next(self._data_dir.rglob("postmaster.pid"), None)
        return None if found is None else _tree_s(int(found.read_text(encoding="utf-8").split("\n", 1)[0]))


@contextlib.asynccontextmanager
async def serving(*, data_dir: Path, dsn: str | None, workers: int) -> AsyncIterator[Target]:
    """
    Run `qflare serve` on a free port of the loopback for as long as the block lasts.

    Raises:
        StoreUnavailableError: it did not start; its log stands on stderr.
    """
    extra = {} if dsn is None else {"QFLARE_DSN": dsn}  # not on the command line: it may hold a password
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qflare", "serve", "--json", "--port", "0", "--workers", str(workers),
        "--data-dir", str(data_dir),
        stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL, env=child_environment(extra) | _settings(),
    )  # fmt: skip
    try:
        url = await _url_of(process)
        yield Target(url, process.pid, data_dir, is_embedded=dsn is None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _settings() -> dict[str, str]:
    """Return the settings that the caller's environment has for a server, without its database."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("QFLARE_") and name not in {"QFLARE_DSN", "QFLARE_DATA_DIR"}
    }


async def _url_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        async with asyncio.timeout(_START_S):
            said = json.loads(await process.stdout.readline() or "{}")
            url = said["url"]
    except (TimeoutError, ValueError, KeyError):
        raise StoreUnavailableError("qflare serve did not start: see its log above") from None
    return str(url)


def _tree_s(process_id: int) -> float:
    """Return the seconds of a process and all below it, those that ended among them."""
    ticks = 0
    waiting = [process_id]
    while waiting:
        each = waiting.pop()
        try:
            stat = Path(f"/proc/{each}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            children = Path(f"/proc/{each}/task/{each}/children").read_text(encoding="ascii").split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the list and the look, and counts with its parent from now on
        ticks += sum(map(int, stat[_CPU_FIELDS]))
        waiting += map(int, children)
    return ticks / os.sysconf("SC_CLK_TCK")
