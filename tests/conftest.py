"""What the whole suite shares: the database fixtures, and an end that names what was not run."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import settings

import vector_sets
from postgres_database import (  # noqa: F401 - fixtures
    admin,
    database_dsn,
    empty_database_dsn,
    postgres_cluster,
    postgres_store,
    postgres_template,
    store,
)
from qflare.stores.keeper.file import default_volatile
from qflare.stores.keeper.folder import LOCK_NAME

# Time is measured in benchmarks/: an example that a busy machine takes long for has found nothing.
settings.register_profile("qflare", deadline=None)
settings.load_profile("qflare")

# A run in the background of a script has SIGINT ignored, and the processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NO_SKIPS = "QFLARE_NO_SKIPS"
"""Set where every component is installed (.ci/run): then a test that was not run is a failure."""


@pytest.fixture(scope="session", autouse=True)
def _no_sealing_keys_stay(tmp_path_factory):
    """Remove what the keepers of this run put into memory: their lasting halves are in the run's own folders."""
    yield
    # os.walk passes over folders that go away meanwhile: a database server may still be ending.
    for folder, _, names in os.walk(tmp_path_factory.getbasetemp()):
        if LOCK_NAME in names:
            shutil.rmtree(default_volatile(Path(folder)), ignore_errors=True)


def pytest_terminal_summary(terminalreporter):
    """Name the official vector sets that ran, and at the very end what this machine could not run and what it takes."""
    lines = vector_sets.summary_lines()
    if lines:
        terminalreporter.section("vector sets")
        for line in lines:
            terminalreporter.write_line(line)
    skipped = skipped_by_reason(terminalreporter)
    if skipped:
        terminalreporter.section("not run on this machine")
        for reason, count in sorted(skipped.items()):
            terminalreporter.write_line(f"{count} test{'s' if count > 1 else ''}: {reason}")
        if os.environ.get(NO_SKIPS):
            terminalreporter.write_line(f"{NO_SKIPS} is set: a test that was not run is a failure")


def skipped_by_reason(terminalreporter):
    """Count the skipped tests by the reason they gave, which names what would let them run."""
    counts = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        counts[reason] = counts.get(reason, 0) + 1
    return counts


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail the run where skips are not allowed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get(NO_SKIPS) and exitstatus == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
