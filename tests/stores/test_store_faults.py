"""Disks that are full or fail, databases that are read-only or slow, and schemas that change under a running worker."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import asyncpg
import pytest

from postgres_database import SETTINGS, with_database
from proxy import proxied
from qflare.errors import OverloadedError, SchemaMismatchError, StoreUnavailableError
from qflare.manager.batcher import Batcher
from qflare.manager.deadline import Deadline
from qflare.model.ids import DEFAULT_TENANT
from qflare.stores.embedded import binaries, open_embedded
from qflare.stores.embedded.account import choose_account
from qflare.stores.embedded.folder import open_folder
from qflare.stores.embedded.postmaster import make_cluster, start_postmaster
from qflare.stores.postgres import PoolSettings, install_schema, open_store
from store_records import begin_session, new_event, new_stream, publish, register

T = DEFAULT_TENANT
DISK_MIB = 160
CALLERS = 4


def can_mount(folder):
    """Whether a file system of the test's own may be mounted on *folder*."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not can_mount(folder):
        pytest.skip("needs root that may mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


class Acknowledged:
    """Events that were acknowledged, by their leaf data."""

    def __init__(self):
        self.leaves = {}
        self.failures = []

    async def append(self, store, event=None):
        event = event or new_event()
        try:
            append = await store.append_events(T, [event])
        except StoreUnavailableError as failure:
            self.failures.append(failure)
            return False
        self.leaves[append.indexes[0]] = event.leaf_data
        return True

    async def compare(self, store):
        """Every acknowledged event stands at its index, nothing twice, and the log has no hole."""
        size = (await store.log_head()).size
        entries, first = [], 0
        while first < size:
            page = await store.list_entries(T, first=first, limit=500)
            entries += page
            first = page[-1].index + 1
        assert list(range(size)) == [entry.index for entry in entries]
        stored = {entry.index: entry.leaf_data for entry in entries}
        assert len(entries) == len(set(stored.values()))
        assert self.leaves.items() <= stored.items()


async def back(store, acknowledged, *, within_s=60):
    """Wait until the store takes events again."""
    async with asyncio.timeout(within_s):
        while not await acknowledged.append(store):
            await asyncio.sleep(0.05)


async def test_a_full_disk_answers_nothing_that_is_not_durable(disk):
    """With the disk full every call is an error or durable, in bounded time; with space again all goes on (D2)."""
    async with await open_embedded(disk / "data") as server:
        store = await open_store(server.dsn, settings=SETTINGS)
        try:
            acknowledged = Acknowledged()
            assert await acknowledged.append(store)
            filler = disk / "filler"
            with filler.open("wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 20))
                    file.flush()
            big = {"data": b'{"n":"' + b"x" * 60_000 + b'"}'}
            for _ in range(2000):
                await acknowledged.append(store, new_event()._replace(**big))
                if len(acknowledged.failures) >= 5:
                    break
            assert acknowledged.failures
            filler.unlink()
            await back(store, acknowledged)
            await acknowledged.compare(store)
        finally:
            await store.close()


async def test_a_database_that_becomes_read_only_answers_nothing_and_comes_back(database_dsn, admin):
    """Read-only under a running worker: changes are refused as that, nothing is done; writable again, all goes on."""
    name = await admin.fetchval("SELECT current_database()")
    store = await open_store(database_dsn, settings=SETTINGS)
    try:
        acknowledged = Acknowledged()
        await back(store, acknowledged)
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await store._pool.expire_connections()
        for _ in range(5):
            assert not await acknowledged.append(store)
        assert {"25006"} == {failure.sqlstate for failure in acknowledged.failures}
        assert not any(failure.outcome_unknown for failure in acknowledged.failures)
        assert 1 == (await store.log_head()).size
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
        await store._pool.expire_connections()
        await back(store, acknowledged)
        await acknowledged.compare(store)
    finally:
        await store.close()


@pytest.fixture
def failing_sync(tmp_path):
    """A library that fails syncs of WAL, and the file that switches it on."""
    library = tmp_path / "failing_sync.so"
    source = Path(__file__).parent.parent / "failing_sync.c"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True, timeout=60
    )
    return library, tmp_path / "eio"


@pytest.fixture
def failing_cluster(tmp_path, failing_sync, monkeypatch):
    """A PostgreSQL of its own whose WAL can be made to fail; yields its folder and the switch."""
    library, switch = failing_sync
    folder, account = open_folder(str(tmp_path / "data")), choose_account()
    os.chmod(tmp_path, 0o777)  # noqa: PTH101, S103 - whoever runs PostgreSQL takes the switch away
    account.give(folder.root)
    chosen = binaries.installed_binaries()[0]
    output = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    make_cluster(folder, chosen, account, output=output)
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        patch.setenv("QFLARE_TEST_EIO", str(switch))
        postmaster = start_postmaster(folder, chosen, account, output=output)
    os.close(output)
    yield folder, switch
    postmaster.stop()
    shutil.rmtree(folder.root)


async def test_wal_that_cannot_be_synced_loses_nothing(failing_cluster):
    """A failing fsync ends PostgreSQL's processes, which start again: what was acknowledged stands, once."""
    folder, switch = failing_cluster
    dsn = folder.dsn("postgres")
    async with asyncio.timeout(60):
        while True:
            try:
                connection = await asyncpg.connect(dsn, timeout=10)
                break
            except (asyncpg.CannotConnectNowError, OSError):
                await asyncio.sleep(0.05)
    await connection.execute("CREATE DATABASE faults")
    await connection.close()
    connection = await asyncpg.connect(with_database(dsn, "faults"), timeout=10)
    await install_schema(connection)
    await connection.close()
    store = await open_store(with_database(dsn, "faults"), settings=SETTINGS)
    try:
        acknowledged = Acknowledged()
        for _ in range(3):
            await back(store, acknowledged)
            switch.touch()
            async with asyncio.timeout(60):
                while switch.exists():
                    await asyncio.gather(*(acknowledged.append(store) for _ in range(CALLERS)))
            await back(store, acknowledged)
        await acknowledged.compare(store)
        assert 3 == folder.log.read_text().count("PANIC")
    finally:
        await store.close()


async def test_an_exhausted_pool_refuses_in_bounded_time_and_harms_nobody_else(database_dsn):
    """While all connections are held, callers are told that none is free and nothing is done; others work on."""
    settings = PoolSettings(max_size=2, acquire_timeout_s=3.0)
    store = await open_store(database_dsn, settings=settings)
    other = await open_store(database_dsn, settings=SETTINGS)
    try:
        held = [await store._pool.acquire() for _ in range(2)]
        acknowledged = Acknowledged()
        assert not any(await asyncio.gather(*(acknowledged.append(store) for _ in range(20))))
        assert {("no connection to the database was free in time", False)} == {
            (str(failure).partition(";")[0], failure.outcome_unknown) for failure in acknowledged.failures
        }
        assert await acknowledged.append(other)
        for connection in held:
            await store._pool.release(connection)
        assert all(await asyncio.gather(*(acknowledged.append(store) for _ in range(20))))
        assert 21 == (await store.log_head()).size
        await acknowledged.compare(store)
    finally:
        await store.close()
        await other.close()


async def test_a_slow_database_keeps_deadlines_and_bounds(database_dsn):
    """Answers that come late are errors in time, a queue takes no more than its bound, and who waits gets his own."""
    async with proxied(database_dsn) as proxy:
        store = await open_store(proxy.dsn, settings=SETTINGS)
        acknowledged, deadline_s = Acknowledged(), 60.0

        async def run(events):
            append = await Deadline(deadline_s).of(store.append_events(T, events))
            acknowledged.leaves |= {index: event.leaf_data for index, event in zip(append.indexes, events, strict=True)}
            return list(append.indexes)

        queue = Batcher("log", run, items_max=8, waiting_max=24, flights_max=1)
        try:
            await queue.submit(new_event())
            proxy.delay_s, deadline_s = 0.3, 0.4
            slow = await asyncio.gather(*(queue.submit(new_event()) for _ in range(60)), return_exceptions=True)
            overloaded = [failure for failure in slow if isinstance(failure, OverloadedError)]
            late = [failure for failure in slow if isinstance(failure, StoreUnavailableError)]
            assert 60 == len(overloaded) + len(late)
            assert 60 - 24 == len(overloaded)
            assert all(failure.outcome_unknown for failure in late)
            proxy.delay_s, deadline_s = 0.0, 60.0
            async with asyncio.timeout(60):
                while isinstance(
                    (await asyncio.gather(queue.submit(new_event()), return_exceptions=True))[0], Exception
                ):
                    await asyncio.sleep(0.05)
            indexes = await asyncio.gather(*(queue.submit(new_event()) for _ in range(20)))
            assert 20 == len(set(indexes))
            await acknowledged.compare(store)
        finally:
            await queue.close(5)
            await store.close()


async def test_a_running_worker_outlives_a_migration_and_names_a_schema_that_is_gone(store, admin):
    """What a migration adds under a running worker stops nothing; a schema without its version is told as that."""
    await publish(store)
    (device,) = await register(store)
    claim = await begin_session(store, device)
    await store.check()
    await admin.execute("ALTER TABLE qflare.session ADD COLUMN test_later integer")
    await admin.execute("ALTER TABLE qflare.stream ADD COLUMN test_later integer")
    await admin.execute("ALTER TABLE qflare.audit_entry ADD COLUMN test_later integer")
    await admin.execute(
        "INSERT INTO qflare.schema_version (version) SELECT max(version) + 1 FROM qflare.schema_version"
    )
    await store.check()
    assert (True,) == await store.accept_streams(T, [new_stream(claim.sid)], now_s=1)
    await store.append_events(T, [new_event()])
    assert await begin_session(store, device)
    await admin.execute("DELETE FROM qflare.schema_version")
    with pytest.raises(SchemaMismatchError, match="qflare migrate"):
        await store.check()
    await admin.execute("DROP FUNCTION qflare.append_entries")
    with pytest.raises(SchemaMismatchError):
        await store.append_events(T, [new_event()])
