"""The commands against a real server and database, and every way in which they cannot work."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from cli.commands import qflare
from manager_world import make_manager
from qflare.cli.exits import ExitCode, code_of
from qflare.errors import (
    AuthenticationError,
    ConfigError,
    EntropyError,
    EvidenceError,
    KeeperError,
    KeyNotFoundError,
    LogForkError,
    MissingExtraError,
    QflareError,
    RefusedError,
    SchemaMismatchError,
    StoreUnavailableError,
)
from service.processes import environment, serve


async def run(folder, *arguments, **more):
    """Run a command without holding up the test's loop."""
    return await asyncio.to_thread(qflare, folder, *arguments, **more)


@pytest.fixture
async def served(database_dsn, tmp_path):
    """A server with one worker over the test's database."""
    async with serve(tmp_path, "--data-dir", str(tmp_path / "data"), QFLARE_DSN=database_dsn) as running:
        running.folder = tmp_path
        running.dsn = database_dsn

        async def token(name, *more):
            return await run(
                tmp_path, "token", "issue", name, "--data-dir", tmp_path / "data", *more, QFLARE_DSN=database_dsn
            )

        running.token = token
        yield running


async def enrolled(served, name="d1"):
    """Enrol a device and return its state's path."""
    token = (await served.token(name)).out
    state = served.folder / f"{name}.state"
    ended = await run(
        served.folder, "enrol", "--server", served.url, "--device-id", name, "--state", state, stdin=token
    )
    assert ended.code == 0, ended.err
    return state


async def head_stored(dsn):
    """Wait until the worker has stored a signed head: it does so behind the answer with the receipt."""
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        async with asyncio.timeout(60):
            while not await connection.fetchval("SELECT count(*) FROM qflare.checkpoint"):
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def test_a_device_from_token_to_evidence(served):
    """Token, enrolment, session in both forms, record, evidence and its verification, as people and as scripts do it."""
    folder = served.folder
    issued = await served.token("d1", "--json", "--valid-s", "600")
    assert {"device_id", "valid_s", "token"} == set(issued.json)
    (folder / "token").write_text(issued.json["token"])
    state = folder / "d1.state"
    at = ("--state", state, "--server", served.url)
    done = await run(folder, "enrol", *at, "--device-id", "d1", "--token-file", folder / "token", "--json")
    assert {"device_id", "ref", "server_id", "state"} == set(done.json)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    shown = await run(folder, "device", "show", "--state", state, "--json")
    assert shown.json["session"] is None
    for form in ("hello", "offer"):
        connected = await run(folder, "device", "connect", *at, "--form", form, "--json")
        assert connected.json["session"]["form"] == form, connected.err
    (folder / "message").write_bytes(b"an update")
    sent = await run(folder, "device", "send", folder / "message", *at, "--json")
    assert {"sent_bytes": 9, "reply_bytes": None} == sent.json
    sent = await run(folder, "device", "send", "-", *at, stdin="x" * 5)
    assert "5" in sent.out
    evidence = await run(folder, "device", "evidence", "--state", state, "--output", folder / "evidence.json")
    assert (0, "") == (evidence.code, evidence.out)
    copy = folder / "copy.json"
    told = await run(folder, "device", "evidence", "--state", state, "--output", copy, "--json")
    assert {"written": str(copy)} == json.loads(told.out)
    audit = ("--data-dir", folder / "data")
    pinned = ("--server-id", done.json["server_id"])
    verified = await run(
        folder, "audit", "verify", *audit, *pinned, "--deep", "--receipts", folder / "evidence.json", "--json",
        QFLARE_DSN=served.dsn,
    )  # fmt: skip
    assert verified.code == 0, verified.err
    assert (True, 1) == (verified.json["holds"], verified.json["receipts"])
    entries = await run(folder, "audit", "show", *audit, "--json", QFLARE_DSN=served.dsn)
    kinds = [entry["event_type"] for entry in entries.json["entries"]]
    assert kinds.count("key_exchange") == 2
    assert "device_enrolment" in kinds


