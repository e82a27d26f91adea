"""`qflare backup` and `qflare restore`, as an operator runs them, on the embedded database."""

import asyncio
import json
import stat

import pytest

from cli.commands import qflare
from qflare import Device
from qflare.cli.exits import ExitCode
from qflare.device.transport import HttpTransport, Step
from qflare.errors import RefusedError
from qflare.protocol import wire
from qflare.protocol.envelope import encode_envelope
from service.processes import serve

pytestmark = pytest.mark.slow
RESTORED = {
    "bucket",
    "sessions_ended",
    "log_size_found",
    "log_size_signed",
    "log_size",
    "serial_found",
    "serial_in_force",
}
WRITTEN = {"written", "schema_version", "tenants", "devices", "log_size", "serial", "size_bytes"}


async def run(folder, *arguments, **more):
    """Run a command without holding up the test's loop."""
    return await asyncio.to_thread(qflare, folder, *arguments, "--data-dir", folder / "data", **more)


def is_refused(url, record):
    """Carry a sealed record to the server once more, and say whether it was refused."""
    transport = HttpTransport(url)
    try:
        return transport.exchange(Step.RECORD, encode_envelope(b"", record)) == wire.REFUSED
    finally:
        transport.close()


async def test_a_round_trip_over_http(tmp_path):  # noqa: PLR0915 - one life of a database, step by step
    """Backup, more life, restore: the device connects again with what it has, what it sent before is refused, and the log tells."""
    state, copy = tmp_path / "d.state", tmp_path / "copy.backup"
    issued = await run(tmp_path, "token", "issue", "d", "--json")

    def first(url):
        with Device.enrol(url, issued.json["token"], device_id="d", state=state) as device:
            device.connect()

    def second(url):
        with Device.open(state, url) as device:
            device.exchange(b"model")
            record = device.seal(b"of before")
            assert not is_refused(url, record)
            return record, device.session.sid

    def third(url, record):
        assert is_refused(url, record)
        with Device.open(state, url) as device:
            # With the keys and marks it has: connecting again is all that a refusal asks for.
            with pytest.raises(RefusedError):
                device.exchange(b"model")
            device.connect()
            device.exchange(b"model")
            assert is_refused(url, record)
            return device.session.sid

    async with serve(tmp_path, "--data-dir", str(tmp_path / "data")) as served:
        await asyncio.to_thread(first, served.url)
        written = await run(tmp_path, "backup", copy, "--json")
        assert (0, WRITTEN) == (written.code, set(written.json)), written.err
        assert (str(copy), 1) == (written.json["written"], written.json["devices"])
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert copy.stat().st_size == written.json["size_bytes"]
        again = await run(tmp_path, "backup", copy)
        assert ExitCode.USAGE == again.code
        assert "exists already" in again.line
        record, sid = await asyncio.to_thread(second, served.url)
        busy = await run(tmp_path, "restore", copy, "--replace")
        assert ExitCode.USAGE == busy.code
        assert "stop its workers" in busy.line
    whole = copy.read_bytes()
    (tmp_path / "damaged").write_bytes(whole[:-1])
    # Half of it: pg_restore may not miss the very end, where the last table's rows were.
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("no backup")
    for name, more, code, said in (
        ("text", ("--replace",), ExitCode.USAGE, "is no backup"),
        ("absent", ("--replace",), ExitCode.USAGE, "cannot read"),
        (copy.name, (), ExitCode.USAGE, "--replace"),
        (copy.name, ("--accept",), ExitCode.USAGE, "--accept"),
        ("damaged", ("--replace",), ExitCode.USAGE, "is damaged"),
        ("damaged", ("--replace", "--unchecked"), ExitCode.USAGE, "is damaged"),
        ("half", ("--replace",), ExitCode.USAGE, "--unchecked"),
        ("half", ("--replace", "--unchecked"), ExitCode.FAILED, "pg_restore"),
    ):
        bad = await run(tmp_path, "restore", tmp_path / name, *more, "--json")
        assert (code, "") == (bad.code, bad.out), (name, bad.err)
        assert said in json.loads(bad.err)["message"], bad.err
    done = await run(tmp_path, "restore", copy, "--gap", "10", "--json")
    assert (0, RESTORED) == (done.code, set(done.json)), done.err
    assert (1, written.json["log_size"]) == (done.json["sessions_ended"], done.json["log_size_found"])
    assert done.json["log_size"] > max(done.json["log_size_signed"], written.json["log_size"] + 10)
    async with serve(tmp_path, "--data-dir", str(tmp_path / "data")) as served:
        assert sid != await asyncio.to_thread(third, served.url, record)
    verified = await run(tmp_path, "audit", "verify", "--deep", "--json")
    assert (0, True) == (verified.code, verified.json["holds"]), verified.err
    shown = await run(tmp_path, "audit", "show", "--first", done.json["log_size_found"], "--limit", "3", "--json")
    told = [json.loads(entry["data"])["what"] for entry in shown.json["entries"]]
    assert ["database restored", *["gap of a restored database"] * 2] == told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("restore",), "--accept"),
        (("restore", "--accept", "--replace"), "--replace"),
        (("restore", "--accept", "--unchecked"), "--unchecked"),
        (("backup", "absent/copy"), "no folder"),
    ],
)
def test_calls_that_cannot_work_are_exit_code_2(arguments, said, tmp_path):
    """A call that says too little or too much ends before anything is opened or written."""
    ended = qflare(tmp_path, *arguments, "--data-dir", tmp_path / "data")
    assert ExitCode.USAGE == ended.code
    assert said in ended.err


def test_a_database_that_is_away_is_exit_code_4(tmp_path):
    """No answer is one line and a code of its own, for both commands, and no file is left."""
    away = {"QFLARE_DSN": "postgresql://x@127.0.0.1:1/x"}
    for arguments in (("backup", tmp_path / "copy"), ("restore", "--accept")):
        assert ExitCode.UNAVAILABLE == qflare(tmp_path, *arguments, **away).code
    assert [] == list(tmp_path.glob("*copy*"))
