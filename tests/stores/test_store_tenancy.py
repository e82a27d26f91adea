"""Goal E1: a matrix of every table and verb, taken from the catalogue."""

# ruff: noqa: S608 - table names come from the catalogue
# ruff: noqa: ARG001 - the fixtures filled and tokens are asked for their effect

import asyncio
import random
from os import urandom

import asyncpg
import pytest

from qflare.model.device import KeyState
from qflare.model.ids import DEFAULT_TENANT, TenantId, WorkerId
from qflare.model.rotation import DueKey, RotationPolicy, RotationReason, SessionUse
from qflare.model.share import Share
from qflare.stores.postgres import PostgresStore
from store_records import (
    begin_session,
    new_event,
    new_operator,
    new_reply_key,
    new_response,
    new_sealed_event,
    new_sighting,
    new_stream,
    publish,
    register,
    step_turn,
)

pytestmark = pytest.mark.contract

OTHER = TenantId(bytes(range(16)))

TENANT_TABLES = """
    SELECT c.relname AS table_name
      FROM pg_class AS c
     WHERE c.relnamespace = 'qflare'::regnamespace AND c.relkind IN ('r', 'p')
       AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')
     ORDER BY c.relname
"""
TABLES = """
    SELECT c.relname AS table_name, c.relrowsecurity, c.relforcerowsecurity, c.relispartition,
           pg_get_userbyid(c.relowner) AS owner
      FROM pg_class AS c
     WHERE c.relnamespace = 'qflare'::regnamespace AND c.relkind IN ('r', 'p')
"""


@pytest.fixture
async def filled(store, admin):
    """A database in which two tenants have a row in every table that is a tenant's."""
    await store.save_tenant(OTHER, "other", event=new_event())
    await publish(store)
    for tenant_id in (DEFAULT_TENANT, OTHER):
        (device,) = await register(store, tenant_id=tenant_id)
        claim = await begin_session(store, device, tenant_id=tenant_id)
        await store.accept_streams(tenant_id, [new_stream(claim.sid)], now_s=1)
        await store.save_reply_keys(tenant_id, [new_reply_key(claim.sid)], outstanding_max=8)
        await store.append_events(tenant_id, [new_event(), new_sealed_event()])
        await store.save_rotation_policy(tenant_id, RotationPolicy(max_records=1), event=new_event())
        await store.count_use(tenant_id, [SessionUse(sid=claim.sid, records=1, bytes=1)])
        await admin.execute("UPDATE qflare.device_key SET created_at = created_at - interval '1 day'")
        (key,) = (await store.list_rotatable_keys(tenant_id, after=b"", limit=1)).keys
        due = DueKey(key=key, reason=RotationReason.RECORDS, due_s=0)
        assert await store.mark_rotations(tenant_id, [due], events=[new_event()]) == (True,)
        for version in (1, 2):
            await store.set_device_psk(tenant_id, device.ref, urandom(93), psk_version=version, event=new_event())
        (gone,) = await register(store, tenant_id=tenant_id)
        await store.set_device_state(tenant_id, gone.ref, KeyState.DEACTIVATED, reason="gone", event=new_event())
        await store.report_incidents(
            tenant_id, [new_sighting()], opened=[new_event()], raised=[new_event()], call_id=urandom(16)
        )
        assert await store.save_detector_state(tenant_id, b"state", after=0)
        for name in ("ann", "bob"):
            await store.add_operator(new_operator(tenant_id, name), event=new_event())
        # On and, by both, off again.
        await store.require_two_persons(tenant_id, by="ann", event=new_event())
        for name in ("ann", "bob"):
            await store.allow_one_person(tenant_id, by=name, asked=new_event(), ended=new_event())
        await store.ask_response(
            tenant_id, new_response(device=device, by=None, rule="r"), needs_two=False, event=new_event()
        )
    share = Share(worker_id=WorkerId(urandom(16)), number=1, counts=b"counts")
    await store.exchange_shares(share.worker_id, [share], after={}, keep_s=60, limit=1)
    await store.exchange_clocks(share.worker_id, offset_ms=1, keep_s=60)
    stage, _ = await step_turn(store, in_pages=True)
    assert "led" == stage
    return store


