"""
Numbers as people read them: times, sizes, shares and ratios, with the unit and a space that does not break.
"""

from __future__ import annotations

import math
from typing import Final

SPACE: Final = "\N{NO-BREAK SPACE}"

_KILO: Final = 1000
_DECIMALS_MAX: Final = 6
_SECONDS_ALONE_MAX: Final = 120
_WHOLE_FROM: Final = 100


def percent(share: float) -> str:
    """Return a share of 0 to 1 in per cent, one decimal."""
    return f"{share * 100:.1f}{SPACE}%"


def milliseconds(value_ms: float) -> str:
    """Return *value_ms* in milliseconds with two significant digits, or whole from 10 on."""
    decimals = min(max(1 - math.floor(math.log10(value_ms)), 0), _DECIMALS_MAX) if value_ms > 0 else 0
    return f"{value_ms:.{decimals}f}{SPACE}ms"


def seconds(value_s: float) -> str:
    """Return *value_s* as seconds, or as minutes and seconds from two minutes on."""
    if value_s < _SECONDS_ALONE_MAX:
        return f"{value_s:.1f}{SPACE}s"
    return f"{int(value_s) // 60}{SPACE}min {int(value_s) % 60}{SPACE}s"


def size(value_bytes: int) -> str:
    """Return *value_bytes* in decimal units."""
    if value_bytes < _KILO:
        return f"{value_bytes}{SPACE}B"
    value = float(value_bytes)
    for unit in ("KB", "MB", "GB"):
        value /= _KILO
        if value < _KILO:
            return f"{value:.{1 if value < _WHOLE_FROM else 0}f}{SPACE}{unit}"
    return f"{value / _KILO:.1f}{SPACE}TB"


def ratio(published_ms: float, measured_ms: float) -> str:
    """Return how many times faster or slower *measured_ms* is than *published_ms*."""
    if measured_ms <= published_ms:
        return f"{published_ms / measured_ms:.1f}{SPACE}× faster"
    return f"{measured_ms / published_ms:.1f}{SPACE}× slower"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return *number* with *noun* in the right form."""
    return f"{number:,}{SPACE}{noun if number == 1 else plural or noun + 's'}"


def named(name: str, times: int) -> str:
    """Return *name* with how often it was done, if that is more than once."""
    return name if times == 1 else f"{name}, {times}{SPACE}times"


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
