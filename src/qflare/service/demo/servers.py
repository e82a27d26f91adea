"""The server workers of a run: started, watched, and asked how much each has refused."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Final

import httpx

from qflare.service.demo.child import Child, start_child
from qflare.service.demo.failure import DemoError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qflare.service.demo.output import Output

WORKERS: Final = 2
_START_TIMEOUT_S: Final = 60.0
_MODULE: Final = "qflare.service.demo.worker"
_OPERATOR_PATH: Final = "/operator/refusals"


class Servers:
    """The workers over one database; made by `start_servers`."""

    def __init__(self, urls: Sequence[str], client: httpx.AsyncClient) -> None:
        """Speak to the workers at *urls*."""
        self.urls = tuple(urls)
        self._client = client

    async def post(self, worker: int, step: str, body: bytes) -> bytes:
        """Send bytes to one worker, as anybody on the network can, and return what it answers."""
        response = await self._client.post(
            f"{self.urls[worker]}/v1/{step}", content=body, headers={"content-type": "application/octet-stream"}
        )
        return response.content

    async def refusals(self, worker: int) -> Counter[str]:
        """Return how often one worker refused so far, by ``step/reason``: what its operator sees, and nobody else."""
        response = await self._client.get(self.urls[worker] + _OPERATOR_PATH)
        if response.status_code != httpx.codes.OK:
            raise DemoError(f"server worker {worker + 1} answered its operator with HTTP {response.status_code}")
        return Counter(response.json())

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def start_servers(output: Output, *, dsn: str, coordinator: Path, width_s: int, children: list[Child]) -> Servers:
    """
    Start the workers and wait until they listen.

    Args:
        output: Where their data and logs are.
        dsn: Their one database.
        coordinator: Where opened records go.
        width_s: Seconds of a bucket.
        children: Every process that was started is added here at once, for whoever ends them.
    """
    started = []
    for place in range(WORKERS):
        child = await start_child(f"server worker {place + 1}", _MODULE, log=output.logs / f"worker-{place + 1}.log")
        children.append(child)
        started.append(child)
    urls = []
    for child in started:
        answer = await child.ask(
            {
                "parent": os.getpid(),
                "dsn": dsn,
                "data_dir": str(output.data),
                "coordinator": str(coordinator),
                "width_s": width_s,
            },
            timeout_s=_START_TIMEOUT_S,
        )
        urls.append(f"http://127.0.0.1:{answer['port']}")
    return Servers(urls, httpx.AsyncClient(timeout=30.0, trust_env=False))
