import asyncio
import hashlib
import random
import uuid
from dataclasses import replace
from os import urandom

import asyncpg
import pytest

from qflare.errors import BatchError, ConflictError
from qflare.model.event import EventSeverity, SecurityEventType, SignedCheckpoint
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.protocol.log import (
    Frontier,
    consistency_path,
    inclusion_path,
    nodes_for_consistency,
    nodes_for_path,
    verify_consistency,
    verify_inclusion,
)
from qflare.stores.postgres.columns import event_columns
from store_records import new_event, new_sealed_event

pytestmark = pytest.mark.contract


async def test_the_tree_in_the_database_is_the_tree_of_the_protocol(store):
    """Head and every node equal those that protocol.log computes, for appends of many sizes."""
    frontier, expected = Frontier(), {}
    seeded = random.Random(7)
    for _ in range(25):
        events = [new_event() for _ in range(seeded.choice((1, 1, 2, 3, 5, 8, 31, 64, 65)))]
        append = await store.append_events(DEFAULT_TENANT, events)
        hashes = [hashlib.sha256(b"\x00" + event.leaf_data).digest() for event in events]
        assert (frontier.size, frontier.hashes) == (append.first_index, append.old_frontier)
        assert tuple(hashes) == append.leaf_hashes
        frontier, nodes = frontier.append(hashes)
        expected |= {(level, index): value for level, index, value in nodes}
        head = await store.log_head()
        assert (frontier.size, frontier.hashes) == (head.size, head.frontier)
    assert expected == await store.find_nodes([*expected, (0, frontier.size), (5, 10**9)])
    # Each node right above the leaves keeps both.
    pairs = {index: expected[0, 2 * index] + expected[0, 2 * index + 1] for level, index in expected if level == 1}
    assert pairs == await store.find_leaf_pairs([*pairs, 10**9])
    assert {} == await store.find_leaf_pairs([])


async def test_every_leaf_and_every_pair_of_sizes_can_be_proved(store):
    """Inclusion and consistency proofs follow from the stored nodes at every size."""
    roots = {}
    for _ in range(12):
        await store.append_events(DEFAULT_TENANT, [new_event()])
        head = await store.log_head()
        roots[head.size] = Frontier(head.size, head.frontier).root()
    leaves = await store.find_nodes([(0, index) for index in range(12)])
    for size, root in roots.items():
        for index in range(size):
            nodes = await store.find_nodes(nodes_for_path(index, size))
            verify_inclusion(leaves[0, index], index, size, inclusion_path(index, size, nodes), root)
        for old in range(1, size):
            nodes = await store.find_nodes(nodes_for_consistency(old, size))
            path = consistency_path(old, size, nodes)
            verify_consistency(old, size, old_root=roots[old], new_root=root, path=path)


async def test_concurrent_appends_leave_no_gap(store, admin):
    """Whatever is appended at once stands at consecutive indexes, each batch together."""
    batches = [[new_event() for _ in range(1 + number % 5)] for number in range(40)]
    appends = await asyncio.gather(*(store.append_events(DEFAULT_TENANT, batch) for batch in batches))
    total = sum(len(batch) for batch in batches)
    assert total == (await store.log_head()).size
    taken = [i for append in appends for i in range(append.first_index, append.first_index + len(append.leaf_hashes))]
    assert list(range(total)) == sorted(taken)
    rows = await admin.fetch("SELECT leaf_hash FROM qflare.audit_entry ORDER BY log_index")
    frontier, _ = Frontier().append([row["leaf_hash"] for row in rows])
    assert frontier.hashes == (await store.log_head()).frontier


async def test_a_failed_append_leaves_the_log_as_it_was(store):
    """An entry that a constraint refuses takes its whole batch with it, and the next one has its index."""
    await store.append_events(DEFAULT_TENANT, [new_event()])
    bad = new_event()._replace(data=b"")
    with pytest.raises(ConflictError, match="audit_entry_data_size"):
        await store.append_events(DEFAULT_TENANT, [new_event(), bad])
    assert 1 == (await store.log_head()).size
    assert 1 == (await store.append_events(DEFAULT_TENANT, [new_event()])).first_index
    with pytest.raises(BatchError):
        await store.append_events(DEFAULT_TENANT, [])


