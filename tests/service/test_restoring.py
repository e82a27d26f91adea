"""
What a restored backup brings back, and what it cannot: identities, roster and log, but no session and no replay.

A real manager over a real database; a copy is taken in the middle of its life, and later put in its place.
"""

import asyncio
import json
import stat

import asyncpg
import pytest

from at_rest import run as run_program
from manager_world import Edge, TurnedClock, engine_of, make_manager, managers, settings
from qflare.errors import ConfigError, KeeperError, QflareError, RefusedError, RestoredError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.protocol.identity import decode_identity
from qflare.protocol.leaf import encode_event_data, event_leaf
from qflare.service.assembly import Place
from qflare.service.restoring import _accept, back_up, restore
from qflare.service.security_monitor import SecurityMonitor
from qflare.stores.postgres.checksum import CHECKSUM_BYTES
from qflare.stores.postgres.definition import migrations, schema_version
from qflare.stores.postgres.programs import without_password

PULSE = "SELECT pulse FROM qflare.store_pulse"


@pytest.fixture
def clock():
    return TurnedClock()


class World:
    """One database, its keeper, and the ways to copy and restore it."""

    def __init__(self, dsn, folder, clock):
        self.dsn, self.folder, self.clock = dsn, folder, clock
        self.copy = folder / "copy.backup"
        self.settings = settings(folder)

    def managers(self, count=1):
        return managers(self.dsn, self.folder, count, clock=self.clock)

    async def back_up(self):
        return await back_up(self.copy, dsn=self.dsn, data_dir=self.folder / "data")

    async def restore(self, path="copy", **more):
        return await restore(
            self.copy if path == "copy" else path,
            dsn=self.dsn,
            data_dir=self.folder / "data",
            settings=self.settings,
            clock=self.clock,
            **more,
        )

    async def audit(self):
        """Verify the whole log; return its report and what its entries tell, by `what`."""
        async with SecurityMonitor(
            self.dsn, data_dir=self.folder / "data", config=self.settings, clock=self.clock
        ) as monitor:
            report = await monitor.verify_log(deep=True)
            entries = await monitor.list_events(first=0, limit=10_000)
        told = {}
        for entry in entries:
            told.setdefault(json.loads(entry.data or b"{}").get("what"), []).append(entry)
        return report, told


@pytest.fixture
def world(database_dsn, tmp_path, clock):
    return World(database_dsn, tmp_path, clock)


async def test_a_restored_copy_keeps_what_lasts_and_ends_what_does_not(world):
    """Identity, roster and log survive; old sessions and messages are refused; devices shake hands again; the log tells."""
    async with world.managers() as (manager,):
        edge, late = await Edge.provision(manager), await Edge.provision(manager)
        old = await edge.connect(manager)
        identity = await manager.identity()
        await manager.issue_enrolment_token("of-the-copy")
        backup = await world.back_up()
        # After the copy: a record, a whole handshake, a device that the copy does not know, entries that were signed.
        record = edge.seal(old.sid, b"model", bucket=await manager.current_bucket())
        assert (await manager.open_record(record)).plaintext.equals(b"model")
        pending = await late.hello(manager)
        message = pending.message
        new = late.accept(pending, (await manager.confirm(message)).confirmation)
        unknown = await Edge.provision(manager)
    assert backup.devices == 2
    assert stat.S_IMODE(world.copy.stat().st_mode) == 0o600

    done = await world.restore(replaces=True)
    assert done.sessions_ended == 1
    assert done.log_size_signed > done.log_size_found

    async with world.managers(2) as (manager, other):
        assert identity == await manager.identity()
        for bad in (record, late.seal(new.sid, b"again", bucket=new.start)):
            with pytest.raises(QflareError):
                await other.open_record(bad)
        with pytest.raises(QflareError):
            await manager.confirm(message)
        assert done.bucket == await manager.current_bucket()
        for form in ("hello", "offer"):
            for each in (edge, late):
                # With the marks that they held before: no device sees the log fork.
                fresh = await each.connect(manager, form=form, other=other)
                sent = each.seal(fresh.sid, b"model", bucket=await manager.current_bucket())
                assert (await other.open_record(sent)).plaintext.equals(b"model")
        with pytest.raises(QflareError):
            await unknown.connect(manager)
        # Tokens of the copy may have been used since: none is left to be used.
        assert 0 == await value_of(world, "SELECT count(*) FROM qflare.enrolment_token WHERE expires_at > now()")

    report, told = await world.audit()
    (tells,) = told["database restored"]
    facts = json.loads(tells.data)
    assert (backup.log_size, done.log_size_signed) == (facts["log_size_found"], facts["log_size_signed"])
    assert SecurityEventType.OPERATOR_ACTION == tells.event_type
    assert report.size > facts["log_fills_to"] - 1 >= facts["log_size_signed"]
    assert len(told["gap of a restored database"]) == facts["log_fills_to"] - tells.index - 1


