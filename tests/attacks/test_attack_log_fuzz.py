"""Random changes to a stored log, to the hashes of dropped entries and to an export: found, and where they begin (D1)."""

import asyncio
import io
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacks.test_attack_log import OTHER
from attacks.test_attack_log_table import (
    OTHERS,
    copied_over,
    cut_behind,
    cut_in_front,
    cut_with_its_tree,
    deleted,
    exchanged,
    hash_deleted,
    hash_edited,
    hash_edited_with_its_tree,
    hash_moved,
    hash_put_in,
    hashes_swapped,
    inserted,
    rebuilt,
    removed,
    swapped,
    worlds,
)
from qflare.errors import EvidenceError
from qflare.monitor.export_check import ExportCheck
from qflare.monitor.known import Reference
from qflare.protocol import log_export
from qflare.protocol.identity import server_id_of
from qflare.protocol.log import Frontier, hash_leaf
from qflare.protocol.log_export import RecordKind

BUSY = settings(max_examples=30, suppress_health_check=list(HealthCheck))
INDEX = st.integers(0, 999)
"""Taken modulo what there is."""


async def examples(world, strategy, run, *, runs=BUSY):
    """Run over examples, each on the log as it was kept: Hypothesis is in a thread, what it runs is on this loop."""
    loop = asyncio.get_running_loop()

    async def whole(example):
        try:
            await run(example)
        finally:
            await world.restore()

    @runs
    @given(strategy)
    def each(example):
        asyncio.run_coroutine_threadsafe(whole(example), loop).result()

    await asyncio.to_thread(each)


async def found(check):
    with pytest.raises(EvidenceError) as caught:
        await check()
    return caught.value.index, caught.value.last


# --- a stored log -----------------------------------------------------------------------------------------------------


async def edited(world, index, column):
    name = list(OTHER)[column % len(OTHER)]
    await world.admin.execute(f"UPDATE qflare.audit_entry SET {name} = {OTHER[name]} WHERE log_index = $1", index)  # noqa: S608
    return index, index


WAYS = st.one_of(
    st.tuples(st.just(edited), INDEX, INDEX),
    st.tuples(st.sampled_from((swapped, copied_over, inserted)), INDEX, INDEX),
    st.tuples(st.sampled_from((deleted, exchanged, removed, rebuilt)), INDEX),
    st.tuples(st.sampled_from((cut_in_front, cut_behind, cut_with_its_tree)), INDEX),
)


async def change(world, way):
    """Change the log, and return the range to be named; None where nothing changed."""
    does, *numbers = way
    size = await world.admin.fetchval("SELECT count(*) FROM qflare.audit_entry")
    one, other = numbers[0] % size, numbers[-1] % size
    if does is edited:
        return await does(world, one, numbers[1])
    if does in {swapped, copied_over, inserted}:
        return None if one == other else await does(world, one, other)
    if does is cut_in_front:
        return await does(world, max(1, one), renumbers=bool(one % 2))
    if does in {cut_behind, cut_with_its_tree}:
        return await does(world, max(1, one))
    return await does(world, one)


async def first_other(world, copy):
    """Return the first entry whose row or leaf hash is not what it was."""
    rows = await world.admin.fetch("SELECT log_index, leaf_hash FROM qflare.audit_entry")
    now = {row["log_index"]: row["leaf_hash"] for row in rows}
    there = range(copy.size)
    return next((index for index in there if now.get(index) != copy.leaf(index)), None)


async def test_every_random_change_is_named_where_it_begins(database_dsn, tmp_path, admin):
    """One change of entries: the range that is named is the class's own; beside a copy that was kept it is exact."""
    async with worlds(database_dsn, tmp_path, admin) as world:
        copy = await world.copy()

        async def run(way):
            wanted = await change(world, way)
            begins = await first_other(world, copy)
            begins = wanted[0] if way[0] is edited else begins
            if wanted is not None and begins is not None:
                low, high = await found(world.verify)
                before, behind = world.between_heads(begins)
                # A tree that was made anew shows the stretch between two signed heads; else the first entry is exact, but
                # for the last of an odd log, over which no node stands yet.
                assert low <= begins <= high or (way[0] is removed and begins + 2 >= copy.size), (low, high, begins)
                assert (low, high) == (begins, begins) or (
                    before <= low
                    and high <= behind
                    and (way[0] is rebuilt or (begins + 2 >= copy.size and high <= low | 1))
                ), (way, low, high, begins)
                assert (begins, begins) == await found(partial(world.verify, references=[copy]))
                # An export holds leaves: an edit beside them is not in it.
                if way[0] is not edited:
                    await found(world.export)

        await examples(world, WAYS, run)
        assert copy.size == (await world.verify(references=[copy])).size


