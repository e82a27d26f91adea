"""Bringing a database's schema up to date for `qflare migrate`, or saying what that would do."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qflare.service.config import make_data_dir

if TYPE_CHECKING:
    from pathlib import Path

_CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What was found and what was done, or would be."""

    found: int | None
    """The schema version that stood, None in an empty database."""
    version: int
    """The version that this code works with."""
    steps: tuple[str, ...]
    """The migrations that were applied, or would be, as "2 add a thing"; in an empty database the whole schema."""


async def migrate_database(dsn: str | None, data_dir: Path | None, *, is_plan: bool) -> Migrated:
    """
    Set up an empty database or bring an older schema up to date.

    Args:
        dsn: Of a superuser, or of the role that installed the schema; None for the embedded database.
        data_dir: The embedded database's folder; the default one if None.
        is_plan: Only look.

    Raises:
        SchemaMismatchError: the schema is newer than this code.
        StoreError: the login may not change the schema, or a migration failed; the version before stands.
        StoreUnavailableError: the database does not answer, or a lock is not to be had in time.
    """
    from qflare.stores.postgres import install_schema, open_connection, plan_migration

    async with AsyncExitStack() as stack:
        if dsn is None:
            from qflare.stores.embedded import open_embedded

            folder = await asyncio.to_thread(make_data_dir) if data_dir is None else data_dir
            server = await stack.enter_async_context(await open_embedded(folder, installs_schema=False))
            dsn = server.dsn
        connection = await open_connection(dsn)
        stack.push_async_callback(connection.close, timeout=_CLOSE_TIMEOUT_S)
        plan = await plan_migration(connection)
        if not is_plan and not plan.is_done:
            await install_schema(connection)
    steps = tuple(f"{step.version} {step.name}" for step in plan.steps)
    if plan.found is None:
        steps = (f"the whole schema, version {plan.wanted}",)
    return Migrated(found=plan.found, version=plan.wanted, steps=steps)
