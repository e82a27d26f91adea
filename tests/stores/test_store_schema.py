import re
from importlib.resources import files

import asyncpg
import pytest

from postgres_database import psql_path, run_psql
from qflare.errors import ConfigError, SchemaMismatchError
from qflare.stores.postgres import check_schema, install_schema, open_store
from qflare.stores.postgres.definition import (
    Cardinality,
    parse_queries,
    queries,
    schema_text,
    schema_version,
)
from stores.schema_catalogue import catalogue


@pytest.fixture
async def empty(empty_database_dsn):
    connection = await asyncpg.connect(empty_database_dsn, timeout=30)
    yield connection
    await connection.close()


async def test_every_named_query_prepares(admin):
    """Each query of database/queries fits the schema."""
    assert len(queries()) > 30
    for query in queries().values():
        statement = await admin.prepare(query.text)
        if query.cardinality is not Cardinality.EXEC:
            assert statement.get_attributes(), query.name


def test_every_named_query_is_used():
    """No query stands in database/queries that no code names."""
    package = files("qflare") / "stores" / "postgres"
    code = "".join(item.read_text() for item in package.iterdir() if item.name.endswith(".py"))
    assert [] == [name for name in queries() if f'"{name}"' not in code]


@pytest.mark.skipif(psql_path() is None, reason="no psql in the wheel or the system")
async def test_schema_sets_up_a_database_by_psql_and_may_run_again(admin, empty, empty_database_dsn):
    """`psql dbname < database/schema.sql` makes the whole database; a second run changes nothing."""
    for _ in range(2):
        done = run_psql(empty_database_dsn, schema_text())
        assert (0, "") == (done.returncode, re.sub(r"^NOTICE.*\n", "", done.stderr, flags=re.MULTILINE))
        assert await catalogue(admin) == await catalogue(empty)


async def test_schema_is_plain_sql():
    """No psql command is needed to run it."""
    assert not re.search(r"^\\", schema_text(), flags=re.MULTILINE)


async def test_installing_twice_and_at_once_is_harmless(empty, empty_database_dsn):
    """Two workers that start on an empty database at once both find it set up."""
    second = await asyncpg.connect(empty_database_dsn, timeout=30)
    try:
        import asyncio

        await asyncio.gather(install_schema(empty), install_schema(second))
        await install_schema(empty)
        await check_schema(second)
    finally:
        await second.close()


async def test_a_missing_schema_is_named(empty, empty_database_dsn):
    """An empty database is told from a set-up one, with the remedy."""
    with pytest.raises(SchemaMismatchError, match=r"qflare migrate.*psql DBNAME < database/schema\.sql"):
        await check_schema(empty)
    with pytest.raises(SchemaMismatchError):
        await open_store(empty_database_dsn)


@pytest.mark.parametrize(("version", "remedy"), [(0, "qflare migrate"), (schema_version() + 1, "newer qflare")])
async def test_another_version_is_refused(admin, database_dsn, version, remedy):
    """A schema that is too old or too new is refused with what to do; schema.sql refuses it as well."""
    await admin.execute("ALTER TABLE qflare.schema_version DROP CONSTRAINT schema_version_positive")
    await admin.execute("DELETE FROM qflare.schema_version")
    await admin.execute("INSERT INTO qflare.schema_version (version) VALUES ($1)", version)
    with pytest.raises(SchemaMismatchError, match=remedy):
        await open_store(database_dsn)
    with pytest.raises(asyncpg.PostgresError, match="qflare migrate"):
        await admin.execute(schema_text())


async def test_every_constraint_has_a_name_that_begins_with_its_table(admin):
    """Constraints are part of the interface: `table_claim`, none named by PostgreSQL's own rules."""
    rows = await admin.fetch(
        "SELECT c.relname, o.conname FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid"
        " WHERE o.connamespace = 'qflare'::regnamespace AND o.contype <> 'n' AND NOT c.relispartition"
    )
    assert rows
    for row in rows:
        assert row["conname"].startswith(row["relname"] + "_"), row["conname"]
        assert not re.search(r"_(check|key|fkey)\d*$", row["conname"]), row["conname"]


async def test_every_unique_key_holds_the_tenant_or_the_bucket(admin):
    """Sharding by tenant needs the tenant in every unique key; the exceptions belong to the whole cluster."""
    rows = await admin.fetch(
        "SELECT c.relname, array_agg(a.attname::text) AS columns FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)"
        " WHERE c.relnamespace = 'qflare'::regnamespace AND i.indisunique AND NOT c.relispartition"
        " GROUP BY c.relname, i.indexrelid"
    )
    without = {row["relname"] for row in rows if not {"tenant_id", "bucket", "ticket_bucket"} & set(row["columns"])}
    assert without == {
        "schema_version",
        "server_identity",
        "server_key",
        "server_key_move",
        "bucket_mark",
        "store_pulse",
        "detector_share",
        "detector_clock",
        "worker_beat",
        "log_head",
        "log_node",
        "checkpoint",
        "audit_entry",
        "archived_leaf",
        "session_route",
        "tenant",
    }


def test_every_table_and_index_says_who_reads_it():
    """A comment stands above every table, index and function of the schema."""
    lines = schema_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"CREATE (TABLE|(UNIQUE )?INDEX|OR REPLACE FUNCTION)", line):
            assert lines[number - 1].startswith("--"), line


@pytest.mark.parametrize(
    "text",
    ["SELECT 1;", "-- name: a :one\n", "-- name: a :one\n-- only words\n", "SELECT 2;\n-- name: a :one\nSELECT 1;"],
)
def test_a_query_file_without_names_or_statements_is_refused(text):
    """Every statement has a name and every name a statement."""
    with pytest.raises(ConfigError):
        parse_queries(text, origin="x.sql")
