"""Opening a manager or a monitor for one command."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qflare.errors import ConfigError, MissingExtraError
from qflare.model.ids import DEFAULT_TENANT, ID_BYTES, TenantId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qflare.service.key_manager import QuantumKeyManager
    from qflare.service.security_monitor import SecurityMonitor


T = TypeVar("T")


def choose_dsn(dsn: str | None) -> str | None:
    """Return the database to use: --dsn, else QFLARE_DSN, else None for the embedded one."""
    from qflare.service.config import read_dsn

    return read_dsn() if dsn is None else dsn


def open_manager(dsn: str | None, data_dir: Path | None, *, tenant: str | None = None) -> QuantumKeyManager:
    """Return a manager for `async with`, with the settings of the environment."""
    require_server()
    from qflare.manager.settings import ManagerSettings
    from qflare.service.config import read_settings
    from qflare.service.key_manager import QuantumKeyManager

    return QuantumKeyManager(
        choose_dsn(dsn), data_dir=data_dir, tenant=parse_tenant(tenant), config=read_settings(ManagerSettings)
    )


def run_with_manager(
    work: Callable[[QuantumKeyManager], Awaitable[T]], dsn: str | None, data_dir: Path | None, *, tenant: str | None
) -> T:
    """Open a manager, do *work* with it, close it, and return what came of it."""
    import asyncio

    async def run() -> T:
        async with open_manager(dsn, data_dir, tenant=tenant) as manager:
            return await work(manager)

    return asyncio.run(run())


def open_monitor(dsn: str | None, data_dir: Path | None, *, tenant: str | None = None) -> SecurityMonitor:
    """Return a monitor for `async with`."""
    require_server()
    from qflare.manager.settings import ManagerSettings
    from qflare.service.config import read_settings
    from qflare.service.security_monitor import SecurityMonitor

    return SecurityMonitor(
        choose_dsn(dsn), data_dir=data_dir, tenant=parse_tenant(tenant), config=read_settings(ManagerSettings)
    )


def parse_tenant(text: str | None) -> TenantId:
    """
    Read a tenant's id.

    Raises:
        ConfigError: it is not 32 hex digits.
    """
    if text is None:
        return DEFAULT_TENANT
    try:
        tenant = bytes.fromhex(text)
    except ValueError:
        tenant = b""
    if len(tenant) != ID_BYTES:
        raise ConfigError(f"--tenant is {2 * ID_BYTES} hex digits")
    return TenantId(tenant)


def require_server() -> None:
    """
    Prepare a command of the server's side, before it loads any of it.

    Raises:
        MissingExtraError: the server extra is not installed.
    """
    # Without a handler Python prints warnings to stderr, where scripts look for one line about an error. What a command
    # does not say, `qflare serve` says at its start and `qflare doctor` at any time.
    logging.getLogger("qflare").addHandler(logging.NullHandler())
    try:
        import asyncpg  # noqa: F401 - asked for before anything is started
    except ImportError:
        raise MissingExtraError(feature="the server's side", extra="server", package="asyncpg") from None
