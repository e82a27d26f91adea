"""The demo's report: complete, self-contained, honest about what failed, and safe whatever names contain."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from qflare.errors import ConfigError, DecodeError
from qflare.service.demo.page import render_page
from qflare.service.demo.published import PUBLISHED_MS
from qflare.service.demo.report import write_report
from qflare.service.demo.result import (
    AttackRecord,
    AuditCheck,
    Component,
    DemoResult,
    DeviceRecord,
    EventKind,
    Form,
    Machine,
    OutputFile,
    RotationRecord,
    RoundRecord,
    TimelineEvent,
    Timing,
    Training,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from pathlib import Path

FORBIDDEN = ("military", "immune", "validated", "compliant", "512-bit", "unbreakable", "quantum-proof")
MEASURED_MS = (0.021, 0.026, 0.024, 0.083, 0.031, 0.094, 0.041, 0.048, 6.2)


def sample_result(*, devices: int = 10, rounds: int = 20) -> DemoResult:
    """Return a result as a run leaves it: a device sleeps for a while, another is revoked in the middle."""
    ids = tuple(f"device-{number:03d}" if devices > 99 else f"device-{number:02d}" for number in range(devices))
    sleeper, revoked = ids[4 % devices], ids[7 % devices]
    asleep, after = range(rounds // 4, rounds * 3 // 5), range(rounds // 2, rounds)

    def takes_part(name: str, index: int) -> bool:
        return not (name == sleeper and index in asleep) and not (name == revoked and index in after)

    records = tuple(
        RoundRecord(
            index=index,
            started_s=8.0 + 1.9 * index,
            elapsed_s=0.31 + 0.01 * (index % 4),
            bucket=119_314_205 + int(8.0 + 1.9 * index) // 15,
            device_ids=tuple(name for name in ids if takes_part(name, index)),
            accuracy=0.98 - 0.62 * math.exp(-index / 2.6) + 0.004 * math.sin(3 * index),
            reference_accuracy=0.98 - 0.62 * math.exp(-index / 2.6) + 0.004 * math.sin(3 * index),
            sealed_bytes=9_872 * sum(takes_part(name, index) for name in ids),
        )
        for index in range(rounds)
    )
    attacks = (
        AttackRecord(at_s=31.2, name="Handshake replayed", tried="A recorded M1 was sent to the other worker.",
                     answer="Refused: 16 bytes, the same for every reason", is_refused=True, reason="seen", times=3, counted=3,
                     entry_index=214,
                     signal="replays", device_id=ids[0], incident_id="abababababababababababababababab", severity="warning"),
        AttackRecord(at_s=32.0, name="Update replayed", tried="A recorded update of device-02 was sent to the other worker.",
                     answer="Refused: 16 bytes, the same for every reason", is_refused=True, reason="replay", times=3, counted=3,
                     entry_index=216,
                     signal="replays", device_id=ids[0], incident_id="abababababababababababababababab", severity="warning"),
        AttackRecord(at_s=32.6, name="Update altered", tried="One bit of a sealed update was flipped on the way.",
                     answer="Refused: 16 bytes, the same for every reason", is_refused=True, reason="tag", times=3, counted=3,
                     entry_index=217,
                     signal="forged-messages", device_id=ids[0], incident_id="cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd", severity="warning"),
        AttackRecord(at_s=33.1, name="Token used again", tried="A second device enrolled with a token already used.",
                     answer="Refused: 16 bytes, the same for every reason", is_refused=True, reason="token-used", times=3, counted=3,
                     entry_index=219,
                     signal="enrolment-guessing", device_id=None, incident_id="cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd", severity="warning"),
        AttackRecord(at_s=27.4, name="Update of a revoked device", tried=f"{revoked} sent its next update after revocation.",
                     answer="Refused: 16 bytes, the same for every reason", is_refused=True, reason="device-state",
                     times=3, counted=3, entry_index=198,
                     signal="use-after-revocation", device_id=revoked, incident_id="cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd", severity="warning"),
    )  # fmt: skip
    timeline = (
        TimelineEvent(at_s=0.0, kind=EventKind.STEP, title="PostgreSQL and two server workers started",
                      detail="An embedded PostgreSQL in the run's folder; both workers listen on loopback."),
        TimelineEvent(at_s=3.4, kind=EventKind.STEP, title=f"{devices} devices enrolled",
                      detail="Each with a token of its own; half will start with a hello, half answer an offer."),
        TimelineEvent(at_s=6.9, kind=EventKind.STEP, title="Training begins"),
        TimelineEvent(at_s=15.0, kind=EventKind.BUCKET, title="Bucket turn",
                      detail="Bucket 119314206 became current; keys of 119314204 were destroyed.", entry_index=120),
        TimelineEvent(at_s=17.6, kind=EventKind.SLEEP, title=f"{sleeper} sleeps", device_id=sleeper,
                      detail="Its process stopped asking for rounds; its state file keeps its session."),
        TimelineEvent(at_s=19.2, kind=EventKind.ROTATION, title=f"{ids[1 % devices]} rotates its keys",
                      device_id=ids[1 % devices], detail="Keys of version 2, signed by those of version 1.", entry_index=132),
        TimelineEvent(at_s=27.1, kind=EventKind.REVOCATION, title=f"{revoked} revoked", device_id=revoked,
                      detail="By the operator, in the middle of a round.", entry_index=197),
        TimelineEvent(at_s=30.0, kind=EventKind.BUCKET, title="Bucket turn",
                      detail="Bucket 119314207 became current; keys of 119314205 were destroyed.", entry_index=205),
        TimelineEvent(at_s=30.8, kind=EventKind.WAKE, title=f"{sleeper} wakes", device_id=sleeper,
                      detail="It hashed its chain forward two buckets and went on in the same session."),
        *(TimelineEvent(at_s=attack.at_s, kind=EventKind.ATTACK, title=attack.name, detail=attack.tried,
                        entry_index=attack.entry_index) for attack in attacks),
        TimelineEvent(at_s=46.2, kind=EventKind.STEP, title="Audit log verified"),
    )  # fmt: skip
    digest = hashlib.sha256(b"model").hexdigest()
    return DemoResult(
        started_at=datetime(2026, 11, 24, 9, 41, 7, tzinfo=UTC),
        elapsed_s=48.3,
        seed=7,
        worker_count=2,
        process_count=min(devices, 10),
        bucket_width_s=15,
        training=Training(
            rounds=records, digest=digest, reference_digest=digest, parameter_count=2410, test_samples=360
        ),
        timeline=timeline,
        attacks=attacks,
        rotations=(
            RotationRecord(at_s=19.2, device_id=ids[1 % devices], old_version=1, new_version=2, roster_version=2, epoch=1,
                           is_same_session=True, request_index=131, rotation_index=132, rekey_index=133),
        ),
        audit=AuditCheck(
            size=231, root=hashlib.sha256(b"root").hexdigest(), origin="qflare.demo/log/6f1c0a", is_chain_valid=True,
            is_signature_valid=True, receipts_total=devices + 1, receipts_valid=devices + 1, first_bad_index=None,
            elapsed_s=0.42,
        ),
        timings=(
            *(
                Timing(operation=name, published_ms=published, measured_ms=measured, samples=200,
                       how="single call" if published < 1 else "64 concurrent callers")
                for (name, published), measured in zip(PUBLISHED_MS.items(), MEASURED_MS, strict=True)
            ),
            Timing(operation="Handshake, hello form", published_ms=None, measured_ms=1.9, how="M3 to M4", samples=5),
        ),
        devices=tuple(
            DeviceRecord(
                device_id=name,
                form=Form.HELLO if number % 2 == 0 else Form.OFFER,
                state="revoked" if name == revoked else "active",
                samples=63 + 37 * number % 211,
                handshakes=1,
                rounds=tuple(index for index in range(rounds) if takes_part(name, index)),
                sealed_bytes=9_872 * sum(takes_part(name, index) for index in range(rounds)),
                note="slept, woke" if name == sleeper else "revoked, refused" if name == revoked else "",
            )
            for number, name in enumerate(ids)
        ),
        machine=Machine(
            processor="Intel Xeon Platinum 8481C", cores=2, memory_bytes=8_340_000_000, system="Debian 12, Linux 6.1"
        ),
        components=(
            Component(name="qflare", version="0.1.0"),
            Component(name="liboqs", version="0.13.0", origin="built from source; implements FIPS 203 and FIPS 204"),
            Component(name="PostgreSQL", version="18.1", origin="embedded"),
            Component(name="Python", version="3.11.7"),
        ),
        files=(
            OutputFile(path="/home/user/qflare/demo-output/report.html", content="this page"),
            OutputFile(path="/home/user/qflare/demo-output/devices", content="state file and training data of each device"),
        ),
    )  # fmt: skip


class Page(HTMLParser):
    """Collects tags with attributes and the text of a page, and checks that tags close in order."""

    def __init__(self, text: str) -> None:
        """Parse *text*."""
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that opens."""
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag without content."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Check that the tag that opened last closes first."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep text, and the style sheet apart from it."""
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.text += data


def test_result_survives_json() -> None:
    """A result written as JSON and read back is equal, field for field."""
    result = sample_result()
    text = to_json(result)
    assert result == from_json(text)
    assert next(iter(json.loads(text))) == "format"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "qflare-demo/0"),
        (("seed",), "7"),
        (("seed",), True),
        (("elapsed_s",), None),
        (("started_at",), "yesterday"),
        (("devices",), {}),
        (("devices", 0, "form"), "wave"),
        (("training", "rounds", 0, "accuracy"), "much"),
        (("audit",), []),
        (("surplus",), 1),
    ],
)
def test_json_of_another_shape_is_refused(path: tuple[str | int, ...], value: object) -> None:
    """A field of the wrong type, missing, unknown or of another format is a decode error that names it."""
    document = json.loads(to_json(sample_result()))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(DecodeError, match=re.escape(str(path[-1]))):
        from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[", "[]", "7", "{}"])
def test_text_that_is_no_result_is_refused(text: str) -> None:
    """Text that is not JSON or no object is a decode error."""
    with pytest.raises(DecodeError):
        from_json(text)


def test_page_needs_nothing_from_outside() -> None:
    """The page has no script, link, image or style attribute, and forbids itself all but its own style sheet."""
    page = Page(render_page(sample_result()))
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert not [
        (tag, name)
        for tag, attributes in page.tags
        for name in attributes
        if name in {"src", "href", "style", "xlink:href"} or name.startswith("on")
    ]
    assert "url(" not in page.style
    assert "@import" not in page.style
    policies = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert [f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"] == policies


def test_page_tells_every_figure() -> None:
    """Digests, every round, device, attempt, timing, version and file of the result stand in the page's text."""
    result = sample_result()
    text = Page(render_page(result)).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Every check of this run held." in text
    for expected in (
        result.training.digest,
        result.audit.root,
        result.audit.origin,
        "11 of 11 are in this log",
        "5 of 5",
        "version 1 signed version 2",
        "#131",
        "#132",
        "#133",
        *(f"{record.accuracy * 100:.1f} %" for record in result.training.rounds),
        *(attack.tried for attack in result.attacks),
        *(f"{attack.reason} +{attack.counted}" for attack in result.attacks),
        *(f"#{attack.entry_index}" for attack in result.attacks),
        *(device.device_id for device in result.devices),
        "1–5, 13–20",
        "1–10",
        "4.8 × faster",
        *(timing.operation for timing in result.timings),
        *(part.version for part in result.components),
        *(file.path for file in result.files),
        result.machine.processor,
    ):
        assert expected in text