async def test_an_altered_log_is_exit_code_1(served):
    """A row changed behind the log's back is found, with its index; the exit code says that the log does not hold."""
    state = await enrolled(served)
    connected = await run(served.folder, "device", "connect", "--state", state, "--server", served.url)
    assert connected.code == 0, connected.err
    await head_stored(served.dsn)
    audit = ("audit", "verify", "--data-dir", served.folder / "data")
    assert (await run(served.folder, *audit, QFLARE_DSN=served.dsn)).code == 0
    connection = await asyncpg.connect(served.dsn, timeout=30)
    try:
        await connection.execute("SET session_replication_role = replica")
        changed = await connection.execute(
            "UPDATE qflare.audit_entry SET severity = 'critical' WHERE event_type = 'device_enrolment'"
        )
    finally:
        await connection.close()
    assert changed == "UPDATE 1"
    found = await run(served.folder, *audit, "--json", QFLARE_DSN=served.dsn)
    assert found.code == 1
    assert (False, True) == (found.json["holds"], isinstance(found.json["index"], int))
    assert "does not hold" in (await run(served.folder, *audit, QFLARE_DSN=served.dsn)).line


async def test_evidence_is_checked_under_the_pinned_server(served):
    """Altered evidence and another server's id are exit code 1; what cannot be read is 2."""
    folder = served.folder
    state = await enrolled(served)
    await run(folder, "device", "connect", "--state", state, "--server", served.url)
    evidence = json.loads((await run(folder, "device", "evidence", "--state", state)).out)
    altered = evidence | {"start": evidence["start"] + 1}
    (folder / "altered.json").write_text(json.dumps(altered))
    (folder / "other.json").write_text("{}")
    audit = ("audit", "verify", "--data-dir", folder / "data")
    for arguments, code in (
        (("--receipts", folder / "altered.json"), 1),
        (("--server-id", "00" * 32), 1),
        (("--receipts", folder / "other.json"), 2),
        (("--receipts", folder / "missing.json"), 2),
        (("--server-id", "zz"), 2),
    ):
        ended = await run(folder, *audit, *arguments, QFLARE_DSN=served.dsn)
        assert (code, "") == (ended.code, ended.out), arguments
        assert ended.line.startswith("qflare: the log ")


async def test_a_log_that_cannot_be_read_is_exit_code_2(tmp_path):
    """A database that is away says nothing about the log."""
    ended = await run(
        tmp_path, "audit", "verify", "--data-dir", tmp_path / "data", "--dsn", "postgresql://u:pa55word@127.0.0.1:9/x"
    )
    assert ended.code == 2
    assert "could not be checked" in ended.line
    assert "pa55word" not in ended.err


async def test_tokens_are_written_for_their_owner_alone(served):
    """--output makes a new file 0600, never overwrites one, and makes no token where it could not keep it."""
    folder = served.folder
    made = await served.token("a", "--output", "a.token")
    assert made.code == 0
    assert stat.S_IMODE((folder / "a.token").stat().st_mode) == 0o600
    assert (folder / "a.token").read_text().strip() not in made.out
    for output in ("a.token", "no/folder/b.token"):
        refused = await served.token("b", "--output", output)
        assert refused.code == 2
        assert refused.line
    listed = await run(folder, "audit", "show", "--data-dir", folder / "data", "--json", QFLARE_DSN=served.dsn)
    issued = [entry for entry in listed.json["entries"] if entry["event_type"] == "token_issued"]
    assert ["a"] == [entry["device_id"] for entry in issued]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", ), "name must be 1 to 255 bytes"),
        (("x" * 256,), "name must be 1 to 255 bytes"),
        (("d", "--valid-s", "0"), "valid_s"),
        (("d", "--valid-s", "9" * 30), "valid_s"),
        (("d", "--tenant", "00"), "--tenant"),
        (("d", "--tenant", "zz" * 16), "--tenant"),
        (("d", "--tenant", "11" * 16), "tenant"),
    ],
)  # fmt: skip
async def test_a_token_that_cannot_be_issued_says_why(arguments, said, database_dsn, tmp_path):
    """Names, times and tenants that cannot work are one line that names them."""
    ended = await run(tmp_path, "token", "issue", *arguments, "--data-dir", tmp_path / "data", QFLARE_DSN=database_dsn)
    assert ended.code in {1, 2}, ended.err
    assert said in ended.line


