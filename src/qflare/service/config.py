"""The only reader of the environment: settings from variables named QFLARE_<FIELD>."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, get_args, get_type_hints

from qflare.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "QFLARE_"

S = TypeVar("S")


def read_settings(settings: type[S], environment: Mapping[str, str] = os.environ) -> S:
    """
    Make *settings* (a dataclass) from the variables QFLARE_<FIELD>; a field without one keeps its default.

    Raises:
        ConfigError: a value cannot be read as the field's type, or is out of its range.
    """
    if not dataclasses.is_dataclass(settings):
        raise ConfigError(f"{settings.__name__} is no dataclass of settings")
    types = get_type_hints(settings)
    values: dict[str, object] = {}
    for field in dataclasses.fields(settings):
        name = PREFIX + field.name.upper()
        if name in environment:
            values[field.name] = _read(name, environment[name], types[field.name])
    return settings(**values)


def read_dsn(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return QFLARE_DSN, None where it is unset or empty: then the embedded PostgreSQL is used."""
    return environment.get(PREFIX + "DSN") or None


def read_data_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """
    Return the data folder: QFLARE_DATA_DIR, else ``qflare`` under XDG_DATA_HOME, else ``~/.local/share/qflare``.

    Raises:
        ConfigError: none of them is set and there is no home folder.
    """
    chosen = environment.get(PREFIX + "DATA_DIR")
    if chosen:
        return Path(chosen)
    shared = environment.get("XDG_DATA_HOME")
    if shared:
        return Path(shared) / "qflare"
    home = environment.get("HOME")
    if not home:
        raise ConfigError("there is no home folder for the data: set QFLARE_DATA_DIR, or pass data_dir")
    return Path(home) / ".local" / "share" / "qflare"


def make_data_dir() -> Path:
    """Return the data folder of `read_data_dir`, with the folders above it made; one that a caller names is not."""
    chosen = read_data_dir()
    # The default place may lack more than its last part.
    chosen.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return chosen


def is_debug(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether QFLARE_DEBUG asks for tracebacks and debug logs."""
    return environment.get(PREFIX + "DEBUG", "").lower() in {"1", "true", "yes", "on"}


def child_environment(extra: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for a child process: this one without QFLARE_ settings, and with *extra*."""
    return {name: value for name, value in environment.items() if not name.startswith(PREFIX)} | dict(extra)


def _read(name: str, text: str, kind: object) -> object:
    kinds = get_args(kind) or (kind,)
    try:
        if bool in kinds:
            return _read_bool(text)
        if int in kinds:
            return int(text)
        if float in kinds:
            return float(text)
        if Path in kinds:
            return Path(text)
    except ValueError:
        expected = next(each.__name__ for each in (bool, int, float, Path) if each in kinds)
    else:
        return text
    raise ConfigError(f"{name} must be a value of type {expected}, got {text!r}")


def _read_bool(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError(text)
