"""No look-up reads a table whole: neither while it has no statistics yet, nor with rows and statistics."""

# ruff: noqa: S608 - the statements are the test's own constants

import re
from os import urandom
from uuid import UUID

import pytest

from qflare.model.ids import DEFAULT_TENANT
from qflare.model.rotation import DueKey, RotationPolicy, RotationReason
from qflare.stores.postgres.definition import queries, schema_text
from store_records import (
    NOW_S,
    begin_session,
    confirm,
    new_claim,
    new_event,
    new_rekey,
    new_reply_key,
    new_sealed_event,
    new_stream,
    publish,
    register,
    step_turn,
)

T = "'00000000-0000-0000-0000-000000000000'"
SIDS = "ARRAY(SELECT sid FROM qflare.session LIMIT 9)"
FIRST, LAST = f"'{UUID(int=0)}'", f"'{UUID(int=(1 << 128) - 1)}'"
CALLS = {
    "find_devices": f"qflare.find_devices({T}, ARRAY(SELECT ref FROM qflare.device LIMIT 9))",
    "find_sessions": f"qflare.find_sessions({T}, {SIDS})",
    "find_chains": f"qflare.find_chains({T}, {SIDS}, 999, 1001)",
    "find_session_tenants": f"qflare.find_session_tenants({SIDS})",
    "list_chains": "qflare.list_chains(1000, 10, gen_random_uuid())",
    "find_reply_keys": f"qflare.find_reply_keys({T}, ARRAY(SELECT sid FROM qflare.reply_key LIMIT 9),"
    " ARRAY(SELECT request_id FROM qflare.reply_key LIMIT 9))",
    "list_reply_keys": "qflare.list_reply_keys(1000, 10, NULL)",
    "find_pages": f"qflare.find_pages({T}, {SIDS}, 999, 1001)",
    "list_turn_chains": f"qflare.list_turn_chains(1001, {FIRST}, {LAST})",
    "gather_turn_chains": f"qflare.gather_turn_chains(1001, {FIRST}, {LAST})",
    "list_turn_pages": f"qflare.list_turn_pages(1002, {FIRST}, {LAST})",
    "list_turned": f"qflare.list_turned(1000, {FIRST}, {LAST})",
    "list_late_chains": f"qflare.list_late_chains(1001, {FIRST}, {LAST})",
    "list_rotatable_keys": f"qflare.list_rotatable_keys({T}, '', 9)",
    "find_rotation_marks": f"qflare.find_rotation_marks({T}, ARRAY(SELECT ref FROM qflare.rotation_mark LIMIT 9))",
    "count_use": f"qflare.count_use({T}, {SIDS}, '{{1,1,1,1,1,1,1,1,1}}', '{{1,1,1,1,1,1,1,1,1}}')",
    "find_leaves": "qflare.find_leaves('{1,2,3}')",
}
SMALL = {"rotation_policy", "bucket_key", "bucket_mark", "log_head", "schema_version"}
"""Tables of a handful of rows, whatever the load."""


async def scans(admin):
    """Return how often each table was read whole so far."""
    await admin.execute("SELECT pg_stat_force_next_flush()")
    await admin.execute("SELECT pg_stat_clear_snapshot()")
    rows = await admin.fetch("SELECT relname, seq_scan FROM pg_stat_all_tables WHERE schemaname = 'qflare'")
    return {row["relname"]: row["seq_scan"] for row in rows if row["relname"] not in SMALL}


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_look_ups_walk_an_index(store, admin, is_analyzed):
    """Every look-up goes by a key's index, as the counters of the tables themselves say."""
    await publish(store)
    for device in await register(store, 60):
        claim = await begin_session(store, device)
        await store.accept_streams(claim.tenant_id, [new_stream(claim.sid)], now_s=1)
        await store.save_reply_keys(claim.tenant_id, [new_reply_key(claim.sid)], outstanding_max=8)
    await store.append_events(claim.tenant_id, [new_event()])
    await store.save_rotation_policy(claim.tenant_id, RotationPolicy(max_records=1), event=new_event())
    await admin.execute("UPDATE qflare.device_key SET created_at = created_at - interval '1 day'")
    keys = (await store.list_rotatable_keys(claim.tenant_id, after=b"", limit=1)).keys
    due = [DueKey(key=key, reason=RotationReason.RECORDS, due_s=0) for key in keys]
    assert (True,) == await store.mark_rotations(claim.tenant_id, due, events=[new_event()])
    await step_turn(store, in_pages=True)
    await begin_session(store, (await register(store))[0])
    await publish(store, 1002)
    if is_analyzed:
        await admin.execute("ANALYZE")
    await admin.execute("SET plan_cache_mode = force_generic_plan")
    for name, call in CALLS.items():
        # The arguments are fetched first: reading them whole is the test's own doing.
        arguments = re.findall(r"ARRAY\((.*?)\)", call)
        values = [await admin.fetchval(f"SELECT ARRAY({query})::text") for query in arguments]
        for query, value in zip(arguments, values, strict=True):
            call = call.replace(f"ARRAY({query})", f"'{value}'")  # noqa: PLW2901
        before = await scans(admin)
        async with admin.transaction():
            rows = await admin.fetch(f"SELECT * FROM {call}")
        assert rows or name == "list_chains"
        assert before == await scans(admin), name