def test_page_is_readable_without_seeing_it() -> None:
    """Every chart and mark has a label, every table a name and headings with a scope, the page a language."""
    page = Page(render_page(sample_result()))
    assert ("html", {"lang": "en"}) in page.tags
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(attrs.get("aria-hidden") == "true" or (attrs["role"], bool(attrs["aria-label"])) == ("img", True)
               for attrs in pictures)  # fmt: skip
    tables = [attributes for tag, attributes in page.tags if tag == "table"]
    assert len(tables) >= 5
    assert all(attributes["aria-label"] for attributes in tables)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")


def test_page_promises_no_more_than_was_shown() -> None:
    """The page has no superlative and no claim that QFLARE does not make."""
    text = Page(render_page(sample_result())).text.lower()
    assert [] == [word for word in FORBIDDEN if word in text]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model", "the model differs"),
        ("attack", "“Update altered” was not refused"),
        ("count", "“Update altered” was not refused, counted and logged"),
        ("accident", "“Update altered” was not refused, counted and logged"),
        ("incident", "the detector opened no incident about “Update altered”"),
        ("log", "the audit log or a receipt does not verify"),
        ("receipt", "the audit log or a receipt does not verify"),
        ("none", "no attempt against the servers was made"),
        ("session", "the rotation of device-01 was not done in its session and logged"),
        ("version", "the rotation of device-01 was not done in its session and logged"),
        ("entry", "the rotation of device-01 was not done in its session and logged"),
        ("rotation", "no device rotated its keys"),
    ],
)
def test_page_says_what_did_not_hold(change: str, expected: str) -> None:
    """Whatever fails stands at the top of the page by name, and nothing there says that all held."""
    good = sample_result()
    attack = good.attacks[2]
    others = good.attacks[:2] + good.attacks[3:]
    bad = {
        "model": replace(good, training=replace(good.training, digest="00" * 32)),
        "attack": replace(good, attacks=(replace(attack, is_refused=False), *others)),
        "count": replace(good, attacks=(replace(attack, counted=0, reason=None, entry_index=None), *others)),
        "accident": replace(good, attacks=(replace(attack, counted=2), *others)),
        "incident": replace(good, attacks=(replace(attack, incident_id=None, severity=None), *others)),
        "log": replace(good, audit=replace(good.audit, is_chain_valid=False, first_bad_index=17)),
        "receipt": replace(good, audit=replace(good.audit, receipts_valid=3)),
        "none": replace(good, attacks=()),
        "session": replace(good, rotations=(replace(good.rotations[0], is_same_session=False),)),
        "version": replace(good, rotations=(replace(good.rotations[0], roster_version=1),)),
        "entry": replace(good, rotations=(replace(good.rotations[0], rotation_index=None),)),
        "rotation": replace(good, rotations=()),
    }[change]
    assert (True, False) == (good.is_successful, bad.is_successful)
    text = Page(render_page(bad)).text
    assert expected in text
    assert "Every check of this run held" not in text