async def test_entries_come_back_as_they_were_written(store):
    """Every field of an event is in its row, the time to the millisecond."""
    event = new_event(SecurityEventType.REPLAY_DETECTED, device_id="d", severity=EventSeverity.WARNING)
    await store.append_events(DEFAULT_TENANT, [event])
    entry = await store.find_entry(DEFAULT_TENANT, 0)
    assert (event.event_type, event.severity, "d", event.data, event.leaf_data, 2) == (
        entry.event_type,
        entry.severity,
        entry.device_id,
        entry.data,
        entry.leaf_data,
        entry.entry_type,
    )
    assert event.occurred_at_ms == round(entry.recorded_at.timestamp() * 1000)
    assert hashlib.sha256(b"\x00" + event.leaf_data).digest() == entry.leaf_hash
    assert await store.find_entry(DEFAULT_TENANT, 1) is None


async def test_a_tenant_lists_its_own_entries_and_the_auditor_all(store):
    """Entries of other tenants are left out of a tenant's list; the auditor reads every one."""
    other = TenantId(urandom(16))
    await store.save_tenant(other, "other", event=new_event())
    await store.append_events(DEFAULT_TENANT, [new_event(), new_event()])
    await store.append_events(other, [new_event()])
    assert [0, 3] == [entry.index for entry in await store.list_entries(other, first=0, limit=9)]
    assert [1, 2] == [entry.index for entry in await store.list_entries(DEFAULT_TENANT, first=0, limit=9)]
    assert [1, 2, 3] == [entry.index for entry in await store.list_entries(None, first=1, limit=3)]
    assert await store.find_entry(other, 1) is None


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("is_alike", [True, False])
@pytest.mark.parametrize("device_id", [None, "camera-7"])
async def test_columns_that_are_alike_are_written_to_every_row(store, count, is_alike, device_id):
    """One value travels for all rows that have it, and each row has its own all the same."""
    events = [
        new_event(device_id=device_id)._replace(occurred_at_ms=1_000)
        if is_alike or place % 2
        else new_event(SecurityEventType.MAPPING, severity=EventSeverity.ERROR)._replace(occurred_at_ms=2_000)
        for place in range(count)
    ]
    await store.append_events(DEFAULT_TENANT, events)
    entries = await store.list_entries(DEFAULT_TENANT, first=0, limit=9)
    assert [
        (event.event_type, event.severity, event.device_id, event.data, event.leaf_hash, event.occurred_at_ms)
        for event in events
    ] == [
        (each.event_type, each.severity, each.device_id, each.data, each.leaf_hash, each.recorded_at.timestamp() * 1000)
        for each in entries
    ]


async def test_counts_are_by_type_and_severity_since_a_time(store):
    """The dashboard's counts leave out what is older."""
    old = new_event(SecurityEventType.SYSTEM)._replace(occurred_at_ms=1_000_000)
    fresh = new_event(SecurityEventType.MAPPING)
    await store.append_events(DEFAULT_TENANT, [old, fresh, fresh])
    assert {("mapping", "info"): 2} == await store.count_events(DEFAULT_TENANT, since_s=2_000)
    assert {("mapping", "info"): 2, ("system", "info"): 1} == await store.count_events(DEFAULT_TENANT, since_s=0)


async def test_the_latest_checkpoint_is_the_largest_and_the_first_of_its_size(store):
    """A checkpoint is never replaced."""
    assert await store.latest_checkpoint() is None
    made = [SignedCheckpoint(size=size, root=urandom(32), time_s=5, signature=urandom(2420)) for size in (3, 9, 4, 9)]
    for checkpoint in made:
        await store.save_checkpoint(checkpoint)
    assert made[1] == await store.latest_checkpoint()
    assert (made[0], made[2], made[1]) == await store.list_checkpoints(first=0, limit=9)
    assert (made[2],) == await store.list_checkpoints(first=4, limit=1)
    assert () == await store.list_checkpoints(first=10, limit=1)


