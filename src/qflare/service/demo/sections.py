"""
The report's sections, one function each: a heading, what there is to see, and the figures as a table.
"""

from __future__ import annotations

from typing import Final

from qflare.service.demo import charts
from qflare.service.demo.result import AttackRecord, DemoResult, EventKind, Form, TimelineEvent
from qflare.service.demo.table import Column, table
from qflare.service.demo.wording import SPACE, count, milliseconds, named, percent, ratio, runs, seconds, size
from qflare.service.markup import Markup, element, joined

_WIDE: Final = 880
_NARROW: Final = 350
_OPEN_ROWS_MAX: Final = 20

_KIND_NAMES: Final = {
    EventKind.STEP: "Step",
    EventKind.BUCKET: "Bucket turn",
    EventKind.SLEEP: "Device asleep",
    EventKind.WAKE: "Device awake",
    EventKind.ROTATION: "Rotation",
    EventKind.REVOCATION: "Revocation",
    EventKind.ATTACK: "Attempt",
}


def accuracy(result: DemoResult) -> Markup:
    """Return accuracy by round with and without QFLARE, and whether the models are the same bytes."""
    training = result.training
    equal = (
        "Both final models are the same bytes: updates arrive whole, and sums have one order whichever came first."
        if training.is_byte_equal
        else "The final models differ, which they must not: the digests are below."
    )
    caption = element(
        "figcaption",
        _key(element("line", x1=1, x2=23, y1=6, y2=6, class_="line"), "through QFLARE"),
        _key(element("line", x1=6, x2=18, y1=6, y2=6, class_="reference"), "same schedule without it"),
        _key(element("line", x1=12, x2=12, y1=0, y2=12, class_="turn"), "bucket turn"),
    )
    rows = [
        (
            str(record.index + 1),
            percent(record.accuracy),
            percent(record.reference_accuracy),
            str(len(record.device_ids)),
            size(record.sealed_bytes),
            seconds(record.elapsed_s),
            str(record.bucket),
        )
        for record in training.rounds
    ]
    columns = (
        Column("Round"), Column("Accuracy", is_number=True), Column("Without QFLARE", is_number=True),
        Column("Devices", is_number=True), Column("Sealed", is_number=True), Column("Time", is_number=True),
        Column("Bucket", is_number=True),
    )  # fmt: skip
    return _section(
        "Accuracy by round",
        element(
            "p",
            f"The same devices and rounds, once through QFLARE and once in a single process without it. {equal}",
        ),
        element("figure", caption, *(charts.accuracy_chart(training, width=width) for width in (_WIDE, _NARROW))),
        _facts(
            ("Model through QFLARE", _hash(training.digest)),
            ("Model without QFLARE", _hash(training.reference_digest)),
            ("Model", f"{training.parameter_count:,} numbers (float32), SHA-256 over names, types, shapes and bytes"),
        ),
        _folded("Figures by round", table("Accuracy by round", columns, rows, is_dense=True)),
    )


def participation(result: DemoResult) -> Markup:
    """Return who took part in which round, and each device's part in the run."""
    hello = sum(device.form is Form.HELLO for device in result.devices)
    caption = element(
        "figcaption",
        _key(element("rect", x=2, y=0, width=20, height=12, rx=3, class_="cell hello"), "update averaged, hello form"),
        _key(element("rect", x=2, y=0, width=20, height=12, rx=3, class_="cell offer"), "update averaged, offer form"),
        _key(element("circle", cx=12, cy=6, r=2, class_="absent"), "not in the average"),
    )
    columns = (
        Column("Device"), Column("Form"), Column("State"), Column("Samples", is_number=True),
        Column("Handshakes", is_number=True), Column("Rounds"), Column("Sealed", is_number=True), Column("Note"),
    )  # fmt: skip
    rows = [
        (
            device.device_id,
            device.form.value,
            device.state,
            str(device.samples),
            str(device.handshakes),
            runs(device.rounds),
            size(device.sealed_bytes),
            device.note,
        )
        for device in result.devices
    ]
    devices = table("Devices", columns, rows, is_dense=True, class_="devices")
    return _section(
        "Who took part",
        element(
            "p",
            f"{hello} of {count(len(result.devices), 'device')} began with a hello (the device starts, and signs), the "
            f"others answered an offer (the server starts). Buckets were {result.bucket_width_s}{SPACE}s long, and the "
            f"devices ran in {count(result.process_count, 'process', 'processes')}.",
        ),
        element("figure", caption, *(charts.participation_chart(result, width=width) for width in (_WIDE, _NARROW))),
        _folded("Figures by device", devices) if len(rows) > _OPEN_ROWS_MAX else devices,
    )


