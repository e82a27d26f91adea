"""
Forward secrecy at rest, computed (docs/protocol.md, R8; figure B6).

A real manager over a real PostgreSQL lives through ten buckets.  In bucket t somebody takes everything: a base backup
from early on with all write-ahead log since, a base backup and a dump of t, the raw files, the keeper's folders, and
every long-term key of server and devices; the traffic of all ten buckets is his as well.  What he computes from it must
be exactly what the bound allows.
"""

import asyncio
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field

import asyncpg
import pytest

from adversary import Loot, Opened, Traffic, attack
from at_rest import decrypt, keks_of, loot_of, program, raw_values, run, sealed_values, values_of_dump
from carried_device import CarriedDevice
from manager_world import Edge, TurnedClock, engine_of, make_manager
from postgres_database import wait_until_stopped
from qflare.manager import pages
from qflare.protocol.announcement import verify_announcement
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.wire import u64
from qflare.stores.embedded import binaries
from qflare.stores.embedded.account import choose_account
from qflare.stores.embedded.folder import open_folder
from qflare.stores.embedded.postmaster import answers, start_postmaster

WIDTH_S = 300
LIFETIME = 4
BUCKETS, EARLY, KEPT, THEFT = range(10), 1, 2, 6
"""Counted from the first: when the early backup is taken, when somebody keeps the keeper's folder, when all is stolen."""
LATE_BEGINS = 3
"""When the session begins that is rekeyed and asks for late replies: it lives to the theft."""
PAGE_OF = 4
"""Fewest chain keys that this world seals as a page: its few sessions then rest in pages, as thousands do."""
BODY_BYTES = 1622
SEED_44, SIGNING_KEY_44 = 32, 2560


@dataclass
class Taken:
    """Everything that an adversary takes or sees."""

    traffic: Traffic = field(default_factory=Traffic)
    sessions: dict = field(default_factory=dict)
    """By sid: (name, server's bucket when it began, {bucket: plaintexts})."""
    first: int = 0
    values: set = field(default_factory=set)
    """Whatever looks sealed, on any medium."""
    dump_values: set = field(default_factory=set)
    pages: dict = field(default_factory=dict)
    """By bucket: the sealed pages of chain keys that its turn wrote."""
    media: dict = field(default_factory=dict)
    """What was found on each medium by itself."""
    keks: dict = field(default_factory=dict)
    kept_keks: dict = field(default_factory=dict)
    kek_l: bytes = b""
    devices: list = field(default_factory=list)
    signing_keys: tuple = ()
    late_inside: set = field(default_factory=set)
    """Of the session that is rekeyed and asks for late replies: what the bound allows at the theft,"""
    late_outside: set = field(default_factory=set)
    """and what it does not."""

    @property
    def window(self):
        return range(self.first + THEFT - 1, self.first + THEFT + 2)


async def begin_hello(manager, edge, told, bucket):
    """A hello whose messages the adversary records."""
    announcement = verify_announcement(await manager.announcement("current"), (await edge.trust(manager)).certificate)
    pending = start_hello(edge.device, announcement)
    m2 = await manager.answer_hello(pending.message)
    waiting = accept_hello(pending, m2, edge.device)
    done = await manager.confirm(waiting.message)
    session = edge.accept(waiting, done.confirmation)
    name = len(told.sessions)
    told.sessions[session.sid] = (name, bucket, {})
    told.traffic.hellos.append((name, announcement.bucket, pending.message, m2, waiting.message))


async def begin_offer(manager, edge, told, bucket):
    """An offer whose messages the adversary records."""
    offer = (await manager.initiate_temporal_key_exchange(edge.name, edge.pair.public_key)).offer
    waiting = await edge.answer(manager, offer)
    done = await manager.confirm(waiting.message)
    session = edge.accept(waiting, done.confirmation)
    name = len(told.sessions)
    told.sessions[session.sid] = (name, bucket, {})
    told.traffic.offers.append((name, offer, waiting.message))


async def talk(manager, edges, told, bucket):
    """A record in each direction of every live session."""
    for edge in edges:
        for sid in list(edge.sessions):
            established, _ = edge.sessions[sid]
            if not established.start <= bucket < established.start + LIFETIME:
                continue
            name, _, records = told.sessions[sid]
            plaintexts = [u64(name) + u64(bucket) + bytes([direction]) for direction in (1, 2)]
            up = edge.seal(sid, plaintexts[1], bucket=bucket)
            assert (await manager.open_record(up)).plaintext.equals(plaintexts[1])
            told.traffic.records += [up, await manager.seal_record(sid, plaintexts[0])]
            records[bucket] = plaintexts


