"""The load generator: an open loop that hides no delay, an honest search, and a real server at the other end."""

from __future__ import annotations

import asyncio
import json

import pytest

from qflare.errors import ConfigError, MissingExtraError
from qflare.service.load import LoadOptions
from qflare.service.load.client import Client
from qflare.service.load.latency import Latencies, Percentiles
from qflare.service.load.pace import Stream, send_paced
from qflare.service.load.search import TRIALS_MAX, find_saturation, highest_held
from qflare.service.load.trial import Step, Trial


class Peer:
    """An HTTP server that answers everything, stands still for a while, or says something else."""

    def __init__(self, *, stall_after=None, stall_s=0.0, status=200):
        self.stall_after, self.stall_s, self.status = stall_after, stall_s, status
        self.bodies = []
        self._stalled = asyncio.Event()
        self._stalled.set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.client = Client("127.0.0.1", self.port)
        await self.client.connect(4)
        return self

    async def __aexit__(self, *_):
        self.client.close()
        self._server.close()
        await asyncio.sleep(0.01)

    async def _serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(size))
                if len(self.bodies) == self.stall_after:
                    self._stalled.clear()
                    asyncio.get_running_loop().call_later(self.stall_s, self._stalled.set)
                await self._stalled.wait()
                body = self.bodies[-1][:4]
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (self.status, len(body), body))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            writer.close()


def stream_of(client, count):
    return Stream([client.request("/x", b"%04d and more" % number) for number in range(count)])


async def test_every_request_gets_its_own_answer():
    """Bodies come back to the requests that they answer, in whatever order connections were free."""
    async with Peer() as peer:
        first, second = stream_of(peer.client, 50), stream_of(peer.client, 30)
        stretch = await send_paced(peer.client, [first, second], 0.2)
    assert [b"%04d" % number for number in range(50)] == first.answers
    assert [b"%04d" % number for number in range(30)] == second.answers
    assert {} == first.failures == second.failures
    assert stretch.wall_s >= 0.2 * 49 / 50


async def test_a_server_that_stands_still_is_seen_by_every_request_that_was_due():
    """While a server stands still requests go on being due, and each one's wait counts: no omission is coordinated."""
    async with Peer(stall_after=20, stall_s=0.5) as peer:
        stream = stream_of(peer.client, 100)
        await send_paced(peer.client, [stream], 0.5)
    found = stream.latencies.percentiles()
    # Nobody was answered during the half second in which 80 of 100 were due; a closed loop would have seen it 4 times.
    assert stream.latencies.count == 100
    assert found.p50_ms > 100
    assert found.max_ms > 400


async def test_refusals_and_lost_connections_are_no_answers():
    """What is not 200 is counted by its status, what never comes as 0, and neither counts as confirmed."""
    async with Peer(status=503) as peer:
        stream = stream_of(peer.client, 20)
        await send_paced(peer.client, [stream], 0.1)
        assert {503: 20} == stream.failures
        assert [None] * 20 == stream.answers
        peer.client.close()
        await asyncio.sleep(0.05)
        assert 0 == peer.client.open_connections


def trial(rate, *, achieved=None, p99_ms=10.0, failures=None):
    latency = Percentiles(p50_ms=1.0, p90_ms=2.0, p99_ms=p99_ms, p999_ms=p99_ms, max_ms=p99_ms)
    step = Step(path="/", sent=1, failures=failures or {}, latency=latency, histogram="")
    return Trial(
        form="hello", rate=rate, achieved=rate if achieved is None else achieved, first=step, last=step, checked=1,
        client_late_ms=0.0, server_us=1.0, postgres_us=1.0, client_us=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [3.0, 99.0, 100.0, 1234.0, 5000.0])
async def test_the_search_finds_where_a_server_ends(limit):
    """The highest rate that held is below the server's end and within 6 % of it."""

    async def attempt(rate):
        return trial(rate) if rate <= limit else trial(rate, achieved=0.9 * rate)

    trials = await find_saturation(attempt, first=100.0, latency_ms=250)
    found = highest_held(trials, latency_ms=250)
    assert limit / 1.07 <= found.rate <= limit
    assert len(trials) <= TRIALS_MAX + 1


async def test_a_search_can_be_bounded():
    """A search that is given few trials tries no other rate after them."""

    async def attempt(rate):
        return trial(rate)

    assert len(await find_saturation(attempt, first=100.0, latency_ms=250, trials_max=3)) == 3


async def test_one_stumble_does_not_end_the_search():
    """A rate that fails once and holds at the second try counts as held."""
    tried = []

    async def attempt(rate):
        tried.append(rate)
        return trial(rate, p99_ms=1000.0) if len(tried) == 2 or rate > 1000 else trial(rate)

    found = highest_held(await find_saturation(attempt, first=100.0, latency_ms=250), latency_ms=250)
    assert found.rate > 900


async def test_a_server_that_holds_nothing_is_said_so():
    """Where no rate holds, none is named."""

    async def attempt(rate):
        return trial(rate, failures={503: 1})

    assert highest_held(await find_saturation(attempt, first=4.0, latency_ms=250), latency_ms=250) is None


def test_latencies_outside_the_range_are_counted_at_its_ends():
    """No latency is lost: what is shorter than a microsecond or longer than ten minutes counts at the end."""
    latencies = Latencies()
    for seconds in (-1.0, 0.0, 0.001, 1e6):
        latencies.add(seconds)
    assert latencies.count == 4
    assert latencies.percentiles().max_ms == pytest.approx(600_000, rel=0.01)


def test_a_missing_package_is_named(monkeypatch):
    """Without hdrhistogram the error names the extra that brings it."""
    monkeypatch.setitem(__import__("sys").modules, "hdrh.histogram", None)
    with pytest.raises(MissingExtraError, match="bench"):
        Latencies()


@pytest.mark.parametrize(
    ("name", "value"),
    [("form", "both"), ("rate", 0), ("seconds", 60), ("devices", 0), ("connections", 0), ("stretches", 0)],
)
def test_options_out_of_range_are_refused(name, value):
    """What cannot work is refused before a server is started, and named."""
    with pytest.raises(ConfigError, match=f"--{name}"):
        LoadOptions(**{name: value})


@pytest.mark.parametrize("form", ["hello", "offer"])
def test_load_on_a_real_server(form, tmp_path, capsys):
    """Against a server of its own every handshake is confirmed and a sample checked as devices do."""
    from qflare.cli.main import run

    output = tmp_path / "load.json"
    arguments = ["--form", form, "--rate", "30", "--seconds", "1", "--stretches", "1", "--devices", "16"]
    assert 0 == run(["bench", "load", *arguments, "--workers", "1", "--connections", "8", "--output", str(output)])
    (found,) = json.loads(output.read_text())["trials"]
    assert (30, {}, {}) == (found["last"]["sent"], found["first"]["failures"], found["last"]["failures"])
    assert found["checked"] == 30
    assert found["server_us"] > 0
    assert found["postgres_us"] > 0
    printed = capsys.readouterr()
    assert form in printed.out
    assert "1 of 1: 30 confirmed" in printed.err
