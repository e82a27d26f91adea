"""`qflare serve`: a parent and its worker processes over one database, through sockets."""

import asyncio
import os
import signal
import socket
import sys
import textwrap
from pathlib import Path

import asyncpg
import httpx
import pytest

from manager_world import Edge, make_manager
from qflare.device import Device
from qflare.errors import ConfigError, StoreUnavailableError
from qflare.protocol.envelope import encode_envelope
from qflare.service.serve import ServeOptions, _Worker, listen
from service.processes import environment, is_alive, serve, start, until, wait_for
from service.test_aggregator import OCTETS, REFUSAL, agreed, post, shape

ECHO = """
    import asyncio, os
    from pathlib import Path

    def factory(manager):
        async def on_record(record, aad):
            with record:
                text = bytes(record.plaintext.view())
            if text.startswith(b"slow"):
                with Path("begun").open("ab") as begun:
                    begun.write(b"1")
                await asyncio.sleep(1)
            return b"%d %s" % (os.getpid(), text)
        return on_record
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "echo_app.py").write_text(textwrap.dedent(ECHO))
    return tmp_path


async def test_two_workers_serve_one_fleet(database_dsn, folder):
    """Devices enrol, connect and work with two worker processes, and SIGTERM ends all of them in order."""
    arguments = ("--workers", "2", "--app", "echo_app:factory", "--data-dir", str(folder / "data"))
    async with serve(folder, *arguments, QFLARE_DSN=database_dsn) as served:
        assert len(set(served.workers)) == 2
        await wait_for(f"{served.url}/readyz", 200)
        manager = make_manager(database_dsn, folder, keeper_dir=str(folder / "keys"))
        async with manager:
            tokens = [await manager.issue_enrolment_token(f"device {number}") for number in range(6)]

        def work(number):
            state = folder / f"state{number}"
            with Device.enrol(served.url, tokens[number], device_id=f"device {number}", state=state) as device:
                device.connect("hello" if number % 2 else "offer")
                return bytes(device.exchange(b"hi").plaintext.view())

        replies = await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(6)))
        assert {int(reply.split()[0]) for reply in replies} <= set(served.workers)
        served.terminate()
        assert await served.ended(within_s=11) == 0
        assert not any(is_alive(pid) for pid in served.workers)


async def test_captured_bytes_are_refused_whichever_worker_gets_them(database_dsn, folder):
    """A record sent twenty times over new connections to two workers is taken once."""
    arguments = ("--workers", "2", "--data-dir", str(folder / "data"))
    async with (
        serve(folder, *arguments, QFLARE_DSN=database_dsn) as served,
        make_manager(database_dsn, folder, keeper_dir=str(folder / "keys")) as manager,
    ):
        edge = await Edge.provision(manager)
        async with httpx.AsyncClient(base_url=served.url, headers=OCTETS, trust_env=False, timeout=60) as client:
            sid = await agreed(client, manager, edge)
        body = encode_envelope(b"", edge.seal(sid, b"once"))

        async def send():
            async with httpx.AsyncClient(base_url=served.url, headers=OCTETS, trust_env=False, timeout=60) as client:
                return await post(client, "record", body)

        answers = await asyncio.gather(*(send() for _ in range(20)))
        assert [200] == [answer.status_code for answer in answers if answer.status_code != 403]
        assert all(shape(answer) == REFUSAL for answer in answers if answer.status_code == 403)


@pytest.mark.parametrize("wait_s", [0, 0.01])
async def test_a_worker_that_is_killed_before_it_reads_is_told_as_killed(wait_s):
    """A worker killed in the first instants of its start is one that was killed, not a fault that ends its parent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = await _Worker.start(ServeOptions(), listener, None)
        await asyncio.sleep(wait_s)
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailableError, match="killed before it was ready"):
            await worker.ready()
        worker.close()


async def test_a_worker_that_dies_is_replaced(database_dsn, folder):
    """After kill -9 of a worker another takes its place, and what was agreed still holds."""
    arguments = ("--workers", "2", "--data-dir", str(folder / "data"))
    async with serve(folder, *arguments, QFLARE_DSN=database_dsn) as served:
        async with make_manager(database_dsn, folder, keeper_dir=str(folder / "keys")) as manager:
            edge = await Edge.provision(manager)
            async with httpx.AsyncClient(base_url=served.url, headers=OCTETS, trust_env=False, timeout=60) as client:
                sid = await agreed(client, manager, edge)
        for pid in served.workers:
            os.kill(pid, signal.SIGKILL)
        await wait_for(f"{served.url}/readyz", 200)
        async with httpx.AsyncClient(base_url=served.url, headers=OCTETS, trust_env=False, timeout=60) as client:
            answer = await post(client, "record", encode_envelope(b"", edge.seal(sid, b"x")))
            assert answer.status_code == 200
        await until(lambda: len(children(served.process.pid)) == 2)
        assert not set(served.workers) & set(children(served.process.pid))


