"""The machine and the software of a run, as far as they say what they are."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.service.demo.result import Component, Machine
from qflare.service.versions import about

if TYPE_CHECKING:
    import asyncpg

_UNKNOWN: Final = "unknown"
_PACKAGES: Final = ("numpy", "scikit-learn", "asyncpg", "uvicorn", "starlette", "httpx")


def look_at_machine() -> Machine:
    """Return processor, cores, memory and system."""
    return Machine(
        processor=_first_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine() or _UNKNOWN,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{_system_name()}, {platform.system()} {platform.release()}",
    )


async def list_components(dsn: str) -> tuple[Component, ...]:
    """Return what the run was made of; *dsn* is asked for its PostgreSQL's version."""
    import asyncpg

    connection: asyncpg.Connection = await asyncpg.connect(dsn, timeout=10.0)
    try:
        postgres = str(await connection.fetchval("SHOW server_version", timeout=10.0))
    finally:
        await connection.close(timeout=5.0)
    own = about()
    return (
        Component(name="qflare", version=own.version),
        Component(name="liboqs", version=own.liboqs_version, origin=own.liboqs_origin),
        Component(name="PostgreSQL", version=postgres, origin="embedded, in the run's data folder"),
        Component(name="Python", version=own.python, origin=platform.python_implementation()),
        Component(name="cryptography", version=own.cryptography_version, origin="AES-256-GCM"),
        *(Component(name=package, version=_version(package)) for package in _PACKAGES),
    )


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _first_value(path: str, name: str) -> str:
    """Return the value of the first line ``name : value`` in *path*, empty if there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _UNKNOWN