def attacks(result: DemoResult) -> Markup:
    """Return each attempt: what was tried, what came back, and what was counted and logged."""
    columns = (
        Column("Attempt"), Column("What was tried"), Column("What the server answered"), Column("Reason counted"),
        Column("Log entry"), Column("Incident"),
    )  # fmt: skip
    return _section(
        "What was tried against it",
        element(
            "p",
            "From outside, every refusal looks the same. "
            "Inside, the true reason is counted and written to the audit log, and the detector opens an incident once "
            "there are more of them than accidents explain. Attempts of one kind about one device are one incident.",
        ),
        table(
            "Attempts against the servers", columns, [_attack(attack) for attack in result.attacks], class_="attacks"
        ),
    )


def rotations(result: DemoResult) -> Markup:
    """Return each rotation of a device's keys: its versions, its session and its log entries."""
    columns = (
        Column("Device"), Column("Keys"), Column("Session"), Column("Epoch after the rekey", is_number=True),
        Column("Request"), Column("Rotation"), Column("Rekey"),
    )  # fmt: skip
    rows = [
        (
            joined(_mark(is_good=rotation.is_held), rotation.device_id),
            f"version {rotation.old_version} signed version {rotation.new_version}",
            "went on" if rotation.is_same_session else "ended",
            str(rotation.epoch),
            *(
                "none" if index is None else f"#{index}"
                for index in (rotation.request_index, rotation.rotation_index, rotation.rekey_index)
            ),
        )
        for rotation in result.rotations
    ]
    return _section(
        "Keys rotated on the way",
        element(
            "p",
            "The operator asked for it; the device learned so inside its session, made new keys, had the old ones sign "
            "them, and rekeyed the session. Somebody had copied its state file before, and "
            "tried to connect with it afterwards: see the attempts above.",
        ),
        table("Rotations of device keys, and their log entries", columns, rows, is_dense=True),
    )


def audit(result: DemoResult) -> Markup:
    """Return what verifying the audit log from outside gave."""
    check = result.audit
    first_bad = "" if check.first_bad_index is None else f"; the first bad entry is {check.first_bad_index}"
    hashed = "all hash" if check.is_chain_valid else "which do not hash"
    return _section(
        "The audit log, verified from outside",
        element(
            "p",
            "After training, a separate check read the log from the database and recomputed its tree, verified the "
            "checkpoint's signature under the log key of the server's certificate, and looked up every receipt that "
            f"devices kept. It took {seconds(check.elapsed_s)}.",
        ),
        _facts(
            (
                "Entries",
                joined(_mark(is_good=check.is_chain_valid), f"{check.size:,}, {hashed} to the root{first_bad}"),
            ),
            ("Root", _hash(check.root)),
            (
                "Checkpoint signature",
                joined(
                    _mark(is_good=check.is_signature_valid),
                    "valid, ML-DSA-44" if check.is_signature_valid else "not valid",
                ),
            ),
            (
                "Receipts of devices",
                joined(
                    _mark(is_good=0 < check.receipts_total == check.receipts_valid),
                    f"{check.receipts_valid} of {check.receipts_total} are in this log",
                ),
            ),
            ("Log", element("span", check.origin, class_="path")),
        ),
    )


def timings(result: DemoResult) -> Markup:
    """Return the times of this run beside the published ones."""
    columns = (
        Column("Operation"), Column("Published", is_number=True), Column("This run", is_number=True),
        Column("Ratio", is_number=True), Column("How it was measured"),
    )  # fmt: skip
    rows = [
        (
            timing.operation,
            "–" if timing.published_ms is None else milliseconds(timing.published_ms),
            milliseconds(timing.measured_ms),
            "–" if timing.published_ms is None else ratio(timing.published_ms, timing.measured_ms),
            f"{timing.how}; median of {timing.samples:,}",
        )
        for timing in result.timings
    ]
    caption = element(
        "figcaption",
        _key(element("circle", cx=12, cy=6, r=5, class_="dot"), "this run"),
        _key(element("circle", cx=12, cy=6, r=5, class_="ring"), "published"),
        element("span", "logarithmic scale, faster to the left"),
    )
    return _section(
        "Timings beside the published ones",
        element(
            "p",
            "The published figures stand in the project’s founding document. These were taken during this run, on the "
            "machine named below and beside everything else it was doing; ",
            element("code", "make bench"),
            " measures with care.",
        ),
        element("figure", caption, *(charts.timings_chart(result.timings, width=width) for width in (_WIDE, _NARROW))),
        table("Timings", columns, rows, is_dense=True),
    )


