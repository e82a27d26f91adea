"""`/metrics`: figures of all workers together, on an address of their own."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from manager_world import Edge, make_manager, managers, room_in_bucket
from qflare.errors import ConfigError, DecodeError, RefusedError
from qflare.model.histogram import SECONDS, Histogram
from qflare.primitives import stopwatch
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.service.aggregator import Aggregator
from qflare.service.metrics.catalogue import BY_NAME, CATALOGUE
from qflare.service.metrics.exposition import render
from qflare.service.metrics.facts import OTHER, SERIES_MAX, Facts
from qflare.service.metrics.metric import Kind
from qflare.service.metrics.settings import MetricsSettings
from qflare.service.metrics.tally import Tally
from qflare.testing import TurnableClock
from service.processes import serve, wait_for
from service.test_aggregator import OCTETS, REFUSAL, post, shape

ROOT = Path(__file__).parents[2]
PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: Debian's package prometheus")


class Watched:
    """A running `qflare serve` with its metrics."""

    def __init__(self, served, client, url):
        self.served, self.client, self.url = served, client, url

    async def scrape(self):
        answer = await self.client.get(self.url)
        assert answer.status_code == 200
        return answer.text

    async def value(self, series):
        return values(await self.scrape()).get(series)

    async def until(self, series, value):
        """Wait until a series has a value."""
        async with asyncio.timeout(60):
            while await self.value(series) != value:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def watched(folder, database_dsn, *arguments, **variables):
    """Run `qflare serve` on *database_dsn* with `/metrics` on a free port."""
    arguments = ("--data-dir", str(folder / "data"), *arguments)
    variables = {
        "QFLARE_DSN": database_dsn,
        "QFLARE_METRICS_ADDRESS": "127.0.0.1:0",
        "QFLARE_METRICS_TIMEOUT_S": "20",
        **variables,
    }
    async with (
        serve(folder, *arguments, **variables) as served,
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        yield Watched(served, client, served.said["metrics"])


async def shake(client, edge, announcement):
    """Make a session over HTTP, every message of it."""
    started = start_hello(edge.device, announcement)
    pending = accept_hello(started, (await post(client, "hello", started.message)).content, edge.device)
    edge.accept(pending, (await post(client, "confirm", pending.message)).content)


def checked(text):
    """Return what promtool has against a page."""
    command = ["promtool", "check", "metrics"]
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    return run.stdout + run.stderr


def values(text):
    """Return the value of each series of a page."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def established(figures):
    return sum(
        value for series, value in figures.items() if re.match(r'qflare_handshakes_total.*"established"', series)
    )