class Late:
    """A session that is rekeyed early (R7) and whose requests are answered early, late or never (R6)."""

    def __init__(self, device, told):
        self.device, self.told = device, told
        self.requests = {}

    async def step(self, manager, number):
        """What the session does in one bucket, and on which side of the bound it lies."""
        if not LATE_BEGINS <= number < LATE_BEGINS + LIFETIME:
            return
        if number == LATE_BEGINS:
            await self.device.connect(manager)
            self.requests = {name: await self._ask(manager, name) for name in (b"early", b"late")}
        if number == LATE_BEGINS + 1:
            await self.device.refresh(manager)
            await self._rekey(manager)
            await self._answer(manager, b"early", self.told.late_outside)
        await self.device.refresh(manager)
        text = b"epoch %d in %d" % (self.device.epoch, number)
        record = self.device.device.seal(text)
        (await manager.open_record(record)).plaintext.wipe()
        self.told.traffic.records.append(record)
        (self.told.late_inside if number >= THEFT - 1 else self.told.late_outside).add(text)

    async def finish(self, manager):
        """After the theft: the reply to a request from before the bound, whose key was outstanding all the time."""
        await self._answer(manager, b"late", self.told.late_inside)

    async def _ask(self, manager, name):
        request = await manager.seal_request(self.device.device.session.sid, name)
        self.device.device.open_request(request.record).plaintext.wipe()
        self.told.traffic.records.append(request.record)
        self.told.late_outside.add(name)
        return request.request_id

    async def _answer(self, manager, name, side):
        reply = self.device.device.seal_reply(self.requests[name], b"reply to " + name)
        (await manager.open_record(reply)).plaintext.wipe()
        self.told.traffic.records.append(reply)
        side.add(b"reply to " + name)

    async def _rekey(self, manager):
        record = self.device.device.begin_rekey()
        self.told.late_outside.add(self.device.state.rekey.body)
        with await manager.open_record(record) as opened:
            answer = await manager.answer_control(opened)
        with self.device.device.open_record(answer) as body:
            self.told.late_outside.add(bytes(body.view()))
        self.told.traffic.records += [record, answer]


def start_archive(folder, dsn, place):
    """Stream the write-ahead log into *place* from now on, as an archive does."""
    place.mkdir()
    with (folder / "receivewal.log").open("wb") as log:
        return subprocess.Popen([program("pg_receivewal"), "-D", place, "-d", dsn, "--no-loop"], stderr=log)


