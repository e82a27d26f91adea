"""
From every earlier schema to the newest, whichever migrations there are, with rows that were written at each version.

`released/NNNN_rows.sql` holds rows as version NNNN writes them, `released/NNNN_queries.sql` the named queries of a
release: both stay as they are for ever.
"""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from qflare.errors import SchemaMismatchError, StoreError, StoreUnavailableError
from qflare.stores.postgres import check_schema, install_schema, migration, open_store, plan_migration
from qflare.stores.postgres.definition import Migration, migrations, parse_queries, schema_version
from qflare.stores.postgres.migration import apply_migrations, script_of
from stores.schema_catalogue import catalogue, columns_by_table, digests

HERE = Path(__file__).parent / "released"
RELEASED = (1,)
"""Schema versions of releases: whatever one of them reads, writes and calls, the newest schema has still."""
LATER = migrations()[1:]

LOOKED_AT = {
    "session_state_pkey": "0002: the key is wider; version 1 knows epoch 0 alone, whose rows stay unique",
    "server_identity_current_from_range": "0006: of a new column, whose default passes it",
    "server_identity_keys": "0006: notes the keys of a certificate; version 1 inserts one into an empty database alone",
    "bucket_key_begun": "0007: keeps a record beside the row, refuses nothing",
    "bucket_key_ended": "0007: keeps a record beside the row, refuses nothing",
    "bucket_mark_risen": "0007: moves records of buckets' keys, refuses nothing",
    "device_psk_version_range": "0010: of a new column, whose default passes it",
    "device_psk_version_rises": "0010: version 1 leaves the column at 0, at which any psk passes",
    "device_changed": "0007: notes and tells the change, refuses nothing",
    "device_key_moved": "0007: keeps the move, refuses nothing",
    "device_key_state_first": "0007: version 1 begins keys pre-active or active",
    "device_key_state_move": "0007: the same moves, told with the table's name",
    "device_two_persons": "0029: refuses nothing unless an operator turned two-person control on",
    "server_identity_two_persons": "0029: refuses nothing unless an operator turned two-person control on",
    "device_state_first": "0007: version 1 begins devices active",
    "log_node_leaf_pair_size": "0035: of a new column, null where the version before writes nodes",
    "log_head_headed_from_range": "0034: of a new column, null until the first heading",
    "audit_entry_type_known": "0018: version 1 writes types 1 and 2, which stay",
    "device_state_move": "0007: the same moves, told with the table's name",
    "enrolment_token_state_first": "0007: version 1 leaves the column to its default",
    "enrolment_token_state_known": "0007: version 1 leaves the column to its default",
    "enrolment_token_state_move": "0007: version 1 uses a token by enrol_devices alone, which moves it",
    "enrolment_token_state_reason_size": "0007: version 1 leaves the column to its default",
    "enrolment_token_used_of_state": "0007: version 1 uses a token by enrol_devices alone, which sets both",
    "device_psk_kept": "0019: keeps the psk's life beside the row, refuses nothing",
    "session_state_told": "0019: says why a session ends, refuses only another reason afterwards, which version 1 knows none of",
    "session_changed": "0007: notes and tells the change, refuses nothing",
    "session_state_first": "0007: version 1 begins sessions live",
    "session_state_move": "0007: version 1 ends live sessions alone",
}
"""
Constraints and triggers of released tables and domains that a migration added or changed, each with the reason why
rows and moves of the previous version pass it.  Nothing but a person can tell: hence the list.
"""
UNCHANGED_ROWS_EXCEPT: dict[str, str] = {
    "schema_version": "records the migrations themselves",
}
"""Tables whose old columns a migration may change in rows that stood, each with the reason."""

