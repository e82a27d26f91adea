"""The log as a manager's callers use it: batches that overlap keep their order, and one that fails fails alone."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import FrozenInstanceError

import asyncpg
import pytest

from manager_world import TurnedClock, engine_of, make_manager
from qflare.errors import ConflictError
from qflare.manager import nodes
from qflare.model.event import EventSeverity, LoggedEvent, SecurityEventType
from qflare.protocol.log import verify_inclusion
from qflare.protocol.receipt import decode_receipt

EVENT = (SecurityEventType.SYSTEM, EventSeverity.INFO)
# Clocks stand still here: a bucket that begins meanwhile has entries of its own in the log.


def batches_of(manager):
    return engine_of(manager).foundation.log._batcher.batches


@asynccontextmanager
async def data_below(dsn, size):
    """Have the database refuse entries whose rows store *size* bytes or more."""
    admin = await asyncpg.connect(dsn)
    try:
        await admin.execute(
            f"ALTER TABLE qflare.audit_entry ADD CONSTRAINT test_size CHECK (octet_length(data) < {size}) NOT VALID"
        )
        yield
        await admin.execute("ALTER TABLE qflare.audit_entry DROP CONSTRAINT test_size")
    finally:
        await admin.close()


@pytest.mark.parametrize("flights", [1, 2, 4])
async def test_events_of_one_call_stand_in_its_order(database, tmp_path, flights):
    """Leaves and receipts of batches are made while others are appended; what stands is in order and proven."""
    clock = TurnedClock()
    async with make_manager(database, tmp_path, clock=clock, batch_max=2, flights_max=flights) as manager:
        before = batches_of(manager)
        names = [None, "camera-7", "camera-8"]
        logged = await manager.monitor.log_security_events_many(
            [(*EVENT, {"n": n}, names[n % 3]) for n in range(50)],
        )
        assert 50 / 4 <= batches_of(manager) - before < 50
        first = logged[0].index
        assert [first + n for n in range(50)] == [each.index for each in logged]
        assert [names[n % 3] for n in range(50)] == [each.device_id for each in logged]
        fields = {name: getattr(logged[0], name) for name in LoggedEvent.__slots__}
        built = LoggedEvent(**fields)
        assert (LoggedEvent, built, repr(built), hash(built)) == (
            type(logged[0]),
            logged[0],
            repr(logged[0]),
            hash(logged[0]),
        )
        with pytest.raises(FrozenInstanceError):
            logged[0].index = 7
        entries = await manager.monitor.list_events(first=first)
        assert list(range(50)) == [json.loads(entry.data)["n"] for entry in entries]
        for each in logged:
            proof = await manager.monitor.verify_event_integrity(each)
            assert each.leaf_hash == proof.leaf_hash
        report = await manager.monitor.verify_log(deep=True)
        assert first + 50 == report.size


async def test_callers_who_come_at_once_share_batches(database, tmp_path):
    """Events of many callers are made and appended together, in the order in which they called."""
    async with make_manager(database, tmp_path, clock=TurnedClock(), batch_max=4) as manager:
        before = batches_of(manager)
        logged = await asyncio.gather(*(manager.monitor.log_security_event(*EVENT, {"n": n}) for n in range(40)))
        assert batches_of(manager) - before < 40
        assert [logged[0].index + n for n in range(40)] == [each.index for each in logged]


async def test_large_events_fill_a_batch_by_their_bytes(database, tmp_path):
    """What a batch holds is bounded in bytes too, so that nobody waits long for the log's lock."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        before = batches_of(manager)
        large = "x" * 16_000
        logged = await manager.monitor.log_security_events_many([(*EVENT, {"text": large}, None)] * 300)
        assert 2 <= batches_of(manager) - before <= 4
        assert [logged[0].index + n for n in range(300)] == [each.index for each in logged]


async def test_a_batch_that_fails_takes_no_other_with_it(database_dsn, tmp_path):
    """The database refuses one event: its batch has errors, the ones before and behind it stand without a gap."""
    async with make_manager(database_dsn, tmp_path, clock=TurnedClock(), batch_max=2) as manager:
        events = [(*EVENT, {"n": n, "text": "x" * (3000 if n == 12 else 3)}, None) for n in range(32)]
        async with data_below(database_dsn, 3000):
            logged = await manager.monitor.log_security_events_many(events)
        failed = [n for n, each in enumerate(logged) if isinstance(each, ConflictError)]
        assert 12 in failed
        assert len(failed) <= 4
        stand = [each.index for each in logged if not isinstance(each, ConflictError)]
        assert [logged[0].index + n for n in range(32 - len(failed))] == stand
        again = await manager.monitor.log_security_events_many([events[n] for n in failed])
        assert [stand[-1] + 1 + n for n in range(len(failed))] == [each.index for each in again]
        await manager.monitor.verify_log(deep=True)


async def test_one_id_in_batches_that_overlap_is_one_entry(database, tmp_path):
    """A call that comes again while its first time is under way gets the same entries, batch by batch."""
    async with make_manager(database, tmp_path, clock=TurnedClock(), batch_max=2) as manager:
        events = [(*EVENT, {"n": n}, "camera-7") for n in range(30)]
        one, two = await asyncio.gather(
            *(manager.monitor.log_security_events_many(events, call_id=b"once" * 4) for _ in range(2))
        )
        assert [each.index for each in one] == [each.index for each in two]
        assert 30 == len({each.index for each in one})
        assert 30 == len(await manager.monitor.list_events(first=one[0].index))


@pytest.mark.parametrize("held", [0, 3, 8192])
async def test_receipts_of_older_entries_hold_whatever_nodes_are_held(database, tmp_path, monkeypatch, held):
    """Nodes that proofs share are read once, and no more than so many are held; receipts are those of the head asked."""
    monkeypatch.setattr(nodes, "_HELD_MAX", held)
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        log = engine_of(manager).foundation.log
        hashes, first = [], None
        for _ in range(3):
            logged = await manager.monitor.log_security_events_many([(*EVENT, {"n": n}, None) for n in range(37)])
            first = logged[0].index if first is None else first
            hashes += [each.leaf_hash for each in logged]
            head = await manager.monitor.checkpoint()
            for _ in range(2):
                receipts = await log.receipts_at(range(first, first + len(hashes)))
                for place, (leaf_hash, encoded) in enumerate(zip(hashes, receipts, strict=True)):
                    receipt = decode_receipt(encoded)
                    assert (first + place, head.size) == (receipt.index, receipt.size)
                    verify_inclusion(leaf_hash, receipt.index, receipt.size, receipt.path, head.root)
                (alone,) = await log.receipts_at([first + 5])
                assert alone == receipts[5]
            assert len(log._nodes._held) <= held