async def test_enrolment_fails_in_one_line(served):
    """A token that is used, mistyped, of another name, expired, or missing; a state file that is there already."""
    folder = served.folder
    state = await enrolled(served, "d1")
    used = (await served.token("d2")).out
    other = (await served.token("d3")).out
    short = (await served.token("d4", "--valid-s", "1")).out
    expires = time.monotonic() + 1.5
    first = await run(folder, "enrol", "--server", served.url, "--device-id", "d2", "--state", "d2", stdin=used)
    assert first.code == 0
    await asyncio.sleep(max(0, expires - time.monotonic()))
    for name, target, token, code in (
        ("d2", "d2b", used, 3),
        ("d9", "d9", other, 3),
        ("d4", "d4", short, 3),
        ("d5", "d5", "MISTYPED", 3),
        ("d5", "d5", used[:-6], 3),
        ("d5", "d5", "", 2),
        ("d5", "d5", "ü", 3),
        ("d1", state, other, 1),
        ("d5", "no/folder/state", other, 2),
        ("", "d6", other, 2),
        ("x" * 256, "d6", other, 2),
    ):
        ended = await run(
            folder, "enrol", "--server", served.url, "--device-id", name, "--state", target, "--json", stdin=token
        )
        assert (code, "") == (ended.code, ended.out), (name, target, ended.code, ended.err)
        assert {"error", "message"} == set(json.loads(ended.line))
        assert not token or token.strip() not in ended.err
    assert not (folder / "d6").exists()


async def test_a_device_that_cannot_work_says_why(served):
    """Missing, cut, altered and open state files, no session, a wrong address, and a revoked device."""
    folder = served.folder
    state = await enrolled(served)
    at = ("--server", served.url)
    content = state.read_bytes()

    def write(name, octets, mode=0o600):
        (folder / name).write_bytes(octets)
        (folder / name).chmod(mode)

    write("cut", content[:-1])
    write("altered", content[:200] + bytes([content[200] ^ 1]) + content[201:])
    write("other", b"no state file at all" * 10)
    write("empty", b"")
    write("open", content, 0o644)
    cases = [
        ("missing", 2, "enrol the device first"),
        ("cut", 3, "cut or altered"),
        ("altered", 3, "cut or altered"),
        ("other", 3, "no QFLARE device state"),
        ("empty", 3, "no QFLARE device state"),
        ("open", 2, "chmod 600"),
    ]
    for name, code, said in cases:
        ended = await run(folder, "device", "show", "--state", name)
        assert (code, True) == (ended.code, said in ended.line), (name, ended.code, ended.err)
    none = await run(folder, "device", "send", "-", "--state", state, *at, stdin="x")
    assert (3, True) == (none.code, "connect() first" in none.line or "connect" in none.line)
    gone = await run(folder, "device", "send", folder / "nothing", "--state", state, *at)
    assert (2, True) == (gone.code, "nothing" in gone.line)
    wrong = await run(folder, "device", "connect", "--state", state, "--server", "ftp://x")
    assert (2, True) == (wrong.code, "http://" in wrong.line)
    async with make_manager(served.dsn, folder, keeper_dir=str(folder / "keys")) as manager:
        await manager.revoke_device("d1", reason="test")
    refused = await run(folder, "device", "connect", "--state", state, *at)
    assert (3, True) == (refused.code, "refused" in refused.line)


async def test_a_state_has_one_user(served):
    """A state file that another process works with is refused, and named."""
    state = await enrolled(served)
    from qflare.device import Device

    with Device.open(state):
        ended = await run(served.folder, "device", "show", "--state", state)
    assert (2, True) == (ended.code, "in use" in ended.line)


async def test_a_reply_is_written_to_a_new_file(database_dsn, tmp_path):
    """--reply keeps the opened reply, 0600, and never overwrites."""
    (tmp_path / "app.py").write_text(
        "def factory(manager):\n    async def on_record(record, aad):\n        return b'the reply'\n    return on_record\n"
    )
    arguments = ("--app", "app:factory", "--data-dir", str(tmp_path / "data"))
    async with serve(tmp_path, *arguments, QFLARE_DSN=database_dsn) as served:
        served.folder, served.dsn = tmp_path, database_dsn

        async def token(name):
            return await run(tmp_path, "token", "issue", name, "--data-dir", tmp_path / "data", QFLARE_DSN=database_dsn)

        served.token = token
        state = await enrolled(served)
        at = ("--state", state, "--server", served.url)
        await run(tmp_path, "device", "connect", *at)
        sent = await run(tmp_path, "device", "send", "-", *at, "--reply", "reply", "--json", stdin="x")
        assert {"sent_bytes": 1, "reply_bytes": 9} == sent.json
        assert (tmp_path / "reply").read_bytes() == b"the reply"
        assert stat.S_IMODE((tmp_path / "reply").stat().st_mode) == 0o600
        again = await run(tmp_path, "device", "send", "-", *at, "--reply", "reply", stdin="x")
        assert (2, True) == (again.code, "new file" in again.line)