async def test_no_size_of_the_log_is_signed_twice(world):
    """After two restores of one copy every head that was ever signed has a size of its own."""
    signed = {}

    async def live():
        async with world.managers() as (manager,):
            edge = await Edge.provision(manager)
            for _ in range(3):
                await edge.connect(manager)
                checkpoint = await manager.monitor.checkpoint()
                assert signed.setdefault(checkpoint.size, checkpoint.root) == checkpoint.root
            await manager.monitor.log_security_event(
                SecurityEventType.SYSTEM, EventSeverity.INFO, {"life": len(signed)}
            )
            last = await manager.monitor.checkpoint()
            assert last.size not in signed
            signed[last.size] = last.root

    await live()
    await world.back_up()
    sizes = []
    for _ in range(3):
        await live()
        done = await world.restore(replaces=True)
        assert done.log_size > max(signed)
        sizes.append(done.log_size)
    assert sizes == sorted(set(sizes))
    await live()


async def put_back(world):
    """Put the copy in the database's place as other tools do: `pg_restore --clean`, and nothing else."""
    connection = await asyncpg.connect(world.dsn)
    try:
        await connection.execute("DROP SCHEMA qflare CASCADE")
    finally:
        await connection.close()
    await asyncio.to_thread(run_program, "pg_restore", "--single-transaction", f"--dbname={world.dsn}", world.copy)


