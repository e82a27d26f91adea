"""A PostgreSQL of the system's own packages that counts its statements, which the embedded one's wheel cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from qflare.stores.embedded.account import choose_account
from qflare.stores.embedded.binaries import Binaries
from qflare.stores.embedded.folder import Folder, open_folder
from qflare.stores.embedded.postmaster import Postmaster, make_cluster, start_postmaster
from qflare.stores.postgres import install_schema

INSTALLED = Path("/usr/lib/postgresql")
READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Counting:
    """Where it is reached."""

    dsn: str


def find_binaries() -> Path | None:
    """Return the folder of the newest installed server that brings pg_stat_statements, None if there is none."""
    found = sorted(INSTALLED.glob("*/lib/pg_stat_statements.so"), key=lambda path: int(path.parts[-3]))
    return found[-1].parents[1] / "bin" if found else None


@contextlib.asynccontextmanager
async def open_counting(folder: Path, *, binaries: Path) -> AsyncIterator[Counting]:
    """Run a cluster in *folder* with our schema in it, and pg_stat_statements loaded."""
    place, account = open_folder(folder), choose_account()
    chosen = Binaries(folder=binaries, major=0)
    output = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        make_cluster(place, chosen, account, output=output)
        first = await _started(place, start_postmaster(place, chosen, account, output=output))
        await _run(place, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        first.stop()
        postmaster = await _started(place, start_postmaster(place, chosen, account, output=output))
    finally:
        os.close(output)
    try:
        connection = await asyncpg.connect(place.dsn("postgres"))
        try:
            await install_schema(connection)
            await connection.execute("CREATE EXTENSION pg_stat_statements")
        finally:
            await connection.close()
        yield Counting(place.dsn("postgres"))
    finally:
        postmaster.stop()


async def _started(place: Folder, postmaster: Postmaster) -> Postmaster:
    end = time.monotonic() + READY_S
    while True:
        try:
            await _run(place, "SELECT 1")
        except (asyncpg.CannotConnectNowError, OSError):
            if time.monotonic() > end:
                postmaster.stop()
                raise
            await asyncio.sleep(0.05)
        else:
            return postmaster


async def _run(place: Folder, statement: str) -> None:
    connection = await asyncpg.connect(place.dsn("postgres"), timeout=READY_S)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