@PROMTOOL
async def test_all_workers_count_together_and_nothing_goes_back(database_dsn, tmp_path):
    """What two workers did stands on one page, over the end of one of them, and names no device."""
    async with (
        watched(tmp_path, database_dsn, "--workers", "2", QFLARE_LOG_FORMAT="json") as its,
        make_manager(database_dsn, tmp_path, keeper_dir=str(tmp_path / "keys")) as manager,
    ):
        edges = [await Edge.provision(manager) for _ in range(3)]
        first = values(await its.scrape())
        assert (0, 2, 2) == (established(first), first["qflare_workers"], first["qflare_workers_wanted"])
        for edge in edges:
            # A connection each, so that either worker may get it.
            async with httpx.AsyncClient(
                base_url=its.served.url, headers=OCTETS, trust_env=False, timeout=60
            ) as client:
                await shake(client, edge, await edge.announcement(manager))
                assert shape(await post(client, "record", b"\0\0\0\0" + bytes(70))) == REFUSAL
        text = await its.scrape()
        second = values(text)
        assert established(second) == 3
        assert second['qflare_batch_items_sum{operation="confirm"}'] == 3
        assert sum(value for series, value in second.items() if series.startswith("qflare_refusals_total")) == 3
        timed = 'qflare_http_request_seconds_count{{route="{}",status="{}"}}'
        assert [3, 3, 3] == [
            second[timed.format(*of)] for of in (("hello", "2xx"), ("confirm", "2xx"), ("record", "4xx"))
        ]
        assert second['qflare_call_rows_total{operation="kem-decapsulate"}'] >= 3
        assert second['qflare_call_rows_total{operation="sig-verify"}'] >= 3
        assert second['qflare_call_seconds_count{operation="sig-sign"}'] >= 1
        assert second['qflare_ready{part="database"}'] == second['qflare_ready{part="keeper"}'] == 1
        assert second["qflare_audit_entries"] > first["qflare_audit_entries"]
        assert second['qflare_pool_connections{state="used"}'] <= second["qflare_pool_connections_max"] == 16
        assert second["qflare_worker_resident_bytes"] > 2 * 10**7
        assert second["qflare_worker_cpu_seconds_total"] > first["qflare_worker_cpu_seconds_total"]
        for edge in edges:
            for secret in (edge.name, edge.device.ref.hex(), edge.device.tenant_id.hex()):
                assert secret not in text
        assert await asyncio.to_thread(checked, text) == ""

        os.kill(its.served.workers[0], signal.SIGKILL)
        async with asyncio.timeout(60):
            while (third := values(await its.scrape()))["qflare_worker_restarts_total"] < 1 or third[
                "qflare_workers"
            ] < 2:
                assert established(third) == 3
                await asyncio.sleep(0.1)
        for series, value in second.items():
            if series.partition("{")[0].endswith(("_total", "_count", "_sum", "_bucket")):
                assert third[series] >= value, series
    # Both the parent and its workers log as they were asked to.
    lines = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines()]
    said = {(line["logger"], line["message"].partition(" ")[0]) for line in lines}
    assert {("qflare.service.serve", "worker"), ("qflare.service.aggregator", "record")} <= said


async def test_the_page_stands_where_no_device_comes(database_dsn, tmp_path):
    """The devices' port has no metrics, the metrics' port nothing else, and a worker that hangs is told as silent."""
    async with watched(tmp_path, database_dsn, QFLARE_METRICS_TIMEOUT_S="0.5") as its:
        assert (await its.client.get(f"{its.served.url}/metrics")).status_code == 404
        root = its.url.removesuffix("/metrics")
        for path in ("/", "/healthz", "/v1/identity", "/metrics/"):
            assert (await its.client.get(root + path)).status_code == 404
        assert (await its.client.post(its.url)).status_code == 405
        await room_in_bucket(60)
        async with asyncio.timeout(60):
            while (before := values(await its.scrape()))["qflare_workers_silent"] != 0:
                await asyncio.sleep(0.1)
        bucket = before["qflare_bucket_index"]
        (worker,) = its.served.workers
        os.kill(worker, signal.SIGSTOP)
        try:
            figures = values(await its.scrape())
        finally:
            os.kill(worker, signal.SIGCONT)
        assert (figures["qflare_workers_silent"], figures["qflare_bucket_index"]) == (1, bucket)
        async with asyncio.timeout(60):
            # What came too late is not taken for the answer to a later question.
            while await its.value("qflare_workers_silent") != 0:
                await asyncio.sleep(0.1)


async def test_a_database_that_goes_is_told(database_dsn, tmp_path):
    """With the database away the page still answers, and says which part is not ready."""
    name = database_dsn.rpartition("/")[2].partition("?")[0]
    admin = await asyncpg.connect(database_dsn.replace(name, "postgres"), timeout=30)
    try:
        async with watched(tmp_path, database_dsn, QFLARE_METRICS_TIMEOUT_S="1") as its:
            await its.until('qflare_ready{part="database"}', 1)
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await its.until('qflare_ready{part="database"}', 0)
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            await wait_for(f"{its.served.url}/readyz", 200)
            await its.until('qflare_ready{part="database"}', 1)
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await admin.close()


