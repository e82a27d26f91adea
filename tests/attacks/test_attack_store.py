"""Attacks on the database: the application's role left, functions with rights misled, transactions led into each other."""

import asyncio
import os
from uuid import UUID

import asyncpg
import pytest

from qflare.clock import utc
from qflare.errors import StoreUnavailableError
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.token import EnrolmentClaim, TokenRecord
from store_records import NOW_S, new_device, new_event


@pytest.fixture(name="worker_dsn")
async def _worker_dsn(admin, database_dsn):
    """A login as an operator should make it: a member of qflare_app and of nothing else."""
    name = f"worker_{os.urandom(4).hex()}"
    await admin.execute(f"CREATE ROLE {name} LOGIN NOSUPERUSER")
    await admin.execute(f"GRANT qflare_app TO {name}")
    yield database_dsn.replace("qflare@", f"{name}@", 1)
    await admin.execute(f"DROP OWNED BY {name}")
    await admin.execute(f"DROP ROLE {name}")


@pytest.fixture(name="worker")
async def _worker(worker_dsn):
    connection = await asyncpg.connect(worker_dsn, timeout=30)
    yield connection
    await connection.close()


ESCAPES = (
    "SET ROLE qflare_owner",
    "SET ROLE qflare_maintenance",
    "SET ROLE qflare_auditor",
    "SET SESSION AUTHORIZATION qflare_owner",
    "SET row_security = off; SELECT count(*) FROM qflare.session",
    "ALTER TABLE qflare.session DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE qflare.session NO FORCE ROW LEVEL SECURITY",
    "CREATE POLICY all_rows ON qflare.session USING (true)",
    "SELECT * FROM qflare.session_slot_0",
    "TRUNCATE qflare.stream",
    "DELETE FROM qflare.audit_entry",
    "UPDATE qflare.audit_entry SET data = '{}'",
    "UPDATE qflare.checkpoint SET time_s = 1",
    "DELETE FROM qflare.handshake",
    "DELETE FROM qflare.stream",
    "CREATE TABLE qflare.mine (x integer)",
    "CREATE FUNCTION qflare.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION qflare.list_tenants() RETURNS TABLE (tenant_id uuid, name text) LANGUAGE sql AS 'SELECT 1'",
    "ALTER FUNCTION qflare.list_tenants() RESET ALL",
    "GRANT qflare_owner TO CURRENT_USER",
    "COPY qflare.session TO PROGRAM 'true'",
    "SELECT pg_read_file('pg_hba.conf')",
    "SELECT lo_import('/etc/hostname')",
    "CREATE EXTENSION plpgsql",
)


async def attempt(worker, statement, *, as_app):
    async with worker.transaction():
        if as_app:
            await worker.execute("SELECT qflare.enter($1)", UUID(bytes=bytes(DEFAULT_TENANT)))
        await worker.execute(statement)


@pytest.mark.parametrize("as_app", [False, True])
async def test_no_statement_leads_out_of_the_role(worker, as_app):
    """Neither the login nor what it becomes inside a transaction can take another role, drop a policy or undo the log."""
    for statement in ESCAPES:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await attempt(worker, statement, as_app=as_app)
        assert caught.value.sqlstate in {"42501", "42710", "0LP01", "42809"}, statement


async def test_temporary_objects_mislead_no_function_with_rights(worker, store):
    """Tables and functions of the caller's own, first in every path, are not what the functions with rights use."""
    tenant = os.urandom(16)
    await store.save_tenant(tenant, "real", event=new_event())
    async with worker.transaction():
        await worker.execute("SELECT qflare.enter($1)", UUID(bytes=bytes(DEFAULT_TENANT)))
        await worker.execute("CREATE TEMP TABLE tenant (tenant_id uuid, name text)")
        await worker.execute("CREATE TEMP TABLE session_route (sid uuid, slot smallint, tenant_id uuid)")
        await worker.execute("CREATE TEMP TABLE bucket_key (bucket bigint)")
        await worker.execute(
            "CREATE FUNCTION pg_temp.coalesce_uuid(uuid, uuid) RETURNS uuid LANGUAGE sql AS 'SELECT $2'"
        )
        await worker.execute("SET LOCAL search_path = pg_temp, qflare, pg_catalog")
        names = {row["name"] for row in await worker.fetch("SELECT * FROM qflare.list_tenants()")}
        assert {"default", "real"} == names
        assert [] == await worker.fetch("SELECT * FROM qflare.find_session_tenants($1)", [UUID(int=1)])
        assert 0 == await worker.fetchval("SELECT qflare.empty_slots()")


async def test_functions_with_rights_name_their_path(admin):
    """Every SECURITY DEFINER function searches pg_catalog first and pg_temp last, and the public may call none."""
    rows = await admin.fetch(
        "SELECT p.proname, p.proconfig, has_function_privilege('public', p.oid, 'EXECUTE') AS is_public "
        "FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'qflare' AND p.prosecdef"
    )
    assert rows
    for row in rows:
        assert "search_path=pg_catalog, pg_temp" in row["proconfig"], row["proname"]
        assert not row["is_public"], row["proname"]


async def test_enrolments_that_cross_end_in_one_order(store):
    """Batches that name the same devices in opposite orders do not lock each other up: every claim gets its verdict."""
    for _ in range(12):
        devices = [new_device() for _ in range(6)]
        batches = []
        for order in (devices, devices[::-1]):
            claims = []
            for device in order:
                # Other keys under the same name, each with a token of its own.
                mine = new_device(device.device_id)
                token_id = os.urandom(16)
                await store.add_token(
                    TokenRecord(
                        token_id=token_id,
                        tenant_id=DEFAULT_TENANT,
                        device_id=device.device_id,
                        secret_hash=os.urandom(64),
                        expires_at=utc(NOW_S + 600),
                    ),
                    event=new_event(),
                )
                claims.append(EnrolmentClaim(token_id=token_id, key_hash=os.urandom(64), device=mine))
            batches.append(claims)
        ended = await asyncio.gather(
            *(
                store.enrol_devices(DEFAULT_TENANT, claims, events=[new_event() for _ in claims], now_s=NOW_S)
                for claims in batches
            ),
            return_exceptions=True,
        )
        assert [] == [end for end in ended if isinstance(end, StoreUnavailableError)]
        verdicts = [{outcome.result.value for outcome in results} for results, _ in ended]
        assert {"enrolled", "device-exists"} >= set.union(*verdicts)


@pytest.mark.parametrize(("chosen", "expected"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")])
async def test_commit_is_durable_whatever_the_operator_has_set(admin, database_dsn, chosen, expected):
    """Where commits may return before they are on the disk, those of the application do not."""
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = {chosen}")
    connection = await asyncpg.connect(database_dsn, timeout=30)
    try:
        assert chosen == await connection.fetchval("SHOW synchronous_commit")
        async with connection.transaction():
            await connection.execute("SELECT qflare.enter($1)", UUID(bytes=bytes(DEFAULT_TENANT)))
            assert expected == await connection.fetchval("SHOW synchronous_commit")
        assert chosen == await connection.fetchval("SHOW synchronous_commit")
    finally:
        await connection.close()
