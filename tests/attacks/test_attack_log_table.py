"""Every way to change the stored log, one after the other, over the database and over its export (D1)."""

import asyncio
import io
from contextlib import asynccontextmanager
from functools import partial

import pytest

from attacks.test_attack_log import unlock
from manager_world import Edge, TurnedClock, managers
from qflare.errors import EvidenceError, LogForkError, OtherLogError
from qflare.model.event import EventSeverity, SecurityEventType, SignedCheckpoint
from qflare.monitor.audit import verify_log
from qflare.monitor.export import export_log
from qflare.monitor.export_check import ExportCheck
from qflare.monitor.held import HeldReceipt
from qflare.monitor.known import Reference
from qflare.protocol.checkpoint import encode_note, sign_checkpoint
from qflare.protocol.identity import server_id_of
from qflare.protocol.log import Frontier
from qflare.protocol.log_key import LogKey
from qflare.secret import SecretBytes

KEY = SecretBytes(bytearray(32))
TABLES = ("audit_entry", "archived_leaf", "log_node", "log_head", "checkpoint")
COLUMNS = "tenant_id, entry_type, event_type, severity, device_id, leaf_hash, leaf_data, data, recorded_at"


class World:
    """A log that can be damaged and put back, and what is kept of it outside."""

    def __init__(self, manager, admin, served, held):
        self.foundation = manager._opening.value.foundation
        self.admin = admin
        self.served = served
        self.held = held
        self.keys = [LogKey.of(each) for each in self.foundation.identity.certificates]

    async def keep(self):
        self.size = await self.admin.fetchval("SELECT size FROM qflare.log_head")
        self.signed = [
            row["size"] for row in await self.admin.fetch("SELECT size FROM qflare.checkpoint ORDER BY size")
        ]
        for table in TABLES:
            await self.admin.execute(f"CREATE TEMPORARY TABLE kept_{table} AS SELECT * FROM qflare.{table}")  # noqa: S608

    async def restore(self):
        async with self.admin.transaction():
            for table in TABLES:
                await self.admin.execute(f"DELETE FROM qflare.{table}")  # noqa: S608
                await self.admin.execute(f"INSERT INTO qflare.{table} SELECT * FROM kept_{table}")  # noqa: S608

    async def keep_again(self):
        """Keep the log as it is now instead."""
        for table in TABLES:
            await self.admin.execute(f"DROP TABLE kept_{table}")
        await self.keep()

    async def verify(self, **named):
        return await verify_log(
            store=self.foundation.store, keys=self.keys, runner=self.foundation.offload, **{"is_deep": True} | named
        )

    async def drop(self, size):
        """Do what dropping archived entries does, and return the head that they end under."""
        await self.admin.execute(
            "WITH gone AS (DELETE FROM qflare.audit_entry WHERE log_index < $1 RETURNING log_index, leaf_hash) "
            "INSERT INTO qflare.archived_leaf SELECT * FROM gone",
            size,
        )
        return (await self.foundation.store.list_checkpoints(first=size, limit=1))[0]

    async def copy(self):
        """Return a copy of all leaf hashes, as an export that was kept gives them."""
        rows = await self.admin.fetch("SELECT leaf_hash FROM qflare.audit_entry ORDER BY log_index")
        return Reference(name="a copy", first=0, start=(), hashes=b"".join(row["leaf_hash"] for row in rows))

    def between_heads(self, index):
        """Return the entries between the signed heads around one."""
        before = max((size for size in self.signed if size <= index), default=0)
        return before, min(size for size in self.signed if size > index) - 1

    async def exported(self):
        """Export the log as it is."""
        out = io.BytesIO()
        await export_log(
            source=self.foundation.store,
            identities=self.served,
            keys=self.keys,
            runner=self.foundation.offload,
            write=out.write,
        )
        return out.getvalue()

    async def export(self, **named):
        """Export the log as it is and check that, as somebody without the database does."""
        exported = await self.exported()
        check = ExportCheck(server_id=server_id_of(self.served[0][:2592]), **named)
        check.read(io.BytesIO(exported))
        return check.finish()

    async def rebuild(self, *, keeps_signed=True):
        """Make every node and the head anew over the rows as they are."""
        rows = await self.admin.fetch(
            "SELECT leaf_hash FROM (SELECT log_index, leaf_hash FROM qflare.audit_entry UNION ALL "
            "SELECT log_index, leaf_hash FROM qflare.archived_leaf) AS leaf ORDER BY log_index"
        )
        frontier, made = Frontier().append([row["leaf_hash"] for row in rows])
        await self.admin.execute("DELETE FROM qflare.log_node")
        await self.admin.executemany("INSERT INTO qflare.log_node VALUES ($1, $2, $3)", [one for one in made if one[0]])
        await self.admin.execute(
            "UPDATE qflare.log_head SET size = $1::bigint, frontier = $2, headed_from = CASE WHEN headed_from < $1::bigint THEN headed_from "
            "END",
            frontier.size,
            b"".join(frontier.hashes),
        )
        if not keeps_signed:
            await self.admin.execute("DELETE FROM qflare.checkpoint WHERE size > $1", frontier.size)


