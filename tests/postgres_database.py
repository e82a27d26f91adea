"""
A real PostgreSQL for tests, and a fresh database for each.

By default the embedded one's binaries in a temporary data folder.  `QFLARE_TEST_DSN` names another server (a superuser's dsn),
`QFLARE_TEST_POSTGRES=/usr/lib/postgresql/15/bin` other binaries for the temporary one.
"""

import asyncio
import os
import secrets
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from qflare.stores.embedded import binaries
from qflare.stores.embedded.account import choose_account
from qflare.stores.embedded.folder import open_folder
from qflare.stores.embedded.postmaster import make_cluster, start_postmaster
from qflare.stores.postgres import PoolSettings, install_schema, open_store

SETTINGS = PoolSettings(max_size=6)
FORGETFUL = {"fsync": "off", "full_page_writes": "off"}
"""
What survives a power failure no test of these databases asks, and each of them is a copy that would be written to the
disk.  Killed processes lose nothing by it, and tests that kill or look at the embedded server start that one.
"""


def run_apart(coroutine):
    """Run a coroutine on a loop of its own in a thread, whatever loop the test has."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


def with_database(dsn, name):
    """Return *dsn* with another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


async def _query(dsn, *statements):
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _make_template(dsn, name):
    await _query(dsn, f"CREATE DATABASE {name}")
    connection = await asyncpg.connect(with_database(dsn, name), timeout=30)
    try:
        await install_schema(connection)
    finally:
        await connection.close()
    return True


def _start(chosen, folder):
    account = choose_account()
    output = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    make_cluster(folder, chosen, account, output=output)
    with patch.dict("qflare.stores.embedded.postmaster._SETTINGS", FORGETFUL):
        postmaster = start_postmaster(folder, chosen, account, output=output)
    os.close(output)
    # The socket answers before the server is ready.
    for _ in range(600):
        try:
            run_apart(_query(folder.dsn("postgres"), "SELECT 1"))
        except (asyncpg.CannotConnectNowError, OSError):
            threading.Event().wait(0.05)
        else:
            return postmaster
    raise RuntimeError(folder.log.read_text())


@pytest.fixture(scope="session")
def postgres_cluster():
    """A server for the whole session; the value is a superuser's dsn to its maintenance database."""
    given = os.environ.get("QFLARE_TEST_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="qflare-test-") as name:
        folder = open_folder(name)
        other = os.environ.get("QFLARE_TEST_POSTGRES")
        chosen = binaries.Binaries(folder=Path(other), major=0) if other else binaries.installed_binaries()[0]
        postmaster = _start(chosen, folder)
        yield folder.dsn("postgres")
        postmaster.stop()


def wait_until_stopped(folder, *, timeout_s=30.0):
    """Wait until nobody holds the supervisor's lock, so that the folder can be removed."""
    lock = folder.supervisor_lock()
    try:
        for _ in range(int(timeout_s / 0.05)):
            if lock.try_exclusive():
                return
            threading.Event().wait(0.05)
        raise RuntimeError("the supervisor does not end")
    finally:
        lock.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_cluster):
    """The name of a database with the schema, from which each test's own is copied."""
    name = f"qflare_template_{secrets.token_hex(4)}"
    run_apart(_make_template(postgres_cluster, name))
    yield name
    run_apart(_drop(postgres_cluster, name))


async def _drop(dsn, name):
    await _query(dsn, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    return True


@pytest.fixture
async def empty_database_dsn(postgres_cluster):
    """The dsn of a fresh database without the schema."""
    name = f"qflare_test_{secrets.token_hex(6)}"
    await _query(postgres_cluster, f"CREATE DATABASE {name}")
    yield with_database(postgres_cluster, name)
    await _drop(postgres_cluster, name)


@pytest.fixture
async def database_dsn(postgres_cluster, postgres_template):
    """The dsn of a fresh database with the schema."""
    name = f"qflare_test_{secrets.token_hex(6)}"
    await _query(postgres_cluster, f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
    yield with_database(postgres_cluster, name)
    await _drop(postgres_cluster, name)


@pytest.fixture
async def postgres_store(database_dsn):
    """A store on a fresh database."""
    opened = await open_store(database_dsn, settings=SETTINGS)
    yield opened
    await opened.close()


@pytest.fixture
def store(postgres_store):
    """The store that tests are about: on a fresh database, but where a folder's conftest offers more."""
    return postgres_store


@pytest.fixture
async def admin(database_dsn):
    """A superuser's connection to the test's database, past row-level security."""
    connection = await asyncpg.connect(database_dsn, timeout=30)
    yield connection
    await connection.close()


def psql_path():
    """Return the psql of the wheel or of the system, None if there is neither."""
    try:
        found = binaries.installed_binaries()[0].folder / "psql"
    except Exception:  # noqa: BLE001 - without the wheel the system's may do
        found = Path("/usr/bin/psql")
    return str(found) if found.exists() else None


def run_psql(dsn, text):
    """Feed *text* to psql as `psql dbname < file` does."""
    return subprocess.run(
        [psql_path(), "--no-psqlrc", "--set", "ON_ERROR_STOP=1", dsn],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
