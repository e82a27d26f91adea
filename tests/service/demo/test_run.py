"""The demo from beginning to end: what it claims holds, what it starts ends, and a failure is said."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from qflare.errors import ConfigError
from qflare.protocol.evidence import Evidence
from qflare.service.demo import run
from qflare.service.demo.attacks import REFUSED_TEXT
from qflare.service.demo.failure import DemoError
from qflare.service.demo.options import DemoOptions
from qflare.service.demo.output import MARKER_NAME
from qflare.service.demo.progress import SilentProgress
from qflare.service.demo.published import PUBLISHED_MS
from qflare.service.demo.result import DemoResult, EventKind, Form, from_json
from qflare.service.demo.story import tell_story

DEVICES, ROUNDS, WIDTH_S = 4, 4, 2
REASONS = {
    "Update of a revoked device": "device-state",
    "Hello of a revoked device": "device-state",
    "Handshake replayed": "conflict",
    "Update altered": "tag",
    "Update replayed": "replay",
    "Enrolment token used again": "token",
    "Handshake under rotated keys": "key-version",
}


def small(folder: Path) -> DemoOptions:
    return DemoOptions(devices=DEVICES, rounds=ROUNDS, width_s=WIDTH_S, folder=folder)


def left_running(folder: Path, *, wait_s: float = 0.0) -> list[str]:
    """Return the command lines of what still runs of a run in *folder*: our children, or a database on its data."""
    deadline = time.monotonic() + wait_s
    while True:
        found = []
        for process in Path("/proc").iterdir():
            if not process.name.isdecimal() or process.name == str(os.getpid()):
                continue
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if str(folder) in words or ("qflare.service.demo." in words and parent == str(os.getpid())):
                found.append(words)
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(0.05)


class _Watching(SilentProgress):
    """Looks at the live page once the run is over, as whoever was told the address can, and then ends the run."""

    def __init__(self) -> None:
        self.shown: re.Match[str] | None = None
        self.page = ""

    def note(self, text: str) -> None:
        self.shown = self.shown or re.fullmatch(r"live page at (\S+) for operator (\S+) with the secret (\S+)", text)
        if text.startswith("the run is over; the live page stays at "):
            # In a thread: the page is served by the loop that says this.
            threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        try:
            url, name, secret = self.shown.groups()
            with httpx.Client(base_url=url, trust_env=False, timeout=60, headers={"origin": url}) as client:
                token = re.search(r'name="token" value="([^"]+)"', client.get("/login").text).group(1)
                client.post("/login", data={"token": token, "name": name, "secret": secret})
                self.page = client.get("/").text
        finally:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def watching() -> _Watching:
    return _Watching()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, watching) -> tuple[DemoResult, Path]:
    folder = tmp_path_factory.mktemp("demo") / "output"
    return run.run_demo(replace(small(folder), is_watched=True), watching), folder


def test_run_holds_everything(finished):
    """A run crosses bucket turns, and everything that it claims holds."""
    result, _ = finished
    assert result.is_successful
    assert len(result.bucket_turns) >= 2
    # A worker that comes late turns over several buckets at once: the entry of the last tells that all before are gone.
    assert 2 <= sum(turn.entry_index is not None for turn in result.bucket_turns)
    assert result.bucket_turns[-1].entry_index is not None


def test_model_is_byte_equal_round_by_round(finished):
    """Sealing, sockets and two workers change no bit of the model: accuracy agrees in every round, bytes at the end."""
    result, _ = finished
    assert ROUNDS == len(result.training.rounds)
    assert result.training.digest == result.training.reference_digest
    for each in result.training.rounds:
        assert each.reference_accuracy == each.accuracy
    assert result.training.rounds[-1].accuracy > 0.5


def test_every_attack_is_refused_counted_and_logged(finished):
    """Each attempt is refused with the uniform bytes, counted each time for its true reason, and has its own log entry."""
    result, _ = finished
    assert REASONS == {attack.name: attack.reason for attack in result.attacks}
    for attack in result.attacks:
        assert attack.is_held, attack
        assert (REFUSED_TEXT, attack.times) == (attack.answer, attack.counted)
    indexes = [attack.entry_index for attack in result.attacks]
    assert len(set(indexes)) == len(indexes)


def test_the_detector_finds_each_attack(finished):
    """What is tried as often as an attacker tries it opens an incident of its kind, about its device, and no other one."""
    result, folder = finished
    story = tell_story(small(folder))
    assert {(attack.signal, attack.device_id, attack.severity) for attack in result.attacks} == {
        ("use-after-revocation", story.revoked, "warning"),
        ("replays", story.attacked, "warning"),
        ("forged-messages", story.attacked, "warning"),
        ("enrolment-guessing", None, "warning"),
        ("clone", story.rotated, "error"),
    }
    assert 5 == len({attack.incident_id for attack in result.attacks})


def test_attacks_show_on_the_live_page(finished, watching):
    """Whoever watches finds an incident about every attempt, and what was refused, and ends the run with Ctrl-C."""
    result, _ = finished
    incidents, warnings = (
        watching.page.partition(f'id="part-{name}"')[2].partition("</section>")[0] for name in ("incidents", "warnings")
    )
    assert result.attacks
    for attack in result.attacks:
        assert attack.incident_id in incidents, (attack.name, incidents)
        assert f"<strong>{attack.signal}</strong>" in incidents
    assert incidents.count("<li>") == len({attack.incident_id for attack in result.attacks})
    # The newest dozen: of the last two kinds of attempts that are warnings, whatever else comes meanwhile.
    assert "token" in warnings


def test_forms_sleeper_and_revoked(finished):
    """Half of the devices use each form, the sleeper goes on in its session, and the revoked one is never averaged again."""
    result, folder = finished
    story = tell_story(small(folder))
    devices = {device.device_id: device for device in result.devices}
    assert DEVICES // 2 == sum(device.form is Form.HELLO for device in result.devices)
    sleeper, revoked = devices[story.sleeper], devices[story.revoked]
    assert (1, "active") == (sleeper.handshakes, sleeper.state)
    assert tuple(i for i in range(ROUNDS) if not story.sleep_first <= i < story.sleep_end) == sleeper.rounds
    assert ("revoked", tuple(range(story.revoke_round))) == (revoked.state, revoked.rounds)
    kinds = [event.kind for event in result.timeline]
    asleep, awake = kinds.index(EventKind.SLEEP), kinds.index(EventKind.WAKE)
    assert kinds[asleep:awake].count(EventKind.BUCKET) >= 1
    revocation = next(event for event in result.timeline if event.kind is EventKind.REVOCATION)
    assert revocation.entry_index is not None


def test_a_device_rotates_its_keys_in_its_session(finished):
    """Asked for by the operator, a device's keys become the next version, signed by the old, and its session goes on."""
    result, folder = finished
    story = tell_story(small(folder))
    (rotation,) = result.rotations
    assert rotation.is_held
    assert (story.rotated, 1, 2, 2) == (
        rotation.device_id, rotation.old_version, rotation.new_version, rotation.roster_version
    )  # fmt: skip
    assert rotation.request_index < rotation.rotation_index < rotation.rekey_index < result.audit.size
    device = next(each for each in result.devices if each.device_id == story.rotated)
    assert (1, tuple(range(ROUNDS))) == (device.handshakes, device.rounds)
    events = [event for event in result.timeline if event.kind is EventKind.ROTATION]
    assert [rotation.rotation_index, rotation.rekey_index] == [event.entry_index for event in events]
    assert [] == list((folder / "devices").glob("copied*"))