async def value_of(world, statement):
    connection = await asyncpg.connect(world.dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_a_copy_that_nobody_accepted_is_refused(world):
    """A worker, a monitor and a second try all refuse an older copy that other tools restored, until it is accepted."""
    async with world.managers() as (manager,):
        edge = await Edge.provision(manager)
        await world.back_up()
        await edge.connect(manager)
        # Nothing of this stands in the log: the second in which it was done does.
    await put_back(world)
    for _ in range(2):
        with pytest.raises(RestoredError, match="restore --accept"):
            await make_manager(world.dsn, world.folder, clock=world.clock).open()
    with pytest.raises(RestoredError):
        await world.audit()
    await world.restore(None)
    async with world.managers() as (manager,):
        await edge.connect(manager)


async def test_a_copy_whose_log_did_not_grow_is_refused_all_the_same(world):
    """Records leave no entry in the log; the store's pulse tells the copy that misses them."""
    async with world.managers() as (manager,):
        edge = await Edge.provision(manager)
        session = await edge.connect(manager)
        await manager.monitor.checkpoint()
        await world.back_up()
        record = edge.seal(session.sid, b"model", bucket=await manager.current_bucket())
        await manager.open_record(record)
        before = await value_of(world, PULSE)
        async with asyncio.timeout(60):
            while await value_of(world, PULSE) == before:
                await asyncio.sleep(0.1)
    await put_back(world)
    with pytest.raises(RestoredError, match="pulse"):
        await make_manager(world.dsn, world.folder, clock=world.clock).open()
    await world.restore(None)
    async with world.managers() as (manager,):
        with pytest.raises(QflareError):
            await manager.open_record(record)


async def lost(manager):
    """Wait until a running manager knows that its database was restored; the fact that shows it."""
    async with asyncio.timeout(60):
        with pytest.raises(RestoredError) as caught:
            await manager.until_restored()
    return caught.value.fact


async def test_a_running_worker_ends_when_its_database_is_restored(world):
    """An older copy put under a running worker: within seconds every call is refused, and nothing is signed or turned."""
    async with world.managers() as (manager,):
        edge = await Edge.provision(manager)
        await world.back_up()
        await edge.connect(manager)
        before = await value_of(world, PULSE)
        async with asyncio.timeout(60):
            while await value_of(world, PULSE) < before + 3:
                await asyncio.sleep(0.1)
        await put_back(world)
        assert "under a running worker, which saw pulse" in await lost(manager)
        for call in (
            lambda: manager.find_device(edge.name),
            lambda: edge.connect(manager),
            manager.monitor.checkpoint,
            manager.turn,
        ):
            with pytest.raises(RestoredError, match="under a running worker"):
                await call()
        assert "RestoredError" in (await manager.readiness()).database
        assert engine_of(manager).foundation.background.stop.is_set()
    with pytest.raises(RestoredError, match="pulse"):
        await make_manager(world.dsn, world.folder, clock=world.clock).open()
    await world.restore(None)
    async with world.managers() as (manager,):
        await edge.connect(manager)


async def test_a_running_worker_ends_when_its_database_was_accepted_anew(world):
    """Whoever missed the restoring itself, since the database was away, is told by its other life."""
    async with world.managers(2) as opened:
        edge = await Edge.provision(opened[0])
        place = Place(database=world.dsn, data_dir=world.folder / "data", is_restored=True)
        await _accept(place, world.settings, world.clock, gap=0)
        for manager in opened:
            assert "another life of it" in await lost(manager)
            with pytest.raises(RestoredError):
                await edge.connect(manager)
    async with world.managers() as (manager,):
        await edge.connect(manager)


async def test_a_log_with_another_history_is_refused(world):
    """A copy that went on by itself to the same size has another root, and is refused."""
    async with world.managers() as (manager,):
        await Edge.provision(manager)
        await world.back_up()
        await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"life": 1})
        size = (await manager.monitor.checkpoint()).size
    await put_back(world)
    connection = await asyncpg.connect(world.dsn)
    try:
        await connection.execute("UPDATE qflare.store_pulse SET pulse = 1000000")
        while await connection.fetchval("SELECT size FROM qflare.log_head") < size:
            await connection.execute(
                "SELECT qflare.append_events('00000000-0000-0000-0000-000000000000', ARRAY['system'], ARRAY['info'],"
                " ARRAY[NULL]::text[], ARRAY['{}'::bytea], ARRAY['\\x01'::bytea], ARRAY[1]::bigint[])"
            )
    finally:
        await connection.close()
    with pytest.raises(RestoredError, match="not those that were signed"):
        await make_manager(world.dsn, world.folder, clock=world.clock).open()


async def test_an_accepting_that_was_cut_must_be_done_again(world, monkeypatch):
    """A crash in the middle of accepting leaves a database that no worker takes, and a second try that finishes."""
    from qflare.stores.postgres import PostgresStore

    async with world.managers() as (manager,):
        edge = await Edge.provision(manager)
        await world.back_up()
        await edge.connect(manager)
    for name in ("begin_anew", "append_events", "save_checkpoint"):
        with monkeypatch.context() as patch:

            async def cut(*_arguments, **_more):
                raise KeeperError("cut")

            patch.setattr(PostgresStore, name, cut)
            with pytest.raises(KeeperError, match="cut"):
                await world.restore(replaces=True)
        with pytest.raises(RestoredError, match="not finished"):
            await make_manager(world.dsn, world.folder, clock=world.clock).open()
    await world.restore(None)
    async with world.managers() as (manager,):
        await edge.connect(manager)


def flipped(whole, at):
    """The file with one bit of one byte turned over."""
    bad = bytearray(whole)
    bad[at] ^= 1
    return bytes(bad)