async def test_workers_on_a_database_that_was_restored_are_replaced(database_dsn, folder, admin):
    """A worker whose database has another life ends with what it saw, and the next one serves the new one."""
    arguments = ("--workers", "1", "--data-dir", str(folder / "data"))
    async with serve(folder, *arguments, QFLARE_DSN=database_dsn) as served:
        await admin.execute("UPDATE qflare.store_pulse SET life = gen_random_uuid()")
        await until(lambda: not set(served.workers) & set(children(served.process.pid)))
        await until(lambda: len(children(served.process.pid)) == 1)
        await wait_for(f"{served.url}/readyz", 200)


def children(pid):
    """Process ids of a process's living children."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[1] == str(pid) and fields[0] != "Z":
                found.append(int(path.name))
    return found


async def test_sigterm_under_load_answers_what_was_accepted(database_dsn, folder):
    """Requests that a worker works on at SIGTERM are answered before it ends."""
    arguments = ("--workers", "1", "--app", "echo_app:factory", "--data-dir", str(folder / "data"))
    async with serve(folder, *arguments, QFLARE_DSN=database_dsn) as served:
        async with make_manager(database_dsn, folder, keeper_dir=str(folder / "keys")) as manager:
            edge = await Edge.provision(manager)
            async with httpx.AsyncClient(base_url=served.url, headers=OCTETS, trust_env=False, timeout=60) as client:
                sid = await agreed(client, manager, edge)
                bodies = [encode_envelope(b"", edge.seal(sid, b"slow %d" % number)) for number in range(20)]
                sending = [asyncio.create_task(post(client, "record", body)) for body in bodies]
                await until(lambda: (folder / "begun").exists() and (folder / "begun").stat().st_size == 20)
                served.terminate()
                answers = await asyncio.gather(*sending)
            assert [200] * 20 == [answer.status_code for answer in answers]
        assert await served.ended(within_s=11) == 0


async def test_workers_end_with_their_parent(database_dsn, folder):
    """A parent that is killed leaves no worker behind."""
    async with serve(folder, "--workers", "2", "--data-dir", str(folder / "data"), QFLARE_DSN=database_dsn) as served:
        served.process.kill()
        await served.ended()
        await until(lambda: not any(is_alive(pid) for pid in served.workers))


async def test_no_worker_shows_the_dsn(database_dsn, folder):
    """A dsn given as an option to the parent stands in no worker's command line or environment."""
    secret = f"{database_dsn}{'&' if '?' in database_dsn else '?'}application_name=canary-4711"
    async with serve(folder, "--dsn", secret, "--data-dir", str(folder / "data")) as served:
        for pid in served.workers:
            shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            assert b"canary-4711" not in shown
            assert b"qflare.service.worker" in shown


async def test_no_process_of_the_service_may_dump_its_memory(database_dsn, folder):
    """A crash of a worker puts no key on the disk: parent and workers may make no core dumps."""
    async with serve(folder, "--data-dir", str(folder / "data"), QFLARE_DSN=database_dsn) as served:
        for pid in (served.process.pid, *served.workers):
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            assert [["0", "0"]] == [line.split()[4:6] for line in limits if line.startswith("Max core file size")]


async def test_the_embedded_database_outlives_a_worker(folder):
    """Without a dsn the parent keeps the embedded PostgreSQL running; it ends with the parent."""
    async with serve(folder, "--workers", "1", "--data-dir", str(folder / "data")) as served:
        os.kill(served.workers[0], signal.SIGKILL)
        await wait_for(f"{served.url}/readyz", 200)
        served.terminate()
        assert await served.ended() == 0


async def failed(folder, *arguments, **variables):
    """Run a serve that cannot start; return its exit code and what it said, without its log lines."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qflare", "serve", *arguments),
        cwd=folder,
        env=environment(folder, **variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(40):
        out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    lines = [line for line in err.decode().splitlines() if line.startswith("qflare: ")]
    assert len(lines) == 1, err.decode()
    assert out == b""
    return process.returncode, lines[0]


async def test_a_port_in_use_is_one_line(database_dsn, folder):
    """A taken port is a usage error that names the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = await failed(folder, "--port", str(port), QFLARE_DSN=database_dsn)
        assert code == 2
        assert f"port {port} of 127.0.0.1 is in use; choose another with --port" in line