def test_log_is_verified_from_outside(finished):
    """The log verifies as a whole, and every session's receipt, as its device kept it, is found in it."""
    result, folder = finished
    kept = sorted((folder / "evidence").glob("*.json"))
    assert result.audit.is_valid
    assert len(kept) == result.audit.receipts_total == sum(device.handshakes for device in result.devices)
    assert len({Evidence.from_json(path.read_text()).sid for path in kept}) == len(kept)


def test_published_operations_are_measured(finished):
    """Every operation with a published time was measured in the run."""
    result, _ = finished
    measured = {timing.operation: timing for timing in result.timings}
    assert set(measured) >= set(PUBLISHED_MS)
    assert all(timing.measured_ms > 0 and timing.samples > 0 for timing in result.timings)


def test_files_are_there_and_read_back(finished):
    """The report, the picture and the JSON are where the result says, and the JSON is the result."""
    result, folder = finished
    assert all(Path(file.path).exists() for file in result.files)
    assert result == from_json((folder / "result.json").read_text())
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder / "devices").rglob("state.bin"))


def test_nothing_is_left(finished):
    """When the run has returned, none of its processes, sockets or bucket keys is left."""
    _, folder = finished
    assert [] == left_running(folder)
    assert [] == [path for path in folder.rglob("*") if path.is_socket()]
    assert [] == list(folder.rglob("kek-b-*"))


