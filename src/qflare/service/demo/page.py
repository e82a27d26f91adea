"""
The report as one page of HTML that needs nothing else: no script, no font, no image from outside.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from qflare.service.demo import sections
from qflare.service.demo.result import TURNS_MIN
from qflare.service.demo.wording import count, percent, seconds
from qflare.service.markup import Markup, element, joined

if TYPE_CHECKING:
    from qflare.service.demo.result import DemoResult

_WIDTH_DEFAULT_S: Final = 300  # PROTOCOL, step A2


def render_page(result: DemoResult) -> str:
    """Return the whole page, UTF-8 text; the same result gives the same bytes."""
    style = resources.files("qflare.service.demo").joinpath("report.css").read_text(encoding="utf-8")
    # The page forbids itself everything but this one style sheet, so that it also works where a policy is strict.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        ),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"QFLARE demo, {result.started_at:%Y-%m-%d %H:%M} UTC"),
        element("style", Markup(style)),
    )
    main = element(
        "main",
        _header(result),
        sections.accuracy(result),
        sections.participation(result),
        sections.attacks(result),
        sections.rotations(result),
        sections.audit(result),
        sections.timings(result),
        sections.timeline(result),
        sections.surroundings(result),
        _footer(result),
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", main), lang="en") + "\n"


def _header(result: DemoResult) -> Markup:
    """Return the heading, the verdict and the four figures that matter most."""
    rounds = len(result.training.rounds)
    devices = len(result.devices)
    started = element(
        "time", f"{result.started_at:%d %B %Y, %H:%M} UTC", datetime=result.started_at.isoformat(timespec="seconds")
    )
    return element(
        "header",
        element("p", "QFLARE demo", class_="eyebrow"),
        element("h1", f"{count(devices, 'device')}, {count(rounds, 'round')}, one model"),
        element(
            "p",
            f"Devices in separate processes enrolled, agreed on post-quantum sessions and trained a model on "
            f"handwritten digits. Every update travelled sealed, through {count(result.worker_count, 'server worker')} "
            f"over one PostgreSQL.",
            class_="lead",
        ),
        element("p", started, f", {seconds(result.elapsed_s)} from the first process to the last check", class_="when"),
        _verdict(result),
        element("dl", *_tiles(result), class_="tiles"),
    )


def _verdict(result: DemoResult) -> Markup:
    """Return one line: everything held, or what did not."""
    if result.is_successful:
        return element("p", "✓ Every check of this run held.", class_="verdict good")
    failed = []
    if not result.training.is_byte_equal:
        failed.append("the model differs from the one trained without QFLARE")
    if not result.attacks:
        failed.append("no attempt against the servers was made")
    failed += [
        f"“{attack.name}” was not refused, counted and logged"
        if not attack.is_refused_and_logged
        else f"the detector opened no incident about “{attack.name}”"
        for attack in result.attacks
        if not attack.is_held
    ]
    if not result.rotations:
        failed.append("no device rotated its keys")
    failed += [
        f"the rotation of {rotation.device_id} was not done in its session and logged"
        for rotation in result.rotations
        if not rotation.is_held
    ]
    if not result.audit.is_valid:
        failed.append("the audit log or a receipt does not verify")
    if len(result.bucket_turns) < TURNS_MIN:
        failed.append(f"the bucket turned {count(len(result.bucket_turns), 'time')}, {TURNS_MIN} were wanted")
    return element("p", f"✕ Not everything held: {'; '.join(failed)}.", class_="verdict bad")


def _tiles(result: DemoResult) -> list[Markup]:
    """Return the four figures that matter most."""
    training, audit = result.training, result.audit
    held = sum(attack.is_held for attack in result.attacks)
    accuracy = percent(training.rounds[-1].accuracy) if training.rounds else "–"
    return [
        _tile("Accuracy", accuracy, f"on {training.test_samples} images no device has", is_good=bool(training.rounds)),
        _tile(
            "Model",
            "Byte-equal" if training.is_byte_equal else "Differs",
            f"{'to' if training.is_byte_equal else 'from'} the one trained without QFLARE",
            is_good=training.is_byte_equal,
        ),
        _tile(
            "Attempts refused",
            f"{held} of {len(result.attacks)}",
            "each counted, in the log and an incident"
            if held == len(result.attacks)
            else "the others are marked below",
            is_good=0 < held == len(result.attacks),
        ),
        _tile(
            "Audit log",
            "Verified" if audit.is_valid else "Not verified",
            f"{count(audit.size, 'entry', 'entries')}, "
            f"{audit.receipts_valid} of {count(audit.receipts_total, 'receipt')}",
            is_good=audit.is_valid,
        ),
    ]


def _tile(name: str, value: str, detail: str, *, is_good: bool) -> Markup:
    """Return one figure with its name and a line about it."""
    return element(
        "div",
        element("dt", name),
        element("dd", value, class_="value" if is_good else "value bad"),
        element("dd", detail, class_="detail"),
        class_="tile",
    )


def _footer(result: DemoResult) -> Markup:
    """Return what this run cannot show."""
    width = (
        f"Buckets were {result.bucket_width_s} s long so that several pass within the run; "
        f"the default is {_WIDTH_DEFAULT_S} s. "
        if result.bucket_width_s != _WIDTH_DEFAULT_S
        else ""
    )
    return element(
        "footer",
        element("h2", "What this run does not show"),
        element(
            "p",
            joined(
                "All processes ran on one machine and spoke over loopback, so it says nothing about a real network. ",
                width,
                "The aggregator opens every update before it averages: QFLARE protects them on the way, not from it. ",
                "The attempts above are those this demo makes; docs/security.md says what is defended and what is not.",
            ),
            class_="note",
        ),
    )
