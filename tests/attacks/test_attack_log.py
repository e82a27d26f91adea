"""Whoever can write the database changes the audit log: found, at the first bad index (D1)."""

import asyncio
import json

import pytest

from manager_world import Edge, managers
from qflare.errors import EvidenceError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.monitor.held import HeldReceipt
from qflare.protocol.log import Frontier

SYSTEM, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO


async def fill(manager):
    """A log with sessions and events; return evidence of devices and the events' results."""
    edges = [await Edge.provision(manager) for _ in range(2)]
    evidence = [(await edge.connect(manager)).evidence for edge in edges]
    events = [
        await manager.monitor.log_security_event(SYSTEM, INFO, {"n": number}, device_id=edges[0].name)
        for number in range(4)
    ]
    return evidence, events


async def bad_index(manager, receipts=(), **named):
    with pytest.raises(EvidenceError) as caught:
        await manager.monitor.verify_log(receipts=receipts, **named)
    return caught.value.index


async def unlock(admin):
    """What a superuser does first: no trigger, no check."""
    await admin.execute("SET session_replication_role = replica")
    names = await admin.fetch(
        "SELECT conname, conrelid::regclass::text AS name FROM pg_constraint WHERE contype = 'c' "
        "AND conrelid IN ('qflare.audit_entry'::regclass, 'qflare.log_node'::regclass)"
    )
    for row in names:
        await admin.execute(f"ALTER TABLE {row['name']} DROP CONSTRAINT {row['conname']}")
    names = await admin.fetch(
        "SELECT c.conname, c.contypid::regtype::text AS name FROM pg_constraint c "
        "JOIN pg_namespace n ON n.oid = c.connamespace WHERE n.nspname = 'qflare' AND c.contypid <> 0 AND c.contype = 'c'"
    )
    for row in names:
        await admin.execute(f"ALTER DOMAIN {row['name']} DROP CONSTRAINT {row['conname']}")


OTHER = {
    "tenant_id": "'99999999-9999-9999-9999-999999999999'",
    "entry_type": "4 - entry_type",
    "event_type": "CASE event_type WHEN 'system' THEN 'mapping' ELSE 'system' END",
    "severity": "CASE severity WHEN 'info' THEN 'debug' ELSE 'info' END",
    "device_id": "coalesce(device_id, '') || 'x'",
    "leaf_hash": "sha256(leaf_hash)",
    "leaf_data": "set_byte(leaf_data, 20, get_byte(leaf_data, 20) # 1)",
    "data": "convert_to('{\"n\":9}', 'UTF8')",
    "recorded_at": "recorded_at + interval '1 hour'",
}
"""Another value for every column but the index, as SQL."""


async def test_every_edit_of_every_column_is_found_at_its_index(database_dsn, tmp_path, admin):
    """Each column of an event's, a session's and a heading's row is edited by itself: found, with exactly that index."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await fill(manager)
        columns = {
            row["attname"]
            for row in await admin.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'qflare.audit_entry'::regclass AND attnum > 0"
            )
        }
        assert columns == {*OTHER, "log_index"}
        await unlock(admin)
        await manager.monitor.verify_log()
        rows = await admin.fetch("SELECT log_index, entry_type, event_type FROM qflare.audit_entry ORDER BY log_index")
        targets = {(row["entry_type"], row["event_type"]): row["log_index"] for row in rows[:-1]}
        assert targets.keys() >= {(1, "key_exchange"), (3, "session_heading"), (3, "system")}
        missed = set()
        for kind, index in targets.items():
            for column, value in OTHER.items():
                before = await admin.fetchrow("SELECT * FROM qflare.audit_entry WHERE log_index = $1", index)
                await admin.execute(f"UPDATE qflare.audit_entry SET {column} = {value} WHERE log_index = $1", index)  # noqa: S608
                try:
                    await manager.monitor.verify_log()
                    missed.add((kind, column))
                except EvidenceError as failure:
                    if failure.index != index:
                        missed.add((kind, column, failure.index))
                await admin.execute(
                    f"UPDATE qflare.audit_entry SET {column} = $2 WHERE log_index = $1",  # noqa: S608
                    index,
                    before[column],
                )
        assert missed == set()
        await manager.monitor.verify_log()


async def test_entry_inserted_behind_the_head_is_found(database_dsn, tmp_path, admin):
    """A whole, consistent row that no head covers is found, wherever behind the end it stands."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await fill(manager)
        size = (await manager.monitor.verify_log()).size
        await unlock(admin)
        for _ in range(2):  # of an even and of an odd log
            for gap in (0, 1, 7):
                await admin.execute(
                    "INSERT INTO qflare.audit_entry SELECT $1, tenant_id, entry_type, event_type, severity, device_id, "
                    "leaf_hash, leaf_data, data, recorded_at FROM qflare.audit_entry WHERE log_index = $2",
                    size + gap,
                    size - 1,
                )
                assert size + gap == await bad_index(manager)
                await admin.execute("DELETE FROM qflare.audit_entry WHERE log_index >= $1", size)
            await manager.monitor.log_security_event(SYSTEM, INFO, {"n": 9})
            size += 1