FORBIDDEN = {
    r"^\s*(BEGIN|COMMIT|ROLLBACK|START\s+TRANSACTION|SAVEPOINT\s+\w+)\s*;": "the runner holds the transaction",
    r"\bCONCURRENTLY\b|\bVACUUM\b": "does not run in a transaction",
    r"\bDROP\s+(TABLE|COLUMN|FUNCTION|DOMAIN|TYPE|SCHEMA|ROLE)\b": "the previous version uses it",
    r"\bRENAME\b": "the previous version uses the old name",
    r"\bALTER\s+COLUMN\s+\w+\s+(SET\s+DATA\s+)?TYPE\b": "rewrites the table under a lock that stops everybody",
    r"\bSET\s+NOT\s+NULL\b": "reads the whole table under a lock that stops everybody",
    r"\bADD\s+COLUMN\b(?![^,;]*\bDEFAULT\b)[^,;]*\bNOT\s+NULL\b": "the previous version does not fill it",
    r"\bDISABLE\s+(ROW\s+LEVEL\s+SECURITY|TRIGGER)\b": "opens what is closed",
    r"\b(lock_timeout|statement_timeout|session_replication_role)\b": "the runner sets it",
}
"""What stands in no migration, and why."""


@pytest.fixture
async def empty(empty_database_dsn):
    connection = await asyncpg.connect(empty_database_dsn, timeout=30)
    yield connection
    await connection.close()


async def build(connection, last):
    """Bring an empty database to version *last* by migrations, with the rows of each version on the way."""
    for step in migrations()[:last]:
        if step.version == 1:
            await connection.execute(step.text)
        else:
            await apply_migrations(connection, [step])
        rows = HERE / f"{step.version:04}_rows.sql"
        if rows.exists():
            await connection.execute(rows.read_text())


def made_up(text, *, ahead=1):
    """Return a migration that nobody wrote, *ahead* of the newest."""
    return Migration(version=schema_version() + ahead, name=f"made up {ahead}", text=text)


async def version_of(connection):
    return await connection.fetchval("SELECT max(version) FROM qflare.schema_version")


async def has_table(connection, name):
    return await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"qflare.{name}")


# From where to where ----------------------------------------------------------------------------------------------------


