"""
A child process of the run as its parent sees it: asked in lines of JSON over its pipes, ended with all it started.

What it writes to its standard error goes to a log file.  No secret stands on a command line: options and tokens go
through the pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from qflare.service.config import child_environment
from qflare.service.demo.failure import DemoError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LINE_BYTES_MAX: Final = 8 * 2**20
_END_S: Final = 6.0
"""How long a child may take to end by itself once its input is closed."""


class Child:
    """One process, ``python -m module``; made by `start_child`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        """Own *process*."""
        self.name = name
        self._process = process
        self._log = log
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._is_ending = False
        self._reading = asyncio.get_running_loop().create_task(self._read(), name=f"read-{name}")

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    async def ask(self, command: Mapping[str, object], *, timeout_s: float) -> dict[str, Any]:
        """
        Send *command* and return the answer.

        Raises:
            DemoError: the child failed, ended, or took too long.
        """
        if self._reading.done():
            raise self._ended()
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(timeout_s):
                if self._process.stdin is None:  # pragma: no cover - made with a pipe
                    raise self._ended()
                self._process.stdin.write(json.dumps({"number": number, **command}).encode() + b"\n")
                with contextlib.suppress(ConnectionError):
                    await self._process.stdin.drain()
                answer = await future
        except TimeoutError:
            raise DemoError(f"{self.name} did not answer within {timeout_s:g} s; see {self._log}") from None
        finally:
            self._waiting.pop(number, None)
        if "failure" in answer:
            raise DemoError(f"{self.name}: {answer['failure']}; see {self._log}")
        return answer

    async def watch(self) -> None:
        """
        Wait until the child ends.

        Raises:
            DemoError: it ended although nobody asked it to.
        """
        await self._process.wait()
        await asyncio.wait({self._reading})
        if not self._is_ending:
            raise self._ended()

    async def end(self, *, timeout_s: float = _END_S) -> None:
        """Close its input, wait, and kill it with all it started if it does not end by itself."""
        self._is_ending = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        await asyncio.wait({self._reading})
        await self._process.wait()

    def kill(self) -> None:
        """End it at once, and whatever it may have started: it leads a process group of its own."""
        self._is_ending = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _read(self) -> None:
        stdout = self._process.stdout
        if stdout is None:  # pragma: no cover - made with a pipe
            return
        try:
            while line := await stdout.readline():
                answer = json.loads(line)
                future = self._waiting.get(answer.get("number", -1))
                if future is not None and not future.done():
                    future.set_result(answer)
        except (ValueError, ConnectionError):
            self.kill()
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._ended())

    def _ended(self) -> DemoError:
        code = self._process.returncode
        how = "" if code is None else f" by signal {-code}" if code < 0 else f" with exit code {code}"
        return DemoError(f"{self.name} ended unexpectedly{how}; see {self._log}")


async def start_child(name: str, module: str, *, log: Path, extra: Mapping[str, str] | None = None) -> Child:
    """
    Start ``python -m module`` in a process group of its own.

    Args:
        name: What people call it.
        module: Its module.
        log: Where its standard error goes.
        extra: Variables to set in its environment.
    """
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            limit=_LINE_BYTES_MAX,
            env=child_environment(extra or {}),
            process_group=0,
        )
    return Child(name, process, log)