async def test_several_random_changes_are_found_and_a_copy_names_the_first(database_dsn, tmp_path, admin):
    """Up to three changes on top of each other, whatever they leave: never passed, and beside a copy exact."""
    visible = WAYS.filter(lambda way: way[0] is not edited and way[0] is not cut_with_its_tree)
    async with worlds(database_dsn, tmp_path, admin) as world:
        copy = await world.copy()

        async def run(ways):
            for way in ways:
                await change(world, way)
                if await first_other(world, copy) is None or not await world.admin.fetchval(
                    "SELECT count(*) = max(log_index) + 1 AND min(log_index) = 0 FROM qflare.audit_entry"
                ):
                    break
            begins = await first_other(world, copy)
            if begins is not None:
                await found(world.verify)
                assert (begins, begins) == await found(partial(world.verify, references=[copy]))
                await found(partial(world.verify, is_deep=False))

        await examples(world, st.lists(visible, min_size=2, max_size=3), run, runs=settings(BUSY, max_examples=12))


async def test_random_changes_of_nodes_heads_and_bounds_are_found(database_dsn, tmp_path, admin):
    """Any column of any node, head or bound, and rows taken away or put in: found, below the node where it is one."""
    places = [(table, name) for table, edits in OTHERS.items() for name, value in edits.items() if value]
    async with worlds(database_dsn, tmp_path, admin) as world:

        async def run(example):
            (table, name), number = example
            count = await admin.fetchval(f"SELECT count(*) FROM qflare.{table}")  # noqa: S608
            picked = f"(SELECT t.ctid FROM qflare.{table} AS t ORDER BY t::text OFFSET $1 LIMIT 1)"  # noqa: S608
            at = number % count
            row = await admin.fetchrow(f"SELECT * FROM qflare.{table} WHERE ctid = {picked}", at)  # noqa: S608
            if name == "leaf_pair" and row["level"] > 1:
                return  # there is none
            await admin.execute(
                f"UPDATE qflare.{table} SET {name} = {OTHERS[table][name]} WHERE ctid = {picked}",  # noqa: S608
                at,
            )
            low, high = await found(world.verify)
            if table == "log_node":
                first = row["node_index"] << row["level"]
                assert first <= low <= high < first + (1 << row["level"])

        await examples(world, st.tuples(st.sampled_from(places), INDEX), run)


async def test_random_changes_of_the_hashes_of_dropped_entries_are_found(database_dsn, tmp_path, admin):
    """One change of archived_leaf: named as its class is, and exactly beside the archive's own hashes."""
    ways = st.one_of(
        st.tuples(st.sampled_from((hash_edited, hash_edited_with_its_tree, hash_deleted, hash_put_in)), INDEX),
        st.tuples(st.sampled_from((hashes_swapped, hash_moved)), INDEX, INDEX),
    )
    async with worlds(database_dsn, tmp_path, admin) as world:
        copy = await world.copy()
        world.dropped = next(size for size in world.signed if size % 2 == 0 and size >= 6)
        kept = await world.drop(world.dropped)
        await world.keep_again()

        async def run(way):
            does, *numbers = way
            one, other = (number % world.dropped for number in (numbers[0], numbers[-1]))
            if does is hashes_swapped and one == other:
                return
            arguments = {
                hashes_swapped: (one, other),
                hash_moved: (one, world.dropped + other),
                hash_put_in: (world.dropped + one,),
            }.get(does, (one,))
            wanted = await does(world, *arguments)
            assert wanted == await found(partial(world.verify, since=kept))
            begins = wanted[0] if does is hashes_swapped else arguments[0]
            assert (begins, begins) == await found(partial(world.verify, since=kept, references=[copy]))

        await examples(world, ways, run)


# --- an export --------------------------------------------------------------------------------------------------------


def leaf_edited(leaves, one, other):
    at = other % len(leaves[one])
    leaves[one] = leaves[one][:at] + bytes((leaves[one][at] ^ 1,)) + leaves[one][at + 1 :]


def leaf_deleted(leaves, one, _):
    del leaves[one]