@pytest.mark.parametrize("column", ["event_type", "severity"])
async def test_value_that_was_never_written_is_found_at_its_index(database_dsn, tmp_path, admin, column):
    """A row that cannot even be read is named by its index, and an earlier bad one before it."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await fill(manager)
        size = (await manager.monitor.verify_log()).size
        await unlock(admin)
        set_to = {
            "event_type": "UPDATE qflare.audit_entry SET event_type = $2 WHERE log_index = $1",
            "severity": "UPDATE qflare.audit_entry SET severity = $2 WHERE log_index = $1",
        }
        await admin.execute(set_to[column], size - 2, "nonsense")
        assert size - 2 == await bad_index(manager)
        await admin.execute("UPDATE qflare.audit_entry SET data = '{\"n\":9}' WHERE log_index = $1", size - 3)
        assert size - 3 == await bad_index(manager)


async def test_entry_in_front_of_the_first_is_found(database_dsn, tmp_path, admin):
    """A row with an index below 0 is found."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await fill(manager)
        await unlock(admin)
        await admin.execute(
            "INSERT INTO qflare.audit_entry SELECT -1, tenant_id, entry_type, event_type, severity, device_id, leaf_hash, "
            "leaf_data, data, recorded_at FROM qflare.audit_entry WHERE log_index = 1"
        )
        assert 0 == await bad_index(manager)