@asynccontextmanager
async def worlds(database, folder, admin):
    # The clock stands still: entries of a bucket that begins meanwhile would not be in what is put back.
    async with managers(database, folder, clock=TurnedClock()) as (manager,):
        edge = await Edge.provision(manager)
        evidence = [(await edge.connect(manager)).evidence]
        await manager.monitor.checkpoint()
        for number in range(9):
            await manager.monitor.log_security_event(
                SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": number}, device_id=edge.name
            )
            if number % 3 == 0:  # heads of even and of odd sizes
                await manager.monitor.checkpoint()
        evidence.append((await edge.connect(manager)).evidence)
        await manager.monitor.checkpoint()
        await unlock(admin)
        held = [HeldReceipt.of(each) for each in evidence]
        world = World(manager, admin, await manager.monitor.identities(), held)
        await world.keep()
        yield world


# --- the ways; each returns (first bad index, last that may be the first bad) ------------------------------------------


async def move(world, one, other):
    await world.admin.execute("UPDATE qflare.audit_entry SET log_index = $2 WHERE log_index = $1", one, other)


async def shift(world, first, by):
    """Renumber entries from *first* on."""
    await world.admin.execute(
        "UPDATE qflare.audit_entry SET log_index = log_index + 1000000 WHERE log_index >= $1", first
    )
    await world.admin.execute(
        "UPDATE qflare.audit_entry SET log_index = log_index - 1000000 + $1 WHERE log_index >= 1000000", by
    )


async def forge(world, index):
    """Exchange an entry for another, and its hash with it; return whether its row still fits itself."""
    await world.admin.execute(
        "UPDATE qflare.audit_entry SET leaf_data = set_byte(leaf_data, octet_length(leaf_data) - 1, "
        "get_byte(leaf_data, octet_length(leaf_data) - 1) # 1) WHERE log_index = $1",
        index,
    )
    await world.admin.execute(
        "UPDATE qflare.audit_entry SET leaf_hash = sha256('\\x00'::bytea || leaf_data) WHERE log_index = $1", index
    )
    # Of an event about no device the commitments in its leaf can be opened by anybody.
    return await world.admin.fetchval(
        "SELECT entry_type = 1 OR get_byte(data, 0) = 1 FROM qflare.audit_entry WHERE log_index = $1", index
    )


def pair_of(world, index):
    """Return the pair that the tree alone can name, less what a signed head between them shows to be right."""
    before, behind = world.between_heads(index)
    return max(index & ~1, before), min(index | 1, behind)


async def deleted(world, index):
    await world.admin.execute("DELETE FROM qflare.audit_entry WHERE log_index = $1", index)
    return index, index


async def swapped(world, one, other):
    for source, target in ((one, 999), (other, one), (999, other)):
        await move(world, source, target)
    return min(one, other), min(one, other)


async def copied_over(world, index, source):
    await deleted(world, index)
    await insert_copy(world, index, source)
    return index, index


async def insert_copy(world, index, source):
    await world.admin.execute(
        f"INSERT INTO qflare.audit_entry (log_index, {COLUMNS}) SELECT $1, {COLUMNS} FROM qflare.audit_entry "  # noqa: S608
        "WHERE log_index = $2",
        index,
        source,
    )


async def inserted(world, index, source):
    await shift(world, index, 1)
    await insert_copy(world, index, source if source < index else source + 1)
    return index, index


async def removed(world, index):
    """Delete an entry and close the gap: the leaf hashes that the node keeps tell which of a pair is gone."""
    await deleted(world, index)
    await shift(world, index + 1, -1)
    return index, index


