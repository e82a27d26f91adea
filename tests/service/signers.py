"""`qflare signer` as a process of its own, as an operator starts it."""

import asyncio
import json
import sys
import tempfile
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from service.processes import environment

WAIT_S = 60


@contextmanager
def short_folder():
    """A folder whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="qfs-") as folder:
        yield Path(folder)


@asynccontextmanager
async def signer(folder, socket_path, *arguments):
    """A `qflare signer` as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qflare", "signer", "--socket", socket_path, "--folder", folder, "--json", *arguments),
        env=environment(folder.parent),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WAIT_S):
            process.said = json.loads(await process.stdout.readline())
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), WAIT_S)
