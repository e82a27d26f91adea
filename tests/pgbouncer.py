"""A real PgBouncer in transaction mode before the test's PostgreSQL."""

import shutil
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
    """One pooler, run in *folder* before the server of *direct*."""

    def __init__(self, program, folder, direct):
        self.folder = folder
        self._program, self._direct = program, direct
        self._account = choose_account()
        for given in (folder, folder / "ini"):
            self._account.give(given)

    def start(self):
        """Start it, and wait until it answers."""
        with (self.folder / "output").open("ab") as output:
            self._process = self._account.start([self._program, str(self.folder / "ini")], output=output.fileno())
        for _ in range(200):
            if self._process.poll() is not None:
                break
            try:
                if run_apart(_look(self.dsn(self._direct))):
                    return
            except (OSError, asyncpg.PostgresError, TimeoutError):
                threading.Event().wait(0.05)
        raise RuntimeError((self.folder / "output").read_text())

    def has_crashed(self):
        """Tell whether it has ended itself over a state of its own that it did not expect."""
        threading.Event().wait(0.5)
        return self._process.poll() is not None and "FATAL" in (self.folder / "log").read_text()

    def stop(self):
        self._process.kill()
        self._process.wait()

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
        running = PgBouncer(program, folder, postgres_cluster)
        try:
            running.start()
            yield running
        finally:
            running.stop()


async def _look(dsn):
    connection = await asyncpg.connect(dsn, timeout=5, statement_cache_size=0)
    await connection.close()
    return True
