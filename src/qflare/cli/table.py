"""Tables of at most 80 columns, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

WIDTH: Final = 80
_GAP: Final = "  "


def table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, int], *, none: str) -> str:
    """
    Return *rows* as lines under a heading.

    Args:
        rows: One mapping a line.
        columns: Name and greatest width of each; what is longer is cut and ends with a dot, never wrapped.
        none: What to say when there are no rows.
    """
    if not rows:
        return none
    cells = [[_text(row[name], width) for name, width in columns.items()] for row in rows]
    heads = [_text(name.replace("_", " "), width) for name, width in columns.items()]
    widths = [max(len(line[place]) for line in [heads, *cells]) for place in range(len(heads))]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [heads, *cells]
    )


def moment(at: datetime | None) -> str | None:
    """Return a time to the second, UTC, as tables and JSON have it."""
    if at is None:
        return None
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: object, width: int) -> str:
    text = "" if value is None else str(value)
    # A device's name may hold anything but NUL: nothing of it moves the cursor or starts a line.
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= width else text[: width - 1] + "…"