async def test_a_damaged_backup_is_refused_before_anything_is_touched(world):
    """One byte cut anywhere, added or altered, in the dump or in its checksum: refused, and what stands goes on."""
    async with world.managers() as (manager,):
        edge = await Edge.provision(manager)
    backup = await world.back_up()
    whole = world.copy.read_bytes()
    assert backup.size_bytes == len(whole)
    before = await value_of(world, PULSE)
    half, dump = len(whole) // 2, len(whole) - CHECKSUM_BYTES
    damages = {
        **{f"cut at its end by {size}": whole[:-size] for size in (1, 40, CHECKSUM_BYTES - 1)},
        **{f"cut to {size}": whole[:size] for size in (dump, dump - 1, half, 5)},
        "a byte gone at its beginning": whole[:5] + whole[6:],
        "a byte gone in the middle": whole[:half] + whole[half + 1 :],
        "a byte gone before the checksum": whole[: dump - 1] + whole[dump:],
        "a byte more at its end": whole + b"\0",
        "a byte more before the checksum": whole[:dump] + b"\0" + whole[dump:],
        **{f"a bit turned at {at}": flipped(whole, at) for at in (6, half, dump - 1, dump, dump + 17, len(whole) - 1)},
    }
    for what, content in damages.items():
        world.copy.write_bytes(content)
        with pytest.raises(ConfigError, match=r"is damaged|has no checksum"):
            await world.restore(replaces=True)
        # Taken without one a file may be of pg_dump; where the beginning of one is left, it is none.
        if "cut at its end" in what and len(whole) - len(content) <= 40:
            with pytest.raises(ConfigError, match="is damaged"):
                await world.restore(replaces=True, is_unchecked=True)
        assert before == await value_of(world, PULSE), what
    async with world.managers() as (manager,):
        await edge.connect(manager)


async def test_a_backup_from_before_checksums_is_restored_when_it_is_said(world):
    """A file as pg_dump writes it, and qflare once did: refused with the remedy, and restored with it."""
    async with world.managers() as (manager,):
        edge = await Edge.provision(manager)
    await world.back_up()
    world.copy.write_bytes(world.copy.read_bytes()[:-CHECKSUM_BYTES])
    with pytest.raises(ConfigError, match=r"from before checksums.*--unchecked"):
        await world.restore(replaces=True)
    await world.restore(replaces=True, is_unchecked=True)
    async with world.managers() as (manager,):
        await edge.connect(manager)


OLD = ("device", "device_key", "server_identity")
"""What lasts, in an order that its references allow; the log is another one, of entries as they were then."""


async def write_as_version_1(dsn, old_dsn):
    """Put what lasts into an empty database, as the first version of the schema has it."""
    source, old = await asyncpg.connect(dsn), await asyncpg.connect(old_dsn)
    try:
        await old.execute(migrations()[0].text)
        for table in OLD:
            columns = await old.fetchval(
                "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
                " WHERE attrelid = $1::text::regclass AND attnum > 0",
                f"qflare.{table}",
            )
            rows = await source.fetch(f"SELECT {', '.join(columns)} FROM qflare.{table}")  # noqa: S608 - catalogue
            await old.copy_records_to_table(table, schema_name="qflare", records=rows, columns=columns)
        data = [encode_event_data({"n": number}) for number in range(5)]
        leaves = [
            event_leaf(
                tenant_id=DEFAULT_TENANT,
                event_type=SecurityEventType.SYSTEM,
                severity=EventSeverity.INFO,
                device_id="camera",
                occurred_at_ms=1000,
                data=each,
            )
            for each in data
        ]
        await old.fetchrow(
            "SELECT * FROM qflare.append_events('00000000-0000-0000-0000-000000000000', $1, $2, $3, $4, $5, $6)",
            *(["system"] * 5, ["info"] * 5, ["camera"] * 5, data, leaves, [1000] * 5),
        )
    finally:
        await source.close()
        await old.close()


async def test_a_backup_of_an_older_version_is_migrated_and_accepted(world, empty_database_dsn):
    """A file of the first version of the schema becomes a database of the present one, and its devices go on."""
    async with world.managers() as (manager,):
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        identity = await manager.identity()
    await write_as_version_1(world.dsn, empty_database_dsn)
    backup = await back_up(world.copy, dsn=empty_database_dsn, data_dir=world.folder / "data")
    assert (1, 1) == (backup.schema_version, backup.devices)
    done = await world.restore(replaces=True)
    assert backup.log_size == done.log_size_found
    assert schema_version() == await value_of(world, "SELECT max(version) FROM qflare.schema_version")
    async with world.managers() as (manager,):
        assert identity == await manager.identity()
        await edge.connect(manager)
    report, told = await world.audit()
    assert 1 == len(told["database restored"])
    assert report.size > done.log_size_found


async def test_a_copy_without_its_sealing_key_opens_nothing(world, tmp_path):
    """The file without the keeper's long-term key is refused, with the remedy."""
    async with world.managers() as (manager,):
        await Edge.provision(manager)
        await world.back_up()
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(KeeperError, match="restore it from its backup"):
        await restore(
            world.copy,
            dsn=world.dsn,
            data_dir=tmp_path / "elsewhere",
            settings=settings(tmp_path / "elsewhere"),
            replaces=True,
        )


