"""
A table of the report that stays a table for a screen reader when a narrow page stacks its cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qflare.service.markup import Markup, element

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading, and whether it holds numbers (right-aligned)."""

    heading: str
    is_number: bool = False


def table(
    caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str]], *, class_: str = "", is_dense: bool = False
) -> Markup:
    """
    Return a table; the first cell of each row is its heading.

    Args:
        caption: What the table says, for those who hear it.
        columns: Left to right.
        rows: Cells as text or `Markup`, as many as columns.
        class_: Of the table, for the style sheet.
        is_dense: Whether a narrow page sets a row's cells side by side under their headings; they must be short, but
            for the last, which gets a line of its own.
    """
    # WHY the roles: `display: block` takes a table's meaning away from a screen reader unless they are said.
    head = element(
        "tr",
        *(element("th", column.heading, scope="col", role="columnheader", class_=_class(column)) for column in columns),
        role="row",
    )
    body = (
        element(
            "tr",
            element("th", row[0], scope="row", role="rowheader"),
            *(
                element("td", element("span", cell), role="cell", data_label=column.heading, class_=_class(column))
                for column, cell in zip(columns[1:], row[1:], strict=True)
            ),
            role="row",
        )
        for row in rows
    )
    classes = " ".join(name for name in ("stacked", "dense" if is_dense else "", class_) if name)
    return element(
        "table",
        element("thead", head, role="rowgroup"),
        element("tbody", *body, role="rowgroup"),
        role="table",
        aria_label=caption,
        class_=classes,
    )


def _class(column: Column) -> str | None:
    """Return the class of a column's cells."""
    return "number" if column.is_number else None