def end_archive(process, place, segment):
    """End the archive once it has *segment*."""
    end = time.monotonic() + 30
    while not any(path.name == segment for path in place.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.terminate()
    process.wait(30)


async def values_of_restored(backup, root):
    """Start PostgreSQL on a copy of a base backup and read every bytea column of it."""
    root.mkdir(mode=0o700)
    folder = open_folder(root)
    shutil.copytree(backup, folder.cluster)
    folder.cluster.chmod(0o700)
    output = os.open(folder.log, os.O_WRONLY | os.O_CREAT, 0o600)
    server = start_postmaster(folder, binaries.binaries_for(folder.cluster), choose_account(), output=output)
    os.close(output)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    return await sealed_values(folder.dsn())
                except Exception:  # noqa: BLE001 - it is still coming up
                    assert server.is_alive() or answers(folder), folder.log.read_text()
                    await asyncio.sleep(0.05)
    finally:
        server.stop()


async def take(manager, folder, told, early, archive):
    """Everything that lies on a medium or is a long-term key, at this moment."""
    engine = engine_of(manager)
    data = open_folder(folder / "data")
    dsn = data.dsn()
    # The log as an archive has it: up to a segment's end.
    segment = run("psql", "-XAtc", "SELECT pg_walfile_name(pg_switch_wal())", dsn).decode().strip()
    end_archive(archive, folder / "archive", segment)
    run("pg_basebackup", "-D", folder / "late", "-d", dsn, "--checkpoint=fast")
    told.dump_values = values_of_dump(run("pg_dump", "-d", dsn))
    restored = await values_of_restored(folder / "late", folder / "restored")
    earlier = await values_of_restored(early, folder / "restored-early")
    told.values = restored | earlier | told.dump_values
    sizes = {len(value) for value in told.values}
    log = raw_values([folder / "archive"], sizes)
    told.media = {"base backup": restored, "dump": told.dump_values, "log": log}
    raw = log | raw_values([early, folder / "late", data.cluster], sizes)
    assert raw - told.values, "old row versions must be found, or this proof looks at nothing"
    told.values |= raw
    shutil.copytree(folder / "volatile", folder / "stolen")
    told.keks = keks_of(folder / "stolen")
    told.kek_l = (data.root / "keeper" / "kek-l").read_bytes()
    identity = engine.foundation.identity
    told.signing_keys = tuple(bytes(key.view()) for key in (identity.held.announce, identity.held.log))


async def pages_of(dsn, bucket):
    """The sealed pages of one bucket, as they stand in the table."""
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        rows = await connection.fetch("SELECT sealed_chain_keys FROM qflare.session_page WHERE bucket = $1", bucket)
    finally:
        await connection.close()
    return {row["sealed_chain_keys"] for row in rows}


async def live(folder):
    """Ten buckets, with a theft in the middle."""
    clock = TurnedClock()
    told = Taken()
    manager = make_manager(None, folder, clock=clock, lifetime=LIFETIME, certificate_years=1)
    archive = None
    try:
        await manager.open()
        data = open_folder(folder / "data")
        archive = start_archive(folder, data.dsn(), folder / "archive")
        edges = [await Edge.provision(manager) for _ in range(2)]
        told.first = await manager.current_bucket()
        late = Late(await CarriedDevice.provision(manager, clock, name="late"), told)
        for number in BUCKETS:
            bucket = told.first + number
            if number:
                clock.turn(WIDTH_S)
                assert bucket == await manager.turn()
                told.pages[bucket] = await pages_of(data.dsn(), bucket)
            for which in ("current", "next"):
                body = (await manager.announcement(which))[:BODY_BYTES]
                told.traffic.bodies[bucket + (which == "next")] = body
            await begin_hello(manager, edges[0], told, bucket)
            await begin_offer(manager, edges[1], told, bucket)
            await talk(manager, edges, told, bucket)
            await late.step(manager, number)
            if number == EARLY:
                run("pg_basebackup", "-D", folder / "early", "-d", data.dsn(), "--checkpoint=fast")
            if number == KEPT:
                shutil.copytree(folder / "volatile", folder / "kept")
                told.kept_keks = keks_of(folder / "kept")
            if number == THEFT:
                await take(manager, folder, told, folder / "early", archive)
                await late.finish(manager)
                late.device.device.close()
        told.devices = [edge.device for edge in edges]
    finally:
        if archive is not None:
            archive.kill()
            archive.wait()
        await manager.close()
    await asyncio.to_thread(wait_until_stopped, open_folder(folder / "data"))
    return told


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """The one story that every test below looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "PAGE_MIN", PAGE_OF)
        return asyncio.run(live(tmp_path_factory.mktemp("rest")))


def within(taken, window):
    """What the bound allows to whoever holds the KEK_b of *window*, and what there is in all."""
    inside = set(taken.late_inside) if window == taken.window else set()
    everything = taken.late_inside | taken.late_outside
    for _, begun, records in taken.sessions.values():
        for bucket, plaintexts in records.items():
            everything.update(plaintexts)
            was_live = begun < window[0] and bucket >= window[0] and min(records) + LIFETIME > window[0]
            if begun in window or was_live:
                inside.update(plaintexts)
    return inside, everything


@pytest.mark.slow
def test_who_takes_everything_opens_exactly_what_the_bound_allows(taken):
    """B6: every backup, the log, the keeper and all long-term keys of t open nothing from before t-1, and all inside it."""
    assert set(taken.window) == set(taken.keks)
    loot = loot_of(taken.traffic, taken.values, taken.keks, devices=taken.devices)
    assert set(taken.window) == set(loot.dks) == set(loot.tks)
    opened = attack(taken.traffic, loot)
    inside, everything = within(taken, taken.window)
    assert set() < inside < everything
    assert inside == opened.records
    begun = {name for name, bucket, _ in taken.sessions.values() if bucket in taken.window}
    assert begun == opened.sessions
    # No key of an earlier bucket came out, of whatever kind.
    assert min(taken.window) == min(bucket for _, bucket in loot.chain_keys)


@pytest.mark.slow
def test_a_reply_key_at_rest_opens_its_reply_and_nothing_before_the_bound(taken):
    """R6, R7: the key of an outstanding reply and a rekeyed chain are found at rest, of t-1 on; taken ones never are."""
    loot = loot_of(taken.traffic, taken.values, taken.keks)
    assert 1 == len(loot.reply_keys)
    assert {1} == {epoch for _, epoch, _ in loot.epochs}
    assert min(taken.window) <= min(bucket for _, _, bucket in loot.epochs)
    only = attack(taken.traffic, Loot(reply_keys=loot.reply_keys)).records
    assert {b"reply to late"} == only
    opened = attack(taken.traffic, loot).records
    assert taken.late_inside <= opened
    assert not taken.late_outside & opened


@pytest.mark.slow
def test_a_page_at_rest_opens_inside_the_bound_alone(taken):
    """R8: sealed pages lie in base backup, dump and log; one of t-1 or t opens, one from before with nothing stolen."""
    inside = [taken.pages[bucket] for bucket in taken.window if bucket <= taken.first + THEFT]
    assert 2 == len(inside)
    for live_pages in inside:
        assert live_pages
        for medium, values in taken.media.items():
            assert live_pages <= values, medium
        loot = loot_of(taken.traffic, live_pages, taken.keks)
        assert len(loot.chain_keys) >= PAGE_OF
        assert attack(taken.traffic, loot).records
    before = set().union(*(found for bucket, found in taken.pages.items() if bucket < min(taken.window)))
    # Their partitions are emptied and their rows in no backup of the theft; the log never forgets.
    assert before & taken.media["log"]
    assert not before & (taken.media["dump"] | taken.media["base backup"])
    stolen = taken.keks | {taken.first: taken.kek_l}
    assert (Loot(), Opened()) == _opened(taken, before, stolen)
    # Control: with the keeper's keys of then the very same pages open.
    loot, opened = _opened(taken, before, taken.kept_keks)
    assert len(loot.chain_keys) >= PAGE_OF
    assert opened.records


def _opened(taken, values, keks):
    loot = loot_of(taken.traffic, values, keks)
    return loot, attack(taken.traffic, loot)


@pytest.mark.slow
def test_without_the_keepers_bucket_keys_nothing_opens(taken):
    """Database, backups, log, KEK_L and every long-term key of server and devices, but no KEK_b: not one record."""
    # As if KEK_L were any bucket's key: the first one's, those of the theft.
    loot = loot_of(
        taken.traffic, taken.values, dict.fromkeys([taken.first, *taken.window], taken.kek_l), devices=taken.devices
    )
    assert (loot.dks, loot.tks, loot.chain_keys, loot.epochs, loot.reply_keys) == ({}, {}, {}, {}, {})
    assert Opened() == attack(taken.traffic, loot_of(taken.traffic, set(), {}, devices=taken.devices))


@pytest.mark.slow
def test_the_long_term_keys_were_really_taken(taken):
    """The same search under KEK_L finds the server's signing keys, on every medium: it would find more if it could."""
    found = {decrypt(taken.kek_l, value) for value in taken.values}
    from_dump = {decrypt(taken.kek_l, value) for value in taken.dump_values}
    expanded = [_expanded(plaintext) for plaintext in found]
    for key in taken.signing_keys:
        assert key in expanded
    assert any(_expanded(plaintext) in taken.signing_keys for plaintext in from_dump)


def _expanded(plaintext):
    from qflare.primitives.sig import SIG44

    if len(plaintext) != SEED_44:
        return plaintext
    return bytes(SIG44.generate_from_seed(plaintext).signing_key.view())


@pytest.mark.slow
def test_a_keeper_that_keeps_old_keys_is_noticed(taken):
    """Control: had the keeper kept the keys of an earlier bucket, the same media would open its records."""
    kept = taken.kept_keks
    assert range(taken.first + KEPT - 1, taken.first + KEPT + 2) == range(min(kept), max(kept) + 1)
    opened = attack(taken.traffic, loot_of(taken.traffic, taken.values, taken.keks | kept, devices=taken.devices))
    inside, everything = within(taken, taken.window)
    before, _ = within(taken, range(min(kept), max(kept) + 1))
    assert before - inside
    assert opened.records > inside
    assert before - inside <= opened.records
    assert opened.records < everything


@pytest.mark.slow
def test_old_row_versions_were_on_the_media(taken):
    """The log and the raw files hold sealed values that no restored database shows any more, and they are tried too."""
    assert len(taken.values) > 2 * len(taken.dump_values)
