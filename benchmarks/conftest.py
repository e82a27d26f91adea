"""Fixtures of the benchmarks: one claim or a few each, with the reference that is beaten in the same run."""

from __future__ import annotations

import time

import pytest
from interleave import Bench
from raw import Raw
from server import Server

from qflare.primitives.engine import choose_engine
from qflare.service.bench.machine import describe_machine


def pytest_addoption(parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("qflare")
    group.addoption("--quick", action="store_true", help="few, short rounds: shows that everything runs")
    group.addoption(
        "--million",
        action="store_true",
        help="a million live sessions and devices, not 100,000, and a log of ten million entries (20 minutes more)",
    )
    group.addoption("--log-entries", type=int, help="entries of the log that appends and proofs are measured at")
    group.addoption("--http", action="store_true", help="offers over HTTP too, and a finer search (4 minutes more)")
    group.addoption("--gigabyte", action="store_true", help="seal and open 1 GB too (needs 4 GB of memory)")


ORDER = (
    "test_published_primitives",
    "test_raw",
    "test_lanes_engine",
    "test_threads",
    "test_peers",
    "test_kdf",
    "test_sealing",
    "test_database",
    "test_growth",
    "test_turn",
    "test_handshakes",
    "test_statements",
    "test_http",
    "test_reserve",
    "test_audit",
    "test_detection",
    "test_footprint",
)
"""Sections of the table: first what needs no server, in a process that has none; the log when it is longest."""


def pytest_configure() -> None:
    """Choose the engine as a server does at its start, so that every section measures the same one."""
    choose_engine(None)


def pytest_collection_modifyitems(items) -> None:
    """Bring the modules into the order of the table; pytest keeps it inside each."""
    items.sort(key=lambda item: ORDER.index(item.module.__name__))


def pytest_benchmark_update_machine_info(config, machine_info) -> None:  # noqa: ARG001 - the hook's names
    """Say what the figures were taken on."""
    machine_info["qflare"] = describe_machine()


@pytest.fixture(scope="session")
def is_quick(request) -> bool:
    return request.config.getoption("--quick")


@pytest.fixture(scope="session")
def raw() -> Raw:
    """Raw liboqs, the very one that is in the extension."""
    return Raw()


@pytest.fixture
def bench(request, benchmark, is_quick) -> Bench:
    """Rounds and claims of one benchmark; the module's docstring names its section."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n  {line}", end="", flush=True)

    marker = request.node.get_closest_marker("benchmark")
    timer = time.perf_counter if marker is None else marker.kwargs["timer"]
    section = request.module.__doc__.strip().rstrip(".")
    return Bench(benchmark, section=section, is_quick=is_quick, timer=timer, say=say)


@pytest.fixture(scope="session")
def server(is_quick):
    """A manager over its own PostgreSQL, with a fleet of registered devices."""
    opened = Server(devices=1024 if is_quick else 8192)
    yield opened
    opened.close()