async def test_a_handshake_is_counted_by_form_result_and_reason(database_dsn, tmp_path):
    """Hello and offer, first and repeated, refused for each reason: each has its own series and is counted once."""
    async with make_manager(database_dsn, tmp_path) as manager:
        edge = await Edge.provision(manager)
        pending = await edge.hello(manager)
        await manager.confirm(pending.message)
        await manager.confirm(pending.message)
        await edge.connect(manager, form="offer")
        wrong = [b"", b"x", pending.message[:-1] + b"\1", pending.message[:-1]]
        for message in wrong:
            with pytest.raises(RefusedError):
                await manager.confirm(message)
        await manager.confirm_many([*wrong, pending.message])
        facts = await manager.figures()
        counts = {labels: value for labels, (value,) in facts.values["qflare_handshakes_total"].items()}
        assert counts["hello", "established", "none"] == 1
        assert counts["hello", "repeated", "none"] == 2
        assert counts["offer", "established", "none"] == 1
        refused = Counter()
        for (_, result, reason), value in counts.items():
            if result == "refused":
                refused["confirm", reason] += value
        assert sum(refused.values()) == 2 * len(wrong)
        assert refused == {(step, reason.value): count for (step, reason), count in manager.refusals.items()}


async def test_recording_costs_nothing_for_an_item(database_dsn, tmp_path, monkeypatch):
    """A batch of many handshakes is recorded as often as a batch of one: once a batch, once a call into C."""
    notes = Counter()

    class Watch:
        def now_ns(self):
            return 1

        def note(self, operation, rows, elapsed_ns):
            assert elapsed_ns >= 0
            notes["calls"] += 1
            notes[operation] += rows

    observe = Histogram.observe

    def counted(self, value):
        notes["observed"] += 1
        observe(self, value)

    async with make_manager(database_dsn, tmp_path, tick_max_s=3600) as manager:
        edges = [await Edge.provision(manager) for _ in range(12)]
        pendings = [await edge.hello(manager) for edge in edges]
        monkeypatch.setattr(Histogram, "observe", counted)
        stopwatch.watch_with(Watch())
        try:
            counted_for = []
            for part in (pendings[:1], pendings[1:]):
                notes.clear()
                await manager.confirm_many([pending.message for pending in part])
                counted_for.append(notes["calls"] + notes["observed"])
                assert notes["sig-sign"] == 1
        finally:
            stopwatch.watch_with(None)
        assert counted_for[0] == counted_for[1] < 20


def test_facts_of_workers_are_joined_by_kind():
    """Counters and histograms are summed, gauges as the catalogue says; what an ended worker counted stays."""
    tally = Tally()

    def told(count, index, waiting, seconds):
        facts = Facts()
        facts.add("qflare_refusals_total", count, "hello", "tag")
        facts.add("qflare_bucket_index", index)
        facts.add("qflare_jobs", waiting)
        histogram = Histogram(SECONDS)
        histogram.observe(seconds)
        facts.add_histogram("qflare_cleanup_seconds", histogram)
        return Facts.decode(facts.encode())

    together = tally.take({1: told(3, 10, 5, 0.3), 2: told(4, 11, 6, 20)})
    text = render(together).decode()
    assert 'qflare_refusals_total{reason="tag",step="hello"} 7.0' in text
    assert "qflare_bucket_index 10.0" in text
    assert "qflare_jobs 11.0" in text
    assert 'qflare_cleanup_seconds_bucket{le="0.5"} 1.0' in text
    assert 'qflare_cleanup_seconds_bucket{le="10.0"} 1.0' in text
    assert 'qflare_cleanup_seconds_bucket{le="+Inf"} 2.0' in text
    assert "qflare_cleanup_seconds_sum 20.3" in text
    tally.forget(1)
    text = render(tally.take({2: None})).decode()
    assert 'qflare_refusals_total{reason="tag",step="hello"} 7.0' in text
    assert "qflare_bucket_index 11.0" in text
    assert "qflare_jobs 6.0" in text
    assert "qflare_cleanup_seconds_count 2.0" in text


