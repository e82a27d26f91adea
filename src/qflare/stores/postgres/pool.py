"""The connection pool: its limits, and the timeouts that every statement has on both sides of the wire."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import asyncpg

from qflare.errors import ConfigError
from qflare.stores.postgres.failures import translated

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

_log = logging.getLogger(__name__)

APPLICATION_NAME: Final = "qflare"
CONNECTIONS_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """
    Limits of a pool.

    Behind PgBouncer in transaction mode, which `open_pool` finds by itself, `statement_cache_size` is 0: prepared
    statements belong to one server connection, and the next transaction may run on another.  The server's timeouts
    are then those of the login's role (docs/operations.md).
    """

    min_size: int = 1
    max_size: int = 8
    acquire_timeout_s: float = 5.0
    connect_timeout_s: float = 5.0
    command_timeout_s: float = 10.0
    """Client side; a little above the server's, so that the server's error is the one that is seen."""
    statement_timeout_s: float = 9.0
    lock_timeout_s: float = 5.0
    idle_in_transaction_timeout_s: float = 30.0
    retry_for_s: float = 2.0
    """How long a call whose connection was lost is repeated; 0 never."""
    statement_cache_size: int = 100

    def __post_init__(self) -> None:
        """Refuse limits that cannot work."""
        if not 1 <= self.min_size <= self.max_size <= CONNECTIONS_MAX:
            raise ConfigError(
                f"pool sizes must satisfy 1 <= min <= max <= {CONNECTIONS_MAX}, got {self.min_size} and {self.max_size}"
            )
        timeouts = (
            self.acquire_timeout_s,
            self.connect_timeout_s,
            self.command_timeout_s,
            self.statement_timeout_s,
            self.lock_timeout_s,
            self.idle_in_transaction_timeout_s,
        )
        if min(timeouts) <= 0:
            raise ConfigError("every timeout of the pool must be above 0 seconds")
        if self.retry_for_s < 0:
            raise ConfigError("retry_for_s must be 0 (never repeat) or more seconds")
        if self.statement_cache_size < 0:
            raise ConfigError("statement_cache_size must be 0 (behind PgBouncer) or more")


async def open_pool(dsn: str, settings: PoolSettings | None = None) -> asyncpg.Pool:
    """
    Open a pool; the caller closes it.

    Args:
        dsn: ``postgresql://…`` as libpq takes it.
        settings: Limits; the defaults suit one worker.

    Raises:
        ConfigError: the dsn cannot be read.
        StoreUnavailableError: the database does not answer.
        StoreError: it refuses the login.
    """
    limits = settings or PoolSettings()
    _check_dsn(dsn)
    server_settings = {"application_name": APPLICATION_NAME}
    with translated():
        try:
            pooled = await _is_pooled(dsn, limits)
            if not pooled:
                server_settings |= {
                    "statement_timeout": _milliseconds(limits.statement_timeout_s),
                    "lock_timeout": _milliseconds(limits.lock_timeout_s),
                    "idle_in_transaction_session_timeout": _milliseconds(limits.idle_in_transaction_timeout_s),
                    # Just-in-time compiling costs more than any statement here takes.
                    "jit": "off",
                }
            return await asyncpg.create_pool(
                dsn,
                min_size=limits.min_size,
                max_size=limits.max_size,
                timeout=limits.connect_timeout_s,
                command_timeout=limits.command_timeout_s,
                statement_cache_size=0 if pooled else limits.statement_cache_size,
                reset=_leave,
                server_settings=server_settings,
            )
        except (ValueError, TypeError):
            raise _unreadable_dsn() from None


async def has_pooler(connection: asyncpg.Connection | PoolConnectionProxy) -> bool:
    """
    Tell whether a pooler such as PgBouncer stands between: the process that it named is not the one that answers.

    A pooler has no process of the server's to name at the start, since each transaction may run in another.
    """
    # In a transaction: without one the statement's two messages may meet different servers.
    async with connection.transaction():
        process: int = await connection.fetchval("SELECT pg_backend_pid()")
    return process != connection.get_server_pid()


async def _is_pooled(dsn: str, limits: PoolSettings) -> bool:
    connection = await asyncpg.connect(
        dsn,
        timeout=limits.connect_timeout_s,
        command_timeout=limits.command_timeout_s,
        statement_cache_size=0,
        server_settings={"application_name": APPLICATION_NAME},
    )
    try:
        pooled = await has_pooler(connection)
        if pooled:
            async with connection.transaction():
                if await connection.fetchval("SHOW statement_timeout") == "0":
                    _log.warning(
                        "the database is behind a pooler and its login has no statement_timeout: set it for the role, "
                        "as docs/operations.md says"
                    )
        return pooled
    finally:
        await connection.close(timeout=limits.connect_timeout_s)


async def open_connection(
    dsn: str, settings: PoolSettings | None = None, *, name: str = APPLICATION_NAME
) -> asyncpg.Connection:
    """
    Open one connection that *name* tells from others, without timeouts on the server's side; the caller closes it.

    Nothing of it outlives a transaction, so that it may go through PgBouncer.

    Raises:
        ConfigError: the dsn cannot be read.
        StoreUnavailableError: the database does not answer.
        StoreError: it refuses the login.
    """
    limits = settings or PoolSettings()
    _check_dsn(dsn)
    with translated():
        try:
            return await asyncpg.connect(
                dsn,
                timeout=limits.connect_timeout_s,
                command_timeout=limits.command_timeout_s,
                statement_cache_size=0,
                server_settings={"application_name": name},
            )
        except (ValueError, TypeError):
            raise _unreadable_dsn() from None


def _check_dsn(dsn: str) -> None:
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise ConfigError("a dsn begins with postgresql://")


def _unreadable_dsn() -> ConfigError:
    # Not the text of the dsn: it may hold a password.
    return ConfigError("the dsn cannot be read; write postgresql://user:password@host:port/database")


async def _leave(_connection: object) -> None:
    """
    Leave a returned connection as it is.

    The driver rolls back what was left open before it calls this.  All that we set ends with its transaction, so that
    its RESET ALL would be a round trip for nothing, and as long as a short look-up itself.
    """


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
