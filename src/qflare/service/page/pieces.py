"""What the documents of the page are made of: figures, facts, tables, times, and ways to the next page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from qflare.model.event import EventSeverity
from qflare.service.markup import Markup, element, joined

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_FACTS_MAX: Final = 8
_VALUE_CHARS_MAX: Final = 64
_GRAVE: Final = frozenset({EventSeverity.WARNING, EventSeverity.ERROR, EventSeverity.CRITICAL})


def tile_list(*figures: tuple[str, int, str]) -> Markup:
    """Return figures that matter most: name, value, and what else there is to say about it."""
    return element(
        "dl",
        *[
            element(
                "div",
                element("dt", name),
                element("dd", f"{value:,}", class_="value"),
                element("dd", detail, class_="soft") if detail else "",
                class_="tile",
            )
            for name, value, detail in figures
        ],
        class_="tiles",
    )


def fact_list(*facts: tuple[str, str]) -> Markup:
    """Return facts by their names."""
    return element("dl", *[joined(element("dt", name), element("dd", value)) for name, value in facts], class_="facts")


def table(caption: str, heads: tuple[str, ...], rows: list[tuple[Markup, ...]]) -> Markup:
    """Return a table whose first column names its rows."""
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *[element("th", head, scope="col") for head in heads])),
        element(
            "tbody",
            *[
                element("tr", element("th", row[0], scope="row"), *[element("td", cell) for cell in row[1:]])
                for row in rows
            ],
        ),
    )


def severity_of(severity: EventSeverity) -> Markup:
    """Return how grave something is, as a word."""
    return element("span", severity.value, class_="severity grave" if severity in _GRAVE else "severity")


def data_of(encoded: bytes) -> Markup:
    """Return an event's or incident's facts, the first few, each cut where it is long."""
    shown = _flat(encoded)
    if not shown:
        return joined()
    facts = [
        element("span", element("span", f"{name} ", class_="soft"), _cut(value), class_="fact")
        for name, value in shown[:_FACTS_MAX]
    ]
    left = len(shown) - len(facts)
    return element("p", *facts, element("span", f"and {left} more", class_="soft") if left > 0 else "", class_="data")


def all_data_of(encoded: bytes) -> Markup:
    """Return all facts of an event or incident, whole."""
    shown = _flat(encoded)
    return fact_list(*shown) if shown else element("p", "None was kept.", class_="soft")


def _flat(encoded: bytes) -> list[tuple[str, str]]:
    try:
        data: object = json.loads(encoded)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        return []
    return [(name.replace("_", " "), _said(value)) for name, value in data.items()]


def _said(value: object) -> str:
    """Return a value as people read it; counts by name are a list of both."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value and all(type(each) is int for each in value.values()):
        return ", ".join(f"{name}: {each:,}" for name, each in value.items())
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 1] + "…"


def time_of(at: datetime) -> Markup:
    """Return a moment, to the second, for people and machines."""
    return element("time", f"{at:%Y-%m-%d %H:%M:%S} UTC", datetime=at.isoformat(timespec="seconds"))


def pager(path: str, *, first: Mapping[str, str], following: Mapping[str, str] | None, is_first: bool) -> Markup:
    """
    Return the ways from one page of a list to others, as links: no script is needed.

    Args:
        path: Of the list.
        first: Query of its first page.
        following: Query of the page after this one; None if this is the last.
        is_first: Whether this is the first.
    """
    ways = []
    if not is_first:
        ways.append(element("a", "First page", href=address(path, first)))
    if following is not None:
        ways.append(element("a", "Next page", href=address(path, following), rel="next"))
    if not ways:
        return joined()
    return element("nav", *ways, class_="pager", aria_label="Pages")


def address(path: str, query: Mapping[str, str]) -> str:
    """Return an address of the page with a query; empty values are left out."""
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path