async def test_restoring_and_backing_up_refuse_what_cannot_work(world, tmp_path):
    """Bad files, a schema that stands, a name that is taken and workers that run are refused before anything changes."""
    async with world.managers() as (manager,):
        edge = await Edge.provision(manager)
        await world.back_up()
        with pytest.raises(ConfigError, match="exists already"):
            await world.back_up()
        with pytest.raises(ConfigError, match="stop its workers"):
            await world.restore(replaces=True)
    with pytest.raises(ConfigError, match="--replace"):
        await world.restore()
    (tmp_path / "text").write_text("no backup")
    with pytest.raises(ConfigError, match="is no backup"):
        await world.restore(tmp_path / "text", replaces=True)
    with pytest.raises(ConfigError, match="cannot read"):
        await world.restore(tmp_path / "absent", replaces=True)
    async with world.managers() as (manager,):
        await edge.connect(manager)


async def test_no_serial_is_issued_twice(world):
    """After a restore the next certificate comes above every one that devices have seen, so that they follow to it."""
    async with world.managers() as (manager,):
        first = decode_identity(await manager.identity(), server_id=await manager.server_id())
        await world.back_up()
        await manager.rotate_identity(reason="lost with the copy")
        bucket = await manager.current_bucket()
        held = first.follow(await manager.identity(), bucket=bucket)
    done = await world.restore(replaces=True)
    # The operator is told that keys were rotated since the copy, by the command and by the log.
    assert (1, 2) == (done.serial_found, done.serial_in_force)
    (tells,) = (await world.audit())[1]["database restored"]
    facts = json.loads(tells.data)
    assert (1, 2) == (facts["serial_found"], facts["serial_in_force"])
    async with world.managers() as (manager,):
        with pytest.raises(RefusedError, match="serial 1, serial 2 was seen before"):
            held.follow(await manager.identity(), bucket=bucket)
        await manager.rotate_identity(reason="restored")
        assert 3 == held.follow(await manager.identity(), bucket=bucket).certificate.serial


async def test_a_backup_writes_through_no_link(world):
    """A link that somebody laid beside the file that is to be written leads the dump nowhere."""
    async with world.managers() as (manager,):
        await Edge.provision(manager)
        theirs = world.folder / "theirs"
        theirs.write_bytes(b"theirs")
        for name in (f".{world.copy.name}.unfinished", f".{world.copy.name}"):
            (world.folder / name).symlink_to(theirs)
        backup = await world.back_up()
    assert b"theirs" == theirs.read_bytes()
    assert backup.size_bytes == world.copy.stat().st_size > 0
    assert not list(world.folder.glob(f".{world.copy.name}.????????????????"))


@pytest.mark.parametrize(
    ("dsn", "shown", "password"),
    [
        ("postgresql://me:s%40crt@db:5432/q", "postgresql://me@db:5432/q", "s@crt"),
        ("postgresql://me@db/q?password=s%40crt&sslmode=require", "postgresql://me@db/q?sslmode=require", "s@crt"),
        ("postgresql://db/q?sslmode=require&pass%77ord=s", "postgresql://db/q?sslmode=require", "s"),
        ("postgresql:///q?host=/run/pg&user=me", "postgresql:///q?host=/run/pg&user=me", ""),
    ],
)
def test_no_password_stands_among_a_programs_arguments(dsn, shown, password):
    """However a DSN holds the password, everybody on the machine may read what is left of it."""
    assert (shown, password) == without_password(dsn)


async def test_a_damaged_file_of_marks_stops_the_start(world):
    """Marks that cannot be read are an error with its remedy, never taken for none."""
    async with world.managers() as (manager,):
        await Edge.provision(manager)
    path = world.folder / "data" / "keeper" / "high-water"
    whole = path.read_text()
    for broken in ("", "{}", whole[:-5], whole.replace('"pulse": ', '"pulse": -')):
        path.write_text(broken)
        with pytest.raises(KeeperError, match="is damaged"):
            await make_manager(world.dsn, world.folder, clock=world.clock).open()
    path.write_text(whole)
    async with world.managers():
        pass
