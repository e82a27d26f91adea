"""Canaries (F1): secrets that are known are looked for wherever they must not be."""

import asyncio
import base64
import io
import json
import logging
import os
import re
import traceback
from pathlib import Path

import asyncpg
import pytest

import qflare
from manager_world import Edge, engine_of, make_manager
from qflare.device import Device, Step
from qflare.errors import QflareError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.protocol.record import KIND_CONTROL, read_header
from qflare.protocol.token import decode_token
from qflare.secret import SecretBytes
from qflare.service.logs import JsonFormatter
from qflare.service.operator_secret import decode_secret
from qflare.stores.embedded.folder import Folder

OURS = str(Path(qflare.__file__).parent)
CANARY = b"a plaintext that nobody else may read: 7Qz"


class Link:
    """A transport into a manager, driven by the test's own loop from a thread."""

    def __init__(self, manager, loop):
        self.manager, self.loop = manager, loop

    def exchange(self, step, message):
        call = {
            Step.IDENTITY: self.manager.identity,
            Step.ANNOUNCEMENT: lambda: self.manager.announcement("current"),
            Step.ENROL: lambda: self.manager.answer_enrolment(bytes(message)),
        }[step]
        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(30)

    def close(self):
        pass


def bytes_of(secret):
    with secret.view() as view:
        return bytes(view)