def test_page_escapes_what_devices_are_called() -> None:
    """A name that looks like markup stands in the page as text, in tables, charts and the timeline."""
    good = sample_result(devices=2, rounds=2)
    evil = '"><script>alert(1)</script>'
    bad = replace(
        good,
        devices=(replace(good.devices[0], device_id=evil), good.devices[1]),
        timeline=(replace(good.timeline[0], title=evil, detail=evil),),
        rotations=(replace(good.rotations[0], device_id=evil),),
        attacks=(replace(good.attacks[0], name=evil, tried=evil, answer=evil, reason=evil),),
        components=(Component(name=evil, version=evil, origin=evil),),
        files=(OutputFile(path=evil, content=evil),),
        machine=Machine(processor=evil, cores=1, memory_bytes=1, system=evil),
    )
    page = Page(render_page(bad))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) >= 11


@pytest.mark.parametrize(("devices", "rounds"), [(1, 1), (2, 3), (200, 5), (10, 120)])
def test_report_of_any_size_is_written(tmp_path: Path, devices: int, rounds: int) -> None:
    """One device, two hundred, one round or many give a page, a PNG and JSON that reads back."""
    result = sample_result(devices=devices, rounds=rounds)
    paths = write_report(result, tmp_path / "new" / "folder")
    Page(paths.html.read_text(encoding="utf-8"))
    assert b"\x89PNG\r\n\x1a\n" == paths.png.read_bytes()[:8]
    assert result == from_json(paths.json.read_text(encoding="utf-8"))
    assert {paths.html, paths.png, paths.json} == set((tmp_path / "new" / "folder").iterdir())


def test_report_of_a_run_without_rounds_is_written(tmp_path: Path) -> None:
    """A run that ended before its first round still leaves a report, and one that says no success."""
    good = sample_result()
    result = replace(good, training=replace(good.training, rounds=()), timings=(), attacks=())
    write_report(result, tmp_path)
    assert not result.is_successful


def test_report_in_an_impossible_folder_is_refused(tmp_path: Path) -> None:
    """A folder that cannot be made is an error that names it, and leaves nothing."""
    (tmp_path / "file").write_text("here")
    with pytest.raises(ConfigError, match="choose another folder"):
        write_report(sample_result(), tmp_path / "file" / "folder")
