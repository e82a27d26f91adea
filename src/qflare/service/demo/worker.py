"""
A server worker of the demo: ``python -m qflare.service.demo.worker``, told by its parent through its standard input.

It serves the `Aggregator` mounted in a small application of its own, as a user's server would, on a loopback port that
the system chooses, and beside it one route for the operator with the counts of what this worker refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from qflare.errors import QflareError
from qflare.manager.settings import ManagerSettings
from qflare.service.aggregator import Aggregator
from qflare.service.demo.link import open_link
from qflare.service.demo.orphan import end_with_parent
from qflare.service.key_manager import QuantumKeyManager

if TYPE_CHECKING:
    from starlette.requests import Request

OPERATOR_PATH: Final = "/operator/refusals"
_KEEP_ALIVE_S: Final = 75
"""Above what httpx keeps an idle connection for: the server never closes one under a request."""
_LOOPBACK: Final = "127.0.0.1"


def make_application(manager: QuantumKeyManager, aggregator: Aggregator) -> Starlette:
    """Return the application: the operator's route, and the Aggregator for everything else."""

    async def refusals(request: Request) -> Response:
        # Bound to loopback below; asked again here, should anybody put a proxy before it.
        if request.client is None or request.client.host != _LOOPBACK:
            return Response(status_code=404)
        return JSONResponse({f"{step}/{reason}": count for (step, reason), count in manager.refusals.items()})

    return Starlette(routes=[Route(OPERATOR_PATH, refusals), Mount("/", aggregator)])


async def serve(options: dict[str, Any], reader: asyncio.StreamReader) -> None:
    """Serve until the standard input ends."""
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(open_link(Path(options["coordinator"])))
        manager = await stack.enter_async_context(
            QuantumKeyManager(
                options["dsn"],
                data_dir=options["data_dir"],
                config=ManagerSettings(bucket_width_s=options["width_s"]),
            )
        )
        listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.bind((_LOOPBACK, 0))
        server = uvicorn.Server(
            uvicorn.Config(
                make_application(manager, Aggregator(manager, on_record=link.on_record)),
                lifespan="off",
                log_level="warning",
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=2,
            )
        )
        serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]), name="serve")
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        if not serving.done():
            _tell({"number": options["number"], "port": listener.getsockname()[1]})
            ended = asyncio.get_running_loop().create_task(reader.read(), name="parent")
            await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
        server.should_exit = True
        await serving


async def main() -> int:
    """Read the options, serve, and say what failed."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    options = json.loads(await reader.readline())
    end_with_parent(options["parent"])
    try:
        await serve(options, reader)
    except QflareError as error:
        logging.getLogger("qflare.service.demo").exception("the worker cannot go on")
        _tell({"number": options["number"], "failure": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _tell(answer: dict[str, object]) -> None:
    # Straight to the descriptor: one line, at once, whatever else may have been buffered.
    os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    import uvloop

    sys.exit(uvloop.run(main()))
