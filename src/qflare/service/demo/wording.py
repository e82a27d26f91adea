"""
Numbers as people read them: times, sizes, shares and ratios, with the unit and a space that does not break.
"""

from __future__ import annotations

from typing import Final

SPACE: Final = "\N{NO-BREAK SPACE}"

_KILO: Final = 1000


def percent(share: float) -> str:
    """Return a share of 0 to 1 in per cent, one decimal."""
    return f"{share * 100:.1f}{SPACE}%"


def milliseconds(value_ms: float) -> str:
    """Return *value_ms* with two significant digits or whole, in milliseconds."""
    if value_ms >= 10:  # noqa: PLR2004 — two digits before the point
        return f"{value_ms:.0f}{SPACE}ms"
    decimals = 1 if value_ms >= 1 else 2 if value_ms >= 0.1 else 3 if value_ms >= 0.01 else 4  # noqa: PLR2004
    return f"{value_ms:.{decimals}f}{SPACE}ms"


def seconds(value_s: float) -> str:
    """Return *value_s* as seconds, or as minutes and seconds from two minutes on."""
    if value_s < 120:  # noqa: PLR2004 — two minutes
        return f"{value_s:.1f}{SPACE}s"
    return f"{int(value_s) // 60}{SPACE}min {int(value_s) % 60}{SPACE}s"


def size(value_bytes: int) -> str:
    """Return *value_bytes* in decimal units."""
    value = float(value_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if value < _KILO:
            return f"{value:.0f}{SPACE}{unit}" if unit == "B" or value >= 100 else f"{value:.1f}{SPACE}{unit}"  # noqa: PLR2004
        value /= _KILO
    return f"{value:.1f}{SPACE}TB"


def ratio(published_ms: float, measured_ms: float) -> str:
    """Return how many times faster or slower *measured_ms* is than *published_ms*."""
    if measured_ms <= published_ms:
        return f"{published_ms / measured_ms:.1f}{SPACE}× faster"
    return f"{measured_ms / published_ms:.1f}{SPACE}× slower"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return *number* with *noun* in the right form."""
    return f"{number:,}{SPACE}{noun if number == 1 else plural or noun + 's'}"


def runs(indexes: tuple[int, ...]) -> str:
    """Return ascending zero-based *indexes* as one-based ranges, such as ``1–5, 8``; a dash if there are none."""
    spans: list[tuple[int, int]] = []
    for index in sorted(indexes):
        if spans and index == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], index)
        else:
            spans.append((index, index))
    texts = (str(first + 1) if first == last else f"{first + 1}–{last + 1}" for first, last in spans)
    return ", ".join(texts) or "–"