def leaves_swapped(leaves, one, other):
    leaves[one], leaves[other] = leaves[other], leaves[one]


def leaf_put_in(leaves, one, other):
    leaves.insert(one, leaves[other])


def leaf_copied_over(leaves, one, other):
    leaves[one] = leaves[other]


def leaves_cut(leaves, one, _):
    del leaves[max(1, one) :]


def written(records, leaves, *, are_anew):
    """Return an export with other leaves: its running hashes as they were, or made anew as far as there are heads."""
    kept = [log_export.decode_entry(body) for kind, body in records if kind is RecordKind.ENTRY]
    notes, done, size = {}, [], 0
    for kind, body in records:
        size += kind is RecordKind.ENTRY
        if kind is RecordKind.CHECKPOINT:
            notes[size] = body
        if kind in {RecordKind.IDENTITY, RecordKind.START}:
            done.append((kind, body))
    running = log_export.running_before(done[-1][1])
    frontier = Frontier()
    for index, leaf in enumerate(leaves):
        hashed = hash_leaf(leaf)
        running = log_export.next_running(running, hashed)
        before = next(
            (each.running for each in kept if each.leaf_data == leaf), kept[min(index, len(kept) - 1)].running
        )
        entry = log_export.encode_entry(index, running if are_anew else before, leaf)
        done.append((RecordKind.ENTRY, entry[5:]))
        frontier, _ = frontier.append([hashed])
        if index + 1 in notes:
            done.append((RecordKind.CHECKPOINT, notes[index + 1]))
    done.append((RecordKind.END, log_export.encode_frontier(frontier)))
    return log_export.HEAD + b"".join(log_export.encode_record(kind, body) for kind, body in done)


async def test_every_random_change_of_an_export_is_named_where_it_begins(database_dsn, tmp_path, admin, monkeypatch):
    """Edited, left out, moved, put in, doubled, cut: exact by the running hash; made anew, between heads or by a copy."""
    monkeypatch.setattr("qflare.monitor.export.NOTE_EVERY", 2)
    async with worlds(database_dsn, tmp_path, admin) as world:
        out = await world.exported()
        records = list(log_export.read_records(io.BytesIO(out)))
        pin = server_id_of(world.served[0][:2592])
    kept = [log_export.decode_entry(body).leaf_data for kind, body in records if kind is RecordKind.ENTRY]
    sizes, size = [], 0
    for kind, _ in records:
        size += kind is RecordKind.ENTRY
        sizes += [size] * (kind is RecordKind.CHECKPOINT)
    assert len(sizes) > 2
    copy = Reference(name="a copy", first=0, start=(), hashes=b"".join(map(hash_leaf, kept)))

    def whole(data, **named):
        one = ExportCheck(server_id=pin, **named)
        one.read(io.BytesIO(data))
        return one.finish()

    def check(data, **named):
        with pytest.raises(EvidenceError) as caught:
            whole(data, **named)
        return caught.value.index, caught.value.last

    ways = st.sampled_from((leaf_edited, leaf_deleted, leaves_swapped, leaf_put_in, leaf_copied_over, leaves_cut))

    @settings(max_examples=60)
    @given(ways, INDEX, INDEX, st.booleans())
    def each(way, one, other, are_anew):
        leaves = list(kept)
        way(leaves, one % len(kept), other % len(kept))
        begins = next(
            (at for at, (now, then) in enumerate(zip(leaves, kept, strict=False)) if now != then),
            min(len(leaves), len(kept)) if len(leaves) != len(kept) else None,
        )
        if begins is None:
            return
        data = written(records, leaves, are_anew=are_anew)
        if begins == copy.size:
            low, high = check(data, references=[copy])
            assert low <= begins <= high  # put in behind the end
            return
        assert (begins, begins) == check(data, references=[copy])
        is_cut = begins == len(leaves)
        if is_cut and begins in sizes:
            assert begins == whole(data).size  # an older copy
            return
        before = max((size for size in sizes if size <= begins), default=0)
        if is_cut:
            assert (before, begins) == check(data)
        elif are_anew:
            behind = next((size - 1 for size in sizes if begins < size <= len(leaves)), len(leaves))
            # A leaf that is none any more is named itself.
            assert check(data) in {(before, behind), (begins, begins) if way is leaf_edited else (before, behind)}
        else:
            assert (begins, begins) == check(data)

    await asyncio.to_thread(each)
