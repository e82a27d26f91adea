"""What the demo shows while it runs: lines for logs, a live view for people, nothing beside JSON."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest

from qflare.errors import MissingExtraError
from qflare.service.demo.extras import demo_package
from qflare.service.demo.progress import Progress, open_progress, spark_line
from qflare.service.demo.result import AttackRecord

HELD = AttackRecord(
    at_s=1.0, name="Update [altered]", tried="t", times=3, answer="a", is_refused=True, reason="tag", counted=3,
    entry_index=7, signal="forged-messages", device_id="device-00",
)  # fmt: skip
MISSED = AttackRecord(
    at_s=2.0, name="Token used again", tried="t", times=1, answer="a", is_refused=False, reason=None, counted=0,
    entry_index=None, signal="enrolment-guessing", device_id=None,
)  # fmt: skip


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def show_everything(progress: Progress) -> None:
    """Report one of each thing, and a step that fails."""
    with progress.step("devices enrol"):
        progress.note("bucket turn")
    for index in range(3):
        progress.round_done(index, rounds=3, accuracy=0.3 + 0.3 * index, devices=10)
    progress.attack_done(HELD)
    progress.attack_done(MISSED)
    with pytest.raises(RuntimeError), progress.step("servers stop"):
        raise RuntimeError


def test_plain_view_writes_a_line_for_each_thing() -> None:
    """Where the stream is no terminal every event is one searchable line, and failures say so."""
    stream = io.StringIO()
    with open_progress(stream=stream) as progress:
        show_everything(progress)
    assert [
        "devices enrol …",
        "bucket turn",
        "devices enrol: done",
        "round 1 of 3: 10 devices, accuracy 30.0 %",
        "round 2 of 3: 10 devices, accuracy 60.0 %",
        "round 3 of 3: 10 devices, accuracy 90.0 %",
        "Update [altered], 3 times: refused, counted as tag, log entry 7",
        "Token used again: NOT REFUSED, NOT COUNTED, NOT LOGGED",
        "servers stop …",
        "servers stop: failed",
    ] == stream.getvalue().splitlines()


def test_live_view_leaves_the_whole_picture_standing() -> None:
    """On a terminal the steps, the last accuracy and every attempt are there at the end, brackets and all."""
    stream = Terminal()
    with open_progress(stream=stream) as progress:
        show_everything(progress)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\N{NO-BREAK SPACE}", " ")
    last = text[text.rindex("▃") :]
    for expected in ("✓ devices enrol", "· bucket turn", "✕ servers stop"):
        assert expected in text
    for expected in ("round 3/3, 10 devices, accuracy 90.0 %", "Update [altered]", "tag", "#7", "Token used again"):
        assert expected in last


def test_json_leaves_the_stream_alone() -> None:
    """With JSON asked for nothing is written, on a terminal neither."""
    stream = Terminal()
    with open_progress(is_json=True, stream=stream) as progress:
        show_everything(progress)
    assert "" == stream.getvalue()


def test_spark_line_stays_short_and_in_range() -> None:
    """Shares outside 0 to 1 are shown at the edge, and a long run keeps its last forty."""
    assert "▁▁█" == spark_line([-1.0, 0.0, 2.0])
    assert 40 == len(spark_line([0.5] * 100))


def test_missing_package_names_the_extra() -> None:
    """A package that is not installed is an error that names qflare[demo]; a fault inside one stays what it is."""
    with pytest.raises(MissingExtraError, match=r"'scikit-learn'.*qflare\[demo\]"), demo_package("scikit-learn"):
        raise ModuleNotFoundError(name="sklearn.datasets")
    with pytest.raises(ModuleNotFoundError) as caught, demo_package("numpy"):
        raise ModuleNotFoundError(name="something.else")
    assert not isinstance(caught.value, MissingExtraError)


def test_view_and_result_load_nothing_heavy() -> None:
    """Importing the progress view, the result and the page loads neither numpy, matplotlib, scikit-learn nor rich."""
    code = (
        "import sys; import qflare.service.demo.progress, qflare.service.demo.report; "
        "print(sorted({'numpy', 'matplotlib', 'sklearn', 'rich'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": ":".join(entry for entry in sys.path if entry)},
    )  # fmt: skip
    assert "[]" == run.stdout.strip()
