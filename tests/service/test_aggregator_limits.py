"""What the network may cost: sizes, waits and numbers are bounded before anything is done with a body."""

import asyncio

import httpx
import pytest

from manager_world import Edge, TurnedClock, managers
from qflare.protocol import wire
from qflare.protocol.envelope import encode_envelope
from qflare.service.aggregator import Aggregator, AggregatorSettings
from service.processes import until
from service.served import serving, url_of
from service.test_aggregator import OCTETS, REFUSAL, aggregating, agreed, post, shape

STEPS = {
    "enrol": wire.ENROL_BYTES,
    "hello": wire.M1_BYTES,
    "offer": 48,
    "confirm": wire.ANSWER_BYTES + 2**20,
    "record": 4 + 2**14 + 2**20,
}
SMALL = {"record_bytes_max": 2**20}


async def speak(port, *parts, wait_s=60):
    """Send raw bytes and return everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(wait_s):
            return await reader.read()
    finally:
        writer.close()


def head(step, *lines):
    return "\r\n".join([f"POST /v1/{step} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@pytest.mark.parametrize("step", STEPS)
async def test_a_declared_size_is_refused_before_it_is_read(step, database_dsn, tmp_path):
    """A body above the largest message of its kind is answered without a byte of it, and the connection ends."""
    async with managers(database_dsn, tmp_path, **SMALL) as (manager,):
        app = Aggregator(manager)
        async with serving(app) as server:
            for size in (STEPS[step] + 1, 2**31, 2**63, 10**30):
                answer = await speak(server.port, head(step, f"Content-Length: {size}"))
                assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400")), answer[:80]
                assert b"connection: close" in answer.lower()
        assert sum(app.http_refusals.values()) >= 3


async def test_a_chunked_body_is_counted_as_it_comes(database_dsn, tmp_path):
    """A body that does not say its size is cut off at the largest message of its kind."""
    async with managers(database_dsn, tmp_path, **SMALL) as (manager,):
        app = Aggregator(manager)
        async with serving(app) as server:
            chunk = b"1000\r\n" + bytes(0x1000) + b"\r\n"
            answer = await speak(server.port, head("hello", "Transfer-Encoding: chunked"), chunk, chunk)
            assert answer.startswith(b"HTTP/1.1 413")
        assert app.http_refusals["hello", "the body is too large"] == 1


@pytest.mark.parametrize("step", STEPS)
async def test_the_largest_size_is_taken(step, database_dsn, tmp_path):
    """A body of exactly the largest size is read, and refused for what it holds."""
    async with aggregating(database_dsn, tmp_path, changes=SMALL) as (_, _, (client,)):
        answer = await post(client, step, bytes(STEPS[step]))
        # An offer for nobody is an offer: the address tells nobody who is on the roster.
        assert shape(answer) == REFUSAL or (step, answer.status_code) == ("offer", 200)


async def test_a_chunked_message_is_a_message(database_dsn, tmp_path):
    """How a body is framed makes no difference."""
    async with aggregating(database_dsn, tmp_path) as ((manager,), _, (client,)):
        edge = await Edge.provision(manager)
        pending = await edge.hello(manager)

        async def pieces():
            for at in range(0, len(pending.message), 50):
                yield pending.message[at : at + 50]

        answer = await post(client, "confirm", pieces())
        edge.accept(pending, answer.content)


async def test_a_slow_body_is_cut_off(database_dsn, tmp_path):
    """A body that does not come in time is answered with 408, and gives its place back."""
    settings = AggregatorSettings(handshake_body_s=0.2, record_body_s=0.2, requests_max=2)
    async with managers(database_dsn, tmp_path) as (manager,):
        app = Aggregator(manager, settings=settings)
        async with (
            serving(app) as server,
            httpx.AsyncClient(base_url=url_of(server), headers=OCTETS, timeout=60) as client,
        ):
            answers = await asyncio.gather(
                speak(server.port, head("hello", f"Content-Length: {wire.M1_BYTES}"), b"\x01"),
                speak(server.port, head("record", "Transfer-Encoding: chunked"), b"1\r\nx\r\n"),
            )
            assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)
            assert shape(await post(client, "hello", b"")) == REFUSAL


async def test_a_body_that_trickles_gives_its_place_back(database_dsn, tmp_path):
    """A record that comes slower than the slowest pace is cut off long before the longest wait for records."""
    settings = AggregatorSettings(handshake_body_s=0.2, body_bytes_per_s_min=2**20, record_body_s=600)
    async with managers(database_dsn, tmp_path) as (manager,):
        app = Aggregator(manager, settings=settings)
        async with serving(app) as server:
            async with asyncio.timeout(60):
                said = await speak(server.port, head("record", "Content-Length: 40000"), b"\x00" * 20_000)
            assert said.startswith(b"HTTP/1.1 408")


async def test_a_client_that_goes_away_is_forgotten(database_dsn, tmp_path):
    """A connection that ends in the middle of a body leaves nothing behind."""
    async with managers(database_dsn, tmp_path) as (manager,):
        app = Aggregator(manager)
        async with serving(app) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head("hello", f"Content-Length: {wire.M1_BYTES}") + b"\x01")
            await writer.drain()
            await until(lambda: app._bodies.requests == 1)
            writer.close()
            async with asyncio.timeout(60):
                while not app.http_refusals["hello", "client-gone"]:
                    await asyncio.sleep(0.01)
        assert (app._bodies.requests, app._bodies.bytes) == (0, 0)


async def test_a_full_worker_says_when_to_come_back(database_dsn, tmp_path):
    """Above its bounds a worker answers 503 with Retry-After, at once, and serves again afterwards."""
    release = asyncio.Event()

    async def wait(_record, _aad):
        await release.wait()

    settings = AggregatorSettings(requests_max=1, retry_after_s=7)
    async with aggregating(database_dsn, tmp_path, settings=settings, on_record=wait) as (
        (manager,),
        (app,),
        (client,),
    ):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        first = asyncio.create_task(post(client, "record", encode_envelope(b"", edge.seal(sid, b"x"))))
        async with asyncio.timeout(60):
            while not manager.refusals and not app._bodies.requests:
                await asyncio.sleep(0.01)
        full = await post(client, "hello", b"")
        assert (503, "7") == (full.status_code, full.headers["retry-after"])
        assert (await client.get("/healthz")).status_code == 200
        release.set()
        assert (await first).status_code == 200
        assert shape(await post(client, "hello", b"")) == REFUSAL


async def test_bodies_share_a_budget_of_memory(database_dsn, tmp_path):
    """Bytes that are held above the worker's memory are answered with 503; handshakes get on all the same."""
    settings = AggregatorSettings(bodies_bytes_max=2**17, record_body_s=120)
    async with (
        managers(database_dsn, tmp_path, **SMALL) as (manager,),
        serving(app := Aggregator(manager, settings=settings)) as server,
        httpx.AsyncClient(base_url=url_of(server), headers=OCTETS, timeout=60) as client,
    ):
        edge = await Edge.provision(manager)
        whole = head("record", f"Content-Length: {2**20}")
        first = asyncio.create_task(speak(server.port, whole, bytes(2**17), wait_s=60))
        await until(lambda: app._bodies.bytes >= 2**17 - 2**14)
        second = await speak(server.port, whole + bytes(2**15 + 2**14))
        assert second.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in second
        sid = await agreed(client, manager, edge)
        assert (await post(client, "record", encode_envelope(b"", edge.seal(sid, bytes(2**13))))).status_code == 200
        first.cancel()
        await until(lambda: app._bodies.bytes == 0)


