"""The log's key in a process of its own: signs what follows alone, survives kills, and no worker holds the key."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import threading
from contextlib import asynccontextmanager

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.test_cli import run
from manager_world import Edge, managers
from qflare.clock import SystemClock
from qflare.errors import (
    ConfigError,
    DecodeError,
    KeeperError,
    LogForkError,
    SignerRefusedError,
    SignerUnavailableError,
)
from qflare.manager.signers import is_held_elsewhere
from qflare.model.event import EventSeverity, LoggedEvent, SecurityEventType
from qflare.monitor.held import HeldReceipt
from qflare.protocol import signing
from qflare.protocol.checkpoint import verify_checkpoint
from qflare.protocol.log import EMPTY_ROOT, Frontier, consistency_path, nodes_for_consistency
from qflare.protocol.signing import LastHead, SignRequest, hash_key
from qflare.service.signer.server import Door, SignerServer
from qflare.service.signer.state import SignerState
from qflare.stores.postgres import install_schema
from qflare.stores.signer import SignerClient
from service.signers import WAIT_S, short_folder, signer

SYSTEM, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO
ORIGIN = "log.example/qflare"


@pytest.fixture
def place():
    with short_folder() as folder:
        yield folder


@pytest.fixture
def state(place):
    opened = SignerState(place / "keys", SystemClock())
    yield opened
    with contextlib.suppress(OSError):
        opened.close()


@asynccontextmanager
async def serving(state, door):
    """The signer's socket in this process."""
    stop, is_ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(SignerServer(state, door).run(stop, ready=is_ready.set))
    waiting = asyncio.create_task(is_ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            await task
        yield
    finally:
        waiting.cancel()
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def asking(path, *, timeout_s=20.0):
    client = SignerClient(str(path), timeout_s=timeout_s)
    try:
        yield client
    finally:
        await client.close()


class Tree:
    """A log of made-up leaves, with the proofs that a worker reads from its database."""

    def __init__(self):
        self.nodes, self.frontier = {}, Frontier()
        self.roots = {0: EMPTY_ROOT}

    def grow(self, count, byte=b"l"):
        for _ in range(count):
            leaf = (byte * 32)[:28] + self.frontier.size.to_bytes(4, "big")
            self.frontier, made = self.frontier.append([leaf])
            self.nodes |= {(level, index): node for level, index, node in made} | {(0, self.frontier.size - 1): leaf}
            self.roots[self.frontier.size] = self.frontier.root()
        return self

    def request(self, key, size, *, old=0, root=None, origin=ORIGIN):
        known = {node: self.nodes[node] for node in nodes_for_consistency(old, size)}
        path = consistency_path(old, size, known) if old else ()
        return SignRequest(
            key_hash=hash_key(key), origin=origin, old_size=old, size=size, root=root or self.roots[size], path=path
        )


# What is signed ---------------------------------------------------------------------------------------------------------


def test_only_what_follows_is_signed(state):
    """Larger and consistent heads, one after the other; the same again is the same; all else is refused or told."""
    key, tree = state.public_key(), Tree().grow(9)
    assert key == state.public_key()
    first = state.sign(tree.request(key, 3))
    verify_checkpoint(key, ORIGIN, first.checkpoint)
    assert first == state.sign(tree.request(key, 3, old=3)) == state.last
    second = state.sign(tree.request(key, 9, old=3))
    verify_checkpoint(key, ORIGIN, second.checkpoint)
    assert second.checkpoint.time_s >= first.checkpoint.time_s
    for stale in (tree.request(key, 5, old=3), tree.request(key, 9, old=3), tree.request(key, 5, old=0)):
        assert state.sign(stale) is None
    other = Tree().grow(12, b"x")
    for refused in (
        other.request(key, 12, old=9),
        other.request(key, 9, old=9),
        other.request(key, 9, old=3),
        tree.request(key, 9, old=9, origin="another.example/log"),
        tree.request(bytes(1312), 9, old=9),
        SignRequest(key_hash=hash_key(key), origin=ORIGIN, old_size=9, size=8, root=tree.roots[8], path=()),
    ):
        found = None
        with contextlib.suppress(SignerRefusedError):
            found = state.sign(refused)
        assert found is None
        assert second == state.last
    fresh = state.public_key(is_fresh=True)
    assert fresh not in (key, None)
    again = state.sign(tree.request(fresh, 9, old=9))
    verify_checkpoint(fresh, ORIGIN, again.checkpoint)


def test_what_was_signed_outlives_the_process(place):
    """Opened anew a signer holds its keys and its last head; a damaged or lost head, or a second signer, is refused."""
    folder, tree = place / "keys", Tree().grow(8)
    one = SignerState(folder, SystemClock())
    keys = [one.public_key(), one.public_key(is_fresh=True)]
    signed = one.sign(tree.request(keys[1], 5))
    with pytest.raises(ConfigError, match="another signer"):
        SignerState(folder, SystemClock())
    one.close()
    two = SignerState(folder, SystemClock())
    assert (signed, keys[1]) == (two.last, two.public_key())
    assert two.sign(tree.request(keys[0], 4)) is None
    two.sign(tree.request(keys[0], 8, old=5))
    two.close()
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    head = folder / "head"
    content = head.read_bytes()
    for damage in (content[:-1], content[:40] + b"\xff" + content[41:], b"", None):
        if damage is None:
            head.unlink()
        else:
            head.write_bytes(damage)
        with pytest.raises(KeeperError):
            SignerState(folder, SystemClock())
    head.write_bytes(content)
    head.chmod(0o600)
    SignerState(folder, SystemClock()).close()


def test_a_head_that_cannot_be_kept_is_not_signed(state, place):
    """Where the folder takes no file, nothing is signed, and the last head stays."""
    key, tree = state.public_key(), Tree().grow(4)
    state.sign(tree.request(key, 2))
    before = state.last
    folder = place / "keys"
    folder.rename(place / "gone")
    with pytest.raises(KeeperError):
        state.sign(tree.request(key, 4, old=2))
    assert before == state.last
    (place / "gone").rename(folder)
    assert 4 == state.sign(tree.request(key, 4, old=2)).checkpoint.size


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_the_readers_are_total(data):
    """Any bytes are read, or refused with a DecodeError."""
    for read in (SignRequest.decode, LastHead.decode, signing.decode_message, signing.decode_length):
        with contextlib.suppress(DecodeError):
            read(data)
    request = SignRequest(key_hash=bytes(32), origin="o", old_size=1, size=2, root=bytes(32), path=(bytes(32),))
    assert request == SignRequest.decode(request.encode())
    for size in range(len(request.encode())):
        with pytest.raises(DecodeError):
            SignRequest.decode(request.encode()[:size])


# Who may ask ------------------------------------------------------------------------------------------------------------


async def test_only_named_users_are_answered(state, place):
    """The kernel says who asks: a user who is not named gets a refusal, whatever the file's mode; the mode is 0600."""
    path = place / "s"
    async with serving(state, Door(path=path, users=frozenset({os.geteuid() + 1}))), asking(path) as client:
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        with pytest.raises(SignerRefusedError, match="may not ask"):
            await client.public_key()
    async with (
        serving(state, Door(path=path, users=frozenset({os.geteuid()}), group=os.getegid())),
        asking(path) as client,
    ):
        assert 0o660 == stat.S_IMODE(path.stat().st_mode)
        assert state.public_key() == await client.public_key()
    assert not path.exists()


async def test_garbage_ends_a_connection_and_nothing_else(state, place):
    """Bytes that are no question, cut ones, and long ones: that connection ends, others are answered."""
    path = place / "s"
    async with serving(state, Door(path=path, users=frozenset({os.geteuid()}))), asking(path) as client:
        await client.public_key()
        for garbage in (b"\xff" * 40, b"\0\0\0\2\1\x63", b"\0\0\0\2\7\1", b"\0\0\0\3\1\1x", b"\0\0\0\x09\1\4abcdefg"):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(garbage)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), WAIT_S)
            assert not answer or answer[5] == signing.AnswerKind.REFUSED
            writer.close()
            assert 0 == (await client.last())[1].size


