"""Backup files, restoring them, and accepting what was restored: `qflare backup` and `qflare restore`."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from qflare.manager.acceptance import Acceptance, accept_restored
from qflare.service.assembly import LONG_STATEMENT_S, Place, open_foundation
from qflare.service.config import make_data_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from qflare.clock import Clock
    from qflare.manager.settings import ManagerSettings
    from qflare.stores.postgres.backup import Backup

_CLOSE_TIMEOUT_S: Final = 5.0


async def back_up(path: Path, *, dsn: str | None, data_dir: Path | None) -> Backup:
    """
    Write the database into a new file.

    Raises:
        As `stores.postgres.backup.write_backup`.
    """
    from qflare.stores.postgres.backup import write_backup

    async with _connected(dsn, data_dir, installs_schema=True) as (connection, its_dsn):
        return await write_backup(connection, path, dsn=its_dsn)


async def restore(
    path: Path | None,
    *,
    dsn: str | None,
    data_dir: Path | None,
    settings: ManagerSettings,
    replaces: bool = False,
    is_unchecked: bool = False,
    gap: int = 0,
    clock: Clock | None = None,
) -> Acceptance:
    """
    Restore a file, bring its schema up to date, and accept it; without a file, accept what was restored otherwise.

    Args:
        path: What `back_up` wrote; None for a database that other tools restored.
        dsn: Of a superuser; None for the embedded database.
        data_dir: As for a manager: the keeper's folder lies in it.
        settings: The same as the workers'.
        replaces: Whether a schema that stands is dropped first.
        is_unchecked: Whether a file without a checksum is taken.
        gap: Sizes of the log that are left out at least, for a keeper whose marks were lost too.
        clock: What tells the time.

    Raises:
        As `stores.postgres.backup.read_backup` and `manager.acceptance.accept_restored`.
        KeeperError: the keeper did not seal this database's identity.
    """
    from qflare.stores.postgres import install_schema
    from qflare.stores.postgres.backup import read_backup, require_no_workers

    async with _connected(dsn, data_dir, installs_schema=False) as (connection, its_dsn):
        await require_no_workers(connection)
        if path is not None:
            await read_backup(connection, path, dsn=its_dsn, replaces=replaces, may_lack_checksum=is_unchecked)
        await install_schema(connection)
        place = Place(database=dsn, data_dir=data_dir, is_restored=True)
        return await _accept(place, settings, clock, gap=gap)


async def _accept(place: Place, settings: ManagerSettings, clock: Clock | None, *, gap: int) -> Acceptance:
    async with open_foundation(place, settings=settings, clock=clock) as foundation:
        return await accept_restored(
            store=foundation.store,
            keeper=foundation.keeper,
            log=foundation.log,
            offload=foundation.offload,
            clock=foundation.clock,
            server_id=foundation.identity.server_id,
            width_s=settings.bucket_width_s,
            gap=gap,
        )


@asynccontextmanager
async def _connected(
    dsn: str | None, data_dir: Path | None, *, installs_schema: bool
) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    from qflare.stores.postgres import PoolSettings, open_connection

    async with AsyncExitStack() as stack:
        if dsn is None:
            from qflare.stores.embedded import open_embedded

            folder = await asyncio.to_thread(make_data_dir) if data_dir is None else data_dir
            server = await stack.enter_async_context(await open_embedded(folder, installs_schema=installs_schema))
            dsn = server.dsn
        # Long enough for figures over whole tables.
        connection = await open_connection(dsn, PoolSettings(command_timeout_s=LONG_STATEMENT_S))
        stack.push_async_callback(connection.close, timeout=_CLOSE_TIMEOUT_S)
        yield connection, dsn