@pytest.fixture
async def tokens(admin):
    """A token of each tenant."""
    for tenant_id in (DEFAULT_TENANT, OTHER):
        await admin.execute(
            "INSERT INTO qflare.enrolment_token (tenant_id, token_id, device_id, secret_hash, expires_at)"
            " VALUES (encode($1, 'hex')::uuid, gen_random_uuid(), 'd', $2, now())",
            tenant_id,
            urandom(64),
        )


@pytest.fixture
def asker(admin):
    """The connection that the matrix is asked through; other modules put what stands between in its place."""
    return admin


async def act_as(connection, role, tenant_id):
    await connection.execute(f"SET LOCAL ROLE {role}")
    if tenant_id is not None:
        await connection.execute("SELECT set_config('qflare.tenant', encode($1, 'hex'), true)", tenant_id)


async def attempt(connection, role, tenant_id, statement):
    """Return how many rows a statement touched, or the class of what refused it; nothing stays."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await act_as(connection, role, tenant_id)
        try:
            status = await connection.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            return "refused"
        return int(status.rpartition(" ")[2])
    finally:
        await transaction.rollback()


async def test_no_verb_reaches_a_foreign_row(filled, tokens, admin, asker):
    """As the application, every table and verb touches 0 rows of another tenant, and all of them without a tenant."""
    tables = [row["table_name"] for row in await admin.fetch(TENANT_TABLES)]
    assert len(tables) >= 13 + 40
    parents = [name for name in tables if "_slot_" not in name]
    for table in parents:
        owned = await admin.fetchval(f"SELECT count(DISTINCT tenant_id) FROM qflare.{table}")
        assert owned == 2, table
    column = {"tenant": "name = name"}
    for table in tables:
        foreign = f"tenant_id <> '{DEFAULT_TENANT.hex()}'"
        for tenant_id, where in ((DEFAULT_TENANT, foreign), (None, "true"), (urandom(16), "true")):
            for statement in (
                f"SELECT 1 FROM qflare.{table} WHERE {where}",
                f"UPDATE qflare.{table} SET {column.get(table, 'tenant_id = tenant_id')} WHERE {where}",
                f"DELETE FROM qflare.{table} WHERE {where}",
                f"SELECT 1 FROM qflare.{table} WHERE {where} FOR SHARE",
            ):
                assert await attempt(asker, "qflare_app", tenant_id, statement) in {0, "refused"}, (table, statement)
            copy = f"INSERT INTO qflare.{table} SELECT * FROM qflare.{table}"
            assert await attempt(asker, "qflare_app", None, copy) in {0, "refused"}, table
        assert "refused" == await attempt(asker, "qflare_app", DEFAULT_TENANT, f"TRUNCATE qflare.{table}"), table


async def test_own_rows_are_seen(filled, tokens, admin, asker):
    """The matrix is not empty by accident: a tenant sees its own rows of every table."""
    for row in await admin.fetch(TENANT_TABLES):
        if "_slot_" not in row["table_name"]:
            statement = f"SELECT 1 FROM qflare.{row['table_name']}"
            assert await attempt(asker, "qflare_app", OTHER, statement) >= 1, row["table_name"]


@pytest.mark.parametrize("table", ["device", "session_route", "audit_entry", "stream"])
async def test_a_row_of_another_tenant_cannot_be_written(filled, asker, table):
    """Writing a row under a foreign tenant is refused by the policy."""
    values = {
        "device": "('{t}', sha256('x'), 'x', 'active', '', now(), 1, NULL, now())",
        "session_route": "(gen_random_uuid(), 1, '{t}')",
        "audit_entry": "(999, '{t}', 2, 'system', 'info', NULL, sha256('\\x0001'), '\\x01', '{{}}', now())",
        "stream": "('{t}', gen_random_uuid(), gen_random_uuid(), 1000, 1, 0)",
    }[table].format(t=OTHER.hex())
    assert "refused" == await attempt(
        asker, "qflare_app", DEFAULT_TENANT, f"INSERT INTO qflare.{table} VALUES {values}"
    )
    assert 1 == await attempt(asker, "qflare_app", OTHER, f"INSERT INTO qflare.{table} VALUES {values}")


async def test_row_security_is_on_and_forced_everywhere(admin):
    """Every table with a tenant has row-level security, forced, and a policy unless it is a partition."""
    tenant_tables = {row["table_name"] for row in await admin.fetch(TENANT_TABLES)}
    policies = {
        row["tablename"] for row in await admin.fetch("SELECT tablename FROM pg_policies WHERE schemaname = 'qflare'")
    }
    for row in await admin.fetch(TABLES):
        if row["table_name"] in tenant_tables:
            assert row["relrowsecurity"], row["table_name"]
            assert row["relforcerowsecurity"], row["table_name"]
            assert (row["table_name"] in policies) != row["relispartition"], row["table_name"]


async def test_the_owner_sees_nothing_either(filled, admin, asker):
    """Security is forced on the owner too."""
    for row in await admin.fetch(TENANT_TABLES):
        statement = f"SELECT 1 FROM qflare.{row['table_name']}"
        assert 0 == await attempt(asker, "qflare_owner", DEFAULT_TENANT, statement), row["table_name"]


async def test_the_application_owns_nothing_and_bypasses_nothing(admin):
    """qflare_app and qflare_auditor own no object; no role of ours logs in, is a superuser or bypasses security."""
    for role in ("qflare_app", "qflare_auditor"):
        for catalogue, column in (("pg_class", "relowner"), ("pg_proc", "proowner"), ("pg_namespace", "nspowner")):
            assert 0 == await admin.fetchval(f"SELECT count(*) FROM {catalogue} WHERE {column} = $1::regrole", role), (
                role,
                catalogue,
            )
    roles = await admin.fetch("SELECT * FROM pg_roles WHERE rolname LIKE 'qflare\\_%'")
    assert 4 == len(roles)
    for role in roles:
        assert not any(
            role[power] for power in ("rolsuper", "rolcanlogin", "rolbypassrls", "rolcreaterole", "rolcreatedb")
        )


async def test_the_auditor_reads_all_and_writes_nothing(filled, tokens, admin, asker):
    """The auditor sees every tenant's rows and no verb of his changes one."""
    for row in await admin.fetch(TABLES):
        table = row["table_name"]
        if not row["relispartition"]:
            rows = await admin.fetchval(f"SELECT count(*) FROM qflare.{table}")
            assert rows == await attempt(asker, "qflare_auditor", None, f"SELECT 1 FROM qflare.{table}"), table
        for statement in (
            f"DELETE FROM qflare.{table}",
            f"TRUNCATE qflare.{table}",
            f"INSERT INTO qflare.{table} DEFAULT VALUES",
        ):
            assert "refused" == await attempt(asker, "qflare_auditor", None, statement), statement


