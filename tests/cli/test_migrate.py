"""`qflare migrate` against a real database."""

import asyncio
import sys

import asyncpg
import pytest

from cli.commands import qflare
from qflare.cli.exits import ExitCode
from qflare.stores.postgres.definition import migrations, schema_version
from service.processes import environment
from stores.schema_catalogue import catalogue


@pytest.fixture
async def empty(empty_database_dsn):
    connection = await asyncpg.connect(empty_database_dsn, timeout=30)
    yield connection
    await connection.close()


async def run(folder, *arguments, **more):
    return await asyncio.to_thread(qflare, folder, "migrate", *arguments, **more)


async def test_an_empty_database_is_set_up_once(empty, empty_database_dsn, admin, tmp_path):
    """The plan changes nothing, the command sets up the whole schema, and a second run finds nothing to do."""
    planned = await run(tmp_path, "--plan", "--json", QFLARE_DSN=empty_database_dsn)
    assert (0, None, schema_version()) == (planned.code, planned.json["found"], planned.json["version"])
    assert await empty.fetchval("SELECT to_regnamespace('qflare') IS NULL")
    done = await run(tmp_path, QFLARE_DSN=empty_database_dsn)
    assert (0, f"applied the whole schema, version {schema_version()}\n") == (done.code, done.out)
    assert await catalogue(admin) == await catalogue(empty)
    again = await run(tmp_path, "--json", "--dsn", empty_database_dsn)
    assert (0, []) == (again.code, again.json["steps"])


async def test_an_older_database_is_brought_up_to_date(empty, empty_database_dsn, tmp_path):
    """From the first version on every later migration is named by the plan and applied by the command."""
    await empty.execute(migrations()[0].text)
    expected = [f"{step.version} {step.name}" for step in migrations()[1:]]
    planned = await run(tmp_path, "--plan", "--json", QFLARE_DSN=empty_database_dsn)
    assert (1, expected, True) == (planned.json["found"], planned.json["steps"], planned.json["is_plan"])
    done = await run(tmp_path, "--json", QFLARE_DSN=empty_database_dsn)
    assert (0, expected) == (done.code, done.json["steps"])
    assert schema_version() == await empty.fetchval("SELECT max(version) FROM qflare.schema_version")


@pytest.mark.parametrize("arguments", [(), ("--plan",)])
async def test_a_newer_database_is_refused(admin, database_dsn, tmp_path, arguments):
    """A schema newer than the command is left alone, with exit code 4 and what to install."""
    await admin.execute("INSERT INTO qflare.schema_version (version) VALUES ($1)", schema_version() + 1)
    refused = await run(tmp_path, *arguments, QFLARE_DSN=database_dsn)
    assert ExitCode.UNAVAILABLE == refused.code
    assert "install a newer qflare" in refused.line


async def test_a_database_that_is_away_is_exit_code_4(tmp_path):
    """No answer is one line and a code of its own."""
    away = await run(tmp_path, QFLARE_DSN="postgresql://x@127.0.0.1:1/x")
    assert ExitCode.UNAVAILABLE == away.code
    assert away.line


async def test_the_embedded_database_migrates_by_itself_and_by_command(tmp_path):
    """The plan opens the embedded database without setting it up; the command then does."""
    planned = await run(tmp_path, "--plan", "--json", "--data-dir", tmp_path / "data")
    assert (0, None) == (planned.code, planned.json["found"])
    done = await run(tmp_path, "--json", "--data-dir", tmp_path / "data")
    assert (0, None) == (done.code, done.json["found"])
    again = await run(tmp_path, "--plan", "--json", "--data-dir", tmp_path / "data")
    assert (schema_version(), []) == (again.json["found"], again.json["steps"])


async def test_a_killed_command_leaves_a_whole_version(empty, empty_database_dsn, tmp_path):
    """`kill -9` of the command while it waits leaves nothing half done, and the next run finishes."""
    key = "hashtextextended('qflare.schema', 0)"
    await empty.execute(f"SELECT pg_advisory_lock({key})")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "qflare",
        "migrate",
        cwd=tmp_path,
        env=environment(tmp_path, QFLARE_DSN=empty_database_dsn),
    )
    async with asyncio.timeout(30):
        while not await empty.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        ):
            await asyncio.sleep(0.02)
    process.kill()
    await process.wait()
    assert await empty.fetchval("SELECT to_regnamespace('qflare') IS NULL")
    await empty.execute(f"SELECT pg_advisory_unlock({key})")
    done = await run(tmp_path, QFLARE_DSN=empty_database_dsn)
    assert 0 == done.code, done.err
    assert schema_version() == await empty.fetchval("SELECT max(version) FROM qflare.schema_version")
