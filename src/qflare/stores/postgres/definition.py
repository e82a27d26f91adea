"""The SQL files that are installed with the package: schema, migrations and named queries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

_MIGRATION: Final = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z]+(?:_[a-z0-9]+)+)\.sql")
_HEADER: Final = re.compile(r"^-- name: (?P<name>[a-z_]+) :(?P<cardinality>one|many|exec)\s*$", re.MULTILINE)


class Cardinality(StrEnum):
    """How many rows a named query returns."""

    ONE = "one"
    """One row or none."""
    MANY = "many"
    EXEC = "exec"
    """None that anybody reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A named query of database/queries."""

    name: str
    cardinality: Cardinality
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A migration of database/migrations: statements that lead from the version before to its own."""

    version: int
    name: str
    """What it does, in words."""
    text: str
    """Its statements, without BEGIN and COMMIT; version 1 alone is a whole script."""


def _database() -> Traversable:
    return files("qflare") / "database"


@cache
def schema_text() -> str:
    """Return database/schema.sql."""
    return (_database() / "schema.sql").read_text(encoding="utf-8")


@cache
def migrations() -> tuple[Migration, ...]:
    """
    Return the migrations in order of their versions, which count from 1 without a gap.

    Raises:
        ConfigError: a file is not named NNNN_verb_noun.sql, or a number is missing or taken twice.
    """
    found = []
    for entry in (_database() / "migrations").iterdir():
        match = _MIGRATION.fullmatch(entry.name)
        if match is None:
            raise ConfigError(f"database/migrations: {entry.name} must be named NNNN_verb_noun.sql")
        text = entry.read_text(encoding="utf-8")
        found.append(Migration(version=int(match["version"]), name=match["name"].replace("_", " "), text=text))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ConfigError("database/migrations must be numbered from 0001 on, each number once; renumber them")
    return tuple(found)


def schema_version() -> int:
    """Return the version that this code works with: what the last migration leads to, and `schema.sql` installs."""
    return migrations()[-1].version


@cache
def queries() -> Mapping[str, Query]:
    """
    Return every named query.

    Raises:
        ConfigError: two queries have one name, or a file begins without one.
    """
    found: dict[str, Query] = {}
    for entry in sorted((_database() / "queries").iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".sql"):
            for query in parse_queries(entry.read_text(encoding="utf-8"), origin=entry.name):
                if query.name in found:
                    raise ConfigError(f"the query {query.name!r} stands twice in database/queries; rename one")
                found[query.name] = query
    return found


def parse_queries(text: str, *, origin: str) -> tuple[Query, ...]:
    """
    Split a file of named queries.

    Args:
        text: SQL in which a line ``-- name: x :one|:many|:exec`` stands above each statement.
        origin: The file's name, for the error.

    Raises:
        ConfigError: SQL stands above the first name, or a name stands above nothing.
    """
    headers = list(_HEADER.finditer(text))
    if not headers or text[: headers[0].start()].strip():
        raise ConfigError(f"{origin}: every query needs a line '-- name: x :one|:many|:exec' above it")
    ends = [header.start() for header in headers[1:]] + [len(text)]
    found = []
    for header, end in zip(headers, ends, strict=True):
        body = text[header.end() : end].strip().removesuffix(";")
        if not any(line and not line.startswith("--") for line in body.splitlines()):
            raise ConfigError(f"{origin}: no statement stands under the name {header['name']!r}")
        found.append(Query(name=header["name"], cardinality=Cardinality(header["cardinality"]), text=body))
    return tuple(found)