async def test_a_stop_waits_for_a_signature_that_is_half_way(state, place, monkeypatch):
    """Told to stop while one is made, it ends after it: whoever closes the state wipes no key that is in use."""
    began, may_go_on, order = threading.Event(), threading.Event(), []
    sign = state.sign

    def sign_slowly(request):
        began.set()
        may_go_on.wait(WAIT_S)
        signed = sign(request)
        order.append("signed")
        return signed

    monkeypatch.setattr(SignerState, "sign", lambda _, request: sign_slowly(request))
    path, key, tree = place / "s", state.public_key(), Tree().grow(3)
    async with asking(path) as client:
        async with serving(state, Door(path=path, users=frozenset({os.geteuid()}))):
            asked = asyncio.create_task(client.sign(key, ORIGIN, old_size=0, size=3, root=tree.roots[3], path=()))
            assert await asyncio.to_thread(began.wait, WAIT_S)
            # Set only once the server has been told to stop and has had its chance to end too early.
            asyncio.get_running_loop().call_later(0.3, may_go_on.set)
        order.append("stopped")
        await asyncio.gather(asked, return_exceptions=True)
    assert ["signed", "stopped"] == order
    assert 3 == state.last.checkpoint.size


async def test_a_place_that_is_taken_is_refused(state, place):
    """A file that is no socket, and a socket that is served, stay; one that was left behind is replaced."""
    path = place / "s"
    door = Door(path=path, users=frozenset({os.geteuid()}))
    path.write_text("mine")
    with pytest.raises(ConfigError, match="no socket"):
        async with serving(state, door):
            pass
    assert "mine" == path.read_text()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serving(state, door), asking(path) as client:
        await client.last()
        with pytest.raises(ConfigError, match="another process"):
            async with serving(state, door):
                pass
        await client.last()


