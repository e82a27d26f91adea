"""Options and checks that the listing commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAGE_MAX: Final = 1000

Limit: TypeAlias = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, max=PAGE_MAX, help="How many at most, up to 1000.")
]
After: TypeAlias = Annotated[
    str | None, typer.Option("--after", metavar="LAST", help="Go on behind this one, the last of the page before.")
]
Reason: TypeAlias = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the log.")]
DEFAULT_LIMIT: Final = 50


def parse_id(text: str, *, name: str) -> bytes:
    """
    Read an id of 32 hex digits.

    Raises:
        ConfigError: it is none.
    """
    from qflare.errors import ConfigError
    from qflare.model.ids import ID_BYTES

    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != ID_BYTES:
        raise ConfigError(f"{name} is {2 * ID_BYTES} hex digits")
    return value


def parse_call_id(text: str | None) -> bytes:
    """Read the id of a change; a fresh one if none was given, for an error to name. `ConfigError` if it is none."""
    from qflare.model.call import fresh_call

    return fresh_call() if text is None else parse_id(text, name="--call-id")


def emit_page(
    name: str,
    rows: Sequence[Mapping[str, object]],
    columns: Mapping[str, int],
    *,
    limit: int,
    key: str,
    as_json: bool,
) -> None:
    """Print a page; a full one says how to go on."""
    from qflare.cli.output import emit
    from qflare.cli.table import table

    # A page that is not full is the last one.
    following = rows[-1][key] if len(rows) == limit else None
    text = table(rows, columns, none=f"no {name}")
    if following is not None:
        text += f"\nmore: --after {following}"
    emit({name: list(rows), "after": following}, as_json=as_json, text=text)