async def removed_without_pairs(world, index):
    """The same, by who puts other leaf hashes beside the node, too: the tree alone cannot tell which of a pair is gone."""
    await removed(world, index)
    await forget_pairs(world)
    return pair_of(world, index)


async def exchanged(world, index):
    """A row and its hash, under nodes that stand."""
    await forge(world, index)
    return index, index


async def exchanged_without_pairs(world, index):
    """The same pair, with nothing to compare either with."""
    fits = await forge(world, index)
    await forget_pairs(world)
    return pair_of(world, index) if fits else (index, index)


async def forget_pairs(world):
    """Overwrite what nodes keep of the leaves below."""
    await world.admin.execute("UPDATE qflare.log_node SET leaf_pair = sha256(hash) || sha256(hash) WHERE level = 1")


async def cut_in_front(world, count, *, renumbers):
    await world.admin.execute("DELETE FROM qflare.audit_entry WHERE log_index < $1", count)
    if renumbers:
        await shift(world, count, -count)
    return 0, 0


async def cut_behind(world, count):
    await world.admin.execute("DELETE FROM qflare.audit_entry WHERE log_index >= $1", world.size - count)
    return world.size - count, world.size - count


async def cut_with_its_tree(world, count):
    """The heads that were signed are larger."""
    found = await cut_behind(world, count)
    await world.rebuild()
    return found


async def rebuilt(world, index):
    """The tree made anew: only the signed heads tell, and name what lies between two of them."""
    fits = await forge(world, index)
    await world.rebuild()
    if not fits:
        return index, index
    return world.between_heads(index)


EVEN_AND_ODD = (2, 3, 6, 7, 8, 9)
WAYS = [
    *(partial(deleted, index=index) for index in (0, *EVEN_AND_ODD)),
    *(partial(swapped, one=one, other=other) for one, other in ((2, 3), (3, 4), (4, 7), (5, 9), (8, 1), (6, 8))),
    *(
        partial(copied_over, index=index, source=source)
        for index, source in ((2, 7), (3, 7), (7, 2), (8, 3), (3, 2), (2, 3))
    ),
    *(partial(inserted, index=index, source=source) for index in (3, 4, 7, 8, 13) for source in (2, 5)),
    *(partial(removed, index=index) for index in EVEN_AND_ODD),
    *(partial(exchanged, index=index) for index in EVEN_AND_ODD),
    *(partial(way, index=index) for way in (removed_without_pairs, exchanged_without_pairs) for index in EVEN_AND_ODD),
    *(partial(cut_in_front, count=count, renumbers=renumbers) for count in (1, 2, 3) for renumbers in (True, False)),
    *(partial(cut_behind, count=count) for count in (1, 2, 5)),
    *(partial(cut_with_its_tree, count=count) for count in (1, 4)),
    *(partial(rebuilt, index=index) for index in (1, *EVEN_AND_ODD)),
]


async def test_every_way_to_change_entries_is_found_at_the_first_bad_one(database_dsn, tmp_path, admin):
    """Deletion, swap, copy, insertion, cut at either end and rewriting: deep, plain and over the export."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        assert world.size == (await world.verify(receipts=world.held)).size == (await world.export()).size
        for way in WAYS:
            wanted = await way(world)
            with pytest.raises(EvidenceError) as deep:
                await world.verify()
            assert wanted == (deep.value.index, deep.value.last), way
            for found in (partial(world.verify, is_deep=False), world.export):
                with pytest.raises(EvidenceError) as caught:
                    await found()
                # What is known is never wrong: the first bad entry lies in the range that is named, if one is.
                assert caught.value.index is None or caught.value.index <= wanted[1] <= max(
                    caught.value.last, wanted[1] if caught.value.index == wanted[0] else 0
                ), (way, found)
            await world.restore()
        assert world.size == (await world.verify(receipts=world.held)).size


async def test_receipts_tell_which_of_a_pair_is_bad(database_dsn, tmp_path, admin):
    """Where the tree can only name two entries, a device's receipt for one of them decides."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        mine = await admin.fetchval("SELECT max(log_index) FROM qflare.audit_entry WHERE entry_type = 1")
        for index in (mine, mine ^ 1):
            if index | 1 < world.size:
                await exchanged_without_pairs(world, index)
                with pytest.raises(EvidenceError) as caught:
                    await world.verify(receipts=world.held)
                assert (index, index) == (caught.value.index, caught.value.last)
                await world.restore()