async def test_entries_in_front_removed_and_the_rest_moved_down_are_found(database_dsn, tmp_path, admin):
    """The log cut at its beginning, with every index moved down, is found at entry 0."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await fill(manager)
        await unlock(admin)
        await admin.execute("DELETE FROM qflare.audit_entry WHERE log_index < 2")
        assert 0 == await bad_index(manager)
        await admin.execute("UPDATE qflare.audit_entry SET log_index = log_index - 2 + 1000000")
        await admin.execute("UPDATE qflare.audit_entry SET log_index = log_index - 1000000")
        assert 0 == await bad_index(manager)


@pytest.mark.parametrize("is_deep", [True, False])
async def test_whole_rebuilt_tree_is_found_by_the_signed_head(database_dsn, tmp_path, admin, is_deep):
    """One event rewritten with its leaf, every node and the head made anew: the signed head and receipts show it."""
    async with managers(database_dsn, tmp_path) as (manager,):
        evidence, events = await fill(manager)
        await manager.monitor.checkpoint()
        await unlock(admin)
        target = events[1].index
        await admin.execute(
            "UPDATE qflare.audit_entry SET leaf_data = set_byte(leaf_data, 10, get_byte(leaf_data, 10) # 1) WHERE log_index = $1",
            target,
        )
        await admin.execute("UPDATE qflare.audit_entry SET leaf_hash = sha256('\\x00'::bytea || leaf_data)")
        frontier = Frontier()
        rows = await admin.fetch("SELECT leaf_hash FROM qflare.audit_entry ORDER BY log_index")
        frontier, made = frontier.append([row["leaf_hash"] for row in rows])
        await admin.execute("DELETE FROM qflare.log_node")
        await admin.executemany(
            "INSERT INTO qflare.log_node VALUES ($1, $2, $3)", [node for node in made if node[0] > 0]
        )
        await admin.execute("UPDATE qflare.log_head SET frontier = $1", b"".join(frontier.hashes))
        await bad_index(manager, deep=is_deep)
        await admin.execute("DELETE FROM qflare.checkpoint")
        receipts = [HeldReceipt.of(each) for each in evidence]
        if await admin.fetchval("SELECT count(*) FROM qflare.audit_entry") > target:
            late = [HeldReceipt(event.leaf_hash, event.receipt) for event in events]
            assert await bad_index(manager, receipts + late, deep=is_deep) is not None


async def test_log_grows_while_it_is_checked(database_dsn, tmp_path):
    """A check of a log that others append to meanwhile raises no alarm."""
    async with managers(database_dsn, tmp_path, 2) as (one, two):
        await fill(one)

        async def write():
            for number in range(30):
                await two.monitor.log_security_event(SYSTEM, INFO, {"n": number})

        writing = asyncio.create_task(write())
        checks = 0
        while not writing.done():
            assert (await one.monitor.verify_log()).size
            checks += 1
        await writing
        assert checks


SECRET_NAMES = "sessionKey privateKey accessToken clientSecret PSK dbPassword DecapsulationKey kek shared_secret SECRET-KEY authToken2"


async def test_names_that_sound_like_secrets_are_refused_however_written(database_dsn, tmp_path):
    """A key that names a secret is refused in an event, in camel case, with digits, and inside lists and dicts too."""
    async with managers(database_dsn, tmp_path) as (manager,):
        for key in SECRET_NAMES.split():
            for data in ({key: "ab" * 32}, {"a": {key: "ab" * 32}}, {"a": [{"b": {key: "x"}}]}):
                with pytest.raises(UsageError):
                    await manager.monitor.log_security_event(SYSTEM, INFO, data)


async def test_name_that_the_database_cannot_hold_fails_alone(database_dsn, tmp_path):
    """A device name that cannot be stored is refused by itself: events that share its batch are written."""
    async with managers(database_dsn, tmp_path) as (manager,):
        monitor = manager.monitor
        made = await manager.generate_device_keypairs_many(["fine"])
        made[0].wipe()
        for name in ("a\x00b", "\ud800", "x" * 256, ""):
            ended = await asyncio.gather(
                monitor.log_security_event(SYSTEM, INFO, {"n": 1}),
                monitor.log_security_event(SYSTEM, INFO, {"n": 2}, device_id=name),
                monitor.log_security_event(SYSTEM, INFO, {"n": "\x00\u2028"}),
                return_exceptions=True,
            )
            assert [False, True, False] == [isinstance(end, UsageError) for end in ended]
            with pytest.raises(UsageError):
                await manager.generate_device_keypairs_many(["good", name])
            with pytest.raises(UsageError):
                await manager.issue_enrolment_token(name)
        assert ["fine"] == [device.device_id for device in await manager.list_devices()]
        await monitor.verify_log()


async def test_event_data_that_looks_alike_stays_apart(database_dsn, tmp_path):
    """Unicode that looks alike, keys in any order, controls and quotes come back exactly as they were given."""
    async with managers(database_dsn, tmp_path) as (manager,):
        given = [
            {"\u00e9": 1, "e\u0301": 2},
            {'a"},{"b': '"}\n{"severity":"critical"', "\x7f": "\u202e"},
            {"z": 1, "a": {"\U0001f600": [None, True, -(2**53) + 1]}},
        ]
        indices = [(await manager.monitor.log_security_event(SYSTEM, INFO, data)).index for data in given]
        for data, index in zip(given, indices, strict=True):
            proof = await manager.monitor.verify_event_integrity(index)
            assert data == json.loads(proof.entry.data)
        for bad in ({"n": 2**53}, {"n": 1.0}, {1: "x"}, {"n": float("nan")}, {"n": "\ud800"}):
            with pytest.raises(UsageError):
                await manager.monitor.log_security_event(SYSTEM, INFO, bad)
