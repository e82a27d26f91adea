"""A witness over HTTP and over the database: what it follows, and what it refuses."""

import base64
import stat

import httpx
import pytest

from cli.commands import qflare
from cli.test_cli import run
from manager_world import make_manager
from qflare.cli.exits import ExitCode
from qflare.errors import (
    AuthenticationError,
    ConfigError,
    DecodeError,
    EvidenceError,
    LogForkError,
    OtherLogError,
    StoreUnavailableError,
    UsageError,
)
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.protocol.checkpoint import decode_note_body, encode_note, sign_checkpoint
from qflare.protocol.cosignature import verify_cosignature
from qflare.protocol.identity import decode_identity, server_id_of
from qflare.protocol.log import Frontier, nodes_for_frontier, root_from_nodes
from qflare.protocol.log_key import LogKey, open_note
from qflare.protocol.tile import decode_tile_path, nodes_from_tiles, tiles_of_tree
from qflare.service.aggregator import Aggregator
from qflare.service.watching import KeptHead, open_http_log
from qflare.service.witness_key import open_witness_key
from qflare.testing import TurnableClock
from service.served import serving, url_of

SYSTEM, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO


class Watched:
    """A served log, and what pins it."""

    def __init__(self, manager, clock, url, folder, served):
        self.manager, self.clock, self.url, self.folder = manager, clock, f"{url}/v1", folder
        self.server_id = server_id_of(served[:2592])
        self.key = LogKey.of(decode_identity(served, server_id=self.server_id).certificate)
        self.kept = KeptHead(folder / "kept.note")

    async def grow(self, count):
        """Append events and sign; what the service shows is then looked at anew."""
        for at in range(0, count, 200):
            events = [(SYSTEM, INFO, {"n": number}, None) for number in range(at, min(at + 200, count))]
            await self.manager.monitor.log_security_events_many(events)
        signed = await self.manager.monitor.checkpoint()
        self.clock.turn(5)
        return signed

    async def follow(self, **pin):
        async with open_http_log(self.url, **({"server_id": self.server_id, "key": None} | pin)) as source:
            return await self.kept.follow(source)


@pytest.fixture
async def watched(database_dsn, tmp_path):
    clock = TurnableClock()
    manager = make_manager(database_dsn, tmp_path)
    async with manager, serving(Aggregator(manager, clock=clock)) as server:
        yield Watched(manager, clock, url_of(server), tmp_path, await manager.identity())


async def test_a_witness_follows_the_log_over_http(watched):
    """Each head is accepted once its tiles show that it goes on from the last; the file is its owner's alone."""
    before = 0
    for count in (1, 3, 255, 1, 300):
        signed = await watched.grow(count)
        seen = await watched.follow(**({"server_id": None, "key": watched.key} if count == 3 else {}))
        assert (signed.size, before) == (seen.checkpoint.size, 0 if seen.before is None else seen.before.size)
        before = signed.size
        assert signed == open_note(watched.kept.path.read_text(), [watched.key])
    assert stat.S_IMODE(watched.kept.path.stat().st_mode) == 0o600
    assert before == (await watched.follow()).before.size


async def test_tiles_are_public_hashes_that_never_change(watched):
    """Checkpoint and tiles follow C2SP's addresses and headers, make the signed root, and hold no entry."""
    signed = await watched.grow(300)
    async with httpx.AsyncClient(base_url=watched.url, timeout=60) as client:
        note = await client.get("/checkpoint")
        assert ("text/plain; charset=utf-8", "no-store") == (
            note.headers["content-type"],
            note.headers["cache-control"],
        )
        assert signed == open_note(note.text, [watched.key])
        tiles = {}
        for tile in tiles_of_tree(signed.size):
            answer = await client.get(f"/{tile.path}")
            assert "immutable" in answer.headers["cache-control"]
            assert "application/octet-stream" == answer.headers["content-type"]
            assert 32 * tile.width == len(answer.content)
            tiles[tile] = answer.content
        frontier = nodes_for_frontier(signed.size)
        assert signed.root == root_from_nodes(signed.size, nodes_from_tiles(frontier, signed.size, tiles))
        narrow = await client.get("/tile/0/000.p/7")
        assert narrow.content == tiles[decode_tile_path("tile/0/000")][: 7 * 32]
        for path in (
            "tile/0/001.p/255", "tile/0/002", "tile/1/000", "tile/9/000.p/1", "tile/entries/000", "tile/entries/000.p/1",
            "tile/0/000.p/0", "tile/0/0", "tile/0/x000/000", "tile/", "tile/0/000.p/256",
        ):  # fmt: skip
            answer = await client.get(f"/{path}")
            assert (404, "no-store") == (answer.status_code, answer.headers["cache-control"]), path
        assert 405 == (await client.post("/checkpoint")).status_code