async def test_a_database_that_is_away_is_one_line(folder):
    """A database that does not answer is exit code 4; its dsn's password is not in the line."""
    code, line = await failed(
        folder, "--port", "0", "--data-dir", str(folder / "data"), QFLARE_DSN="postgresql://u:pa55word@127.0.0.1:9/x"
    )
    assert code == 4
    assert "pa55word" not in line


async def test_a_database_without_schema_is_one_line(empty_database_dsn, folder):
    """A database without our schema is exit code 4."""
    code, _ = await failed(folder, "--port", "0", "--data-dir", str(folder / "data"), QFLARE_DSN=empty_database_dsn)
    assert code == 4


async def test_an_older_schema_is_one_line(database_dsn, folder):
    """A database whose schema is older than this release's is exit code 4, and says so."""
    connection = await asyncpg.connect(database_dsn, timeout=30)
    try:
        last = await connection.fetchval("SELECT max(version) FROM qflare.schema_version")
        changed = await connection.execute("DELETE FROM qflare.schema_version WHERE version = $1", last)
    finally:
        await connection.close()
    assert last > 1
    assert changed == "DELETE 1"
    code, line = await failed(folder, "--port", "0", "--data-dir", str(folder / "data"), QFLARE_DSN=database_dsn)
    assert code == 4
    assert "schema" in line


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("echo_app", "module:factory"),
        ("nowhere:factory", "No module named"),
        ("echo_app:nothing", "nothing"),
        ("echo_app:os", "no function"),
        ("broken_app:factory", "must return a function"),
    ],
)
async def test_an_application_that_cannot_be_loaded_is_one_line(app, said, database_dsn, folder):
    """A wrong --app is a usage error."""
    (folder / "broken_app.py").write_text("def factory(manager):\n    return 5\n")
    arguments = ("--port", "0", "--app", app, "--data-dir", str(folder / "data"))
    code, line = await failed(folder, *arguments, QFLARE_DSN=database_dsn)
    assert code == 2
    assert said in line


async def test_a_folder_that_cannot_be_made_is_one_line(folder):
    """A data folder under a missing folder is a usage error that names it."""
    code, line = await failed(folder, "--port", "0", "--data-dir", str(folder / "no" / "such" / "folder"))
    assert code == 2
    assert "such" in line


async def test_a_worker_that_fails_later_ends_nothing_else(database_dsn, folder):
    """With one of two workers gone for good, the other serves on while new ones are tried."""
    (folder / "once_app.py").write_text(
        textwrap.dedent("""
            from pathlib import Path
            def factory(manager):
                with Path("starts").open("ab", buffering=0) as starts:  # a byte each: appending does not tear
                    starts.write(b".")
                if Path("starts").stat().st_size > 2:
                    raise OSError("no more")
                async def on_record(record, aad):
                    return None
                return on_record
        """)
    )
    arguments = ("--workers", "2", "--app", "once_app:factory", "--data-dir", str(folder / "data"))
    async with serve(folder, *arguments, QFLARE_DSN=database_dsn) as served:
        os.kill(served.workers[0], signal.SIGKILL)
        await until(lambda: (folder / "starts").stat().st_size >= 4)
        async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=60) as client:
            assert (await client.get("/readyz")).status_code == 200
        served.terminate()
        assert await served.ended(within_s=11) == 0


def test_options_out_of_range_are_refused():
    """Numbers that cannot work are refused before anything is opened."""
    for wrong in ({"workers": 0}, {"workers": 257}, {"port": -1}, {"port": 65_536}):
        with pytest.raises(ConfigError, match="--"):
            ServeOptions(**wrong)


def test_an_address_that_is_not_ours_is_refused():
    """A host that is no address of this machine is refused by name."""
    for host in ("203.0.113.7", "no.such.host.invalid", "x" * 300):
        with pytest.raises(ConfigError, match=r"host|listen"):
            listen(host, 0)


async def test_start_can_be_interrupted(database_dsn, folder):
    """SIGINT before the first worker is ready ends everything, whether or not Python was ready to catch it."""
    process = await start(folder, "--workers", "1", "--data-dir", str(folder / "data"), QFLARE_DSN=database_dsn)
    await asyncio.sleep(0.6)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(60):
        await process.wait()
    assert process.returncode in {0, 130, -signal.SIGINT}
    await process.stdout.read()