class Canaries:
    """Known secrets, and how each of them would look if it got out."""

    def __init__(self):
        self.secrets = {}

    def plant(self, name, secret):
        data = secret if isinstance(secret, bytes) else bytes_of(secret)
        assert len(data) >= 16
        # From the middle: a seed may stand at the front of a key whose rest is public.
        self.secrets[name] = data if len(data) <= 64 else data[64:128]

    def needles(self):
        for name, data in self.secrets.items():
            part = data[:24]
            yield name, part
            yield name, part.hex().encode()
            yield name, part.hex().upper().encode()
            # Python escapes ' where the whole has " as well, whatever part of it is looked for.
            yield name, repr(part)[2:-1].encode()
            yield name, repr(b"\"'" + part)[5:-1].encode()
            for shift in range(3):
                # Base64 of the part wherever it stands in a longer string.
                text = base64.b64encode(bytes(shift) + part)
                yield name, text[4 : len(text) // 4 * 4 - 4]
                yield name, base64.urlsafe_b64encode(bytes(shift) + part)[4:-4]

    def found_in(self, haystack):
        return sorted({name for name, needle in self.needles() if needle in haystack})


def frames_of_ours(failure):
    """Every local of every frame of the package in a traceback, as a debugger or reporter would print it."""
    shown, seen = [], set()
    while failure is not None and id(failure) not in seen:
        seen.add(id(failure))
        trace = traceback.TracebackException.from_exception(failure, capture_locals=True)
        ours = [frame for frame in trace.stack if frame.filename.startswith(OURS)]
        shown += [f"{frame.filename}:{frame.lineno} {frame.locals}" for frame in ours]
        shown.append("".join(trace.format_exception_only()))
        failure = failure.__cause__ or failure.__context__
    return "\n".join(shown).encode(errors="replace")


def files_below(folder):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()


def processes_of(folder):
    """Command lines and environments of this process and of every one that works for the data folder."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            here = int(entry.name) == os.getpid() or str(folder).encode() in command
            if here or str(folder) in str((entry / "cwd").readlink()):
                yield command + b"\n" + environment
        except OSError:
            continue


async def use(manager, edge, canaries, sid):
    """Use a session, planting its keys; return what went wrong on purpose."""
    for bucket, key in edge.chain(sid).export_keys().items():
        canaries.plant(f"chain key {sid.hex()} {bucket}", key)
    with await manager.derive_session_key(sid, "encryption") as key:
        canaries.plant(f"session key {sid.hex()}", key)
        failures = [await failing(manager.verify_session_key(sid, bytes_of(key)[::-1], purpose="encryption"))]
    record = edge.seal(sid, CANARY)
    with await manager.open_record(record) as opened:
        assert opened.plaintext.equals(CANARY)
    down = await manager.seal_record(sid, CANARY)
    header = read_header(down)
    return [
        *failures,
        *[
            await failing(manager.open_record(message))
            for message in (record, record[:-1], record[:-1] + b"x", edge.seal(sid, CANARY, kind=KIND_CONTROL)[:70])
        ],
        await failing(as_coroutine(edge.open, sid, down[:-1] + b"x", header)),
    ]


async def operate(manager, canaries):
    """Add an operator and renew their secret, planting both; return what went wrong on purpose."""
    texts = [await manager.add_operator("ann"), await manager.renew_operator("ann", reason="lost")]
    for number, text in enumerate(texts):
        # Behind the tenant's id, which is no secret.
        canaries.plant(f"operator's text {number}", text[27:75].encode())
        operator = decode_secret(text)
        canaries.plant(f"operator's secret {number}", operator.secret)
        with operator.secret as secret:
            assert bool(number) == await manager.check_operator("ann", secret)
    told = SecurityEventType.OPERATOR_ACTION, EventSeverity.INFO
    return [
        await failing(as_coroutine(decode_secret, texts[0][:-1])),
        await failing(manager.add_operator("ann")),
        await failing(manager.monitor.log_security_event(*told, {"note": f"mine is {texts[1]}"})),
        await failing(manager.monitor.log_security_event(*told, {"secret": texts[1]})),
    ]


async def enrol(manager, canaries, folder):
    """Enrol a device, planting its token and key; return what went wrong on purpose."""
    token = await manager.issue_enrolment_token("enrolled")
    canaries.plant("token", token.encode()[60:110])
    with decode_token(token) as decoded:
        canaries.plant("token secret", decoded.secret)
    link = Link(manager, asyncio.get_running_loop())

    def enrolled(text, name, state):
        with Device.enrol(link, text, device_id=name, state=folder / state) as device:
            canaries.plant("enrolled device's key", device.engine.state.identity.signing_key)

    await asyncio.to_thread(enrolled, token, "enrolled", "a.state")
    return [
        await failing(asyncio.to_thread(enrolled, token, "enrolled", "b.state")),
        await failing(asyncio.to_thread(enrolled, token, "another", "c.state")),
        await failing(asyncio.to_thread(enrolled, token[:-1] + "7", "enrolled", "d.state")),
        await failing(asyncio.to_thread(enrolled, token.lower(), "enrolled", "d.state")),
    ]


def plant_servers(canaries, engine):
    """Plant what the server keeps: bucket keys, KEKs and signing keys."""
    for bucket, live in engine.buckets._live.items():
        canaries.plant(f"KEK {bucket}", live.kek)
        canaries.plant(f"TK {bucket}", live.keys.ticket_key)
        canaries.plant(f"dk {bucket}", live.keys.decapsulation_key)
    canaries.plant("announce key", engine.foundation.identity.held.announce)
    canaries.plant("log key", engine.foundation.identity.held.log)
    with engine.foundation.keeper.long_term_key() as kek:
        canaries.plant("KEK_L", kek)


@pytest.fixture
def json_log():
    """Have everything that is logged written as `QFLARE_LOG_FORMAT=json` writes it, tracebacks included."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


async def dump_of(folder):
    """Every row of every table as the database gives it out; what is not yet on the disk is written."""
    connection = await asyncpg.connect(folder.dsn(), timeout=30)
    try:
        await connection.execute("CHECKPOINT")
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'qflare'")
        rows = [
            repr(await connection.fetch(f"SELECT * FROM qflare.{table['tablename']}"))  # noqa: S608
            for table in tables
        ]
    finally:
        await connection.close()
    return "".join(rows).encode()


async def test_known_secrets_are_found_nowhere(tmp_path, caplog, json_log):
    """Keys, tokens, psks, KEKs and plaintexts stand in no log, traceback, dump, data file, WAL, environment or command."""
    caplog.set_level(logging.DEBUG)
    canaries = Canaries()
    canaries.plant("plaintext", CANARY)
    logging.getLogger("qflare").debug("the search begins")
    async with make_manager(None, tmp_path) as manager:
        psk = SecretBytes.copy_of(os.urandom(64))
        edge = await Edge.provision(manager, psk=psk)
        canaries.plant("psk", psk)
        canaries.plant("device signing key", edge.pair.signing_key)
        canaries.plant("device decapsulation key", edge.pair.decapsulation_key)
        pending = await edge.hello(manager)
        canaries.plant("ck2", pending.ck2)
        done = await manager.confirm(pending.message)
        m4 = done.confirmation
        failures = [await failing(as_coroutine(edge.accept, pending, bad)) for bad in (m4[:-1], m4[:-1] + b"x")]
        session, offered = edge.accept(pending, m4), await edge.connect(manager, form="offer")
        for sid in (session.sid, offered.sid):
            failures += await use(manager, edge, canaries, sid)
        failures += await enrol(manager, canaries, tmp_path)
        failures += await operate(manager, canaries)
        failures += [await failing(manager.set_device_psk(edge.name, bad)) for bad in (bytes_of(psk)[:63], bytes(64))]
        failures.append(await failing(manager.initiate_temporal_key_exchange(edge.name, edge.pair.public_key[::-1])))
        plant_servers(canaries, engine_of(manager))
        assert any(OURS.encode() in frames_of_ours(failure) for failure in failures)
        for failure in failures:
            # The caller's own arguments are the caller's; what the package's frames hold must not show.
            assert isinstance(failure, QflareError | TypeError), failure
            assert [] == canaries.found_in(frames_of_ours(failure)), repr(failure)
            logging.getLogger("qflare.service").error("it failed on purpose", exc_info=failure)
        for shown in (session, done, pending, edge.pair, engine_of(manager), manager):
            assert [] == canaries.found_in(repr(shown).encode())
        processes = list(processes_of(tmp_path))
        assert len(processes) >= 2
        assert [] == canaries.found_in(b"".join(processes))
        folder = Folder((tmp_path / "data").resolve())
        rows = await dump_of(folder)
        assert len(rows) > 10_000
        assert [] == canaries.found_in(rows)
        await asyncio.to_thread(check_files, folder.root, canaries, tmp_path / "volatile")
    logged = "\n".join(record.getMessage() + repr(record.args) + str(record.exc_text) for record in caplog.records)
    assert "the search begins" in logged
    assert [] == canaries.found_in(logged.encode(errors="replace"))
    lines = [json.loads(line) for line in json_log.getvalue().splitlines()]
    assert "the search begins" in {line["message"] for line in lines if line["level"] == "DEBUG"}
    assert len(failures) == sum("in failing" in line.get("traceback", "") for line in lines)
    assert [] == canaries.found_in(json_log.getvalue().encode())


def check_files(root, canaries, volatile):
    """No file of the data folder but the keeper's own holds a secret; the keeper's hold the KEKs, so the search works."""
    hits, has_wal = {}, False
    for path, content in files_below(root):
        found = canaries.found_in(content)
        has_wal = has_wal or ("pg_wal" in path.parts and bool(content))
        if found:
            hits[str(path.relative_to(root))] = found
    assert has_wal
    assert [["KEK_L"]] == list(hits.values()), hits
    keks = {name for _, content in files_below(volatile) for name in canaries.found_in(content)}
    assert {re.sub(" .*", "", name) for name in keks} == {"KEK"}


async def failing(call):
    """Return what *call* raises."""
    try:
        await call
    except Exception as failure:  # noqa: BLE001 - its traceback is what is looked at
        return failure
    return None


async def as_coroutine(call, *args):
    return call(*args)


def test_the_search_finds_what_is_there():
    """A canary is found raw, in hex, in base64 at every offset, and as Python prints bytes: the search can fail."""
    for secret in (os.urandom(64), b"'" + bytes(40) + b'"', b'"' + bytes(40) + b"'", b"\\'" + bytes(40)):
        canaries = Canaries()
        canaries.plant("it", secret)
        for shown in (secret, secret.hex().encode(), repr(secret).encode()):
            assert ["it"] == canaries.found_in(b"xx" + shown)
        for shift in range(4):
            assert ["it"] == canaries.found_in(base64.b64encode(os.urandom(shift) + secret))
    canaries = Canaries()
    with pytest.raises(AssertionError):
        canaries.plant("too short", b"x")
