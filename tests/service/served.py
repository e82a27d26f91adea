"""An ASGI application behind a real uvicorn on loopback, in the test's own loop."""

import asyncio
from contextlib import asynccontextmanager, nullcontext

import uvicorn


class QuietServer(uvicorn.Server):
    """A server that leaves the test's signal handlers alone."""

    @property
    def port(self):
        return self.servers[0].sockets[0].getsockname()[1]

    def capture_signals(self):
        return nullcontext()


@asynccontextmanager
async def serving(app, *, lifespan="off", grace_s=5):
    """Serve *app* and yield the server; ends as SIGTERM ends it."""
    server = QuietServer(
        uvicorn.Config(
            app,
            port=0,
            lifespan=lifespan,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=grace_s,
        )
    )
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(30):
            while not server.started and not task.done():
                await asyncio.sleep(0.01)
        if task.done():
            await task
        yield server
    finally:
        server.should_exit = True
        await task


def url_of(server):
    """Return the server's address."""
    return f"http://127.0.0.1:{server.port}"