async def test_migrations_lead_to_the_schema(admin, empty):
    """A database brought up by migrations from the first on is the one that schema.sql makes, in every fact."""
    await empty.execute(migrations()[0].text)
    await apply_migrations(empty, LATER)
    expected, actual = await catalogue(admin), await catalogue(empty)
    for name, rows in expected.items():
        assert rows == actual[name], name
    tables = await columns_by_table(admin)
    counts = [
        [await each.fetchval(f"SELECT count(*) FROM qflare.{table}") for table in tables]  # noqa: S608 - catalogue
        for each in (admin, empty)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("start", [step.version for step in migrations()])
async def test_every_earlier_version_leads_to_the_schema_and_keeps_its_rows(admin, empty, start):
    """From each version, with rows of that version, to the newest: the same schema, and what stood stands."""
    await build(empty, start)
    columns = await columns_by_table(empty)
    before = await digests(empty, columns)
    assert (await plan_migration(empty)).steps == migrations()[start:]
    await install_schema(empty)
    await install_schema(empty)
    expected, actual = await catalogue(admin), await catalogue(empty)
    for name, rows in expected.items():
        assert rows == actual[name], name
    after = await digests(empty, columns)
    for table, digest in before.items():
        if table not in UNCHANGED_ROWS_EXCEPT:
            assert digest == after[table], table


async def test_the_rows_of_the_releases_fill_every_table_they_know(empty):
    """The test above is not empty by accident: at the first version every table has rows."""
    await build(empty, 1)
    counts = await digests(empty, await columns_by_table(empty))
    assert [] == [table for table, (count, _) in counts.items() if not count]


# Safe while the previous version runs -----------------------------------------------------------------------------------


def test_no_migration_holds_what_breaks_a_running_worker():
    """What would break or stop the version before is in no migration, comments aside."""
    for step in LATER:
        text = re.sub(r"--[^\n]*", "", step.text)
        for pattern, reason in FORBIDDEN.items():
            found = re.search(pattern, text, re.IGNORECASE | re.MULTILINE)
            assert found is None, f"migration {step.version}: {found[0] if found else ''!r}: {reason}"
        assert step.text.startswith("--"), f"migration {step.version} says in its first line what it is for"


@pytest.mark.parametrize(
    "text",
    [
        "COMMIT;",
        "ALTER TABLE qflare.device DROP COLUMN state;",
        "ALTER TABLE qflare.device RENAME COLUMN state TO condition;",
        "ALTER TABLE qflare.device ALTER COLUMN device_id TYPE varchar;",
        "ALTER TABLE qflare.device ALTER COLUMN sealed_psk SET NOT NULL;",
        "ALTER TABLE qflare.device ADD COLUMN a integer DEFAULT 1, ADD COLUMN b integer NOT NULL;",
        "DROP FUNCTION qflare.enter(uuid);",
        "CREATE INDEX CONCURRENTLY a ON qflare.device (state);",
    ],
)
def test_what_breaks_a_running_worker_is_found(text):
    """The patterns above find what they are for."""
    assert any(re.search(pattern, text, re.IGNORECASE | re.MULTILINE) for pattern in FORBIDDEN)


def test_a_column_with_a_default_is_allowed():
    """The patterns above let pass what the previous version does not notice."""
    text = "ALTER TABLE qflare.device ADD COLUMN a integer NOT NULL DEFAULT 1, ADD COLUMN b integer;"
    assert not any(re.search(pattern, text, re.IGNORECASE | re.MULTILINE) for pattern in FORBIDDEN)


COLUMN_FACTS = """
    SELECT c.relname || '.' || a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
           a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = '' AS is_required
      FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
     WHERE c.relnamespace = 'qflare'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped"""
FUNCTION_FACTS = """
    SELECT p.oid::regprocedure::text AS name, pg_get_function_arguments(p.oid) AS arguments,
           pg_get_function_result(p.oid) AS result FROM pg_proc AS p WHERE p.pronamespace = 'qflare'::regnamespace"""
PRIVILEGES = """
    SELECT format('%s %s %s', pg_get_userbyid(a.grantee), a.privilege_type, o.name) FROM (
        SELECT relname::text AS name, relacl AS acl FROM pg_class WHERE relnamespace = 'qflare'::regnamespace
        UNION ALL
        SELECT oid::regprocedure::text, proacl FROM pg_proc WHERE pronamespace = 'qflare'::regnamespace) AS o
     CROSS JOIN LATERAL aclexplode(o.acl) AS a"""
GUARDS = """
    SELECT conname AS name, CASE WHEN conrelid <> 0 THEN conrelid::regclass::text ELSE contypid::regtype::text END AS on,
           pg_get_constraintdef(oid) AS definition FROM pg_constraint
     WHERE connamespace = 'qflare'::regnamespace AND contype <> 'n' AND conparentid = 0
    UNION ALL
    SELECT t.tgname, t.tgrelid::regclass::text, pg_get_triggerdef(t.oid)
      FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
     WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND c.relnamespace = 'qflare'::regnamespace"""


@pytest.mark.parametrize("released", RELEASED)
async def test_what_a_release_uses_is_there_still(admin, empty, released):
    """Columns, types, functions and privileges of a release are in the newest schema, and nothing new is required."""
    await build(empty, released)
    old = {row["name"]: row for row in await empty.fetch(COLUMN_FACTS)}
    tables = {name.partition(".")[0] for name in old}
    new = {row["name"]: row for row in await admin.fetch(COLUMN_FACTS)}
    assert {name: row["type"] for name, row in old.items()} == {
        name: row["type"] for name, row in new.items() if name in old
    }
    required = {name for name, row in new.items() if row["is_required"] and name.partition(".")[0] in tables}
    assert required <= {name for name, row in old.items() if row["is_required"]}
    assert {tuple(row) for row in await empty.fetch(FUNCTION_FACTS)} <= {
        tuple(row) for row in await admin.fetch(FUNCTION_FACTS)
    }
    assert {row[0] for row in await empty.fetch(PRIVILEGES)} <= {row[0] for row in await admin.fetch(PRIVILEGES)}


@pytest.mark.parametrize("released", RELEASED)
async def test_what_guards_a_released_table_was_looked_at(admin, empty, released):
    """A constraint or trigger that is new or changed on what a release writes stands in the list, with its reason."""
    await build(empty, released)
    old = {tuple(row) for row in await empty.fetch(GUARDS)}
    known = {each[1] for each in old} | {f"qflare.{name}" for name in await columns_by_table(empty)}
    new = {tuple(row) for row in await admin.fetch(GUARDS)}
    assert [] == sorted({name for name, on, _ in new - old if on in known} - set(LOOKED_AT))


@pytest.mark.parametrize("released", RELEASED)
async def test_every_query_of_a_release_prepares(admin, released):
    """The named queries of a release fit the newest schema: its workers go on while it is migrated, and after."""
    queries = parse_queries((HERE / f"{released:04}_queries.sql").read_text(), origin="released")
    assert len(queries) > 30
    for query in queries:
        await admin.prepare(query.text)


async def test_a_running_worker_goes_on_when_the_schema_gets_newer(store, admin):
    """A worker that found its version at its start stays ready after a migration; one that starts then is refused."""
    await apply_migrations(admin, [made_up("-- nothing")])
    await store.check()
    with pytest.raises(SchemaMismatchError, match="newer qflare"):
        await check_schema(admin)
    with pytest.raises(SchemaMismatchError, match="newer qflare"):
        await install_schema(admin)


async def test_a_running_worker_stops_when_the_schema_gets_older(store, admin):
    """An older copy that was restored under a worker is told by its readiness."""
    await admin.execute("ALTER TABLE qflare.schema_version DROP CONSTRAINT schema_version_positive")
    await admin.execute("UPDATE qflare.schema_version SET version = version - 1")
    with pytest.raises(SchemaMismatchError, match="qflare migrate"):
        await store.check()


# The runner -------------------------------------------------------------------------------------------------------------


async def test_two_runs_at_once_apply_each_migration_once(admin, database_dsn):
    """Two that migrate at once both find it done, and nothing is done twice."""
    steps = [
        made_up("CREATE TABLE qflare.first (); SELECT pg_sleep(0.3);"),
        made_up("CREATE TABLE qflare.second (); SELECT pg_sleep(0.1);", ahead=2),
    ]
    second = await asyncpg.connect(database_dsn, timeout=30)
    applied = []
    try:
        await asyncio.gather(
            apply_migrations(admin, steps, after=applied.append), apply_migrations(second, steps, after=applied.append)
        )
    finally:
        await second.close()
    assert sorted(applied) == [step.version for step in steps]
    assert steps[-1].version == await version_of(admin)


async def test_a_migration_that_fails_leaves_the_version_before(admin):
    """A statement that fails undoes its migration whole, names it, and leaves the connection usable."""
    good, bad = made_up("CREATE TABLE qflare.good ();"), made_up("CREATE TABLE qflare.bad (); SELECT 1/0;", ahead=2)
    with pytest.raises(StoreError, match=rf"migration {bad.version} \(made up 2\).*stays at version {good.version}"):
        await apply_migrations(admin, [good, bad])
    assert (good.version, True, False) == (
        await version_of(admin),
        await has_table(admin, "good"),
        await has_table(admin, "bad"),
    )


async def test_a_migration_cut_in_the_middle_leaves_the_version_before(admin, database_dsn):
    """A server process that is killed in the middle leaves the version before, and a second run finishes."""
    step = made_up("CREATE TABLE qflare.half (); SELECT pg_sleep(30);")
    victim = await asyncpg.connect(database_dsn, timeout=30)
    running = asyncio.create_task(apply_migrations(victim, [step]))
    asleep = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    async with asyncio.timeout(60):
        while (process := await admin.fetchval(asleep)) is None:
            await asyncio.sleep(0.02)
    await admin.execute("SELECT pg_terminate_backend($1)", process)
    with pytest.raises(StoreUnavailableError):
        await running
    assert (schema_version(), False) == (await version_of(admin), await has_table(admin, "half"))
    await apply_migrations(admin, [made_up("CREATE TABLE qflare.half ();")])
    assert (step.version, True) == (await version_of(admin), await has_table(admin, "half"))


async def test_a_cancelled_migration_leaves_the_version_before(admin):
    """A cancelled run leaves nothing of its migration, and the connection outside any transaction."""
    step = made_up("CREATE TABLE qflare.half (); SELECT pg_sleep(30);")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await apply_migrations(admin, [step])
    assert not admin.is_in_transaction()
    assert (schema_version(), False) == (await version_of(admin), await has_table(admin, "half"))


async def test_a_migration_waits_for_a_lock_in_turns(admin, database_dsn, monkeypatch):
    """Who holds a table keeps the migration waiting, not whoever comes after it; then it goes through."""
    monkeypatch.setattr(migration, "LOCK_TIMEOUT_S", 1)
    step = made_up("ALTER TABLE qflare.device ADD COLUMN extra text;")
    holder = await asyncpg.connect(database_dsn, timeout=30)
    other = await asyncpg.connect(database_dsn, timeout=30)
    try:
        await holder.execute("BEGIN; SELECT FROM qflare.device;")
        running = asyncio.create_task(apply_migrations(admin, [step]))
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'qflare.device'::regclass)"
        async with asyncio.timeout(60):
            while not await other.fetchval(waiting):
                await asyncio.sleep(0.02)
        # Behind the waiting migration in the queue, and past it when its lock timeout ends.
        await other.fetch("SELECT FROM qflare.device", timeout=20)
        assert not running.done()
        await holder.execute("COMMIT")
        await running
    finally:
        await holder.close()
        await other.close()
    assert step.version == await version_of(admin)


