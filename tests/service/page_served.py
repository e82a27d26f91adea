"""A live page behind a real uvicorn on loopback, and an operator's browser without a screen."""

import asyncio
import contextlib
import os
import re
import socket
from contextlib import asynccontextmanager

import httpx
import uvicorn

from qflare.model.event import SecurityEventType
from qflare.service.page import Page, PageSettings
from service.served import QuietServer

TOKEN = re.compile(r'name="token" value="([^"]+)"')


@asynccontextmanager
async def paging(manager, *, clock=None, **settings):
    """Serve the page of *manager* and yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    chosen = PageSettings(**({"page_refresh_s": 0.1} | settings))
    page = Page(manager, chosen, host="127.0.0.1", port=port, clock=clock)
    config = uvicorn.Config(page, lifespan="off", log_config=None, access_log=False, server_header=False)
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(120):
            while not server.started and not task.done():
                await asyncio.sleep(0.01)
        async with page.running():
            yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def browsing(url):
    """Yield a client that keeps cookies and follows nothing."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120, headers={"origin": url}) as client:
        yield client


async def log_in(client, name, secret, **more):
    """Fetch the form and send it; return the answer."""
    form = await client.get("/login")
    fields = {"token": TOKEN.search(form.text).group(1), "name": name, "secret": secret}
    return await client.post("/login", data=fields | more)


async def log_out(client):
    """Send the page's own form; return the answer."""
    page = await client.get("/")
    return await client.post("/logout", data={"token": TOKEN.search(page.text).group(1)})


@asynccontextmanager
async def streaming(client, **headers):
    """Yield what reads events one after the other: (id, name, data)."""
    async with client.stream("GET", "/stream", headers=headers) as response:
        assert 200 == response.status_code, await response.aread()
        lines = response.aiter_lines()

        async def following(wanted=None, *, within_s=120):
            async with asyncio.timeout(within_s):
                event = {}
                with contextlib.suppress(httpx.TransportError):
                    async for line in lines:
                        if line.startswith(":") and wanted == ":":
                            return None, ":", line
                        name, _, value = line.partition(": ")
                        if line and name:
                            event[name] = value
                        elif event:
                            if "event" in event and wanted in {None, event["event"]}:
                                return event.get("id"), event["event"], event["data"]
                            event = {}
                return None, "closed", None

        yield following


async def sighted(manager, *sightings):
    """Open incidents as the detector does."""
    engine = await manager._engine()
    event = engine.devices.event(manager.tenant, SecurityEventType.SYSTEM, {"what": "incident"}, device_id=None)
    events = [event] * len(sightings)
    await engine.foundation.store.report_incidents(
        manager.tenant, sightings, opened=events, raised=events, call_id=os.urandom(16)
    )