async def test_hot_writes_read_no_table_whole(store, admin):
    """Confirming sessions and accepting records scans no table, also right after the first rows came."""
    await publish(store)
    devices = await register(store, 60)
    before = await scans(admin)
    claims = [new_claim(device) for device in devices]
    await confirm(store, *claims)
    await confirm(store, *claims)
    await confirm(store, *(new_claim(device) for device in devices))
    await store.accept_streams(claims[0].tenant_id, [new_stream(claim.sid) for claim in claims], now_s=NOW_S)
    keys = [new_reply_key(claim.sid) for claim in claims]
    await store.save_reply_keys(claims[0].tenant_id, keys, outstanding_max=8)
    keys += [new_reply_key(claim.sid, direction=2) for claim in claims]
    await store.accept_requests(claims[0].tenant_id, keys[len(claims) :], outstanding_max=8, now_s=NOW_S)
    asked = [(key.sid, key.request_id) for key in keys]
    await store.take_reply_keys(claims[0].tenant_id, asked, direction=1, bucket=1000, now_s=NOW_S)
    await store.reseal_reply_keys(keys)
    await store.drop_reply_keys(before=999, bucket=1000, limit=100)
    for claim in claims[:5]:
        await store.rekey_session(claim.tenant_id, new_rekey(claim.sid), event=new_event())
    await store.append_events(claims[0].tenant_id, [new_event() for _ in range(40)])
    await store.find_devices(claims[0].tenant_id, [urandom(32)])
    await store.close()  # ends its connections, which report their counts then
    assert before == await scans(admin)


def test_look_ups_that_cross_tenants_never_plan_a_whole_scan():
    """Functions with another's rights do not run `enter`: they carry the planner's setting themselves."""
    heads = re.findall(r"CREATE OR REPLACE FUNCTION.*?AS \$\$", schema_text(), flags=re.DOTALL)
    assert len(heads) > 20
    for head in heads:
        if "SECURITY DEFINER" in head:
            assert "SET search_path = pg_catalog, pg_temp" in head
            assert "SET enable_seqscan = off" in head


LOADED = 3000
MILLION = 1_000_000
READ_MAX = 64
"""Index entries that one call may read, whatever the tables hold; a walk over all devices reads 3000 at the least."""
LOAD = f"""
    SET session_replication_role = replica;
    INSERT INTO qflare.device (tenant_id, ref, device_id, state, key_version)
    SELECT {T}, sha256(g::text::bytea), 'loaded-' || g, 'active', 1 FROM generate_series(1, {LOADED}) AS g;
    INSERT INTO qflare.device_key (tenant_id, ref, key_version, kind, algorithm, public_key, state)
    SELECT {T}, sha256(g::text::bytea), 1, 'signature', 'ML-DSA-44', decode(repeat(md5(g::text), 82), 'hex'), 'active'
      FROM generate_series(1, {LOADED}) AS g;
    INSERT INTO qflare.device_key (tenant_id, ref, key_version, kind, algorithm, public_key, state)
    SELECT {T}, sha256(g::text::bytea), 1, 'kem', 'ML-KEM-1024', decode(repeat(md5(g::text), 98), 'hex'), 'active'
      FROM generate_series(1, {LOADED}) AS g;
    INSERT INTO qflare.session (tenant_id, sid, slot, ref, key_version, form, start_bucket, last_bucket, policy, state,
                                log_index, created_at)
    SELECT {T}, gen_random_uuid(), (999 + 288) / 192 % 4, sha256(g::text::bytea), 1, 1, 1000, 1287, 0, 'live', g, now()
      FROM generate_series(1, {LOADED}) AS g;
    INSERT INTO qflare.session_route (sid, slot, tenant_id) SELECT sid, slot, tenant_id FROM qflare.session
      ON CONFLICT DO NOTHING;
    INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)
    SELECT 1000, sid, tenant_id, 0, 0, decode(repeat('ab', 93), 'hex') FROM qflare.session ON CONFLICT DO NOTHING;
    RESET session_replication_role;
"""
HOT = {
    "get_device_public_key": ["find_devices"],
    "verify_session_key": ["find_session_tenants", "find_sessions", "find_chains", "find_pages"],
    "get_key_statistics": ["count_keys"],
    "list_devices": ["list_named_device_refs"],
}
"""The statements that each public call runs, by their names in database/queries."""
ENTERED = {"count_keys", "list_named_device_refs"}


