"""
The parts of the page that change, each as markup: what a look saw, in words, figures and one chart.

Whatever comes from devices or from the database is text here and escaped by `element`; a state is a word, never a
colour alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.model.device import KeyState
from qflare.model.event import EventSeverity
from qflare.service.markup import Markup, element, joined

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from qflare.model.device import Device
    from qflare.model.event import AuditEntry
    from qflare.model.incident import Incident
    from qflare.model.key_record import KeyRecord
    from qflare.service.page.look import Seen

_FACTS_MAX: Final = 8
_VALUE_CHARS_MAX: Final = 64
_GRAVE: Final = frozenset({EventSeverity.WARNING, EventSeverity.ERROR, EventSeverity.CRITICAL})
_CHART_WIDTH: Final = 480
_CHART_HEIGHT: Final = 72
_GAP: Final = 2


def render(seen: Seen) -> dict[str, Markup]:
    """Return every part by its name."""
    return {
        "status": _status(seen),
        "fleet": _fleet(seen),
        "handshakes": _handshakes(seen),
        "buckets": _buckets(seen),
        "incidents": _incidents(seen),
        "warnings": _events(seen.warnings, none="No warning."),
        "events": _events(seen.events, none="No event yet."),
        "log": _log(seen),
    }


def _status(seen: Seen) -> Markup:
    readiness = seen.readiness
    problems = [
        text
        for is_well, text in (
            (readiness.database is None, "the database does not answer as it should"),
            (readiness.bucket is None, "bucket keys are missing"),
            (readiness.keeper is None, "the keeper cannot be read"),
            (readiness.turn is None, "the bucket turn lags"),
        )
        if not is_well
    ]
    verdict = (
        element("p", "✕ ", "; ".join(problems), class_="verdict bad")
        if problems
        else element("p", "✓ The server is ready.", class_="verdict good")
    )
    return joined(verdict, element("p", "As of ", _time(seen.at), class_="soft"))


def _fleet(seen: Seen) -> Markup:
    figures = seen.statistics
    tiles = _tiles(
        ("Devices", figures.devices_total, ""),
        ("Active", figures.devices_active, ""),
        ("Revoked", figures.devices_revoked, "or known to others"),
        ("Live sessions", figures.sessions_live, f"of {figures.sessions_total:,} on record"),
    )
    if not seen.devices:
        return joined(tiles, element("p", "No device is registered yet.", class_="soft"))
    rows = [_device(device) for device in seen.devices]
    more = figures.devices_total - len(seen.devices)
    note = element("p", f"{more:,} more: ", element("code", "qflare devices list"), class_="soft") if more > 0 else ""
    return joined(tiles, _table("Devices in order of name", ("Device", "State", "Keys", "Registered"), rows), note)


def _device(device: Device) -> tuple[Markup, ...]:
    is_good = device.state is KeyState.ACTIVE
    return (
        element("span", device.device_id, class_="name"),
        element("span", device.state.value, class_="state" if is_good else "state bad"),
        joined(f"v{device.key_version}"),
        _time(device.registered_at),
    )


def _handshakes(seen: Seen) -> Markup:
    counts = list(seen.begun.values())
    total, most, now = sum(counts), max(counts, default=0), counts[-1] if counts else 0
    tiles = _tiles(
        ("In this bucket", now, ""),
        (f"In the last {len(counts)} buckets", total, ""),
        ("Most in one", most, ""),
    )
    said = f"Sessions that began in each of the last {len(counts)} buckets: {total} in all, {most} at most, {now} now."
    return joined(
        tiles,
        element(
            "svg",
            *_bars(counts, most),
            class_="chart",
            viewBox=f"0 0 {_CHART_WIDTH} {_CHART_HEIGHT}",
            preserveAspectRatio="none",
            role="img",
            aria_label=said,
        ),
        element(
            "p",
            f"Sessions by the bucket of {seen.width_s} s in which they began, the present one at the right.",
            class_="soft",
        ),
    )


def _bars(counts: list[int], most: int) -> list[Markup]:
    if not counts:
        return []
    step = _CHART_WIDTH / len(counts)
    bars = [element("line", class_="axis", x1=0, y1=_CHART_HEIGHT - 1, x2=_CHART_WIDTH, y2=_CHART_HEIGHT - 1)]
    for place, count in enumerate(counts):
        if count:
            height = max(2.0, (_CHART_HEIGHT - 4) * count / most)
            bars.append(
                element(
                    "rect", class_="bar", x=place * step, y=_CHART_HEIGHT - 1 - height, width=step - _GAP, height=height
                )
            )
    return bars


def _buckets(seen: Seen) -> Markup:
    figures = seen.statistics
    promise = (
        "Keys that are destroyed are gone from their medium."
        if seen.is_destruction_promised
        else "Not promised: that keys which are destroyed are gone from their medium (doctor says why)."
    )
    undestroyed = [each for each in seen.buckets if each.state is not KeyState.DESTROYED]
    oldest = min(undestroyed, key=lambda each: each.number, default=None)
    facts = _facts(
        ("Present bucket", f"{figures.bucket}"),
        ("Oldest keys not destroyed", "none" if oldest is None else f"bucket {oldest.number}, {oldest.state.value}"),
        ("Destruction", promise),
    )
    rows = [_bucket(each, present=figures.bucket) for each in seen.buckets]
    return joined(facts, _table("Keys of the newest buckets", ("Bucket", "Keys", "Since"), rows))


def _bucket(record: KeyRecord, *, present: int) -> tuple[Markup, ...]:
    name = f"{record.number} (present)" if record.number == present else f"{record.number}"
    return (joined(name), element("span", record.state.value, class_="state"), _time(record.since))


def _incidents(seen: Seen) -> Markup:
    if not seen.incidents:
        return element("p", "No incident is open.", class_="soft")
    items = [_incident(each) for each in seen.incidents]
    more = seen.incident_count - len(seen.incidents)
    note = element("p", f"{more:,} more are not closed.", class_="soft") if more > 0 else ""
    return joined(element("ol", *items, class_="list"), note)


def _incident(incident: Incident) -> Markup:
    about = "the fleet" if incident.ref is None else incident.device_id or "a device that is not on the roster"
    seen = "once" if incident.count == 1 else f"{incident.count:,} times"
    return element(
        "li",
        element(
            "p",
            _severity(incident.severity),
            " ",
            element("strong", incident.signal.value),
            " · ",
            element("span", about, class_="name"),
            class_="what",
        ),
        element(
            "p",
            f"{incident.state.value}, seen {seen}, last ",
            _time(incident.last_seen_at),
            class_="soft",
        ),
        _data(incident.evidence),
        element("p", element("code", f"qflare incident show {incident.incident_id.hex()}"), class_="soft command"),
    )


def _events(entries: tuple[AuditEntry, ...], *, none: str) -> Markup:
    if not entries:
        return element("p", none, class_="soft")
    return element("ol", *[_event(each) for each in entries], class_="list")


def _event(entry: AuditEntry) -> Markup:
    device = [] if entry.device_id is None else [" · ", element("span", entry.device_id, class_="name")]
    return element(
        "li",
        element(
            "p",
            _severity(entry.severity),
            " ",
            element("strong", entry.event_type.value.replace("_", " ")),
            *device,
            class_="what",
        ),
        element("p", f"entry {entry.index}, ", _time(entry.recorded_at), class_="soft"),
        _data(entry.data),
    )


def _log(seen: Seen) -> Markup:
    head = seen.head
    if head is None:
        return element("p", "No head is signed yet.", class_="soft")
    return _facts(
        ("Log", seen.origin),
        ("Entries", f"{seen.log_size:,}, {head.size:,} of them under the newest signed head"),
        ("Head signed", _time(utc(head.time_s))),
        ("Root", element("code", head.root.hex(), class_="hash")),
    )


# --- pieces ----------------------------------------------------------------------------------------------------------


def _tiles(*figures: tuple[str, int, str]) -> Markup:
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


def _facts(*facts: tuple[str, str]) -> Markup:
    return element("dl", *[joined(element("dt", name), element("dd", value)) for name, value in facts], class_="facts")


def _table(caption: str, heads: tuple[str, ...], rows: list[tuple[Markup, ...]]) -> Markup:
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


def _severity(severity: EventSeverity) -> Markup:
    return element("span", severity.value, class_="severity grave" if severity in _GRAVE else "severity")


def _data(encoded: bytes) -> Markup:
    """Return an event's or incident's facts, the first few, each cut where it is long."""
    try:
        data: object = json.loads(encoded)
    except ValueError:
        data = None
    if not isinstance(data, dict) or not data:
        return joined()
    shown = list(_flat(data))
    facts = [
        element("span", element("span", f"{name} ", class_="soft"), _cut(value), class_="fact")
        for name, value in shown[:_FACTS_MAX]
    ]
    left = len(shown) - len(facts)
    return element("p", *facts, element("span", f"and {left} more", class_="soft") if left > 0 else "", class_="data")


def _flat(data: Mapping[str, object]) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in data.items()
    ]


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 1] + "…"


def _time(at: datetime) -> Markup:
    return element("time", f"{at:%Y-%m-%d %H:%M:%S} UTC", datetime=at.isoformat(timespec="seconds"))