def test_a_server_that_is_away_is_exit_code_4(tmp_path):
    """A device whose server does not answer says so after its tries."""
    from qflare.protocol.token import EnrolmentToken
    from qflare.secret import SecretBytes

    token = EnrolmentToken(
        tenant_id=bytes(16), token_id=bytes(16), secret=SecretBytes(bytearray(b"s" * 32)), server_id=bytes(32)
    ).encode()
    ended = qflare(tmp_path, "enrol", "--server", "http://127.0.0.1:9", "--device-id", "d", "--state", "s", stdin=token)
    assert (4, True) == (ended.code, "cannot reach http://127.0.0.1:9" in ended.line)


def test_doctor_says_what_there_is(tmp_path):
    """Versions, self-test, PostgreSQL and keeper, for people and for scripts; nothing is left behind."""
    found = qflare(tmp_path, "doctor", "--json")
    assert found.code == 0
    facts = found.json
    assert facts["is_well"]
    assert all(facts["self_test"].values())
    assert {"liboqs_version", "liboqs_origin", "missing", "postgresql", "keeper", "database"} <= set(facts)
    assert "liboqs" in qflare(tmp_path, "doctor").out
    assert not list(tmp_path.iterdir())


def test_doctor_looks_at_a_database(tmp_path):
    """A database that is away makes the patient ill, in one line and without its password."""
    ended = qflare(tmp_path, "doctor", "--json", QFLARE_DSN="postgresql://u:pa55word@127.0.0.1:9/x")
    assert ended.code == 1
    assert ended.json["database"].startswith("StoreUnavailableError")
    assert "pa55word" not in ended.out + ended.err


def test_wrong_settings_are_named(tmp_path):
    """A setting of the environment that cannot work is a usage error that names its variable."""
    ended = qflare(tmp_path, "serve", "--port", "0", "--data-dir", tmp_path / "data", QFLARE_BUCKET_WIDTH_S="wide")
    assert ended.code == 2
    assert "QFLARE_BUCKET_WIDTH_S" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("serve", "--port", "many"),
        ("serve", "--port", "70000"),
        ("serve", "--workers", "0"),
        ("serve", "--workers", str(2**63)),
        ("device", "connect"),
        ("device", "connect", "--state", "s", "--server", "http://x", "--form", "third"),
        ("token", "issue"),
        ("enrol", "--token", "AEAA"),
        ("demo", "--devices", "0"),
        ("demo", "--rounds", str(10**9)),
        ("audit", "show", "--limit", "0"),
    ],
)
def test_wrong_calls_are_exit_code_2(arguments, tmp_path):
    """What cannot be meant is a usage error; nothing is started or written."""
    ended = qflare(tmp_path, *arguments)
    assert (2, "") == (ended.code, ended.out), ended.err
    assert ended.err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """A data folder where nobody may write, root neither, is a usage error that names it."""
    ended = qflare(tmp_path, "token", "issue", "d", "--data-dir", "/sys/qflare-data")
    assert (2, True) == (ended.code, "/sys/qflare-data" in ended.line)