async def test_a_declared_size_holds_nobody_up(database_dsn, tmp_path):
    """Requests that declare large bodies and send nothing take no memory from those that send."""
    settings = AggregatorSettings(bodies_bytes_max=2**20, record_body_s=120)
    async with (
        managers(database_dsn, tmp_path, **SMALL) as (manager,),
        serving(app := Aggregator(manager, settings=settings)) as server,
        httpx.AsyncClient(base_url=url_of(server), headers=OCTETS, timeout=60) as client,
    ):
        edge = await Edge.provision(manager)
        sid = await agreed(client, manager, edge)
        idle = [asyncio.create_task(speak(server.port, head("record", f"Content-Length: {2**20}"))) for _ in range(50)]
        await until(lambda: app._bodies.requests == 50)
        assert app._bodies.bytes == 0
        body = encode_envelope(b"", edge.seal(sid, bytes(2**19)))
        assert (await post(client, "record", body)).status_code == 200
        for each in idle:
            each.cancel()
        await until(lambda: app._bodies.requests == 0)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/octet-stream", "content-encoding": "gzip"},
    ],
)
async def test_another_content_type_is_not_read(headers, database_dsn, tmp_path):
    """Bodies are application/octet-stream as they are; anything else is 415."""
    async with (
        managers(database_dsn, tmp_path) as (manager,),
        serving(Aggregator(manager)) as server,
        httpx.AsyncClient(base_url=url_of(server), timeout=60) as client,
    ):
        for step in STEPS:
            answer = await client.post(f"/v1/{step}", content=b"{}", headers=headers)
            assert answer.status_code == 415


async def test_other_methods_and_addresses_are_told(database_dsn, tmp_path):
    """Every address takes one method; what does not exist is 404, under the prefix and beside it."""
    async with aggregating(database_dsn, tmp_path) as (_, _, (client,)):
        for path, right in (
            *((f"/v1/{step}", "POST") for step in STEPS),
            ("/v1/identity", "GET"),
            ("/v1/announcement/current", "GET"),
            ("/healthz", "GET"),
            ("/readyz", "GET"),
        ):
            for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST"):
                if method != right:
                    answer = await client.request(method, path)
                    assert (405, right) == (answer.status_code, answer.headers["allow"]), (method, path)
        for path in ("/", "/v1", "/v1/", "/v1/hello/", "/v2/hello", "/v1/announcement", "/v1/announcement/a/b"):
            assert (await client.get(path)).status_code == 404, path


async def test_only_live_buckets_have_an_announcement(database_dsn, tmp_path):
    """Announcements are served by name and by number while their keys live, with how long they may be kept."""
    async with aggregating(database_dsn, tmp_path, changes={"clock": TurnedClock()}) as ((manager,), _, (client,)):
        bucket = await manager.current_bucket()
        ages = {}
        for which in ("current", "next", bucket, bucket + 1):
            answer = await client.get(f"/v1/announcement/{which}")
            assert (200, wire.ANNOUNCEMENT_BYTES) == (answer.status_code, len(answer.content))
            kind, _, age = answer.headers["cache-control"].partition(", max-age=")
            assert kind == "public"
            ages[which] = int(age)
        assert 0 < ages["current"] <= 300
        assert ages["current"] - 2 <= ages["next"] <= ages["current"]
        assert 300 < ages[bucket] <= 600
        for which in (0, bucket - 5, bucket + 2, 2**64 - 1, 2**64, "٣", "+1", "1_0", "-1", "9" * 40, "x", "%00"):
            assert (await client.get(f"/v1/announcement/{which}")).status_code == 404, which
        identity = await client.get("/v1/identity")
        assert (await manager.identity(), "public, max-age=300") == (
            identity.content,
            identity.headers["cache-control"],
        )
