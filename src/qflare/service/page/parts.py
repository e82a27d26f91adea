"""
The parts of the page that change, each as markup: what a look saw, in words, figures and one chart.

Whatever comes from devices or from the database is text here and escaped by `element`; a state is a word, never a
colour alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.clock import utc
from qflare.model.device import KeyState
from qflare.service.markup import Markup, element, joined
from qflare.service.page.items import DEVICE_HEADS, device_row, event_item, incident_item, response_item
from qflare.service.page.pieces import fact_list, table, tile_list, time_of

if TYPE_CHECKING:
    from qflare.model.event import AuditEntry
    from qflare.model.key_record import KeyRecord
    from qflare.service.page.look import Seen

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
        "responses": _responses(seen),
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
    return joined(verdict, element("p", "As of ", time_of(seen.at), class_="soft"))


def _fleet(seen: Seen) -> Markup:
    figures = seen.statistics
    tiles = tile_list(
        ("Devices", figures.devices_total, ""),
        ("Active", figures.devices_active, ""),
        ("Revoked", figures.devices_revoked, "or known to others"),
        ("Live sessions", figures.sessions_live, f"of {figures.sessions_total:,} on record"),
    )
    if not seen.devices:
        return joined(tiles, element("p", "No device is registered yet.", class_="soft"))
    rows = [device_row(device) for device in seen.devices]
    more = figures.devices_total - len(seen.devices)
    note = element("p", f"{more:,} more are on the list of devices.", class_="soft") if more > 0 else ""
    return joined(tiles, table("Devices in order of name", DEVICE_HEADS, rows), note)


def _handshakes(seen: Seen) -> Markup:
    counts = list(seen.begun.values())
    total, most, now = sum(counts), max(counts, default=0), counts[-1] if counts else 0
    tiles = tile_list(
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
    facts = fact_list(
        ("Present bucket", f"{figures.bucket}"),
        ("Oldest keys not destroyed", "none" if oldest is None else f"bucket {oldest.number}, {oldest.state.value}"),
        ("Destruction", promise),
    )
    rows = [_bucket(each, present=figures.bucket) for each in seen.buckets]
    return joined(facts, table("Keys of the newest buckets", ("Bucket", "Keys", "Since"), rows))


def _bucket(record: KeyRecord, *, present: int) -> tuple[Markup, ...]:
    name = f"{record.number} (present)" if record.number == present else f"{record.number}"
    return (joined(name), element("span", record.state.value, class_="state"), time_of(record.since))


def _incidents(seen: Seen) -> Markup:
    if not seen.incidents:
        return element("p", "No incident is open.", class_="soft")
    items = [incident_item(each) for each in seen.incidents]
    more = seen.incident_count - len(seen.incidents)
    note = element("p", f"{more:,} more are on the list of incidents.", class_="soft") if more > 0 else ""
    return joined(element("ol", *items, class_="list", data_count=seen.incident_count), note)


def _responses(seen: Seen) -> Markup:
    if not seen.responses:
        return element("p", "No response was asked for yet.", class_="soft")
    return element("ol", *[response_item(each, now=seen.at) for each in seen.responses], class_="list")


def _events(entries: tuple[AuditEntry, ...], *, none: str) -> Markup:
    if not entries:
        return element("p", none, class_="soft")
    return element("ol", *[event_item(each) for each in entries], class_="list")


def _log(seen: Seen) -> Markup:
    head = seen.head
    if head is None:
        return element("p", "No head is signed yet.", class_="soft")
    return fact_list(
        ("Log", seen.origin),
        ("Entries", f"{seen.log_size:,}, {head.size:,} of them under the newest signed head"),
        ("Head signed", time_of(utc(head.time_s))),
        ("Root", element("code", head.root.hex(), class_="hash")),
    )
