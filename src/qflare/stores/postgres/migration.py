"""
Bringing an older schema up to date: one migration after the other, each one transaction.

A migration's statements run inside a script that is whole in itself (`script_of`): it sets the timeouts, waits for the
lock that installing takes too, checks that the version before is the one that stands, and records its own.  Nothing
of it outlives the transaction, so that it runs through PgBouncer as well, and a crash leaves the version before.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Final

import asyncpg

from qflare.errors import StoreError, StoreUnavailableError
from qflare.stores.postgres.failures import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asyncpg.pool import PoolConnectionProxy

    from qflare.stores.postgres.definition import Migration

STATEMENT_TIMEOUT_S: Final = 300
"""For one statement of a migration."""
LOCK_TIMEOUT_S: Final = 2
"""Short: whoever comes after a statement that waits for a table waits with it, running workers too."""
SCRIPT_TIMEOUT_S: Final = 900.0
"""Client side, for all statements of a migration together."""
ATTEMPTS_MAX: Final = 30
"""Attempts at one migration whose locks are not free; with the pauses about a minute and a half."""
_PAUSE_MAX_S: Final = 1.0
_ROLLBACK_TIMEOUT_S: Final = 5.0

_OVERTAKEN: Final = "QF002"
_PASSING: Final = frozenset({"55P03", "40P01", _OVERTAKEN})
"""Lock not free in time, deadlock, another process was quicker: look again and go on."""
_CUT: Final = ("08", "53", "57P", "58")
"""Connection, resources, shutdown, system: the statement is not to blame."""

_HEAD: Final = """\
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = '{lock_timeout_s}s';
SET LOCAL statement_timeout = '{statement_timeout_s}s';
SET LOCAL synchronous_commit = on;
SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog, pg_temp;
DO $qflare$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('qflare.schema', 0));
    IF (SELECT max(version) FROM qflare.schema_version) IS DISTINCT FROM {before} THEN
        RAISE EXCEPTION 'migration {version} leads on from schema version {before}' USING ERRCODE = '{overtaken}';
    END IF;
END
$qflare$;
SET LOCAL ROLE qflare_owner;
"""
_TAIL: Final = """
SET LOCAL ROLE qflare_owner;
INSERT INTO qflare.schema_version (version) VALUES ({version}) ON CONFLICT DO NOTHING;
COMMIT;
"""


def script_of(migration: Migration) -> str:
    """Return the whole SQL of one migration, as `psql` could run it too."""
    head = _HEAD.format(
        lock_timeout_s=LOCK_TIMEOUT_S,
        statement_timeout_s=STATEMENT_TIMEOUT_S,
        before=migration.version - 1,
        version=migration.version,
        overtaken=_OVERTAKEN,
    )
    return head + migration.text + _TAIL.format(version=migration.version)


async def apply_migrations(
    connection: asyncpg.Connection | PoolConnectionProxy,
    migrations: Sequence[Migration],
    *,
    after: Callable[[int], None] | None = None,
) -> None:
    """
    Apply those of *migrations* that the database lacks, in order; others may do the same at the same time.

    Args:
        connection: Of a superuser, or of a member of qflare_owner and qflare_maintenance.
        migrations: In order of version; the database has version 1 at least.
        after: Called with each version that this call has reached.

    Raises:
        StoreError: the login may not change the schema, or a statement failed; the version before stands.
        StoreUnavailableError: the database does not answer, or a lock is not to be had; the version before stands.
    """
    with translated():
        await _check_rights(connection)
        for migration in migrations:
            if await _apply(connection, migration) and after is not None:
                after(migration.version)


async def _apply(connection: asyncpg.Connection | PoolConnectionProxy, migration: Migration) -> bool:
    """Apply one migration unless it stands already; tell whether it was this call that did."""
    for attempt in range(ATTEMPTS_MAX):
        if attempt:
            # Of different lengths, so that two who met do not meet again.
            await asyncio.sleep(random.uniform(_PAUSE_MAX_S / 5, _PAUSE_MAX_S))  # noqa: S311 - no secret
        standing: int = await connection.fetchval("SELECT max(version) FROM qflare.schema_version")
        if standing >= migration.version:
            return False
        try:
            await _run(connection, script_of(migration))
        except asyncpg.PostgresError as error:
            sqlstate = error.sqlstate or ""
            if sqlstate.startswith(_CUT):
                raise
            if sqlstate not in _PASSING:
                raise StoreError(
                    f"migration {migration.version} ({migration.name}) failed (SQLSTATE {sqlstate}); "
                    f"the database stays at version {standing}",
                    sqlstate=sqlstate,
                ) from None
        else:
            return True
    raise StoreUnavailableError(
        f"migration {migration.version} ({migration.name}) did not get its locks; end long transactions on the "
        f"database (pg_stat_activity) and run it again; the database stays at version {migration.version - 1}"
    )


async def _run(connection: asyncpg.Connection | PoolConnectionProxy, script: str) -> None:
    try:
        await connection.execute(script, timeout=SCRIPT_TIMEOUT_S)
    except BaseException:
        # Also when cancelled, after which the driver does not know yet that a transaction is open.
        if not connection.is_closed():
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.execute("ROLLBACK", timeout=_ROLLBACK_TIMEOUT_S)
        raise


async def _check_rights(connection: asyncpg.Connection | PoolConnectionProxy) -> None:
    may = await connection.fetchval(
        "SELECT bool_and(pg_has_role(current_user, rolname, 'MEMBER')) FROM pg_catalog.pg_roles"
        " WHERE rolname IN ('qflare_owner', 'qflare_maintenance')"
    )
    if not may:
        raise StoreError(
            "the login may not change the schema; migrate as a superuser, or as a member of qflare_owner and "
            "qflare_maintenance",
            sqlstate="42501",
        )