async def test_requests_are_timed_under_few_names(database_dsn, tmp_path):
    """Each request once, by address and kind of status, also where nobody waits for its answer; other names are one."""
    clock = TurnableClock()
    async with managers(database_dsn, tmp_path) as (manager,):
        aggregator = Aggregator(manager, clock=clock)

        async def asked(method, path, *, status):
            async def receive():
                clock.turn(3)
                return {"type": "http.disconnect"} if status is None else {"type": "http.request", "body": b"x"}

            told = []

            async def send(message):
                told.append(message.get("status"))

            headers = [(b"content-type", b"application/octet-stream")]
            scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
            await aggregator(scope | {"endpoint": "of what is around it"}, receive, send)
            assert status == (told[0] if told else None)

        for number in range(40):
            await asked("GET", f"/{number}", status=404)
            await asked("GET", f"/v1/announcement/{number}", status=404)
        await asked("POST", "/v1/hello", status=403)
        await asked("POST", "/v1/hello", status=None)
        await asked("GET", "/v1/hello", status=405)
        await asked("GET", "/v1/identity", status=200)
        facts = await aggregator.figures()
        series = facts.values["qflare_http_request_seconds"]
        assert {
            ("other", "4xx"): 40,
            ("announcement", "4xx"): 40,
            ("hello", "4xx"): 2,
            ("hello", "none"): 1,
            ("identity", "2xx"): 1,
        } == {labels: sum(counts) for labels, (*counts, _) in series.items()}
        assert (3.0, 3.0, 0.0) == tuple(
            series[of][-1] for of in (("hello", "4xx"), ("hello", "none"), ("identity", "2xx"))
        )


def test_labels_are_bounded():
    """However many names come, a metric has so many series and one more that takes the rest."""
    facts = Facts()
    for number in range(SERIES_MAX + 100):
        facts.add("qflare_detector_alarms_total", 1, f"signal {number}")
    series = facts.values["qflare_detector_alarms_total"]
    assert len(series) == SERIES_MAX + 1
    assert series[OTHER,] == (100,)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{", b'{"no_such": []}', b'{"qflare_jobs": [[1]]}', b'{"qflare_jobs": 5}']
)
def test_figures_of_another_version_are_refused(line):
    """What a worker of another version tells is no crash of the parent."""
    with pytest.raises(DecodeError):
        Facts.decode(line)


def test_operations_lists_every_metric():
    """The table in docs/operations.md is the catalogue."""
    section = (
        (ROOT / "docs" / "operations.md").read_text().partition("## Metrics and alerts\n")[2].partition("\n## ")[0]
    )
    expected = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in CATALOGUE
    ]
    assert expected == [line for line in section.splitlines() if line.startswith("| `qflare_")]


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("qflare.service.metrics.exposition", "prometheus_client", "metrics"),
        ("qflare.service.dashboards.writing", "grafana_foundation_sdk", "dashboards"),
    ],
)
def test_a_missing_extra_is_named(module, package, extra):
    """Without the package that writes a page, the error says what to install."""
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from qflare.errors import MissingExtraError\n"
        f"try: import {module}\n"
        "except MissingExtraError as missing: print(missing)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert f"qflare[{extra}]" in run.stdout


def test_the_catalogue_is_in_order():
    """Names are unique and end as Prometheus asks; every label is a word for a kind of thing, never for one device."""
    assert len(BY_NAME) == len(CATALOGUE)
    labels = {"form", "result", "reason", "step", "operation", "state", "reserve", "event", "place", "sweep", "part"}
    for metric in CATALOGUE:
        assert metric.name.startswith("qflare_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.name.endswith(("_seconds", "_items")) or metric.kind is not Kind.HISTOGRAM
        assert metric.help.endswith(".")
        assert set(metric.labels) <= labels | {
            "signal",
            "route",
            "status",
            "severity",
            "action",
            "operator",
            "version",
            "liboqs",
            "engine",
        }


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "9464", "127.0.0.1", "x:1", "127.0.0.1:x", "127.0.0.1:65536", ""],
)
def test_only_loopback_is_taken(address):
    """True reasons of refusals must not be shown to the network: the error says what to do instead."""
    with pytest.raises(ConfigError, match=r"loopback.*put a proxy"):
        MetricsSettings(metrics_address=address)


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "[::1]:0", "localhost:1"])
def test_loopback_is_taken(address):
    assert MetricsSettings(metrics_address=address).split()[1] == int(address.rpartition(":")[2])
