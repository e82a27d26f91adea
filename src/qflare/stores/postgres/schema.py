"""Setting up a database, bringing it up to date, and telling whether it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import SchemaMismatchError
from qflare.stores.postgres.definition import migrations, queries, schema_text, schema_version
from qflare.stores.postgres.failures import translated
from qflare.stores.postgres.migration import apply_migrations

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from qflare.stores.postgres.definition import Migration

    Executor = asyncpg.Connection | PoolConnectionProxy | asyncpg.Pool

INSTALL_TIMEOUT_S = 60.0
INSTALL_REMEDY: Final = "set it up with  qflare migrate  or  psql DBNAME < database/schema.sql"


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationPlan:
    """What stands between a database and this code."""

    found: int | None
    """The schema version that stands, None in an empty database."""
    wanted: int
    steps: tuple[Migration, ...]
    """What would run; none of them in an empty database, which `schema.sql` sets up."""

    @property
    def is_done(self) -> bool:
        """Whether the database is up to date."""
        return self.found == self.wanted


async def installed_version(connection: Executor, *, timeout_s: float = 10.0) -> int | None:
    """Return the database's schema version, None where there is no schema."""
    with translated():
        if await connection.fetchval("SELECT to_regclass('qflare.schema_version')::text", timeout=timeout_s) is None:
            return None
        version: int | None = await connection.fetchval(queries()["schema_version"].text, timeout=timeout_s)
        return version


async def check_schema(connection: Executor, *, timeout_s: float = 10.0, is_running: bool = False) -> None:
    """
    Check that the database's schema is the one that this code works with.

    Args:
        connection: Any that may read.
        timeout_s: For each of two statements.
        is_running: Whether this is a worker that found its version at its start: migrations are safe while the
            previous version runs, so that one which came meanwhile is no reason to stop.

    Raises:
        SchemaMismatchError: it is missing, too old or too new; the message names the remedy.
    """
    version, wanted = await installed_version(connection, timeout_s=timeout_s), schema_version()
    if version == wanted or (is_running and version is not None and version > wanted):
        return
    raise _mismatch(version, wanted)


def _mismatch(version: int | None, wanted: int) -> SchemaMismatchError:
    if version is None:
        remedy = f"has no schema 'qflare'; {INSTALL_REMEDY}"
    elif version < wanted:
        remedy = f"has schema version {version}, this is version {wanted}; bring it up to date with  qflare migrate"
    else:
        remedy = f"has schema version {version}, newer than {wanted}; install a newer qflare"
    return SchemaMismatchError(f"the database {remedy}")


def require_version(version: int | None) -> int:
    """Return a schema version that this code knows or can bring up to date; `SchemaMismatchError` for any other."""
    if version is None or version > schema_version():
        raise _mismatch(version, schema_version())
    return version


async def plan_migration(connection: Executor) -> MigrationPlan:
    """
    Return what `install_schema` would do.

    Raises:
        SchemaMismatchError: the schema is newer than this code.
    """
    version, wanted = await installed_version(connection), schema_version()
    if version is not None:
        require_version(version)
    steps = () if version is None else tuple(step for step in migrations() if step.version > version)
    return MigrationPlan(found=version, wanted=wanted, steps=steps)


async def install_schema(connection: asyncpg.Connection | PoolConnectionProxy) -> None:
    """
    Set up an empty database, or bring an older schema up to date; nothing changes where it stands already.

    Args:
        connection: Of a superuser, or of a role with CREATEROLE that may create schemas in the database.

    Raises:
        SchemaMismatchError: the schema is newer than this code.
        StoreError: the login may not create roles or schemas, or a migration failed; the version before stands.
        StoreUnavailableError: the database does not answer, or a lock is not to be had in time.
    """
    plan = await plan_migration(connection)
    with translated():
        if plan.found is None:
            await connection.execute(schema_text(), timeout=INSTALL_TIMEOUT_S)
        else:
            await apply_migrations(connection, plan.steps)
    await check_schema(connection)