async def test_functions_that_cross_tenants_are_few_and_narrow(admin):
    """Only the listed functions run with another's rights, and PUBLIC may call none of ours."""
    rows = await admin.fetch(
        "SELECT proname, prosecdef, pg_get_userbyid(proowner) AS owner,"
        " has_function_privilege('public', oid, 'EXECUTE') AS is_public FROM pg_proc"
        " WHERE pronamespace = 'qflare'::regnamespace"
    )
    definers = {(row["proname"], row["owner"]) for row in rows if row["prosecdef"]}
    crossing = {"find_session_tenants", "list_chains", "save_chains", "list_tenants", "find_leaves", "count_expired"}
    crossing |= {"list_rotation_policies"}
    crossing |= {"list_reply_keys", "reseal_reply_keys", "drop_reply_keys"}
    crossing |= {
        "lead_turn",
        "gather_turn_chains",
        "list_turn_chains",
        "list_turn_pages",
        "list_turned",
        "list_late_chains",
        "save_turn",
    }
    crossing |= {
        "list_changes",
        "drop_changes",
        "list_limits",
        "count_responses",
        "drop_finished",
        "erase_mentions",
        "drop_archived_entries",
    }
    keeping = {
        "begin_bucket_key",
        "turn_bucket_keys",
        "end_bucket_key",
        "keep_bucket_record_move",
        "keep_server_key_move",
    }
    owning = {"empty_slots", "empty_session_slots", "empty_call_slots", "move_bucket_record"} | keeping
    assert definers == {(name, "qflare_maintenance") for name in crossing} | {(name, "qflare_owner") for name in owning}
    assert not any(row["is_public"] for row in rows)


