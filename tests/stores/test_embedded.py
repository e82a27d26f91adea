import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from postgres_database import wait_until_stopped
from qflare.errors import ConfigError, MissingExtraError, QflareError, SchemaMismatchError, StoreUnavailableError
from qflare.stores.embedded import account, binaries, open_embedded
from qflare.stores.embedded.folder import Folder, open_folder
from qflare.stores.embedded.postmaster import answers, make_cluster, runs_cluster, start_postmaster
from qflare.stores.postgres import open_store
from store_records import new_event, register

USER = """
import asyncio, sys
from qflare.stores.embedded import open_embedded
async def main():
    server = await open_embedded(sys.argv[1])
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.close()
asyncio.run(main())
"""


@pytest.fixture
def data_dir(tmp_path):
    """A data folder whose server is gone when the test has ended."""
    path = tmp_path / "data"
    yield path
    if path.is_dir() and os.access(path, os.W_OK) and (path / "supervisor.lock").exists():
        wait_until_stopped(Folder(Path(os.path.realpath(path))))


def postmaster_of(data_dir):
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])


def supervisor_of(data_dir):
    """Return the pid of the process that holds the supervisor's lock."""
    inode = (data_dir / "supervisor.lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[3] == "WRITE" and int(fields[5].split(":")[2]) == inode:
            return int(fields[4])
    raise AssertionError("nobody holds the supervisor's lock")


def has_other_supervisor(data_dir, first):
    """Whether some process but the one that was killed holds the lock; for a moment nobody may."""
    with contextlib.suppress(AssertionError):
        return first != supervisor_of(data_dir)
    return False


def start_user(data_dir):
    return subprocess.Popen([sys.executable, "-c", USER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def within(seconds, check):
    """Wait until *check* holds."""
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.05)


async def query_again(dsn, query, *, seconds=60):
    """Run a query as soon as the server is back."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                connection = await asyncpg.connect(dsn, timeout=10)
                try:
                    return await connection.fetchval(query)
                finally:
                    await connection.close()
            await asyncio.sleep(0.05)


async def test_a_data_folder_becomes_a_database_and_stays_one(data_dir):
    """Opening starts a set-up PostgreSQL; what was committed is there at the next opening."""
    async with await open_embedded(data_dir) as server:
        store = await open_store(server.dsn)
        await store.append_events(bytes(16), [new_event()])
        await store.close()
        process = postmaster_of(data_dir)
    await within(60, lambda: not runs_cluster(process, Folder(data_dir.resolve())))
    async with await open_embedded(data_dir) as server:
        store = await open_store(server.dsn)
        assert 1 == (await store.log_head()).size
        await store.close()


async def test_it_is_durable_and_listens_on_a_private_socket_alone(data_dir):
    """Fsync is on, no address is listened on, folders are closed to others and the log shows no statement."""
    async with await open_embedded(data_dir) as server:
        connection = await asyncpg.connect(server.dsn)
        settings = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("fsync", "full_page_writes", "synchronous_commit", "listen_addresses", "data_checksums")
        }
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute("SELECT 'canary'::bigint")
        await connection.close()
        assert {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "listen_addresses": "",
            "data_checksums": "on",
        } == settings
        for folder in (data_dir, data_dir / "postgres", Folder(data_dir.resolve()).socket_folder):
            assert 0 == folder.stat().st_mode & 0o077, folder
        assert "canary" not in (data_dir / "postgres.log").read_text()


async def test_it_survives_kill_9_of_postgres(data_dir):
    """A killed server is back by itself within seconds, with everything that was acknowledged."""
    async with await open_embedded(data_dir) as server:
        store = await open_store(server.dsn)
        await register(store, 20)
        for _ in range(3):
            process = postmaster_of(data_dir)
            os.kill(process, signal.SIGKILL)
            await within(60, lambda: not runs_cluster(process, Folder(data_dir.resolve())))  # noqa: B023
            assert 20 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")
        # The pool finds its way back by itself; the first calls may meet dead connections.
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(StoreUnavailableError):
                    assert 20 == (await store.log_head()).size
                    break
        await store.close()


async def test_it_survives_kill_9_of_its_supervisor(data_dir):
    """A user starts a new supervisor, which takes the running server over without ending its connections."""
    async with await open_embedded(data_dir) as server:
        connection = await asyncpg.connect(server.dsn)
        first = supervisor_of(data_dir)
        os.kill(first, signal.SIGKILL)
        await within(60, lambda: has_other_supervisor(data_dir, first))
        assert 1 == await connection.fetchval("SELECT 1")
        await connection.close()
        process = postmaster_of(data_dir)
    await within(60, lambda: not runs_cluster(process, Folder(data_dir.resolve())))


async def test_it_survives_kill_9_of_supervisor_and_server_together(data_dir):
    """With both gone at once the next watch brings both back."""
    async with await open_embedded(data_dir) as server:
        os.kill(supervisor_of(data_dir), signal.SIGKILL)
        os.kill(postmaster_of(data_dir), signal.SIGKILL)
        assert 0 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")


async def test_two_processes_share_a_folder_and_the_last_one_ends_it(data_dir):
    """One server for all users of a folder; it goes with the last of them, even if that one was killed."""
    first, second = start_user(data_dir), start_user(data_dir)
    try:
        for user in (first, second):
            assert b"open\n" == await asyncio.to_thread(user.stdout.readline)
        process = postmaster_of(data_dir)
        first.communicate()
        await asyncio.sleep(1.0)
        assert runs_cluster(process, Folder(data_dir.resolve()))
        second.kill()
        second.communicate()
        await within(60, lambda: not runs_cluster(process, Folder(data_dir.resolve())))
    finally:
        for user in (first, second):
            user.kill()
            user.communicate()


async def test_openings_at_once_find_one_server(data_dir):
    """Many first users at once start one server."""
    servers = await asyncio.gather(*(open_embedded(data_dir) for _ in range(5)))
    assert 1 == len({server.dsn for server in servers})
    for server in servers:
        await server.close()
        await server.close()


async def test_a_reopening_that_meets_the_shutdown_waits_for_it(data_dir):
    """Opened and closed in quick turns, the folder always gives a server that answers."""
    for _ in range(4):
        async with await open_embedded(data_dir) as server:
            assert 0 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")
        await asyncio.sleep(0.12)


async def test_a_stale_mark_with_a_living_number_does_not_stop_it(data_dir):
    """A postmaster.pid that names some other living process, as after a container's restart, is no obstacle."""
    async with await open_embedded(data_dir):
        process = postmaster_of(data_dir)
        mark = (data_dir / "postgres" / "postmaster.pid").read_text()
    await within(60, lambda: not runs_cluster(process, Folder(data_dir.resolve())))
    wait_until_stopped(Folder(data_dir.resolve()))
    (data_dir / "postgres" / "postmaster.pid").write_text(mark.replace(str(process), str(os.getpid()), 1))
    async with await open_embedded(data_dir) as server:
        assert 0 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")


async def test_a_stale_socket_lock_with_a_living_number_does_not_stop_it(data_dir):
    """After kill -9 of all, the mark beside the socket may name some other living process; it is no obstacle either."""
    async with await open_embedded(data_dir):
        process = postmaster_of(data_dir)
        lock = Folder(data_dir.resolve()).socket.with_name(".s.PGSQL.5432.lock")
        mark, pid = lock.read_text(), (data_dir / "postgres" / "postmaster.pid").read_text()
    await within(60, lambda: not runs_cluster(process, Folder(data_dir.resolve())))
    wait_until_stopped(Folder(data_dir.resolve()))
    lock.write_text(mark.replace(str(process), str(os.getpid()), 1))
    (data_dir / "postgres" / "postmaster.pid").write_text(pid)
    async with await open_embedded(data_dir, timeout_s=60) as server:
        assert 0 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")


async def test_an_idle_client_does_not_hold_up_the_end(data_dir):
    """SIGTERM would wait for idle clients for ever: the server is stopped by SIGINT, which ends them."""
    server = await open_embedded(data_dir)
    idle = await asyncpg.connect(server.dsn)
    process = postmaster_of(data_dir)
    await server.close()
    await within(60, lambda: not runs_cluster(process, Folder(data_dir.resolve())))
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await idle.fetchval("SELECT 1")
    idle.terminate()


async def test_a_supervisor_that_is_told_to_end_takes_the_server_along_and_a_user_brings_both_back(data_dir):
    """SIGTERM to the supervisor stops the server in order; while somebody uses the folder it comes back by itself."""
    async with await open_embedded(data_dir) as server:
        first, process = supervisor_of(data_dir), postmaster_of(data_dir)
        os.kill(first, signal.SIGTERM)
        await within(60, lambda: not runs_cluster(process, Folder(data_dir.resolve())))
        assert 0 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")
        assert "database system is shut down" in (data_dir / "postgres.log").read_text()
        assert first != supervisor_of(data_dir)


async def test_the_server_outlives_the_thread_and_the_process_that_started_it(data_dir):
    """A signal at the parent's death would fire when a thread ends: the supervisor belongs to nobody's thread or session."""
    starter = start_user(data_dir)
    assert b"open\n" == await asyncio.to_thread(starter.stdout.readline)
    async with await open_embedded(data_dir) as server:
        # In a loop of a thread that is over at once: nothing of the server's was tied to it.
        with ThreadPoolExecutor(max_workers=1) as executor:
            second = await asyncio.wrap_future(executor.submit(asyncio.run, open_embedded(data_dir)))
        second._users.close()
        process, supervisor = postmaster_of(data_dir), supervisor_of(data_dir)
        starter.kill()
        starter.communicate()
        await asyncio.sleep(0.5)
        assert (process, supervisor) == (postmaster_of(data_dir), supervisor_of(data_dir))
        assert os.getsid(supervisor) not in {os.getsid(0), os.getsid(os.getpid())}
        assert 0 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")


async def test_a_half_made_cluster_is_made_anew(data_dir):
    """An initdb that was interrupted leaves nothing that is taken for a cluster."""
    unfinished = data_dir / "postgres.unfinished"
    unfinished.mkdir(parents=True, mode=0o700)
    data_dir.chmod(0o700)
    (unfinished / "PG_VERSION").write_text("18")
    async with await open_embedded(data_dir) as server:
        assert 0 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")


async def test_a_long_path_gets_a_short_socket(tmp_path):
    """A data folder too deep for a socket's path of 107 bytes works through a private folder below /tmp."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    async with await open_embedded(deep / "data") as server:
        folder = open_folder(deep / "data")
        assert str(folder.socket_folder).startswith("/tmp/qflare-")  # noqa: S108
        assert 0 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")
    wait_until_stopped(folder)
    folder.socket_folder.rmdir()


async def test_names_with_blanks_and_signs_work(tmp_path):
    """The dsn quotes what a path may hold."""
    async with await open_embedded(tmp_path / "da ta&é%41?") as server:
        assert 0 == await query_again(server.dsn, "SELECT size FROM qflare.log_head")
    wait_until_stopped(open_folder(tmp_path / "da ta&é%41?"))


async def test_a_missing_parent_is_named(tmp_path):
    """A folder whose parent is missing is refused before anything starts."""
    with pytest.raises(ConfigError, match="does not exist; create it"):
        await open_embedded(tmp_path / "absent" / "data")


async def test_a_file_in_the_place_is_named(tmp_path):
    """A file is no data folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no folder"):
        await open_embedded(tmp_path / "file")


async def test_a_read_only_folder_is_named():
    """A folder that cannot be written is refused with the remedy; /proc stands for a read-only medium under root."""
    with pytest.raises(ConfigError, match="choose another"):
        await open_embedded("/proc/qflare-data")
    with pytest.raises(ConfigError, match="cannot be written"):
        await open_embedded("/sys/kernel" if os.geteuid() == 0 else "/etc")


async def test_data_of_another_postgresql_are_named(tmp_path):
    """A cluster of a version that the wheel does not carry is refused, and left as it is."""
    cluster = tmp_path / "data" / "postgres"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("99\n")
    with pytest.raises(SchemaMismatchError, match="PostgreSQL 99"):
        await open_embedded(tmp_path / "data")
    assert ["PG_VERSION"] == [path.name for path in cluster.iterdir()]


async def test_a_missing_package_is_named(tmp_path, monkeypatch):
    """Without the wheel the error names the extra that brings it."""
    monkeypatch.setattr(binaries, "PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"qflare\[embedded\]"):
        await open_embedded(tmp_path / "data")


async def test_a_cluster_that_does_not_start_is_an_error_with_its_log(data_dir):
    """A damaged cluster ends in an error that names the log, in bounded time."""
    async with await open_embedded(data_dir):
        process = postmaster_of(data_dir)
    await within(60, lambda: not runs_cluster(process, Folder(data_dir.resolve())))
    wait_until_stopped(Folder(data_dir.resolve()))
    (data_dir / "postgres" / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match=r"postgres\.log"):
        await open_embedded(data_dir, timeout_s=4)


async def test_a_cancelled_opening_leaves_no_user(data_dir):
    """Who gives up while the server starts does not keep it running."""
    opening = asyncio.create_task(open_embedded(data_dir))
    await asyncio.sleep(0.5)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await asyncio.to_thread(wait_until_stopped, Folder(data_dir.resolve()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another user")
def test_root_without_user_namespaces_runs_it_as_another_user():
    """Where unshare is not allowed, a user of passwd runs the server, and the folder is closed to the rest."""
    other = account.user_account()
    with tempfile.TemporaryDirectory(prefix="qflare-test-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        folder = open_folder(Path(name) / "data")
        other.give(folder.root)
        output = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            make_cluster(folder, binaries.binaries_for(folder.cluster), other, output=output)
            server = start_postmaster(folder, binaries.binaries_for(folder.cluster), other, output=output)
            try:
                end = time.monotonic() + 60
                while not answers(folder) and time.monotonic() < end:
                    time.sleep(0.05)
                assert answers(folder), folder.log.read_text()
                assert other.user_id == Path(f"/proc/{server.process_id}").stat().st_uid
                assert 0o700 == folder.root.stat().st_mode & 0o777
            finally:
                server.stop()
        finally:
            os.close(output)


def test_errors_of_the_account_are_ours(monkeypatch):
    """Root with nobody to change to is told what to do."""

    def nobody(name):
        raise KeyError(name)

    monkeypatch.setattr(account.pwd, "getpwnam", nobody)
    with pytest.raises(QflareError, match="ordinary user"):
        account.user_account()