def test_next_run_replaces_only_its_own(tmp_path):
    """A folder with other things in it is refused and left as it is."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="other things"):
        run.run_demo(small(tmp_path))
    assert ["thesis.txt"] == [path.name for path in tmp_path.iterdir()]


def test_folder_in_use_is_refused(tmp_path):
    """Two runs cannot share a folder."""
    import fcntl

    with (tmp_path / MARKER_NAME).open("wb") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another run"):
            run.run_demo(small(tmp_path))


@pytest.mark.parametrize(
    "wrong", [{"devices": 3}, {"devices": 201}, {"rounds": 3}, {"width_s": 1}, {"seed": -1}, {"rounds": True}]
)
def test_options_out_of_range(wrong):
    """A size that cannot work is refused by name before anything starts."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DemoOptions(**wrong)


class _Interrupting(SilentProgress):
    """Calls *act* once, at the end of the first round."""

    def __init__(self, act):
        self._act = act

    def round_done(self, index, *, rounds, accuracy, devices):
        del rounds, accuracy, devices
        if index == 0:
            self._act()


def _pids_of(module: str) -> list[int]:
    own = str(os.getpid())
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if parent == own and module.encode() in words:
                found.append(int(process.name))
    return sorted(found)


@pytest.mark.parametrize(
    ("module", "named"),
    [("qflare.service.demo.worker", "server worker 1"), ("qflare.service.demo.device_process", "device process")],
)
def test_killed_child_ends_the_run(tmp_path, module, named):
    """A child that is killed ends the run with an error that names it and its log, and nothing is left running."""
    folder = tmp_path / "output"

    def act() -> None:
        os.kill(_pids_of(module)[0], signal.SIGKILL)

    with pytest.raises(DemoError, match=f"{named}.* ended unexpectedly by signal 9; see .*logs"):
        run.run_demo(small(folder), _Interrupting(act))
    assert [] == left_running(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_everything(tmp_path, number):
    """Ctrl-C and SIGTERM end the run and all it started."""
    folder = tmp_path / "output"
    expected = KeyboardInterrupt if number == signal.SIGINT else DemoError
    with pytest.raises(expected):
        run.run_demo(small(folder), _Interrupting(lambda: os.kill(os.getpid(), number)))
    assert [] == left_running(folder)


@contextmanager
def _tree_of(folder: Path):
    """Start a run in a process of its own and kill it in the end if it still lives."""
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path\n"
        "from qflare.service.demo.run import run_demo\n"
        "from qflare.service.demo.options import DemoOptions\n"
        "from qflare.service.demo.progress import PlainProgress\n"
        "run_demo(DemoOptions(devices=4, rounds=4, width_s=2, folder=Path(sys.argv[1])), PlainProgress(sys.stdout))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_killed_parent_leaves_nothing(tmp_path):
    """Even kill -9 of the run leaves no process: children end with it, and the database when its users have gone."""
    folder = tmp_path / "output"
    with _tree_of(folder) as process:
        for line in process.stdout:
            if line.startswith("round 1"):
                break
        children = [
            int(pid)
            for task in Path(f"/proc/{process.pid}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]
        assert len(children) >= 2 + DEVICES
        process.kill()
        process.wait()
        assert [] == left_running(folder, wait_s=60.0)
        deadline = time.monotonic() + 60.0
        while (alive := [pid for pid in children if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [] == alive


def test_coordinator_refuses_what_is_not_of_the_round():
    """The coordinator takes one update of each awaited device, of this round and the model's form, and nothing else."""
    from qflare.service.demo import learning
    from qflare.service.demo.conversation import REQUEST_AAD, model_request, update_message
    from qflare.service.demo.coordinator import Coordinator
    from qflare.service.demo.frame import Question, Status

    model = learning.initial_parameters(seed=1)
    update = learning.Update(parameters=model, samples=3)
    coordinator = Coordinator()
    coordinator.begin_round(2, model, ["a", "b"])

    def ask(device_id, plain):
        return coordinator.answer(
            Question(number=1, device_id=device_id, aad=plain.aad, message=bytes(plain.message))
        ).status

    good, late = update_message(update, 2), update_message(update, 1)
    assert Status.ANSWERED == ask("a", model_request(2))
    assert Status.REFUSED == ask("a", model_request(1))
    assert Status.REFUSED == ask("c", model_request(2))
    assert Status.REFUSED == ask("a", late)
    # The header says this round, the payload another one.
    assert Status.REFUSED == ask("a", type(good)(late.message, good.aad))
    assert Status.REFUSED == ask("a", type(good)(b"", good.aad))
    assert Status.REFUSED == ask("a", type(good)(b"junk", REQUEST_AAD))
    assert Status.ANSWERED == ask("a", good)
    assert Status.REFUSED == ask("a", good)
    with pytest.raises(DemoError, match="b"):
        coordinator.take_updates(["a", "b"])


async def test_frames_of_bad_size_end_the_connection():
    """A frame that claims too much is refused before it is read, and a cut one is no question."""
    from qflare.errors import DecodeError
    from qflare.service.demo.frame import FRAME_BYTES_MAX, decode_answer, decode_question, read_frame

    reader = asyncio.StreamReader()
    reader.feed_data((FRAME_BYTES_MAX + 1).to_bytes(4))
    with pytest.raises(DecodeError, match="at most"):
        await read_frame(reader)
    for body in (b"", b"\0" * 4, b"\0\0\0\1\x05ab", b"\0\0\0\1\x01a\xff\xff\xff\xff"):
        with pytest.raises(DecodeError):
            decode_question(body)
    for body in (b"", b"\0\0\0\1\x07\0\0\0\0"):
        with pytest.raises(DecodeError):
            decode_answer(body)


def test_summary_says_what_held_and_what_did_not(finished):
    """The summary names model, attempts, log, timings and files, and says so when something did not hold."""
    import io
    from dataclasses import replace

    from qflare.service.demo.summary import print_summary

    result, folder = finished
    good, bad = io.StringIO(), io.StringIO()
    print_summary(result, stream=good)
    print_summary(replace(result, attacks=(replace(result.attacks[0], entry_index=None),)), stream=bad)
    assert "Every check held" in good.getvalue()
    assert str(folder / "report.html") in good.getvalue()
    assert all(attack.name in good.getvalue() for attack in result.attacks)
    assert "NOT EVERYTHING HELD" in bad.getvalue()
    rotation = result.rotations[0]
    assert f"{rotation.device_id} rotated its keys in its session: version 2" in good.getvalue()
    bad = io.StringIO()
    print_summary(replace(result, rotations=(replace(rotation, is_same_session=False),)), stream=bad)
    assert f"The rotation of {rotation.device_id} DID NOT HOLD" in bad.getvalue()
    assert "NOT EVERYTHING HELD" in bad.getvalue()


def test_json_carries_every_claim(finished):
    """The JSON file is plain JSON with the format's name first."""
    _, folder = finished
    assert "qflare-demo/2" == next(iter(json.loads((folder / "result.json").read_text()).values()))


async def test_outside_check_finds_what_is_wrong(finished):
    """The check from outside fails for altered evidence, for a head that is too old, and for an altered entry."""
    from dataclasses import replace

    import asyncpg

    from qflare.protocol.identity import decode_identity, server_id_of
    from qflare.service.demo.outside import check
    from qflare.stores.embedded import open_embedded

    result, folder = finished
    served = (folder / "identity.bin").read_bytes()
    identity = decode_identity(served, server_id=server_id_of(served[:2592]))
    kept = tuple(Evidence.from_json(path.read_text()) for path in sorted((folder / "evidence").glob("*.json")))
    other = replace(kept[0], th3_hash=bytes(64))
    async with await open_embedded(folder / "data") as server:
        good = await check(server.dsn, identity=identity, evidence=kept, size_min=result.audit.size)
        assert good.is_valid
        assert good.size >= result.audit.size
        forged = await check(server.dsn, identity=identity, evidence=(other, *kept[1:]), size_min=1)
        assert (len(kept), len(kept) - 1, False) == (forged.receipts_total, forged.receipts_valid, forged.is_valid)
        old = await check(server.dsn, identity=identity, evidence=kept, size_min=10**9)
        assert (False, False) == (old.is_signature_valid, old.is_valid)
        connection = await asyncpg.connect(server.dsn)
        try:
            # As a superuser past every guard of the table.
            await connection.execute("SET session_replication_role = replica")
            changed = await connection.execute(
                "UPDATE qflare.audit_entry SET data = data || '\\x20'::bytea WHERE log_index = 5"
            )
            assert "UPDATE 1" == changed
        finally:
            await connection.close()
        bad = await check(server.dsn, identity=identity, evidence=kept, size_min=1)
        assert (False, 5, False) == (bad.is_chain_valid, bad.first_bad_index, bad.is_valid)