async def test_a_signer_that_is_silent_or_none_is_told_in_time(place):
    """No socket, one that never answers, and one that answers something else: an error within the bound."""
    path = place / "s"
    async with asking(path) as client:
        with pytest.raises(SignerUnavailableError, match="qflare signer"):
            await client.public_key()

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    async def another(_reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    for answer, reason, timeout_s in ((silent, "did not answer", 0.3), (another, "no signer", 30.0)):
        server = await asyncio.start_unix_server(answer, str(path))
        async with server, asking(path, timeout_s=timeout_s) as client:
            with pytest.raises(SignerUnavailableError, match=reason):
                await client.public_key()
            await client.close()


# With workers -----------------------------------------------------------------------------------------------------------


async def events(manager, count, first=0):
    return await asyncio.gather(
        *(manager.monitor.log_security_event(SYSTEM, INFO, {"n": first + number}) for number in range(count)),
        return_exceptions=True,
    )


def held(logged):
    return [HeldReceipt(each.leaf_hash, each.receipt) for each in logged]


async def test_workers_sign_through_a_process_and_hold_no_key(database_dsn, tmp_path, place, admin):
    """Sessions, events and checkpoints of two workers at a time: every receipt holds, and no worker has the key."""
    path = place / "s"
    async with signer(place / "keys", path) as process:
        assert {"socket": str(path), "signed_size": 0} == process.said
        async with managers(database_dsn, tmp_path, 2, signer_socket=str(path), signer_timeout_s=30.0) as (one, two):
            evidence = (await (await Edge.provision(one)).connect(two)).evidence
            logged = [each for both in await asyncio.gather(events(one, 60), events(two, 60, 60)) for each in both]
            assert {LoggedEvent} == {type(each) for each in logged}
            await two.monitor.checkpoint()
            report = await one.monitor.verify_log(receipts=[HeldReceipt.of(evidence), *held(logged)])
            assert 121 == report.receipts
            for manager in (one, two):
                assert (await manager._engine()).foundation.identity.held.log is None
        rows = await admin.fetch("SELECT sealed_log FROM qflare.server_identity")
        assert [True] == [is_held_elsewhere(row["sealed_log"]) for row in rows]
        with pytest.raises(KeeperError, match="QFLARE_SIGNER_SOCKET"):
            async with managers(database_dsn, tmp_path):
                pass


async def test_nothing_is_answered_while_the_signer_is_gone(database_dsn, tmp_path, place):
    """Killed with -9 under load: no answer without a signature, errors in time; back with it, and the log is whole."""
    path, folder = place / "s", place / "keys"
    changes = {"signer_socket": str(path), "signer_timeout_s": 30.0}
    async with contextlib.AsyncExitStack() as stack:
        process = await stack.enter_async_context(signer(folder, path))
        (manager,) = await stack.enter_async_context(managers(database_dsn, tmp_path, **changes))
        good, edge = await events(manager, 5), await Edge.provision(manager)
        working = asyncio.create_task(events(manager, 200, 5))
        async with asyncio.timeout(WAIT_S):
            while (await manager.monitor.get_security_dashboard_data()).log_size < 20:
                await asyncio.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        good += [each for each in await working if isinstance(each, LoggedEvent)]
        for ended in (*await events(manager, 3), *await asyncio.gather(edge.connect(manager), return_exceptions=True)):
            assert isinstance(ended, SignerUnavailableError), ended
        with pytest.raises(SignerUnavailableError):
            await manager.monitor.checkpoint()
        again = await stack.enter_async_context(signer(folder, path))
        assert again.said["signed_size"] >= max(each.index for each in good[:5])
        good += await events(manager, 5)
        evidence = (await edge.connect(manager)).evidence
        assert {LoggedEvent} == {type(each) for each in good}
        report = await manager.monitor.verify_log(receipts=[HeldReceipt.of(evidence), *held(good)])
        assert len(good) + 1 == report.receipts


async def test_a_log_moves_to_a_signer_by_a_rotation(database_dsn, tmp_path, place):
    """A log that was signed by workers goes on under a signer's key, and again under another; old receipts hold."""
    path = place / "s"
    async with managers(database_dsn, tmp_path) as (manager,):
        logged = await events(manager, 3)
    async with (
        signer(place / "keys", path),
        managers(database_dsn, tmp_path, signer_socket=str(path), signer_timeout_s=30.0) as (manager,),
    ):
        logged += await events(manager, 3)
        for reason in ("to the signer", "once more"):
            before = (await manager.identity())[-10_000:]
            await manager.rotate_identity(reason=reason)
            assert before != (await manager.identity())[-10_000:]
            logged += await events(manager, 3)
            assert (await manager._engine()).foundation.identity.held.log is None
        await manager.monitor.checkpoint()
        report = await manager.monitor.verify_log(receipts=held(logged))
        assert len(logged) == report.receipts


async def test_a_signer_refuses_another_database(database_dsn, empty_database_dsn, tmp_path, place):
    """Another log of the same origin, or of another one, is refused with an alarm, and the first one goes on."""
    path = place / "s"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    changes = {"signer_socket": str(path), "signer_timeout_s": 30.0, "log_origin": ORIGIN}
    async with signer(place / "keys", path), managers(database_dsn, tmp_path / "one", **changes) as (one,):
        await events(one, 5)
        connection = await asyncpg.connect(empty_database_dsn)
        await install_schema(connection)
        await connection.close()
        async with managers(empty_database_dsn, tmp_path / "two", **changes) as (two,):
            for ended in await events(two, 30):
                assert isinstance(ended, LogForkError | SignerRefusedError), ended
        assert {LoggedEvent} == {type(each) for each in await events(one, 5)}


async def test_the_command_says_what_it_cannot_do(tmp_path, place):
    """An unknown user, a folder that is open to others, and a socket in no folder: one line, exit code 2."""
    (place / "open").mkdir(mode=0o755)
    for arguments in (
        ("--socket", place / "s", "--folder", place / "keys", "--allow-user", "nobody-of-that-name"),
        ("--socket", place / "s", "--folder", place / "open"),
        ("--socket", place / "none" / "s", "--folder", place / "keys"),
    ):
        ended = await run(tmp_path, "signer", *arguments)
        assert (2, 1) == (ended.code, len(ended.err.splitlines())), ended.err
