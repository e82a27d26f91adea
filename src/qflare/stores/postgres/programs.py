"""PostgreSQL's own programs for dumps: where they are, and how they are run without a password in anybody's sight."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from qflare.errors import ConfigError, MissingExtraError, StoreError
from qflare.stores.embedded.binaries import installed_binaries

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERSION: Final = re.compile(rb"\(PostgreSQL\) (\d+)")
_DEBIAN: Final = Path("/usr/lib/postgresql")
_LOOK_TIMEOUT_S: Final = 20.0


async def find_program(name: str, *, major: int) -> Path:
    """
    Return the program of the server's own major version if it is here, else the oldest newer one.

    Args:
        name: "pg_dump" or "pg_restore".
        major: Of the server. An older program refuses it.

    Raises:
        ConfigError: there is none that can work with the server.
    """
    found: dict[int, Path] = {}
    for path in await asyncio.to_thread(_candidates, name):
        version = await _version_of(path)
        if version is not None and version >= major:
            found.setdefault(version, path)
    if not found:
        raise ConfigError(
            f"there is no {name} of PostgreSQL {major} or newer: install the client programs of PostgreSQL {major}, or "
            "pip install 'qflare[embedded]'"
        )
    return found[min(found)]


def _candidates(name: str) -> list[Path]:
    paths = [folder / "bin" / name for folder in (_DEBIAN.iterdir() if _DEBIAN.is_dir() else ())]
    with contextlib.suppress(ConfigError, MissingExtraError):
        paths += [binaries.folder / name for binaries in installed_binaries()]
    on_path = shutil.which(name)
    if on_path is not None:
        paths.append(Path(on_path))
    return [path for path in paths if path.is_file()]


async def _version_of(path: Path) -> int | None:
    try:
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(_LOOK_TIMEOUT_S):
            output, _ = await process.communicate()
    except (OSError, TimeoutError):
        return None
    version = _VERSION.search(output)
    return None if version is None else int(version[1])


async def run_program(path: Path, arguments: Sequence[str], *, dsn: str, output: int | None = None) -> None:
    """
    Run *path* on the database of *dsn*; the password goes by the environment, which only this user sees.

    Args:
        path: The program.
        arguments: All but the database.
        dsn: The database.
        output: A file descriptor that takes what it writes; None drops that.

    Raises:
        StoreError: it failed. What it said may quote rows, and is not repeated.
    """
    shown, password = without_password(dsn)
    environment = {**os.environ, "PGAPPNAME": "qflare"}
    if password:
        environment["PGPASSWORD"] = password
    process = await asyncio.create_subprocess_exec(
        path,
        *arguments,
        f"--dbname={shown}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL if output is None else output,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        umask=0o077,
    )
    try:
        status = await process.wait()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if status != 0:
        raise StoreError(
            f"{path.name} ended with status {status}; run it by hand to read why: {path} {' '.join(arguments)}"
        )


def without_password(dsn: str) -> tuple[str, str]:
    """Return *dsn* as everybody may see it, and the password that stood before the host or among the parameters."""
    parts = urlsplit(dsn)
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    password = unquote(password)
    parameters: list[str] = []
    for parameter in parts.query.split("&") if parts.query else []:
        key, _, value = parameter.partition("=")
        if unquote(key) == "password":
            password = unquote(value)
        else:
            parameters.append(parameter)
    # By hand: urlunsplit leaves the slashes out where no host stands behind them.
    netloc = f"{name}@{host}" if name else host
    query = f"?{'&'.join(parameters)}" if parameters else ""
    return f"{parts.scheme}://{netloc}{parts.path}{query}", password