async def test_a_fork_and_a_shorter_log_are_refused_and_what_was_kept_stands(watched):
    """Another root of the same size, one that does not go on, a smaller head and another log: each its own error."""
    signed = await watched.grow(5)
    await watched.follow()
    await watched.grow(4)
    path = watched.kept.path
    for size, root, error in (
        (signed.size, bytes(32), LogForkError),
        (signed.size + 4, bytes(32), LogForkError),
        (signed.size + 100, bytes(32), LogForkError),
    ):
        forged = watched.key.origin, size, root
        path.write_text(
            encode_note(forged[0], watched.key.key, type(signed)(size=size, root=root, time_s=1, signature=bytes(2420)))
        )
        kept = path.read_bytes()
        with pytest.raises(error):
            await watched.follow()
        assert kept == path.read_bytes()
    done = await run(
        watched.folder, "audit", "watch", "--keep", path, "--url", watched.url, "--server-id", watched.server_id.hex(), "--once"
    )  # fmt: skip
    assert (ExitCode.FORKED, "") == (done.code, done.out), done.err
    path.write_text(encode_note("other.example/log", watched.key.key, signed))
    with pytest.raises(OtherLogError):
        await watched.follow()
    with pytest.raises(OtherLogError):
        await watched.follow(server_id=bytes(32))
    path.write_text("no note\n")
    damaged = await run(
        watched.folder, "audit", "watch", "--keep", path, "--url", watched.url, "--key", watched.key.encode(), "--once"
    )
    assert 3 == damaged.code


async def test_a_head_that_another_worker_showed_has_its_tiles_here(watched):
    """What a new head covers is served at once, though this worker looked for a newer head just now."""
    before = await watched.grow(3)
    async with httpx.AsyncClient(base_url=watched.url) as client:
        assert 200 == (await client.get("/checkpoint")).status_code
        await watched.manager.monitor.log_security_event(SYSTEM, INFO, {"n": 1})
        signed = await watched.manager.monitor.checkpoint()  # and the clock stands still
        assert signed.size > before.size
        for tile in tiles_of_tree(signed.size, after=before.size):
            assert 200 == (await client.get(f"/{tile.path}")).status_code
        assert 404 == (await client.get(f"/tile/0/000.p/{signed.size + 1}")).status_code


async def test_a_head_of_before_a_rotation_is_no_alarm(watched):
    """Between a new certificate and the first head under its key a witness is told to look again, and then goes on."""
    await watched.grow(3)
    await watched.follow()
    kept = watched.kept.path.read_bytes()
    await watched.manager.rotate_identity(reason="its time has come")
    with pytest.raises(StoreUnavailableError, match="look again"):
        await watched.follow()
    once = ("--url", watched.url, "--server-id", watched.server_id.hex(), "--once")
    done = await run(watched.folder, "audit", "watch", "--keep", watched.kept.path, *once)
    assert ExitCode.UNAVAILABLE == done.code, done.err
    assert kept == watched.kept.path.read_bytes()
    signed = await watched.grow(1)
    assert signed.size == (await watched.follow()).checkpoint.size


class Shown:
    """A log that shows what it is told to."""

    def __init__(self, keys, note, nodes):
        self._keys, self._note, self._nodes = keys, note, nodes

    async def keys(self):
        return self._keys

    async def note(self):
        return self._note

    async def find_nodes(self, nodes, *, size):  # noqa: ARG002 - the port's signature
        return {node: self._nodes[node] for node in nodes if node in self._nodes}


