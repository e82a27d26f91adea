"""
The report's charts as inline SVG: no script, no outside asset; colours come from the page's style sheet by class.

Each chart is drawn for a given width, so that text keeps its size on a phone: the page holds a wide and a narrow one
and shows the one that fits.  Every chart stands beside a table with the same figures.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.service.demo.wording import milliseconds, percent
from qflare.service.markup import Markup, element

if TYPE_CHECKING:
    from qflare.service.demo.result import DemoResult, DeviceRecord, RoundRecord, Timing, Training

_NARROW: Final = 500
_LABELLED_DEVICES_MAX: Final = 40
_SHORT_NAME: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Frame:
    """A plot's place in its picture, in user units; the origin is at the top left."""

    left: float
    top: float
    width: float
    height: float

    def x(self, share: float) -> float:
        """Return the place of *share* (0 left, 1 right)."""
        return self.left + share * self.width

    def y(self, share: float) -> float:
        """Return the place of *share* (0 bottom, 1 top)."""
        return self.top + (1 - share) * self.height


def accuracy_chart(training: Training, *, width: int) -> Markup:
    """Return accuracy by round: QFLARE as a line with dots over the reference as a wide band."""
    height = 300 if width > _NARROW else 240
    frame = _Frame(left=44, top=16, width=width - 44 - 16, height=height - 16 - 40)
    rounds = training.rounds
    last = max(len(rounds) - 1, 1)
    parts: list[Markup] = []
    for step in range(6):
        y = frame.y(step / 5)
        parts.append(element("line", x1=frame.left, x2=frame.x(1), y1=y, y2=y, class_="axis" if step == 0 else "grid"))
        parts.append(_label(frame.left - 8, y + 4, f"{step * 20} %", anchor="end"))
    for before, after in itertools.pairwise(rounds):
        if before.bucket != after.bucket:
            x = frame.x((after.index - 0.5) / last)
            parts.append(element("line", x1=x, x2=x, y1=frame.top, y2=frame.y(0), class_="turn"))
    every = _tick_step(len(rounds), width)
    parts.extend(
        _label(frame.x(record.index / last), frame.y(0) + 20, str(record.index + 1), anchor="middle")
        for record in rounds
        if _has_tick(record.index, every)
    )
    parts.append(_label(frame.x(0.5), height - 2, "round", anchor="middle"))
    points = [(frame.x(record.index / last), frame.y(record.accuracy)) for record in rounds]
    reference = [(frame.x(record.index / last), frame.y(record.reference_accuracy)) for record in rounds]
    parts.append(element("polyline", points=_points(reference), class_="reference"))
    parts.append(element("polyline", points=_points(points), class_="line"))
    parts.extend(
        element("circle", element("title", _round_title(record)), cx=x, cy=y, r=3.5, class_="dot")
        for record, (x, y) in zip(rounds, points, strict=True)
    )
    if rounds:
        x, y = points[-1]
        parts.append(_label(x, y + 26, percent(rounds[-1].accuracy), anchor="end", class_="figure"))
    return _picture(parts, width=width, height=height, label=_accuracy_text(training))


def participation_chart(result: DemoResult, *, width: int) -> Markup:
    """Return who took part in which round: a row a device, by form, a column a round, buckets marked above."""
    rounds = result.training.rounds
    devices = sorted(result.devices, key=lambda device: (device.form, device.device_id))
    is_labelled = len(devices) <= _LABELLED_DEVICES_MAX
    row = 22.0 if is_labelled else 3.0
    longest = max((len(device.device_id) for device in devices), default=0)
    left = min(8 + 7.0 * longest, width * 0.36) if is_labelled else 8.0
    top = 26.0
    columns = max(len(rounds), 1)
    frame = _Frame(left=left, top=top, width=width - left - 4, height=row * len(devices))
    column = frame.width / columns
    height = math.ceil(top + frame.height + 40)
    parts: list[Markup] = _bucket_strip(rounds, frame, column)
    for place, device in enumerate(devices):
        y = top + place * row
        if is_labelled:
            parts.append(_label(0, y + row / 2 + 4, _shortened(device.device_id, int(left / 7)), anchor="start"))
        parts.extend(_device_row(device, rounds, x=left, y=y, column=column, row=row))
    every = _tick_step(len(rounds), width)
    parts.extend(
        _label(left + (index + 0.5) * column, top + frame.height + 18, str(index + 1), anchor="middle")
        for index in range(len(rounds))
        if _has_tick(index, every)
    )
    parts.append(_label(frame.x(0.5), height - 2, "round", anchor="middle"))
    text = (
        f"Participation of {len(devices)} devices in {len(rounds)} rounds; the table of devices has the same figures."
    )
    return _picture(parts, width=width, height=height, label=text)


