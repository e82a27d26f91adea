"""
A backup file of one database: the schema `qflare` as `pg_dump --format=custom` writes it, in one snapshot.

A checksum stands behind it, and is compared before anything is restored.
What is sealed in the database is sealed in the file.  KEK_L and the keeper's marks are not in it: they lie with the
keeper, and are backed up apart from the file.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, StoreError
from qflare.stores.postgres.checksum import append_checksum, require_whole
from qflare.stores.postgres.definition import schema_text
from qflare.stores.postgres.failures import translated
from qflare.stores.postgres.pool import APPLICATION_NAME
from qflare.stores.postgres.programs import find_program, run_program
from qflare.stores.postgres.schema import INSTALL_TIMEOUT_S, installed_version, require_version

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

_MAGIC: Final = b"PGDMP"
_FACTS: Final = """
    SELECT (SELECT count(*) FROM qflare.tenant) AS tenants, (SELECT count(*) FROM qflare.device) AS devices,
           (SELECT h.size::bigint FROM qflare.log_head AS h) AS log_size,
           (SELECT max(i.serial) FROM qflare.server_identity AS i) AS serial"""
_WORKERS: Final = """
    SELECT count(*) FROM pg_catalog.pg_stat_activity
     WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a backup file holds."""

    schema_version: int
    tenants: int
    devices: int
    log_size: int
    """Entries of the audit log."""
    serial: int | None
    """Of the server's identity, None where there is none yet."""
    size_bytes: int


async def write_backup(connection: asyncpg.Connection, path: Path, *, dsn: str) -> Backup:
    """
    Write a new backup file, whole or not at all.

    Args:
        connection: To the database of *dsn*, of a superuser or a role with BYPASSRLS that may read the schema.
        path: A file that does not exist yet; it becomes this user's alone (0600).
        dsn: The same database.

    Raises:
        ConfigError: the file exists, its folder does not, or PostgreSQL's programs are missing.
        SchemaMismatchError: the database has no schema, or a newer one.
        StoreError: the login may not read everything, or the dump failed.
    """
    await asyncio.to_thread(_require_new, path)
    version = require_version(await installed_version(connection))
    await _require_all_rows(connection)
    program = await find_program("pg_dump", major=connection.get_server_version().major)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = await asyncio.to_thread(_open_new, unfinished)
    try:
        with translated():
            # One snapshot for the figures and the file.
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
                facts = await connection.fetchrow(_FACTS)
                # Into the open file: a name could lead elsewhere by then.
                await run_program(
                    program,
                    ["--format=custom", "--schema=qflare", f"--snapshot={snapshot}"],
                    dsn=dsn,
                    output=descriptor,
                )
        size = await asyncio.to_thread(_finish, descriptor, unfinished, path)
    finally:
        os.close(descriptor)
        await asyncio.to_thread(unfinished.unlink, missing_ok=True)
    if facts is None:
        raise AssertionError("facts")  # sub-selects alone: always one row
    return Backup(schema_version=version, size_bytes=size, **dict(facts.items()))


def _require_new(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} exists already; name a new file")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for {path.name}; make it first")


def _require_backup(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as failure:
        raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
    if magic != _MAGIC:
        raise ConfigError(f"{path} is no backup: it was not written by  qflare backup  or  pg_dump --format=custom")


def _open_new(path: Path) -> int:
    """Open a file that nobody made before, for this user alone."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}; name a new file in a folder you own") from None


def _finish(descriptor: int, unfinished: Path, path: Path) -> int:
    """Make the file durable under its name, which nobody else took meanwhile, and return its size."""
    append_checksum(descriptor)
    os.fsync(descriptor)
    size = os.fstat(descriptor).st_size
    try:
        os.link(unfinished, path)
    except OSError as failure:
        raise ConfigError(f"cannot write {path}: {failure.strerror}; name a new file in a folder you own") from None
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return size


async def read_backup(
    connection: asyncpg.Connection, path: Path, *, dsn: str, replaces: bool, may_lack_checksum: bool = False
) -> int:
    """
    Put a backup file's schema into the database and return its version; nothing of it is accepted yet.

    Args:
        connection: Of a superuser, to the database of *dsn*.
        path: What `write_backup` wrote, or `pg_dump --format=custom --schema=qflare`.
        dsn: The same database.
        replaces: Whether a schema that stands is dropped first.
        may_lack_checksum: Whether a file without a checksum is taken, as pg_dump writes it.

    Raises:
        ConfigError: the file cannot be read, is no backup, was cut or altered, has no checksum, or a schema stands.
        SchemaMismatchError: the file's schema is newer than this code.
        StoreError: the login may not do it, or restoring failed.
    """
    await asyncio.to_thread(_require_backup, path)
    await asyncio.to_thread(partial(require_whole, path, may_lack_checksum=may_lack_checksum))
    program = await find_program("pg_restore", major=connection.get_server_version().major)
    with translated():
        if not await connection.fetchval("SELECT to_regnamespace('qflare') IS NULL"):
            if not replaces:
                raise ConfigError(
                    "the database has a schema 'qflare' already; restore into an empty one, or drop what stands with "
                    "--replace"
                )
            await connection.execute("DROP SCHEMA qflare CASCADE", timeout=INSTALL_TIMEOUT_S)
        # Roles belong to the cluster and are in no dump of a schema: installing makes them.
        await connection.execute(schema_text(), timeout=INSTALL_TIMEOUT_S)
        await connection.execute("DROP SCHEMA qflare CASCADE", timeout=INSTALL_TIMEOUT_S)
        await run_program(program, ["--single-transaction", "--exit-on-error", str(path)], dsn=dsn)
        await connection.execute("ANALYZE", timeout=INSTALL_TIMEOUT_S)
    return require_version(await installed_version(connection))


async def require_no_workers(connection: asyncpg.Connection) -> None:
    """Raise `ConfigError` while workers are connected to the database: they would go on with what is replaced."""
    with translated():
        workers = await connection.fetchval(_WORKERS, APPLICATION_NAME)
    if workers:
        raise ConfigError(f"{workers} connections of QFLARE are open on the database; stop its workers first")


async def _require_all_rows(connection: asyncpg.Connection) -> None:
    with translated():
        sees_all = await connection.fetchval(
            "SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"
        )
    if not sees_all:
        raise StoreError(
            "the login does not see every tenant's rows; back up as a superuser, or as a role with BYPASSRLS",
            sqlstate="42501",
        )