async def test_a_log_of_which_nothing_was_dropped_has_no_archived_leaves(store):
    """What stands is read as entries; hashes by themselves are left of what was dropped alone."""
    await store.append_events(DEFAULT_TENANT, [new_event() for _ in range(3)])
    assert () == await store.list_archived_leaves(first=0, limit=9)


async def test_only_confirm_writes_session_entries(admin):
    """An entry of type 1 whose columns are not those of a session is refused (H9)."""
    with pytest.raises(Exception, match="audit_entry_session_fixed"):
        await admin.execute(
            "INSERT INTO qflare.audit_entry (log_index, tenant_id, entry_type, event_type, severity, leaf_hash,"
            " leaf_data, data, recorded_at) VALUES (0, gen_random_uuid(), 1, 'system', 'info', sha256('\\x0001'),"
            " '\\x01', '{}', now())"
        )


async def test_a_leaf_hash_of_other_data_is_refused(store, admin):
    """Workers bring the hashes of their leaves, and the rows' constraint holds each against its leaf."""
    await store.append_events(DEFAULT_TENANT, [new_event()])
    events = [new_event(), new_event()._replace(leaf_hash=urandom(32)), new_event()]
    with pytest.raises(ConflictError, match="audit_entry_leaf_hash_of_data"):
        await store.append_events(DEFAULT_TENANT, events)
    assert 1 == (await store.log_head()).size
    assert 1 == await admin.fetchval("SELECT count(*) FROM qflare.audit_entry")


async def test_columns_of_different_lengths_are_refused(store, admin):
    """No leaf without an entry, and no byte of no entry."""
    hashed = hashlib.sha256(b"\x00leafleaf").digest()
    good = [
        str(uuid.UUID(bytes=DEFAULT_TENANT)), ["system"] * 2, ["info"] * 2, [None] * 2, b"{}{}", [0, 2, 4], b"leafleaf" * 2, [0, 8, 16],
        hashed * 2, [1, 2], [1], bytes(93),
    ]  # fmt: skip
    call = (
        "SELECT first_index FROM qflare.append_entries($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
    )
    bad = {
        1: ["system"], 2: ["info"] * 3, 3: [None], 4: b"{}{}x", 5: [0, 4], 6: b"leafleaf", 7: [0, 8, 15], 8: hashed * 3,
        9: [1], 10: [], 11: bytes(92),
    }  # fmt: skip
    for place, value in bad.items():
        with pytest.raises(asyncpg.DataError, match="of different lengths"):
            await admin.fetchval(call, *good[:place], value, *good[place + 1 :])
    assert 0 == await admin.fetchval(call, *good)
    assert (2, 2, [(1, bytes(32), bytes(61))]) == (
        (await store.log_head()).size,
        await admin.fetchval("SELECT count(*) FROM qflare.audit_entry"),
        [tuple(row) for row in await admin.fetch("SELECT log_index, subject, sealed_key FROM qflare.audit_key")],
    )


async def test_what_workers_of_before_call_appends_the_same(store, admin):
    """`append_events` with arrays, keys in front of the data, goes on from entries of the newer call, and they from it."""
    frontier = Frontier()
    for number in (3, 1, 6):
        events = [new_sealed_event(), *(new_event(device_id="d") for _ in range(number))]
        await store.append_events(DEFAULT_TENANT, events)
        await admin.execute(
            "SELECT qflare.append_events($1::text::uuid, $2, $3, $4, $5, $6, $7)",
            str(uuid.UUID(bytes=DEFAULT_TENANT)),
            *event_columns(events),
        )
        await admin.execute("RESET ROLE")
        frontier, _ = frontier.append([event.leaf_hash for event in events] * 2)
        assert frontier == Frontier(*await head_of(store))
    entries = await store.list_entries(None, first=0, limit=99)
    for place in range(len(events)):
        one, other = entries[-1 - place], entries[-1 - place - len(events)]
        assert replace(one, index=0, recorded_at=other.recorded_at) == replace(other, index=0)


async def head_of(store):
    head = await store.log_head()
    return head.size, head.frontier
