"""`qflare serve` as a process of its own, as an operator starts it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from given_time import GivenTime


def environment(folder, **more):
    """The environment of a command that must leave nothing outside *folder*."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"HOME": str(folder), "COLUMNS": "80", "QFLARE_KEEPER_DIR": str(folder / "keys")} | more


PATIENCE_S = 120
"""How long a machine that is slow or busy is waited for."""


class Served:
    """A running `qflare serve`."""

    def __init__(self, process, said):
        self.process = process
        self.said = said
        self.url = said["url"]
        self.workers = said["workers"]
        self.page = said.get("page")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, *, within_s=15):
        """Return the status it ends with, in time."""
        given = GivenTime()
        async with asyncio.timeout(within_s + PATIENCE_S):
            status = await self.process.wait()
        assert given.is_within(within_s)
        return status


async def start(folder, *arguments, **variables):
    """Start `qflare serve` and return the process."""
    with (folder / "serve.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qflare", "serve", "--port", "0", "--json"),
            *arguments,
            cwd=folder,
            env=environment(folder, **variables),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )


@asynccontextmanager
async def serve(folder, *arguments, **variables):
    """Yield a `qflare serve` that answers; ends it afterwards."""
    process = await start(folder, *arguments, **variables)
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = await process.stdout.readline()
        assert line, (folder / "serve.log").read_text()
        yield Served(process, json.loads(line))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        await process.stdout.read()


async def wait_for(url, status, *, within_s=PATIENCE_S):
    """Wait until an address answers with *status*."""
    async with asyncio.timeout(within_s), httpx.AsyncClient(trust_env=False, timeout=within_s) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(url)).status_code == status:
                    return
            await asyncio.sleep(0.1)


def is_alive(pid):
    """Whether a process runs (and is no zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition, *, within_s=PATIENCE_S):
    """Wait until *condition* holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.05)
