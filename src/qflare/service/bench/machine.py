"""What the figures were taken on: processor, cores, versions and the load beside them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qflare.clock import SystemClock, utc
from qflare.primitives.about import native_about
from qflare.service.versions import about

_PACKAGES = ("cryptography", "asyncpg", "uvloop", "numpy")
_VECTOR_FLAGS = ("avx2", "avx512f", "avx512vl", "vaes", "sha_ni")


def describe_machine() -> dict[str, object]:
    """Return the facts that a figure is worth nothing without."""
    facts = about()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "vector_units": _vector_units(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qflare": facts.version,
        "engine": f"{facts.engine}, Keccak {native_about().keccak_width} wide",
        "liboqs": facts.liboqs_version,
        "liboqs_origin": facts.liboqs_origin,
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def load_now() -> dict[str, object]:
    """Return when it is and how many processes wanted to run in the last minutes."""
    return {
        "at": utc(SystemClock().now_s()).isoformat(timespec="seconds"),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def _cpu_model() -> str:
    found = _cpu_field("model name")
    return " ".join(found.split()) if found else platform.processor() or platform.machine()


def _vector_units() -> list[str]:
    flags = set(_cpu_field("flags").split())
    return [flag for flag in _VECTOR_FLAGS if flag in flags]


def _cpu_field(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
