"""What `qflare doctor` looks at beside `qflare.about()`: PostgreSQL, keeper, memory; nothing is started or written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qflare.errors import QflareError

OK: Final = "ok"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - looked at, not written


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Findings about this machine; a problem is a sentence with its remedy."""

    postgresql: str
    """What the embedded PostgreSQL is, or what is missing."""
    database: str | None
    """The database of the dsn: "ok" or the problem; None without a dsn."""
    keeper: str
    """"ok", why it cannot be used, or why destroyed keys may be found again."""
    is_keeper_usable: bool
    """Whether a worker would open it."""
    memory: str
    """The file system where bucket keys in files lie."""


async def examine(*, dsn: str | None, keeper: str | None = None, keeper_dir: str | None) -> Examination:
    """
    Look at what is installed and where things would lie.

    Args:
        dsn: A database to look at too.
        keeper: Which keeper, as in the settings; a token is opened with its PIN, and nothing is made in it.
        keeper_dir: Folder for the bucket keys where it is not the one in shared memory.
    """
    folder = _SHARED_MEMORY if keeper_dir is None else Path(keeper_dir)
    memory = _file_system(folder)
    its_keeper, is_usable = await _look_at_keeper(keeper, folder, memory)
    return Examination(
        postgresql=_look_at_binaries(),
        database=None if dsn is None else await _look_at_database(dsn),
        keeper=its_keeper,
        is_keeper_usable=is_usable,
        memory=memory,
    )


def _look_at_binaries() -> str:
    from qflare.stores.embedded.binaries import installed_binaries

    try:
        found = installed_binaries()
    except QflareError as failure:
        return str(failure)
    return "embedded " + ", ".join(str(binaries.major) for binaries in found)


async def _look_at_database(dsn: str) -> str:
    try:
        from qflare.stores.postgres import PoolSettings, open_store
    except ModuleNotFoundError:
        return "not looked at: install it with  pip install 'qflare[server]'"
    try:
        store = await open_store(dsn, settings=PoolSettings(min_size=1, max_size=1))
    except QflareError as failure:
        return f"{type(failure).__name__}: {failure}"
    await store.close()
    return OK


async def _look_at_keeper(keeper: str | None, folder: Path, file_system: str) -> tuple[str, bool]:
    """Say whether the keeper can be used, and why its destroyed keys may be found again."""
    from qflare.stores.keeper.address import is_pkcs11

    try:
        if not is_pkcs11(keeper) or keeper is None:
            return _look_at_files(folder, file_system), True
        from qflare.stores.keeper.pkcs11 import look_at_token

        return await asyncio.to_thread(look_at_token, keeper) or OK, True
    except QflareError as failure:
        return f"{type(failure).__name__}: {failure}", False


def _look_at_files(folder: Path, file_system: str) -> str:
    """Say what the file keeper's `promise()` would say of its bucket keys."""
    from qflare.stores.keeper.medium import has_swap, is_in_memory

    if not is_in_memory(file_system):
        return (
            f"bucket keys would lie in {folder} on {file_system}: forward secrecy at rest is not promised; "
            "set QFLARE_KEEPER_DIR to a folder on tmpfs"
        )
    if file_system == "tmpfs" and has_swap():
        return (
            f"bucket keys would lie in {folder} on tmpfs, which may be written to swap: forward secrecy at rest is not "
            "promised unless swap is encrypted with a fresh key; switch swap off or use ramfs"
        )
    return OK


def _file_system(folder: Path) -> str:
    from qflare.stores.keeper.medium import file_system_of

    try:
        return file_system_of(folder) or "an unknown file system"
    except OSError:
        return "no file system: the folder does not exist"