def timings_chart(timings: tuple[Timing, ...], *, width: int) -> Markup:
    """Return each operation's published and measured time on a logarithmic scale, faster to the left."""
    shown = [(timing, timing.published_ms) for timing in timings if timing.published_ms is not None]
    is_narrow = width <= _NARROW
    left, row, top = (12.0, 44.0, 8.0) if is_narrow else (220.0, 34.0, 8.0)
    frame = _Frame(left=left, top=top, width=width - left - 28, height=row * len(shown))
    height = math.ceil(top + frame.height + 28)
    times = [time for timing, published in shown for time in (timing.measured_ms, published)]
    low = math.floor(math.log10(min(times, default=1)))
    high = max(math.ceil(math.log10(max(times, default=10))), low + 1)
    parts: list[Markup] = []
    for power in range(low, high + 1):
        x = frame.x((power - low) / (high - low))
        parts.append(element("line", x1=x, x2=x, y1=top, y2=top + frame.height, class_="grid"))
        end = "start" if power == low and is_narrow else "middle"
        parts.append(_label(x, top + frame.height + 18, f"{10.0**power:g} ms", anchor=end))
    for place, (timing, published) in enumerate(shown):
        y = top + (place + (0.72 if is_narrow else 0.5)) * row
        here, there = (frame.x((math.log10(time) - low) / (high - low)) for time in (timing.measured_ms, published))
        if is_narrow:
            parts.append(_label(left, y - 14, timing.operation, anchor="start", class_="name"))
        else:
            parts.append(_label(left - 16, y + 4, timing.operation, anchor="end", class_="name"))
        title = f"{timing.operation}: {milliseconds(timing.measured_ms)}, published {milliseconds(published)}"
        parts.append(element("line", x1=here, x2=there, y1=y, y2=y, class_="span"))
        parts.append(element("circle", cx=there, cy=y, r=5, class_="ring"))
        parts.append(element("circle", element("title", title), cx=here, cy=y, r=5.5, class_="dot"))
    text = "Time of each operation, published and in this run; the table below has the same figures."
    return _picture(parts, width=width, height=height, label=text)


def _bucket_strip(rounds: tuple[RoundRecord, ...], frame: _Frame, column: float) -> list[Markup]:
    """Return a rule above the rounds of each bucket with its number, and a line where one ends."""
    parts: list[Markup] = []
    first = 0
    for index in range(1, len(rounds) + 1):
        if index < len(rounds) and rounds[index].bucket == rounds[first].bucket:
            continue
        start, end = frame.left + first * column, frame.left + index * column
        parts.append(element("line", x1=start + 2, x2=end - 2, y1=19, y2=19, class_="bucket"))
        # WHY: the last digits tell neighbours apart; whole bucket numbers do not fit above two columns.
        name = f"bucket …{rounds[first].bucket % 1000:03d}"
        if end - start >= 7 * len(name):
            parts.append(_label(start + 2, 12, name, anchor="start"))
        elif end - start >= _SHORT_NAME:
            parts.append(_label(start + 2, 12, name.removeprefix("bucket "), anchor="start"))
        first = index
    return parts


def _device_row(
    device: DeviceRecord, rounds: tuple[RoundRecord, ...], *, x: float, y: float, column: float, row: float
) -> list[Markup]:
    """Return a device's cells: filled where its update is in the average, a small mark where it is not."""
    gap_x, gap_y = min(2.0, column * 0.12), min(3.0, row * 0.15)
    took_part = set(device.rounds)
    parts: list[Markup] = []
    for record in rounds:
        left = x + record.index * column
        if record.index in took_part:
            cell = {"x": left + gap_x, "y": y + gap_y, "width": column - 2 * gap_x, "height": row - 2 * gap_y}
            # The form shows by shade; the table names it.
            parts.append(element("rect", **cell, rx=min(3.0, row / 4), class_=f"cell {device.form}"))
        else:
            parts.append(element("circle", cx=left + column / 2, cy=y + row / 2, r=min(1.8, row / 4), class_="absent"))
    return parts


def _accuracy_text(training: Training) -> str:
    """Return what the accuracy chart shows, for those who cannot see it."""
    if not training.rounds:
        return "No round was finished."
    first, last = training.rounds[0], training.rounds[-1]
    same = "the reference is the same in every round"
    if any(record.accuracy != record.reference_accuracy for record in training.rounds):
        same = f"the reference ends at {percent(last.reference_accuracy)}"
    return (
        f"Accuracy by round: {percent(first.accuracy)} after round 1, "
        f"{percent(last.accuracy)} after round {last.index + 1}; {same}."
    )


def _round_title(record: RoundRecord) -> str:
    """Return what a pointer over a round's dot shows."""
    return f"Round {record.index + 1}: {percent(record.accuracy)}, {len(record.device_ids)} devices"


def _tick_step(count: int, width: int) -> int:
    """Return how many columns go to one label so that labels do not touch."""
    room = 24 if width > _NARROW else 30
    return next((step for step in (1, 2, 5, 10, 20, 50, 100) if count / step * room <= width), 100)


def _has_tick(index: int, every: int) -> bool:
    """Return whether column *index* has a label: the first, unless the second has one, and each *every*-th."""
    return (index + 1) % every == 0 or (index == 0 and every > 2)  # noqa: PLR2004 - labels 1 and 2 would touch


def _shortened(name: str, size_max: int) -> str:
    """Return *name*, its end replaced by an ellipsis if it has more than *size_max* characters."""
    return name if len(name) <= size_max else name[: max(size_max - 1, 1)] + "…"


def _points(points: list[tuple[float, float]]) -> str:
    """Return *points* as an SVG list."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _label(x: float, y: float, text: str, *, anchor: str, class_: str = "label") -> Markup:
    """Return a piece of text at a place."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _picture(parts: list[Markup], *, width: int, height: int, label: str) -> Markup:
    """Return the finished SVG with a label for those who cannot see it."""
    kind = "narrow" if width <= _NARROW else "wide"
    return element(
        "svg", *parts, viewBox=f"0 0 {width} {height}", class_=f"chart {kind}", role="img", aria_label=label
    )  # fmt: skip
