"""The user's end of the embedded PostgreSQL: open it, use its dsn, close it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import ConfigError, MissingExtraError, StoreUnavailableError
from qflare.stores.embedded.binaries import binaries_for
from qflare.stores.embedded.folder import DATABASE, Folder, open_folder

if TYPE_CHECKING:
    import os

    import asyncpg

    from qflare.stores.embedded.folder import Lock

START_TIMEOUT_S: Final = 60.0
"""From nothing to a set-up database: initdb takes a second or two, more on a busy machine."""
_POLL_S: Final = 0.05
_WATCH_S: Final = 1.0
_STARTER_TIMEOUT_S: Final = 30.0


class EmbeddedServer:
    """
    A running server that this process uses; made by `open_embedded`.

    As long as one is open in any process the server runs, and comes back by itself when it was killed.
    """

    def __init__(self, folder: Folder, users: Lock) -> None:
        self._folder = folder
        self._users = users
        self._watch = asyncio.create_task(_watch(folder), name="qflare-embedded-watch")
        self.dsn = folder.dsn()
        """How to connect to the database."""

    async def close(self) -> None:
        """Stop using the server; it ends when the last user has gone. Safe to call twice."""
        self._watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch
        self._users.close()

    async def __aenter__(self) -> Self:
        """Lend the server to a block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop using it at the end of the block."""
        await self.close()


async def open_embedded(
    data_dir: str | os.PathLike[str], *, timeout_s: float = START_TIMEOUT_S, installs_schema: bool = True
) -> EmbeddedServer:
    """
    Open the PostgreSQL of a data folder: start it if nobody has, wait for it, and set its database up.

    Args:
        data_dir: The folder; made if only its last part is missing.
        timeout_s: For all of it.
        installs_schema: Whether the schema is set up or brought up to date too; without it only the database is made.

    Raises:
        MissingExtraError: the binaries or asyncpg are not installed.
        ConfigError: the folder cannot be used.
        SchemaMismatchError: the data are of a PostgreSQL or a schema that is not at hand.
        StoreUnavailableError: the server does not come up in time; its log is named.
    """
    try:
        import asyncpg  # noqa: F401 - asked for before anything is started
    except ImportError:
        raise MissingExtraError(feature="the PostgreSQL store", extra="server", package="asyncpg") from None
    folder = await asyncio.to_thread(open_folder, data_dir)
    await asyncio.to_thread(binaries_for, folder.cluster)
    users = folder.users_lock()
    try:
        async with asyncio.timeout(timeout_s):
            # Refused while a supervisor stops the server for want of users; then this one starts it again.
            while not users.try_shared():  # noqa: ASYNC110 - a lock of the kernel has no event
                await asyncio.sleep(_POLL_S)
            await _start_supervisor(folder)
            connection = await _connect(folder)
            try:
                await _set_up(folder, connection, installs_schema=installs_schema)
            finally:
                await connection.close(timeout=5.0)
            return EmbeddedServer(folder, users)
    except TimeoutError:
        users.close()
        raise StoreUnavailableError(
            f"the embedded PostgreSQL did not come up within {timeout_s:g} s; see {folder.log}"
        ) from None
    except BaseException:
        users.close()
        raise


def _has_supervisor(folder: Folder) -> bool:
    lock = folder.supervisor_lock()
    try:
        # Shared: two users who ask at once must not each take the other for the supervisor.
        return not lock.try_shared()
    finally:
        lock.close()


async def _start_supervisor(folder: Folder) -> None:
    """Start a supervisor unless one is there; it detaches itself, what is waited for is its starter."""
    if _has_supervisor(folder):
        return
    await asyncio.to_thread(folder.error.unlink, missing_ok=True)
    try:
        started = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "qflare.stores.embedded.supervisor", str(folder.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_STARTER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        raise StoreUnavailableError("the supervisor of the embedded PostgreSQL cannot be started") from None
    if started.returncode != 0:
        reason = started.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise StoreUnavailableError(f"the supervisor of the embedded PostgreSQL cannot be started: {reason}")


async def _connect(folder: Folder) -> asyncpg.Connection:
    """Connect to the maintenance database, however long the server needs; the caller limits the time."""
    import asyncpg

    while True:
        try:
            return await asyncpg.connect(folder.dsn("postgres"), timeout=5.0)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            # Not there yet, starting up, or recovering.
            pass
        if folder.error.exists() and not _has_supervisor(folder):
            raise StoreUnavailableError((await asyncio.to_thread(folder.error.read_text, "utf-8")).strip())
        if not _has_supervisor(folder):
            await _start_supervisor(folder)
        await asyncio.sleep(_POLL_S)


async def _set_up(folder: Folder, connection: asyncpg.Connection, *, installs_schema: bool) -> None:
    """Make the database and its schema where they are missing."""
    import asyncpg

    from qflare.stores.postgres.failures import translated
    from qflare.stores.postgres.schema import install_schema

    with translated():
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE) is None:
            # Another process may be doing the same.
            with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        if not installs_schema:
            return
        own = await asyncpg.connect(folder.dsn(), timeout=10.0)
        try:
            await install_schema(own)
        finally:
            await own.close(timeout=5.0)


async def _watch(folder: Folder) -> None:
    """Start a supervisor again if it was killed: nobody else would bring the server back."""
    while True:
        await asyncio.sleep(_WATCH_S)
        if not _has_supervisor(folder):
            with contextlib.suppress(StoreUnavailableError, ConfigError):
                await _start_supervisor(folder)