async def test_a_log_that_signs_two_histories_is_caught(watched):
    """The log's own key signs a larger tree with other leaves: the proof fails, whatever hashes it shows."""
    signed = await watched.grow(6)
    await watched.follow()
    leaves = [bytes((number,)) * 32 for number in range(signed.size + 3)]
    frontier, made = Frontier().append(leaves)
    with watched.manager._opening.value.foundation.identity.lend() as keys:
        forged = sign_checkpoint(keys.log, watched.key.origin, frontier.size, frontier.root(), 5)
    note = encode_note(watched.key.origin, watched.key.key, forged)
    nodes = {(level, index): value for level, index, value in made}
    with pytest.raises(LogForkError, match="two histories"):
        await watched.kept.follow(Shown([watched.key], note, nodes))
    with pytest.raises(EvidenceError):
        await watched.kept.follow(Shown([watched.key], note, {}))
    lines = note.split("\n")
    lines[2] = base64.b64encode(bytes(32)).decode()
    altered = "\n".join(lines)
    with pytest.raises(EvidenceError, match="signature"):
        await watched.kept.follow(Shown([watched.key], altered, nodes))
    assert signed.root == decode_note_body(watched.kept.path.read_text()).root


async def test_the_command_watches_a_database_as_well(watched, database_dsn):
    """--once over a database keeps the head, says what it was, and needs a pin; what is away is unavailable."""
    first = await watched.grow(2)
    common = ("audit", "watch", "--keep", "kept.note", "--once", "--json")
    pin = ("--server-id", watched.server_id.hex())
    done = await run(watched.folder, *common, *pin, QFLARE_DSN=database_dsn)
    assert (0, True, first.size) == (done.code, done.json["first_time"], done.json["size"]), done.err
    later = await watched.grow(1)
    done = await run(watched.folder, *common, "--key", watched.key.encode(), QFLARE_DSN=database_dsn)
    assert (first.size, later.size, later.root.hex()) == (done.json["before"], done.json["size"], done.json["root"])
    assert 2 == qflare(watched.folder, *common, QFLARE_DSN=database_dsn).code
    away = qflare(watched.folder, *common, *pin, "--url", "http://127.0.0.1:9/v1")
    assert ExitCode.UNAVAILABLE == away.code
    kept = await run(watched.folder, "audit", "verify", *pin, "--since", "kept.note", "--json", QFLARE_DSN=database_dsn)
    assert later.size == kept.json["first"], kept.err


async def test_a_witness_cosigns_what_it_accepted(watched, database_dsn):
    """The kept note carries log and witness, each under its own key; altered, of another witness or open to others not."""
    signed = await watched.grow(3)
    folder = watched.folder
    made = qflare(folder, "audit", "witness-key", "witness.example/w1", "--output", "w.key", "--json")
    assert (0, 0o600) == (made.code, stat.S_IMODE((folder / "w.key").stat().st_mode)), made.err
    witness = LogKey.decode(made.json["verifier_key"])
    watch = ("audit", "watch", "--keep", "kept.note", "--once", "--key", watched.key.encode(), "--cosign", "w.key")
    for count in (1, 0):
        signed = await watched.grow(count) if count else signed
        done = await run(folder, *watch, QFLARE_DSN=database_dsn)
        assert done.code == 0, done.err
        note = watched.kept.path.read_text()
        assert signed == open_note(note, [watched.key])
        assert verify_cosignature(note, witness) >= signed.time_s
    lines = note.split("\n")
    assert 2 == sum(line.startswith("\u2014 ") for line in lines)
    for changed in (
        note.replace(lines[1], str(signed.size + 1), 1),
        note.replace(watched.key.origin, "other.example/log", 1),
    ):
        with pytest.raises(AuthenticationError):
            verify_cosignature(changed, witness)
    with pytest.raises(OtherLogError):
        verify_cosignature(note, LogKey(origin="witness.example/w2", key=witness.key))
    with open_witness_key(folder / "w.key") as key:
        assert "w1" in repr(key)
        with pytest.raises(UsageError, match="name of its own"):
            key.cosign(note.replace(watched.key.origin, witness.origin), time_s=5)
    assert 2 == qflare(folder, "audit", "witness-key", "witness.example/w1", "--output", "w.key").code
    assert 2 == qflare(folder, "audit", "witness-key", "no spaces here", "--output", "x.key").code
    assert not (folder / "x.key").exists()
    content = (folder / "w.key").read_bytes()
    (folder / "cut.key").write_bytes(content[:-1])
    (folder / "cut.key").chmod(0o600)
    with pytest.raises(DecodeError):
        open_witness_key(folder / "cut.key")
    (folder / "w.key").chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        open_witness_key(folder / "w.key")
