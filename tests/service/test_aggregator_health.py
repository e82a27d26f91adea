"""What operators ask a worker: whether it lives, and whether it can serve."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import httpx

from manager_world import Edge, make_manager
from postgres_database import with_database
from qflare.protocol.envelope import encode_envelope
from qflare.service.aggregator import Aggregator
from service.served import serving, url_of
from service.test_aggregator import OCTETS, aggregating, agreed, post


async def cut_off(dsn, *, is_allowed):
    """Let nobody into a database, or everybody again; who is in is thrown out."""
    name = urlsplit(dsn).path[1:]
    connection = await asyncpg.connect(with_database(dsn, "postgres"), timeout=30)
    try:
        await connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {'true' if is_allowed else 'false'}")
        if not is_allowed:
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    finally:
        await connection.close()


async def test_readiness_names_a_database_that_is_away(database_dsn, tmp_path):
    """A database that cannot be reached shows in readyz and as 503, and both end when it is back."""
    async with aggregating(database_dsn, tmp_path) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        assert {"status": "ready", "database": "ok", "bucket": "ok", "keeper": "ok"} == (
            await client.get("/readyz")
        ).json()
        body = encode_envelope(b"", edge.seal(sid, b"x"))
        await cut_off(database_dsn, is_allowed=False)
        try:
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["status"] == "not ready"
            assert ready.json()["database"] != "ok"
            assert ready.json()["keeper"] == "ok"
            assert (await client.get("/healthz")).status_code == 200
            answer = await post(client, "record", body)
            assert (503, "1") == (answer.status_code, answer.headers["retry-after"])
        finally:
            await cut_off(database_dsn, is_allowed=True)
        async with asyncio.timeout(60):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.1)
            while (await post(client, "record", body)).status_code == 503:
                await asyncio.sleep(0.1)


async def test_readiness_names_a_keeper_that_is_gone(database_dsn, tmp_path):
    """A sealing key that cannot be read shows in readyz, without its bytes."""
    async with aggregating(database_dsn, tmp_path) as (_, _, (client,)):
        folder = tmp_path / "data" / "keeper"
        files = [path for path in folder.iterdir() if path.is_file()]
        away = {path: path.read_bytes() for path in files}
        for path in files:
            path.unlink()
        folder.rmdir()
        ready = (await client.get("/readyz")).json()
        assert ready["status"] == "not ready"
        assert ready["keeper"] != "ok"
        text = str(ready)
        assert not any(content and content.hex() in text for content in away.values())


async def test_a_draining_worker_is_not_ready(database_dsn, tmp_path):
    """From the moment a worker drains, a load balancer sees it."""
    async with aggregating(database_dsn, tmp_path) as (_, (app,), (client,)):
        await app.drain()
        ready = await client.get("/readyz")
        assert (503, {"status": "draining"}) == (ready.status_code, ready.json())


async def test_a_manager_that_cannot_open_stops_the_start(tmp_path):
    """A server whose database is away does not start, and says why in one line."""
    manager = make_manager("postgresql://127.0.0.1:9/nothing", tmp_path)
    messages = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        messages.append(message)

    await Aggregator(manager)({"type": "lifespan"}, receive, send)
    assert ["lifespan.startup.failed"] == [message["type"] for message in messages]
    assert "\n" not in messages[0]["message"]
    await manager.close()


async def test_a_mounted_manager_that_cannot_open_is_503(tmp_path):
    """Mounted over a database that is away, protocol addresses say 503 and readyz says which part it is."""
    manager = make_manager("postgresql://127.0.0.1:9/nothing", tmp_path)
    async with serving(Aggregator(manager)) as server, httpx.AsyncClient(base_url=url_of(server), timeout=60) as client:
        assert (await client.post("/v1/hello", content=b"x", headers=OCTETS)).status_code == 503
        assert (await client.get("/v1/identity")).status_code == 503
        ready = await client.get("/readyz")
        assert (503, "StoreUnavailableError") == (ready.status_code, ready.json()["manager"])
    await manager.close()
