"""No look-up reads a table whole: neither while it has no statistics yet, nor with rows and statistics."""

import re

import pytest
from qflare.stores.postgres.definition import schema_text
from store_records import begin_session, new_event, new_stream, publish, register

CALLS = {
    "find_devices": "SELECT * FROM qflare.find_devices($T, ARRAY(SELECT sha256(i::text::bytea) FROM generate_series(1, 9) i))",
    "find_sessions": "SELECT * FROM qflare.find_sessions($T, ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 9)))",
    "find_chains": "SELECT * FROM qflare.find_chains($T, ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 9)), 999, 1001)",
    "find_session_tenants": "SELECT * FROM qflare.find_session_tenants(ARRAY(SELECT gen_random_uuid() FROM generate_series(1, 9)))",
    "list_chains": "SELECT * FROM qflare.list_chains(1000, 10, gen_random_uuid())",
    "find_leaves": "SELECT * FROM qflare.find_leaves('{1,2,3}')",
    "accept_streams": "SELECT * FROM qflare.accept_streams($T, ARRAY[gen_random_uuid()], '{1}', ARRAY[gen_random_uuid()], '{1000}', now())",
}
SMALL = "bucket_key|bucket_mark|log_head"


async def plans_of(admin, call):
    """Return the plans of every statement that a call ran, by auto_explain."""
    seen = []
    listener = lambda _connection, message: seen.append(message.message)  # noqa: E731
    admin.add_log_listener(listener)
    try:
        await admin.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;"
            "SET auto_explain.log_level = 'notice'; SET client_min_messages = 'notice'; SET plan_cache_mode = force_generic_plan")
        async with admin.transaction():
            await admin.execute(call.replace("$T", "'00000000-0000-0000-0000-000000000000'"))
    finally:
        admin.remove_log_listener(listener)
    return seen


async def has_auto_explain(admin):
    return await admin.fetchval(
        "SELECT count(*) FROM pg_available_extensions WHERE name = 'auto_explain'") or await _loads(admin)


async def _loads(admin):
    try:
        await admin.execute("LOAD 'auto_explain'")
    except Exception:  # noqa: BLE001 - whatever the reason, it is not there
        return False
    return True


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_look_ups_walk_an_index(store, admin, is_analyzed):
    """Every look-up's plan is made of index scans on keys."""
    if not await has_auto_explain(admin):
        pytest.skip("this PostgreSQL carries no auto_explain")
    await publish(store)
    devices = await register(store, 60)
    for device in devices:
        claim = await begin_session(store, device)
        await store.accept_streams(claim.tenant_id, [new_stream(claim.sid)], now_s=1)
    await store.append_events(claim.tenant_id, [new_event()])
    if is_analyzed:
        await admin.execute("ANALYZE")
    for name, call in CALLS.items():
        plans = await plans_of(admin, call)
        text = "\n".join(plans)
        assert "Index" in text, (name, text)
        for table in re.findall(r"Seq Scan on (\w+)", text):
            assert re.fullmatch(SMALL, table), (name, table, text)


def test_look_ups_that_cross_tenants_never_plan_a_whole_scan():
    """Functions with another's rights do not run `enter`: they carry the planner's setting themselves."""
    blocks = re.findall(r"CREATE OR REPLACE FUNCTION (qflare\.\w+).*?AS \$\$", schema_text(), flags=re.DOTALL)
    assert len(blocks) > 20
    for head in re.findall(r"CREATE OR REPLACE FUNCTION.*?AS \$\$", schema_text(), flags=re.DOTALL):
        if "SECURITY DEFINER" in head:
            assert "SET search_path = pg_catalog, pg_temp" in head
            assert "SET enable_seqscan = off" in head
