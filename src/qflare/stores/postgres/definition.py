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


def _database() -> Traversable:
    return files("qflare") / "database"


@cache
def schema_text() -> str:
    """Return database/schema.sql."""
    return (_database() / "schema.sql").read_text(encoding="utf-8")


@cache
def migration_texts() -> Mapping[int, str]:
    """Return the migrations by the version that each leads to."""
    found = {
        int(entry.name[:4]): entry.read_text(encoding="utf-8")
        for entry in (_database() / "migrations").iterdir()
        if entry.name.endswith(".sql")
    }
    return dict(sorted(found.items()))


def schema_version() -> int:
    """Return the version that this code works with: what the last migration leads to, and `schema.sql` installs."""
    return max(migration_texts())


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