async def test_nothing_of_a_tenant_stays_on_the_connection(filled, database_dsn):
    """After a call the connection is nobody's: no role, no tenant (the pool's reset would not undo SET ROLE)."""
    pool = await asyncpg.create_pool(database_dsn, min_size=1, max_size=1)
    try:
        store = PostgresStore(pool, owns_pool=False)
        before = await pool.fetchval("SELECT current_user")
        await store.find_sessions(OTHER, [urandom(16)])
        await store.list_devices(OTHER, limit=1)
        await store.list_entries(None, first=0, limit=1)
        assert before == await pool.fetchval("SELECT current_user")
        assert "" == await pool.fetchval("SELECT coalesce(current_setting('qflare.tenant', true), '')")
    finally:
        await pool.close()


async def test_a_plain_login_that_is_a_member_of_qflare_app_can_do_all_of_it(filled, admin, database_dsn):
    """Production logs in as a member of qflare_app; the privileges suffice and reading across tenants does not."""
    name = f"qflare_test_login_{urandom(4).hex()}"
    await admin.execute(f"CREATE ROLE {name} NOLOGIN IN ROLE qflare_app")

    async def become(connection):
        await connection.execute(f"SET SESSION AUTHORIZATION {name}")

    pool = await asyncpg.create_pool(database_dsn, min_size=1, max_size=1, init=become)
    try:
        store = PostgresStore(pool, owns_pool=False)
        await store.check()
        await publish(store, 50, 1002)
        (device,) = await register(store)
        await begin_session(store, device, bucket=50)
        assert 1 == await store.drop_buckets(before=51)
        assert 1 == await store.expire_sessions(before_bucket=51 + 288)
        for is_late in (False, True):
            assert "led" == (await step_turn(store, 1002, is_late=is_late))[0]
        assert 1002 == (await store.find_turn()).bucket
        with pytest.raises(Exception, match="qflare_auditor"):
            await store.list_entries(None, first=0, limit=1)
    finally:
        await pool.close()
        await admin.execute(f"DROP ROLE {name}")


async def test_many_tenants_with_cancellations_never_mix(store):
    """Goal E2: 5,000 requests of 50 tenants over few connections, some cancelled, see their own rows alone."""
    tenants = [TenantId(urandom(16)) for _ in range(50)]
    devices = {}
    for number, tenant_id in enumerate(tenants):
        await store.save_tenant(tenant_id, f"tenant {number}", event=new_event())
        devices[tenant_id] = (await register(store, tenant_id=tenant_id))[0]
    seeded = random.Random(11)
    refs = [device.ref for device in devices.values()]

    async def ask(tenant_id):
        found = await store.find_devices(tenant_id, refs)
        listed = await store.list_devices(tenant_id, limit=50)
        assert {devices[tenant_id].ref} == set(found) == {device.ref for device in listed}

    async def one():
        task = asyncio.create_task(ask(seeded.choice(tenants)))
        if seeded.random() < 0.3:
            await asyncio.sleep(seeded.random() * 0.01)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return 0
        return 1

    answered = 0
    for _ in range(50):
        answered += sum(await asyncio.gather(*(one() for _ in range(100))))
    assert answered > 3000
