"""
HTML and SVG elements as text, escaped by construction: a plain string is text, only `Markup` is markup.
"""

from __future__ import annotations

import html
from typing import Final

_VOID: Final = frozenset({"meta", "link", "input", "br", "line", "circle", "rect", "path", "polyline"})


class Markup(str):
    """Text that is HTML or SVG already and goes out as it is."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """
    Return the element *name*; children that are no `Markup` are escaped.

    Args:
        name: Of the element, as written in HTML or SVG.
        children: In order.
        attributes: ``class_`` stands for ``class``, ``aria_label`` for ``aria-label``; None leaves one out.
    """
    opening = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """Return *children* one after the other, escaping those that are no `Markup`."""
    return Markup("".join(child if isinstance(child, Markup) else html.escape(child) for child in children))


def _text(value: str | float) -> str:
    """Return an attribute's value; coordinates keep at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
