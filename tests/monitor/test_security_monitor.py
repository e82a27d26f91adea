import asyncio
import dataclasses

import pytest

from manager_world import Edge, engine_of, managers, settings
from qflare.errors import EvidenceError, KeyNotFoundError, QflareError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.monitor.held import HeldReceipt
from qflare.secret import SecretBytes
from qflare.service.security_monitor import SecurityMonitor

INFO = EventSeverity.INFO
SYSTEM = SecurityEventType.SYSTEM


async def filled(manager, count=20):
    """Put events and sessions into the log; return the device's evidence and the logged events."""
    edge = await Edge.provision(manager)
    events = []
    evidence = []
    for number in range(count // 4):
        logged = await manager.monitor.log_security_events_many(
            [(SYSTEM, INFO, {"number": number, "place": place}, edge.name) for place in range(3)]
        )
        events += logged
        evidence.append((await edge.connect(manager)).evidence)
    return evidence, events


async def test_logged_event_is_proven(database_dsn, tmp_path):
    """An event stands in the log with a receipt, and its proof leads to a signed head, also by index and later."""
    async with managers(database_dsn, tmp_path) as (manager,):
        monitor = manager.monitor
        event = await monitor.log_security_event(SYSTEM, INFO, {"text": "äöü", "list": [1, None, True]}, device_id="d")
        for _ in range(5):
            await monitor.log_security_event(SYSTEM, INFO, {"n": 1})
        for given in (event, event.index):
            proof = await monitor.verify_event_integrity(given)
            assert event.leaf_hash == proof.leaf_hash
            assert '{"list":[1,null,true],"text":"äöü"}' == proof.entry.data.decode()
        with pytest.raises(KeyNotFoundError):
            await monitor.verify_event_integrity(10_000)
        with pytest.raises(UsageError):
            await monitor.verify_event_integrity("0")


async def test_concurrent_events_share_one_signature(database_dsn, tmp_path):
    """64 concurrent events become few batches, each entry with a receipt of its own that holds."""
    async with managers(database_dsn, tmp_path) as (manager,):
        monitor = manager.monitor
        log = engine_of(manager).foundation.log
        before = log._batcher.batches
        events = await asyncio.gather(*(monitor.log_security_event(SYSTEM, INFO, {"n": n}) for n in range(64)))
        assert log._batcher.batches - before <= 2
        assert 64 == len({event.index for event in events})
        for event in events[::9]:
            await monitor.verify_event_integrity(event)


@pytest.mark.parametrize(
    "data",
    [
        {"key": b"bytes"},
        {"key": SecretBytes(bytearray(b"x"))},
        {"deep": [{"key": SecretBytes(bytearray(b"x"))}]},
        {"password": "x"},
        {"session_key": "abc"},
        {"nested": {"private_key": "abc"}},
        {"PrivKey": "abc"},
        {"list": [{"note": "-----BEGIN PRIVATE KEY-----"}]},
        {"dsn": "postgresql://qflare:hunter2@db/qflare"},
        {"number": 1.5},
        {"number": 2**60},
        {"text": "x" * 17_000},
        {1: "x"},
        {"key": object()},
        ["no", "dict"],
        "text",
        None,
    ],
)
async def test_data_that_cannot_stand_in_the_log_is_refused(database_dsn, tmp_path, data):
    """Secrets, bytes, floats, too much and too odd data are refused by name, and nothing is written."""
    async with managers(database_dsn, tmp_path) as (manager,):
        before = (await manager.get_key_statistics()).log_size
        with pytest.raises(UsageError):
            await manager.monitor.log_security_event(SYSTEM, INFO, data)
        with pytest.raises(UsageError):
            await manager.monitor.log_security_event("system", INFO, {})
        assert before == (await manager.get_key_statistics()).log_size


async def test_a_malformed_event_is_an_error_in_its_place(database_dsn, tmp_path):
    """At every position of a batch: the others are logged in order, and nothing of the malformed one is."""
    good = [(SYSTEM, INFO, {"n": number}, "d" if number % 2 else None) for number in range(4)]
    malformed = [
        (SYSTEM, INFO, {"password": "x"}, None),
        ("system", INFO, {}, None),
        (SYSTEM, INFO, {}, 5),
        (SYSTEM, INFO),
        7,
    ]
    async with managers(database_dsn, tmp_path) as (manager,):
        monitor = manager.monitor
        for place, bad in enumerate(malformed):
            size = await monitor.log_size()
            results = await monitor.log_security_events_many([*good[:place], bad, *good[place:]])
            assert isinstance(results[place], UsageError), bad
            logged = [result for at, result in enumerate(results) if at != place]
            assert [each.device_id for each in logged] == [event[3] for event in good]
            assert [each.index for each in logged] == list(range(size, size + 4))
        whole = await monitor.log_security_events_many([malformed[0], malformed[4]])
        assert all(isinstance(result, UsageError) for result in whole)
        for none in (None, 5, "text", {1}):
            with pytest.raises(UsageError, match="sequence"):
                await monitor.log_security_events_many(none)
        stand = set()
        for bad in malformed:
            again = await monitor.log_security_events_many([good[0], bad, good[1]], call_id=bytes(16))
            stand.add((again[0].index, again[2].index))
        assert len(stand) == 1


async def test_names_of_secrets_that_name_something_harmless_are_taken(database_dsn, tmp_path):
    """A `token_id` or `secret_hash` is a name, not a secret."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await manager.monitor.log_security_event(SYSTEM, INFO, {"token_id": "ab", "secret_hash": "cd", "author": "x"})


async def test_monitor_stands_alone(database_dsn, tmp_path):
    """A monitor of its own writes into the same log as the managers, and its events hold there."""
    async with (
        managers(database_dsn, tmp_path) as (manager,),
        SecurityMonitor(database_dsn, data_dir=tmp_path / "data", config=settings(tmp_path)) as monitor,
    ):
        event = await monitor.log_security_event(SYSTEM, INFO, {"n": 1})
        assert event.index == (await manager.monitor.verify_event_integrity(event)).index


async def test_whole_log_is_verified_with_the_devices_receipts(database_dsn, tmp_path):
    """A log that nobody touched verifies, deep and against every receipt that devices hold."""
    async with managers(database_dsn, tmp_path) as (manager,):
        evidence, _ = await filled(manager)
        report = await manager.monitor.verify_log(receipts=[HeldReceipt.of(each) for each in evidence])
        assert (len(evidence), len(evidence)) == (report.receipts, report.entries["key_exchange"])
        assert report.size == sum(report.entries.values()) == (await manager.monitor.checkpoint()).size


EDITS = {
    "data": "UPDATE qflare.audit_entry SET data = '{}' WHERE log_index = $1",
    "severity": "UPDATE qflare.audit_entry SET severity = 'debug' WHERE log_index = $1",
    "event type": "UPDATE qflare.audit_entry SET event_type = 'mapping' WHERE log_index = $1",
    "device": "UPDATE qflare.audit_entry SET device_id = 'other' WHERE log_index = $1",
    "leaf data": "UPDATE qflare.audit_entry SET leaf_data = leaf_data || '\\x00' WHERE log_index = $1",
    "leaf hash": "UPDATE qflare.audit_entry SET leaf_hash = sha256(leaf_hash) WHERE log_index = $1",
    "leaf and hash": (
        "UPDATE qflare.audit_entry SET leaf_hash = sha256('\\x00' || x.leaf_data), leaf_data = x.leaf_data, "
        "event_type = x.event_type, severity = x.severity, device_id = x.device_id, data = x.data "
        "FROM (SELECT * FROM qflare.audit_entry WHERE log_index = 8) x WHERE audit_entry.log_index = $1"
    ),
    "deleted": "DELETE FROM qflare.audit_entry WHERE log_index = $1",
}


@pytest.mark.parametrize("edit", EDITS)
async def test_every_edit_of_an_entry_is_found_at_its_place(database_dsn, tmp_path, admin, edit):
    """Whoever can write the database edits, replaces or deletes an entry: found, with its index (D1)."""
    async with managers(database_dsn, tmp_path) as (manager,):
        _, events = await filled(manager)
        target = events[1].index
        await admin.execute("SET session_replication_role = replica")
        await admin.execute("ALTER TABLE qflare.audit_entry DROP CONSTRAINT audit_entry_leaf_hash_of_data")
        await admin.execute(EDITS[edit], target)
        with pytest.raises(EvidenceError) as caught:
            await manager.monitor.verify_log()
        if edit == "leaf and hash":
            # A row that is consistent in itself shows in the nodes above it: the range that holds it is named.
            assert caught.value.index <= target
        else:
            assert target == caught.value.index
        with pytest.raises(QflareError):
            await manager.monitor.verify_event_integrity(events[1])


async def test_swapped_and_cut_entries_are_found(database_dsn, tmp_path, admin):
    """Two entries swapped, and the last ones cut off, are found at the first bad index (D1)."""
    async with managers(database_dsn, tmp_path) as (manager,):
        _, events = await filled(manager)
        await admin.execute("SET session_replication_role = replica")
        size = (await manager.monitor.verify_log()).size
        one, two = events[0].index, events[2].index
        swap = "UPDATE qflare.audit_entry SET log_index = $2 WHERE log_index = $1"
        for first, second in ((one, 10**6), (two, one), (10**6, two)):
            await admin.execute(swap, first, second)
        with pytest.raises(EvidenceError) as caught:
            await manager.monitor.verify_log()
        assert caught.value.index is not None
        assert caught.value.index <= one
        for first, second in ((one, 10**6), (two, one), (10**6, two)):
            await admin.execute(swap, first, second)
        await manager.monitor.verify_log()
        await admin.execute("DELETE FROM qflare.audit_entry WHERE log_index >= $1", size - 2)
        with pytest.raises(EvidenceError) as caught:
            await manager.monitor.verify_log()
        assert size - 2 == caught.value.index


async def test_rewritten_history_is_found_by_signature_and_receipts(database_dsn, tmp_path, admin):
    """Entries, nodes, head and checkpoints cut back to an older whole copy: the receipts that devices hold show it (D1)."""
    async with managers(database_dsn, tmp_path) as (manager,):
        evidence, events = await filled(manager)
        before = events[0].index + 1
        await manager.monitor.checkpoint()
        held = [HeldReceipt.of(each) for each in evidence]
        nodes = await admin.fetch("SELECT * FROM qflare.log_node")
        await admin.execute("SET session_replication_role = replica")
        from qflare.protocol.log import Frontier

        frontier = Frontier()
        rows = await admin.fetch("SELECT leaf_hash FROM qflare.audit_entry ORDER BY log_index LIMIT $1", before)
        frontier, _ = frontier.append([row["leaf_hash"] for row in rows])
        await admin.execute("DELETE FROM qflare.audit_entry WHERE log_index >= $1", before)
        await admin.execute("DELETE FROM qflare.checkpoint WHERE size > $1", before)
        await admin.execute(
            "UPDATE qflare.log_head SET size = $1::bigint, frontier = $2,"
            " headed_from = CASE WHEN headed_from < $1::bigint THEN headed_from END",
            before,
            b"".join(frontier.hashes),
        )
        assert nodes
        await manager.monitor.verify_log(deep=False)
        with pytest.raises(EvidenceError, match="older copy") as caught:
            await manager.monitor.verify_log(receipts=held)
        assert before == caught.value.index
        wrong = [dataclasses.replace(held[0], leaf_hash=bytes(32))]
        with pytest.raises(EvidenceError):
            await manager.monitor.verify_log(receipts=wrong)


async def test_dashboard_counts_what_happened(database_dsn, tmp_path):
    """Events, refusals, sessions and the signed head show in the figures of their tenant."""
    async with managers(database_dsn, tmp_path) as (manager,):
        evidence, events = await filled(manager)
        with pytest.raises(QflareError):
            await manager.open_record(b"junk")
        await manager.monitor.checkpoint()
        figures = await manager.monitor.get_security_dashboard_data(window_s=3600)
        assert len(events) == figures.events["system", "info"]
        assert len(evidence) == figures.events["key_exchange", "info"]
        assert {("record", "length"): 1} == figures.refusals
        assert figures.checkpoint.size == figures.log_size == figures.statistics.log_size
        assert figures.keeper_promise is not None
        with pytest.raises(UsageError):
            await manager.monitor.get_security_dashboard_data(window_s=0)


async def test_flood_of_refusals_does_not_flood_the_log(database_dsn, tmp_path):
    """Thousands of forged messages leave a bounded number of entries; the rest is counted."""
    async with managers(database_dsn, tmp_path, refusal_events_per_minute=5) as (manager,):
        from manager_world import settle
        from qflare.protocol.wire import M3_BYTES

        before = (await manager.get_key_statistics()).log_size
        results = await manager.confirm_many([b"\x03\x01" + bytes(M3_BYTES - 2)] * 2000)
        assert all(isinstance(result, QflareError) for result in results)
        await settle(manager)
        assert before + 5 == (await manager.get_key_statistics()).log_size
        assert 2000 == manager.refusals.total()
        assert 1995 == (await manager.monitor.get_security_dashboard_data()).events_left_out


async def test_signed_head_is_stored_soon_and_at_the_latest_when_closing(database_dsn, tmp_path, admin):
    """The head that receipts were signed under reaches the database by itself, and before the manager is closed."""
    largest = "SELECT max(size) FROM qflare.checkpoint"
    async with managers(database_dsn, tmp_path) as (manager,):
        event = await manager.monitor.log_security_event(SYSTEM, INFO, {"n": 1})
        async with asyncio.timeout(60):
            while (await admin.fetchval(largest) or 0) <= event.index:
                await asyncio.sleep(0.05)
        event = await manager.monitor.log_security_event(SYSTEM, INFO, {"n": 2})
    assert await admin.fetchval(largest) > event.index