def test_a_data_folder_that_is_a_file_is_named(tmp_path):
    """A data folder that cannot be one is a usage error that names it, whoever runs it."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "data", tmp_path / "no" / "folder"):
        ended = qflare(tmp_path, "token", "issue", "d", "--data-dir", folder)
        assert (2, True) == (ended.code, str(folder.name) in ended.line), ended.err


def test_the_version_is_the_packages(tmp_path):
    """--version says the version."""
    from importlib.metadata import version

    assert f"qflare {version('qflare')}\n" == qflare(tmp_path, "--version").out


def test_a_fault_of_ours_is_one_line(tmp_path):
    """What nobody foresaw is one line with how to see more; with QFLARE_DEBUG=1 it is a traceback."""
    code = (
        "import qflare.cli.commands as c, sys\n"
        "from qflare.cli.main import run\n"
        "@c.app.command('burst')\n"
        "def burst(): raise RuntimeError('secret detail')\n"
        "sys.exit(run(['burst']))\n"
    )

    def burst(**variables):
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment(tmp_path, **variables),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    plain = burst()
    assert (1, ["qflare: internal error (RuntimeError); run again with QFLARE_DEBUG=1 for the traceback"]) == (
        plain.returncode,
        plain.stderr.splitlines(),
    )
    assert "Traceback" in burst(QFLARE_DEBUG="1").stderr


def test_a_missing_extra_is_named(tmp_path):
    """Without typer the tool says which extra brings it."""
    code = "import sys; sys.modules['typer'] = None\nfrom qflare.cli.main import run\nsys.exit(run(['doctor']))"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 2
    assert "pip install 'qflare[cli]'" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_interrupting_is_exit_code_130(tmp_path):
    """Ctrl-C ends a command at once, without a word too many."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qflare", "enrol", "--server", "http://127.0.0.1:9", "--device-id", "d"),
        *("--state", str(tmp_path / "state")),
        env=environment(tmp_path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        # It waits for its token: asleep at every look, and no longer ended by the signal itself.
        asleep = 0
        while asleep < 10:
            await asyncio.sleep(0.05)
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            catches = int(status["SigCgt"], 16) >> (signal.SIGINT - 1) & 1
            asleep = asleep + 1 if catches and status["State"].split()[0] == "S" else 0
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (130, b"") == (process.returncode, out)
    assert b"Traceback" not in err


FORGETFUL = """
import os, signal, sys
from qflare.cli.interrupts import ended_by_interrupts

class Forgetful:
    def __del__(self):  # what is raised in here is reported and forgotten
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

signal.signal(signal.SIGINT, {before})
try:
    with ended_by_interrupts():
        {inside}
    {after}
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("before", "inside", "after", "code"),
    [
        ("signal.default_int_handler", "pass", "Forgetful()", 0),
        ("signal.default_int_handler", "Forgetful()", "pass", -signal.SIGINT),
        ("signal.default_int_handler", "pass", "os.kill(os.getpid(), signal.SIGINT)", 130),
        ("signal.SIG_IGN", "Forgetful()", "os.kill(os.getpid(), signal.SIGINT)", 0),
    ],
    ids=["without it", "in it", "after it", "ignored"],
)
def test_an_interrupt_while_a_command_is_loaded_is_not_lost(before, inside, after, code):
    """It ends the process also where Python would forget it; afterwards, and where it is ignored, all is as before."""
    text = FORGETFUL.format(before=before, inside=inside, after=after)
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, timeout=60, check=False)
    assert code == ended.returncode, ended.stderr


def test_every_error_has_its_exit_code():
    """The classes of the error tree end with the documented codes."""
    for error, code in (
        (ConfigError("x"), ExitCode.USAGE),
        (MissingExtraError(feature="x", extra="x", package="x"), ExitCode.USAGE),
        (RefusedError(), ExitCode.REFUSED),
        (AuthenticationError(), ExitCode.REFUSED),
        (StoreUnavailableError("x"), ExitCode.UNAVAILABLE),
        (SchemaMismatchError("x"), ExitCode.UNAVAILABLE),
        (KeeperError("x"), ExitCode.UNAVAILABLE),
        (EvidenceError("x"), ExitCode.EVIDENCE),
        (LogForkError("x"), ExitCode.EVIDENCE),
        (KeyNotFoundError("x"), ExitCode.FAILED),
        (EntropyError("x"), ExitCode.FAILED),
        (QflareError("x"), ExitCode.FAILED),
    ):
        assert code_of(error) == code


def test_the_shell_starts_light(tmp_path):
    """Asking for help loads neither the database driver, nor a web framework, nor numpy, nor the C core."""
    code = (
        "import sys\nfrom qflare.cli.main import run\nrun(['--help'])\n"
        "heavy = {'asyncpg', 'starlette', 'uvicorn', 'httpx', 'numpy', 'asyncio', 'qflare._native', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stderr.strip() == "[]"