def timeline(result: DemoResult) -> Markup:
    """Return what happened when, in order."""
    events = sorted(result.timeline, key=lambda event: event.at_s)
    return _section(
        "What happened when",
        element("p", "Seconds since the start of the run."),
        element("ol", *(_event(event) for event in events), class_="timeline"),
    )


def surroundings(result: DemoResult) -> Markup:
    """Return the machine, the versions and where the files are."""
    machine = result.machine
    columns = (Column("Component"), Column("Version"), Column("Origin"))
    components = [(part.name, part.version, part.origin or "–") for part in result.components]
    files = [(element("span", file.path, class_="path"), file.content) for file in result.files]
    return _section(
        "Machine, versions, files",
        _facts(
            ("Processor", f"{machine.processor}, {count(machine.cores, 'core')}"),
            ("Memory", size(machine.memory_bytes)),
            ("System", machine.system),
            ("Seed", str(result.seed)),
        ),
        table("Versions", columns, components),
        table("Files of this run", (Column("Where"), Column("What")), files),
    )


def _attack(attack: AttackRecord) -> tuple[str, ...]:
    """Return an attempt as a row."""
    counted = "none" if attack.reason is None else joined(element("code", attack.reason), f" +{attack.counted}")
    return (
        joined(_mark(is_good=attack.is_held), named(attack.name, attack.times)),
        attack.tried,
        attack.answer,
        counted,
        "none" if attack.entry_index is None else f"#{attack.entry_index}",
        "none" if attack.incident_id is None else f"{attack.signal}, {attack.severity}",
    )


def _event(event: TimelineEvent) -> Markup:
    """Return a moment of the run as an item of the list."""
    about = [event.detail] if event.detail else []
    if event.entry_index is not None:
        about.append(f"Log entry #{event.entry_index}.")
    return element(
        "li",
        element("span", f"{event.at_s:.1f}{SPACE}s", class_="at"),
        element("svg", _event_shape(event.kind), viewBox="0 0 14 14", role="img", aria_label=_KIND_NAMES[event.kind]),
        element(
            "div",
            element("span", event.title, class_="title"),
            element("span", " ".join(about), class_="detail") if about else "",
        ),
    )


def _event_shape(kind: EventKind) -> Markup:
    """Return a shape for each kind of event, told apart without colour."""
    match kind:
        case EventKind.BUCKET:
            shape = element("path", d="M7 1 L13 7 L7 13 L1 7 Z", class_="mark")
        case EventKind.SLEEP:
            shape = element("path", d="M5.5 1.2 A6 6 0 1 0 12.8 8.5 A5.2 5.2 0 0 1 5.5 1.2 Z", class_="mark filled")
        case EventKind.WAKE:
            shape = element("path", d="M2 9 A5 5 0 0 1 12 9 Z M1 12.2 L13 12.2", class_="mark filled")
        case EventKind.ROTATION:
            shape = element("path", d="M11.8 5 A5 5 0 1 0 11.8 9 M11.8 1.5 L11.8 5 L8.3 5", class_="mark open")
        case EventKind.REVOCATION:
            shape = element("path", d="M7 1.5 A5.5 5.5 0 1 0 7.01 1.5 M3.2 3.2 L10.8 10.8", class_="mark open")
        case EventKind.ATTACK:
            shape = element("path", d="M2.5 2.5 L11.5 11.5 M11.5 2.5 L2.5 11.5", class_="mark open")
        case EventKind.STEP:
            shape = element("circle", cx=7, cy=7, r=4, class_="mark filled")
    return shape


def _section(heading: str, *children: str) -> Markup:
    """Return a section under *heading*."""
    return element("section", element("h2", heading), *children)


def _facts(*pairs: tuple[str, str]) -> Markup:
    """Return names and what they stand for."""
    return element("dl", *(joined(element("dt", name), element("dd", value)) for name, value in pairs), class_="facts")


def _folded(summary: str, content: Markup) -> Markup:
    """Return *content* folded away under *summary*."""
    return element("details", element("summary", summary), content)


def _key(shape: Markup, meaning: str) -> Markup:
    """Return an entry of a chart's legend."""
    return element(
        "span", element("svg", shape, viewBox="0 0 24 12", aria_hidden="true"), element("span", meaning), class_="key"
    )


def _mark(*, is_good: bool) -> Markup:
    """Return a mark that says good or bad by its form, not by colour alone."""
    return element(
        "span", "✓ " if is_good else "✕ ", class_="good" if is_good else "bad", role="img",
        aria_label="held: " if is_good else "did not hold: ",
    )  # fmt: skip


def _hash(digest: str) -> Markup:
    """Return a digest in fixed width that may break anywhere."""
    return element("span", digest, class_="hash")