async def test_an_entry_exchanged_right_before_one_that_is_missing_is_named_first(database_dsn, tmp_path, admin):
    """No node over the first of the two is computed, as the second is gone: the leaf hashes kept with it tell."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        index = 4
        while not await forge(world, index):
            await world.restore()
            index += 2
        # A signed head between the two would tell as well.
        await admin.execute("DELETE FROM qflare.checkpoint WHERE size = $1", index + 1)
        await deleted(world, index + 1)
        for is_deep in (True, False):
            with pytest.raises(EvidenceError) as caught:
                await world.verify(is_deep=is_deep)
            assert (index, index) == (caught.value.index, caught.value.last)
        await world.restore()
        await deleted(world, index + 1)
        with pytest.raises(EvidenceError) as caught:
            await world.verify()
        assert index + 1 == caught.value.index


async def test_leaf_hashes_beside_nodes_decide_nothing_that_no_signed_head_shows(database_dsn, tmp_path, admin):
    """A tail that was made anew is not called right because only its old leaf hashes are left."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        index = (world.size - 2) & ~1
        for is_signed in (False, True):
            if is_signed:
                await forget_pairs(world)  # of the first pair: its rows are right
            else:
                await forge(world, index)
                await world.rebuild()
                await admin.execute("DELETE FROM qflare.checkpoint WHERE size > $1", index)
                await admin.execute(
                    "UPDATE qflare.log_node AS n SET leaf_pair = k.leaf_pair FROM kept_log_node AS k "
                    "WHERE (n.level, n.node_index) = (k.level, k.node_index)"
                )
            with pytest.raises(EvidenceError) as caught:
                await world.verify()
            assert (caught.value.index, caught.value.last) == ((0, 1) if is_signed else (index, index + 1))
            assert ("both entries are those of the log" in str(caught.value)) is is_signed
            await world.restore()


OTHERS = {
    "log_node": {
        "level": "level + 9",
        "node_index": "node_index + 1000",
        "hash": "sha256(hash)",
        "leaf_pair": "set_byte(leaf_pair, 40, get_byte(leaf_pair, 40) # 1)",
    },
    "log_head": {
        "only_row": None,
        "size": "size + 1",
        "frontier": "sha256(frontier) || substr(frontier, 33)",
        "headed_from": "headed_from + 1",
    },
    "checkpoint": {
        "size": "size + 1000",
        "root": "sha256(root)",
        "time_s": "time_s + 1",
        "signature": "set_byte(signature, 7, get_byte(signature, 7) # 1)",
        "created_at": None,
    },
}
"""Another value for every column of the tables beside the entries; None for what says nothing about the log."""


async def test_every_edit_of_nodes_heads_and_signatures_is_found(database_dsn, tmp_path, admin):
    """Each column of each row of the tree, its head and the signed heads, edited or deleted: a deep check finds it."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        for table, edits in OTHERS.items():
            columns = await admin.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0", f"qflare.{table}"
            )
            assert {row["attname"] for row in columns} == set(edits)
            rows = await admin.fetchval(f"SELECT count(*) FROM qflare.{table}")  # noqa: S608
            picked = f"ctid = (SELECT t.ctid FROM qflare.{table} AS t ORDER BY t::text OFFSET $1 LIMIT 1)"  # noqa: S608
            for number in range(rows):
                row = await admin.fetchrow(f"SELECT * FROM qflare.{table} WHERE {picked}", number)  # noqa: S608
                level = dict(row).get("level")
                # Above the first level a node keeps no leaf hashes.
                kept = {name: value for name, value in edits.items() if value and (name != "leaf_pair" or level == 1)}
                ways = [f"UPDATE qflare.{table} SET {name} = {value}" for name, value in kept.items()]  # noqa: S608
                if table == "log_node":
                    ways.append(f"DELETE FROM qflare.{table}")  # noqa: S608
                for way in ways:
                    assert (await admin.execute(f"{way} WHERE {picked}", number)).endswith(" 1")
                    with pytest.raises(EvidenceError):
                        await world.verify()
                    await world.restore()
        nodes = "INSERT INTO qflare.log_node VALUES ($1, $2, sha256('x'))"
        for level in (1, 2, 5):
            await admin.execute(nodes, level, world.size >> level)
            with pytest.raises(EvidenceError) as caught:
                await world.verify()
            assert world.size == caught.value.index
            await world.restore()
        assert world.size == (await world.verify()).size


async def test_a_whole_older_copy_is_found_by_what_others_keep(database_dsn, tmp_path, admin):
    """Everything put back to an earlier day verifies by itself; a kept head and a receipt show it, with the first gap."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        latest = await world.foundation.store.latest_checkpoint()
        older = world.signed[1]
        await cut_behind(world, world.size - older)
        await world.rebuild(keeps_signed=False)
        assert older == (await world.verify()).size == (await world.export()).size
        note = encode_note(world.keys[0].origin, world.keys[0].key, latest)
        for found in (
            partial(world.verify, receipts=world.held),
            partial(world.verify, since=latest),
            partial(world.export, receipts=world.held),
            partial(world.export, since=note),
        ):
            with pytest.raises(EvidenceError) as caught:
                await found()
            assert older == caught.value.index, found


