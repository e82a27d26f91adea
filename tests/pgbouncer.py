"""A real PgBouncer in transaction mode before the test's PostgreSQL."""

import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest

from postgres_database import run_apart
from qflare.stores.embedded.account import choose_account

PORT = 6432
SERVERS = 3
"""Fewer than the clients: each transaction gets whichever is free."""


class PgBouncer:
    """One running pooler."""

    def __init__(self, folder):
        self.folder = folder

    def dsn(self, direct):
        """Return how to reach the database of *direct* through the pooler."""
        name = urlsplit(direct).path.lstrip("/")
        return f"postgresql://qflare@/{name}?host={quote(str(self.folder), safe='')}&port={PORT}"


def _server_of(dsn):
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    host = query["host"][0] if "host" in query else parts.hostname
    port = query["port"][0] if "port" in query else parts.port or 5432
    password = f" password={parts.password}" if parts.password else ""
    return f"host={host} port={port} user={parts.username}{password}"


@pytest.fixture(scope="module")
def pgbouncer(postgres_cluster):
    """A pooler of three server connections a database, in transaction mode."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    with tempfile.TemporaryDirectory(prefix="qflare-pgb-") as name:
        folder = Path(name)
        (folder / "ini").write_text(
            f"[databases]\n* = {_server_of(postgres_cluster)}\n[pgbouncer]\nlisten_addr =\nlisten_port = {PORT}\n"
            f"unix_socket_dir = {folder}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVERS}\n"
            f"max_client_conn = 500\nlogfile = {folder}/log\nserver_idle_timeout = 1\n"
        )
        account = choose_account()
        account.give(folder)
        account.give(folder / "ini")
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT, 0o600)
        process = account.start([program, str(folder / "ini")], output=output)
        os.close(output)
        try:
            running = PgBouncer(folder)
            _wait(running, postgres_cluster, process)
            yield running
        finally:
            process.kill()
            process.wait()


async def _look(dsn):
    connection = await asyncpg.connect(dsn, timeout=5, statement_cache_size=0)
    await connection.close()
    return True


def _wait(running, direct, process):
    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            if run_apart(_look(running.dsn(direct))):
                return
        except (OSError, asyncpg.PostgresError, TimeoutError):
            threading.Event().wait(0.05)
    raise RuntimeError(subprocess.list2cmdline([(running.folder / "output").read_text()]))