async def reads(admin):
    """Return how many index entries were read, and how often each table was read whole, all statements included."""
    whole = await scans(admin)
    entries = await admin.fetchval("SELECT sum(idx_tup_read) FROM pg_stat_all_indexes WHERE schemaname = 'qflare'")
    return int(entries), whole


async def test_one_entry_far_into_the_log_reads_as_little_as_the_first(store, admin):
    """Reading an entry and its key does not walk over the keys of those before it, in no plan that comes of use."""
    await store.append_events(DEFAULT_TENANT, [new_sealed_event() for _ in range(LOADED)])
    await admin.execute("ANALYZE")
    before, _ = await reads(admin)
    for tenant_id in (DEFAULT_TENANT, None):
        for _ in range(12):
            (entry,) = await store.list_entries(tenant_id, first=LOADED - 9, limit=1)
            assert entry.sealed_key is not None
    await store.close()  # ends its connections, which report their counts then
    after, _ = await reads(admin)
    # With what it takes to open a connection, and what the appends had not reported yet.
    assert after - before <= 24 * READ_MAX + 2 * LOADED


@pytest.mark.parametrize("call", HOT)
async def test_calls_read_the_same_few_rows_of_a_million_devices(store, admin, call):
    """With statistics of a million devices no statement of a hot call, nested ones too, reads more than a handful."""
    await publish(store)
    (device,) = await register(store)
    claim = await begin_session(store, device)
    await admin.execute(LOAD)
    await admin.execute("ANALYZE")
    # The planner takes the rows a page from here: it believes in a million.
    for table, rows in (("device", MILLION), ("device_key", 2 * MILLION), ("session", MILLION), ("session_slot_2", MILLION),
                        ("session_route_slot_2", MILLION), ("session_state_slot_0", MILLION)):  # fmt: skip
        await admin.execute(f"UPDATE pg_class SET reltuples = {rows} WHERE oid = 'qflare.{table}'::regclass")
    arguments = {
        "find_devices": [UUID(int=0), [device.ref]],
        "find_session_tenants": [[UUID(bytes=claim.sid)]],
        "find_sessions": [UUID(int=0), [UUID(bytes=claim.sid)]],
        "find_chains": [UUID(int=0), [UUID(bytes=claim.sid)], 999, 1001],
        "find_pages": [UUID(int=0), [UUID(bytes=claim.sid)], 999, 1001],
        "count_keys": [UUID(int=0), 1000],
        "list_named_device_refs": [UUID(int=0), "loaded-21", 20, "loaded-2", "loaded-2\U0010ffff"],
    }
    for name in HOT[call]:
        async with admin.transaction():
            # These run in a transaction that has entered; the others enter by themselves.
            if name in ENTERED:
                await admin.execute("SELECT qflare.enter($1)", UUID(int=0))
            await admin.fetch(queries()[name].text, *arguments[name])  # plans, and reads the catalogue
        before = await reads(admin)
        async with admin.transaction():
            if name in ENTERED:
                await admin.execute("SELECT qflare.enter($1)", UUID(int=0))
            rows = await admin.fetch(queries()[name].text, *arguments[name])
        after = await reads(admin)
        assert rows or name == "find_pages", name
        assert before[1] == after[1], name
        assert after[0] - before[0] <= READ_MAX, (name, after[0] - before[0])
    # The measure itself: a statement that counts devices by walking an index is seen.
    before = await reads(admin)
    async with admin.transaction():
        await admin.execute("SET LOCAL enable_seqscan = off")
        await admin.fetchval("SELECT count(*) FROM qflare.device")
    assert (await reads(admin))[0] - before[0] > READ_MAX