async def test_only_what_came_since_a_kept_head_is_read(database_dsn, tmp_path, admin):
    """From a kept head on a log is checked without what came before; a fork before it shows, another log's head is told."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        kept = (await world.foundation.store.list_checkpoints(first=world.signed[1], limit=1))[0]
        for is_deep in (True, False):
            found = await world.verify(since=kept, is_deep=is_deep)
            assert (kept.size, world.size) == (found.first, found.size)
            assert world.size - kept.size == sum(found.entries.values())
        await forge(world, kept.size)
        with pytest.raises(EvidenceError) as caught:
            await world.verify(since=kept)
        assert caught.value.index <= kept.size <= caught.value.last
        await world.restore()
        await forge(world, 1)
        await world.rebuild()
        with pytest.raises(LogForkError, match="fork"):
            await world.verify(since=kept)
        await world.restore()
        with world.foundation.identity.lend() as keys:
            other = sign_checkpoint(keys.log, "other.example/log", kept.size, kept.root, kept.time_s)
        for head in (other, SignedCheckpoint(size=kept.size, root=bytes(32), time_s=1, signature=kept.signature)):
            with pytest.raises(OtherLogError):
                await world.verify(since=head)


async def test_an_interrupted_check_goes_on_and_says_so(database_dsn, tmp_path, admin, monkeypatch):
    """What an earlier run checked is not read again, the report says from where on, and later damage is found."""
    monkeypatch.setattr("qflare.monitor.audit.PAGE", 3)
    async with worlds(database_dsn, tmp_path, admin) as world:
        states = []
        whole = await world.verify(receipts=world.held, note_state=states.append, now_s=7)
        assert len(states) > 3
        for state in states:
            again = type(state).decode(state.encode(KEY), KEY)
            assert again == state
            found = await world.verify(receipts=world.held, resume=again)
            assert (state.frontier.size, whole.root) == (found.resumed_at, found.root)
            assert (whole.entries, whole.tenants, whole.heads) == (found.entries, found.tenants, found.heads)
        for other in ({}, {"receipts": world.held, "is_deep": False}):
            assert (await world.verify(resume=states[1], **other)).resumed_at is None
        await world.admin.execute(
            "UPDATE qflare.audit_entry SET severity = 'debug' WHERE log_index = $1", world.size - 2
        )
        with pytest.raises(EvidenceError) as caught:
            await world.verify(receipts=world.held, resume=states[1])
        assert world.size - 2 == caught.value.index


async def test_a_check_that_goes_on_forgets_no_suspect(database_dsn, tmp_path, admin, monkeypatch):
    """An altered node is decided by heads that come later: a check interrupted before them, and gone on with, finds it."""
    monkeypatch.setattr("qflare.monitor.audit.PAGE", 2)
    async with worlds(database_dsn, tmp_path, admin) as world:
        await world.admin.execute("DELETE FROM qflare.checkpoint WHERE size < $1", world.size)
        await world.admin.execute("UPDATE qflare.log_node SET hash = sha256(hash) WHERE (level, node_index) = (1, 1)")
        states = []
        with pytest.raises(EvidenceError) as caught:
            await world.verify(note_state=states.append)
        assert states
        for state in states:
            with pytest.raises(EvidenceError) as again:
                await world.verify(resume=state)
            assert (caught.value.index, caught.value.last) == (again.value.index, again.value.last)


@pytest.mark.parametrize("is_deep", [True, False])
async def test_a_head_of_no_end_keeps_no_check_busy(is_deep, database_dsn, tmp_path, admin):
    """A row forged under nodes that stand, and a head that says 2^62 entries: the check ends, and says that it is bad."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        await world.admin.execute("DELETE FROM qflare.checkpoint WHERE size < $1", world.size)
        await forge(world, 6)
        await world.admin.execute("UPDATE qflare.log_head SET size = 1::bigint << 62, frontier = sha256('x')")
        with pytest.raises(EvidenceError):
            async with asyncio.timeout(60):
                await world.verify(is_deep=is_deep)


