"""Processes killed under load (C1, C2, I7): what was acknowledged stands, once; the devices keep the ledger."""

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import pytest

from fleet import APPLICATION, compare, fleet
from manager_world import make_manager
from qflare.stores.embedded.folder import open_folder
from service.processes import serve

WORKERS = 3
ROUNDS = 10
"""Ten rounds in which all three workers are killed at once: thirty kills, and ten times nobody serves."""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ledger_app.py").write_text(APPLICATION)
    return tmp_path


def arguments(folder, workers):
    return ("--workers", str(workers), "--app", "ledger_app:factory", "--data-dir", str(folder / "data"))


def workers_of(parent):
    """Process ids of the workers that a parent has now."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                command = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if fields[1] == str(parent) and fields[0] != "Z" and b"qflare.service.worker" in command:
                found.append(int(path.name))
    return found


def report(record_property, what, seconds):
    """Write down how long the service was away; figures are told, not asserted (they are the machine's)."""
    text = f"{what}: away {min(seconds):.2f} to {max(seconds):.2f} s, median {sorted(seconds)[len(seconds) // 2]:.2f} s"
    record_property("away", text)
    print(text)  # noqa: T201 - shown by pytest -rP


async def test_thirty_killed_workers_lose_and_double_nothing(database_dsn, folder, record_property):
    """30 workers killed with SIGKILL under load: 0 acknowledged sessions or entries lost, 0 doubled (C1)."""
    async with (
        serve(folder, *arguments(folder, WORKERS), QFLARE_DSN=database_dsn) as served,
        make_manager(database_dsn, folder, keeper_dir=str(folder / "keys")) as manager,
    ):
        kills, away = 0, []
        async with fleet(manager, served.url, folder) as working:
            await working.acknowledged(8)
            for _ in range(ROUNDS):
                victims = workers_of(served.process.pid)
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
                kills += len(victims)
                away.append(await working.served_again(within_s=120))
                async with asyncio.timeout(120):
                    while len(workers_of(served.process.pid)) < WORKERS:
                        await asyncio.sleep(0.02)
                await working.acknowledged(8)
        assert WORKERS * ROUNDS == kills
        assert working.ledger.failures
        report(record_property, "30 killed workers", away)
        connection = await asyncpg.connect(database_dsn, timeout=30)
        try:
            await compare(working.ledger, manager, connection)
        finally:
            await connection.close()


async def test_killed_postgresql_loses_and_doubles_nothing(folder, record_property):
    """PostgreSQL killed as a whole and by one of its processes, under load: the same zeros, no restart of ours (C2)."""
    async with (
        serve(folder, *arguments(folder, 2)) as served,
        make_manager(None, folder, keeper_dir=str(folder / "keys")) as manager,
    ):
        place = open_folder(str(folder / "data"))
        workers, away = set(workers_of(served.process.pid)), []
        async with fleet(manager, served.url, folder) as working:
            for number in range(6):
                await working.acknowledged(8)
                postmaster = int((place.cluster / "postmaster.pid").read_text().split()[0])
                os.kill(postmaster if number % 2 else backend_of(postmaster), signal.SIGKILL)
                away.append(await working.served_again(within_s=120))
        assert workers == set(workers_of(served.process.pid))
        report(record_property, "6 kills of PostgreSQL", away)
        connection = await asyncpg.connect(place.dsn(), timeout=30)
        try:
            await compare(working.ledger, manager, connection)
        finally:
            await connection.close()


def backend_of(postmaster):
    """One process that serves a connection of that server."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                title = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == str(postmaster) and b"[local]" in title:
                return int(path.name)
    raise AssertionError("no backend")


async def test_sigterm_under_load_loses_nothing_and_ends(database_dsn, folder):
    """SIGTERM under load: every worker ends by itself within the bound, and what it acknowledged stands (I7)."""
    async with (
        serve(folder, *arguments(folder, 2), QFLARE_DSN=database_dsn) as served,
        make_manager(database_dsn, folder, keeper_dir=str(folder / "keys")) as manager,
    ):
        async with fleet(manager, served.url, folder) as working:
            await working.acknowledged(16)
            served.terminate()
            # The parent kills workers after 9 s; 0 means that none had to be.
            assert 0 == await served.ended(within_s=10)
            assert "are killed" not in (folder / "serve.log").read_text()
        connection = await asyncpg.connect(database_dsn, timeout=30)
        try:
            await compare(working.ledger, manager, connection)
        finally:
            await connection.close()
