"""What accepting a restored copy leaves in each table: nothing that a copy must not bring back."""

# ruff: noqa: S608 - table names come from the catalogue
# ruff: noqa: ARG001 - the fixtures filled and tokens are asked for their effect
# ruff: noqa: F811 - fixtures of another module

import pytest

from store_records import new_event, new_identity
from stores.test_store_tenancy import filled, tokens  # noqa: F401 - fixtures

TABLES = """
    SELECT c.relname AS name FROM pg_class AS c
     WHERE c.relnamespace = 'qflare'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     ORDER BY c.relname
"""
KEPT = "kept as they are"
EMPTIED = "emptied"
RULES = {
    "archived_leaf": KEPT,
    "audit_entry": KEPT,
    "audit_key": KEPT,
    "bucket_key": EMPTIED,
    "bucket_mark": "bucket = 5000",
    "bucket_record": "state = 'destroyed'",
    # What each record lost on its way stands here, and one more move that says so.
    "bucket_record_move": "true",
    "bucket_turn": EMPTIED,
    "call": KEPT,
    "change": EMPTIED,
    "checkpoint": KEPT,
    "device": KEPT,
    "device_count": KEPT,
    "device_key": KEPT,
    "device_key_move": KEPT,
    "device_psk": KEPT,
    "device_psk_move": KEPT,
    "device_use": KEPT,
    "enrolment_token": "expires_at <= now() OR used_at IS NOT NULL",
    "handshake": EMPTIED,
    "detector_clock": KEPT,
    "two_person_control": KEPT,
    "worker_beat": KEPT,
    "detector_share": KEPT,
    "detector_state": KEPT,
    "incident": KEPT,
    "log_head": KEPT,
    "log_node": KEPT,
    "operator": KEPT,
    "reply_key": EMPTIED,
    "response": KEPT,
    "rotation_mark": KEPT,
    "rotation_policy": KEPT,
    "schema_version": KEPT,
    "server_identity": KEPT,
    "server_key": KEPT,
    "server_key_move": KEPT,
    "session": "state <> 'live' AND ended_at IS NOT NULL",
    "session_count": "live = 0",
    "session_page": EMPTIED,
    "session_route": KEPT,
    "session_state": EMPTIED,
    # In another life; accepting raises it at its very end, when the keeper takes the database over.
    "store_pulse": "life <> '00000000-0000-0000-0000-000000000000'",
    "stream": EMPTIED,
    "tenant": KEPT,
}
"""What is true of each table's rows afterwards; a table that a migration adds must be thought of here."""


async def contents(admin, table):
    """How many rows there are, and what tells their values."""
    return await admin.fetchrow(
        f"SELECT count(*) AS rows, md5(coalesce(string_agg(t::text, chr(10) ORDER BY t::text), '')) AS values"
        f"  FROM qflare.{table} AS t"
    )


@pytest.fixture
async def fuller(store, filled, tokens, admin):
    """Rows also where no tenant has any, and a session that was rekeyed."""
    await store.save_identity(new_identity(), event=new_event())
    await store.beat_worker(bytes(16), lately_s=60)
    return store


async def test_every_table_of_a_copy_is_kept_ended_or_emptied(fuller, admin):
    """Of each table it is said what accepting a copy does to it, and that is what happens, in every tenant."""
    tables = [row["name"] for row in await admin.fetch(TABLES)]
    assert set(RULES) == set(tables)
    before = {table: await contents(admin, table) for table in tables}
    empty = {table for table in tables if not before[table]["rows"]}
    assert empty <= {"archived_leaf", "bucket_record_move", "checkpoint", "log_node", "server_key_move"}
    live = await admin.fetchval("SELECT count(*) FROM qflare.session WHERE state = 'live'")
    assert live == await fuller.begin_anew(bucket=5000)
    for table, rule in RULES.items():
        after = await contents(admin, table)
        if rule is KEPT:
            assert before[table] == after, table
        elif rule is EMPTIED:
            assert 0 == after["rows"], table
        else:
            assert before[table]["rows"] <= after["rows"], table
            assert 0 == await admin.fetchval(f"SELECT count(*) FROM qflare.{table} WHERE NOT ({rule})"), table


async def test_changes_of_another_cluster_are_not_news_for_ever(fuller, admin):
    """Transaction ids in a copy may be far ahead of this cluster's: accepting leaves none that each look would find."""
    await admin.execute("UPDATE qflare.change SET xid = '9000000000000000000'")
    told = await fuller.list_changes(None, limit=100)
    assert (await fuller.list_changes(told.mark, limit=100)).changes
    await fuller.begin_anew(bucket=5000)
    told = await fuller.list_changes(told.mark, limit=100)
    assert () == told.changes