# --- the hashes of dropped entries ------------------------------------------------------------------------------------

EDIT_HASH = "UPDATE qflare.archived_leaf SET leaf_hash = sha256(leaf_hash) WHERE log_index = $1"


async def hash_edited(world, index):
    await world.admin.execute(EDIT_HASH, index)
    return index, index


async def hash_edited_with_its_tree(world, index):
    await world.admin.execute(EDIT_HASH, index)
    await world.rebuild()
    return world.between_heads(index)


async def hash_edited_with_its_tree_and_no_head(world, index):
    """Signed heads can be taken away, which leaves the auditor's own."""
    await hash_edited_with_its_tree(world, index)
    await world.admin.execute("DELETE FROM qflare.checkpoint WHERE size <= $1", world.dropped)
    return 0, world.dropped - 1


async def hash_deleted(world, index):
    await world.admin.execute("DELETE FROM qflare.archived_leaf WHERE log_index = $1", index)
    return index, index


async def hash_moved(world, index, target):
    await world.admin.execute("UPDATE qflare.archived_leaf SET log_index = $2 WHERE log_index = $1", index, target)
    return index, index


async def hashes_swapped(world, one, other):
    await world.admin.execute(
        "UPDATE qflare.archived_leaf AS l SET leaf_hash = (SELECT o.leaf_hash FROM qflare.archived_leaf AS o "
        "WHERE o.log_index = $1 + $2 - l.log_index) WHERE l.log_index IN ($1, $2)",
        one,
        other,
    )
    return min(one, other), min(one, other)


async def hash_put_in(world, index):
    await world.admin.execute("INSERT INTO qflare.archived_leaf VALUES ($1, sha256('x'))", index)
    return index, index


async def row_put_back_in(world, index):
    """A row beside the hash that stands for it: the hashes from there on are none of dropped entries."""
    await insert_copy(world, index, world.dropped)
    return index, index


HASH_WAYS = [
    *(partial(way, index=index) for way in (hash_edited, hash_deleted) for index in range(6)),
    *(partial(hash_edited_with_its_tree, index=index) for index in (0, 3, 5)),
    partial(hash_edited_with_its_tree_and_no_head, index=2),
    *(partial(hash_moved, index=index, target=target) for index, target in ((0, 999), (3, 6), (5, 7))),
    *(partial(hashes_swapped, one=one, other=other) for one, other in ((0, 1), (1, 2), (4, 0), (2, 5))),
    *(partial(hash_put_in, index=index) for index in (6, 9, 999)),
    *(partial(row_put_back_in, index=index) for index in (0, 3, 5)),
]


async def test_every_way_to_change_the_hashes_of_dropped_entries_is_found(database_dsn, tmp_path, admin):
    """What was archived and dropped has its hashes in the database alone: a deep check finds each, a copy names it."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        copy = await world.copy()
        world.dropped = next(size for size in world.signed if size % 2 == 0 and size >= 6)
        kept = await world.drop(world.dropped)
        later = (await world.foundation.store.list_checkpoints(first=kept.size + 1, limit=1))[0]
        assert kept.size == world.dropped
        await world.keep_again()
        for since in (kept, later):
            assert world.dropped == (await world.verify(since=since, references=[copy])).archived
        for way in HASH_WAYS:
            wanted = await way(world)
            for since in (kept, later):
                with pytest.raises(EvidenceError) as found:
                    await world.verify(since=since)
                named = (found.value.index, found.value.last)
                assert named == wanted or (since is later and named[0] <= wanted[0] <= wanted[1] <= named[1]), way
            with pytest.raises(EvidenceError) as exact:
                await world.verify(since=kept, references=[copy])
            bad = way.keywords.get("index", wanted[0])
            assert (bad, bad) == (exact.value.index, exact.value.last), way
            await world.restore()
        assert world.size == (await world.verify(since=kept)).size