async def test_a_lock_that_is_never_free_ends_with_a_remedy(admin, database_dsn, monkeypatch):
    """After so many attempts the migration gives up, says what to do, and leaves the version before."""
    monkeypatch.setattr(migration, "LOCK_TIMEOUT_S", 1)
    monkeypatch.setattr(migration, "ATTEMPTS_MAX", 2)
    holder = await asyncpg.connect(database_dsn, timeout=30)
    try:
        await holder.execute("BEGIN; SELECT FROM qflare.device;")
        with pytest.raises(StoreUnavailableError, match="pg_stat_activity"):
            await apply_migrations(admin, [made_up("ALTER TABLE qflare.device ADD COLUMN extra text;")])
    finally:
        await holder.close()
    assert schema_version() == await version_of(admin)


async def test_a_login_without_the_right_is_told_before_anything(admin):
    """A worker's login cannot migrate, and is told which one can."""
    await admin.execute("CREATE ROLE qflare_test_migrator NOLOGIN IN ROLE qflare_app")
    try:
        await admin.execute("SET ROLE qflare_test_migrator")
        with pytest.raises(StoreError, match="superuser"):
            await apply_migrations(admin, [made_up("SELECT 1;")])
    finally:
        await admin.execute("RESET ROLE")
        await admin.execute("DROP ROLE qflare_test_migrator")


def test_the_script_sets_its_limits_before_it_waits_for_anything():
    """Timeouts stand above the first lock, and the version is recorded in the same transaction."""
    script = script_of(made_up("SELECT 1;"))
    places = [
        script.index(part)
        for part in ("BEGIN", "lock_timeout", "statement_timeout", "advisory", "SELECT 1;", "COMMIT;")
    ]
    assert places == sorted(places)
    assert script.rindex("INSERT INTO qflare.schema_version") < script.rindex("COMMIT")


async def test_a_worker_that_finds_an_older_schema_names_the_command(empty, empty_database_dsn):
    """A start on an older schema is refused with the command that brings it up to date."""
    await build(empty, 1)
    await empty.execute("ALTER TABLE qflare.schema_version DROP CONSTRAINT schema_version_positive")
    await empty.execute("UPDATE qflare.schema_version SET version = 0")
    with pytest.raises(SchemaMismatchError, match="qflare migrate"):
        await open_store(empty_database_dsn)
