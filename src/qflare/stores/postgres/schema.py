"""Setting up a database and telling whether it is set up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import SchemaMismatchError
from qflare.stores.postgres.definition import migration_texts, queries, schema_text, schema_version
from qflare.stores.postgres.failures import translated

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Executor = asyncpg.Connection | PoolConnectionProxy | asyncpg.Pool

INSTALL_TIMEOUT_S = 60.0


async def installed_version(connection: Executor, *, timeout_s: float = 10.0) -> int | None:
    """Return the database's schema version, None where there is no schema."""
    with translated():
        if await connection.fetchval("SELECT to_regclass('qflare.schema_version')::text", timeout=timeout_s) is None:
            return None
        version: int | None = await connection.fetchval(queries()["schema_version"].text, timeout=timeout_s)
        return version


async def check_schema(connection: Executor, *, timeout_s: float = 10.0) -> None:
    """
    Check that the database's schema is the one that this code works with.

    Raises:
        SchemaMismatchError: it is missing, too old or too new; the message names the remedy.
    """
    version, wanted = await installed_version(connection, timeout_s=timeout_s), schema_version()
    if version == wanted:
        return
    if version is None:
        remedy = "has no schema 'qflare'; set it up with  psql DBNAME < database/schema.sql"
    elif version < wanted:
        remedy = f"has schema version {version}, this is version {wanted}; apply database/migrations in order"
    else:
        remedy = f"has schema version {version}, newer than {wanted}; install a newer qflare"
    raise SchemaMismatchError(f"the database {remedy}")


async def install_schema(connection: Executor) -> None:
    """
    Set up an empty database, or bring an older schema up to date; nothing changes where it stands already.

    Args:
        connection: Of a superuser, or of a role with CREATEROLE that may create schemas in the database.

    Raises:
        SchemaMismatchError: the schema is newer than this code.
        StoreError: the login may not create roles or schemas.
    """
    version = await installed_version(connection)
    with translated():
        if version is None:
            await connection.execute(schema_text(), timeout=INSTALL_TIMEOUT_S)
        elif version < schema_version():
            for number, text in migration_texts().items():
                if number > version:
                    await connection.execute(text, timeout=INSTALL_TIMEOUT_S)
    await check_schema(connection)
