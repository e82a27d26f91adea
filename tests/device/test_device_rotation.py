"""A device rotates its keys when the server's policy says so, and is never locked out, whatever is lost on the way."""

import asyncio
import json

import pytest

from manager_world import TurnedClock, managers
from qflare.cli.exits import ExitCode
from qflare.cli.main import run
from qflare.device import AsyncDevice, Step
from qflare.device.records import SESSION_BYTES_MAX, SESSION_RECORDS_MAX
from qflare.errors import QflareError, RefusedError, SessionUsedUpError, StoreUnavailableError
from qflare.model.rotation import RotationPolicy
from qflare.protocol import wire
from qflare.protocol.envelope import encode_envelope, split_envelope
from qflare.protocol.record import KIND_CONTROL
from qflare.protocol.rotation import Urgency

DAY_S = 86_400
DAILY = RotationPolicy(max_age_s=DAY_S, jitter_percent=0, minute_ppm=1_000_000)


class Line:
    """A transport to managers in this process, which may lose a request or an answer."""

    def __init__(self, *workers):
        self.workers = list(workers)
        self.controls = 0
        self.lose_request = self.lose_answer = self.refuse = lambda _step: False

    async def exchange(self, step, message):
        if self.refuse(step):
            return wire.REFUSED
        if self.lose_request(step):
            raise StoreUnavailableError("lost")
        self.workers.append(self.workers.pop(0))
        try:
            answer = await self._answer(self.workers[0], step, bytes(message))
        except RefusedError:
            return wire.REFUSED
        if self.lose_answer(step):
            raise StoreUnavailableError("lost")
        return answer

    async def _answer(self, manager, step, message):  # noqa: PLR0911 - one return a step
        match step:
            case Step.IDENTITY:
                return await manager.identity()
            case Step.ANNOUNCEMENT:
                return await manager.announcement("current" if message == b"current" else int(message))
            case Step.ENROL:
                return await manager.answer_enrolment(message)
            case Step.HELLO:
                return await manager.answer_hello(message)
            case Step.OFFER:
                return await manager.offer_for(message[:32], tenant_id=message[32:])
            case Step.CONFIRM:
                return (await manager.confirm(message)).confirmation
        aad, record = split_envelope(message)
        with await manager.open_record(record, aad=aad) as opened:
            if opened.header.kind != KIND_CONTROL:
                return b""
            self.controls += 1
            return encode_envelope(b"", await manager.answer_control(opened))

    async def close(self):
        pass


@pytest.fixture
async def pair(database_dsn, tmp_path):
    async with managers(database_dsn, tmp_path, 2, clock=TurnedClock()) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    async def sleep(_seconds):
        return None

    monkeypatch.setattr("qflare.device.async_device.asyncio.sleep", sleep)


async def enrolled(manager, line, folder, name="pump 7"):
    token = await manager.issue_enrolment_token(name)
    return await AsyncDevice.enrol(line, token, device_id=name, state=folder / "device.state")


async def make_due(manager, admin):
    await manager.set_rotation_policy(DAILY)
    await admin.execute("UPDATE qflare.device_key SET created_at = created_at - interval '2 days'")
    await manager.turn()


async def version_at(manager, name="pump 7"):
    return (await manager.find_device(name)).key_version


@pytest.mark.parametrize("form", ["hello", "offer"])
async def test_connect_rotates_keys_that_are_due(pair, admin, tmp_path, form):
    """A device whose keys are due rotates them in the session it makes, once, and goes on under the new ones."""
    line = Line(*pair)
    device = await enrolled(pair[0], line, tmp_path)
    try:
        await device.connect(form)
        assert (1, 1, None) == (device.device.key_version, line.controls, device.device.rotation_failure)
        await make_due(pair[0], admin)
        assert Urgency.DUE is await device.rotation_urgency()
        device.device.engine.state.asked_bucket = None
        await device.connect(form)
        assert (2, 2) == (device.device.key_version, await version_at(pair[0]))
        assert await device.exchange(b"under the old session's terms, or the new") is None
        await device.connect(form)
        await device.connect("hello")
        assert (2, 2) == (device.device.key_version, await version_at(pair[0]))
        assert Urgency.NONE is await device.rotation_urgency()
    finally:
        await device.close()


async def test_a_device_rotates_because_its_operator_asked(pair, tmp_path, database_dsn, monkeypatch, capsys):
    """`qflare devices rotate` marks a device without a policy; the device learns it at its next contact, and rotates."""
    line = Line(*pair)
    monkeypatch.setenv("QFLARE_DSN", database_dsn)
    monkeypatch.setenv("QFLARE_KEEPER_DIR", str(tmp_path / "volatile"))
    asking = ["devices", "rotate", "pump 7", "--reason", "seen", "--data-dir", str(tmp_path / "data")]
    device = await enrolled(pair[0], line, tmp_path)
    try:
        assert ExitCode.OK == await asyncio.to_thread(run, [*asking, "--json"])
        told = json.loads(capsys.readouterr().out)
        assert ("pump 7", 1, "operator", False) == (told["device_id"], told["keys"], told["cause"], told["is_overdue"])
        assert ExitCode.OK == await asyncio.to_thread(run, asking)
        assert f"of version 1, marked {told['marked_at']}" in capsys.readouterr().out
        session = await device.connect()
        assert (2, 2) == (device.device.key_version, await version_at(pair[0]))
        assert session.sid == device.device.session.sid
        assert Urgency.NONE is await device.rotation_urgency()
    finally:
        await device.close()
    gone = [*asking[:2], "nobody", *asking[3:]]
    assert ExitCode.FAILED == await asyncio.to_thread(run, gone)
    assert "no device" in capsys.readouterr().err


async def test_a_device_asks_once_an_hour_of_buckets(pair, tmp_path):
    """Many sessions in one bucket cost one question."""
    line = Line(*pair)
    device = await enrolled(pair[0], line, tmp_path)
    try:
        for _ in range(4):
            await device.connect()
        assert 1 == line.controls
    finally:
        await device.close()


async def test_a_device_in_memory_does_not_rotate_by_itself(pair, admin):
    """Keys that would live in memory alone are not made by themselves; the caller may ask and rotate."""
    keypair = await pair[0].generate_device_keypair("simulated")
    from qflare.device import Device

    line = Line(*pair)
    with keypair:
        made = Device.from_identity(keypair.identity(), served=await pair[0].identity())
    device = AsyncDevice(made, line)
    await make_due(pair[0], admin)
    await device.connect()
    assert 0 == line.controls
    assert Urgency.DUE is await device.rotation_urgency()
    assert 2 == await device.rotate_keys()
    assert 2 == await version_at(pair[0], "simulated")
    await device.connect()
    await device.close()


@pytest.mark.parametrize(
    "case",
    [("hello", "request", False), ("hello", "answer", True), ("offer", "answer", False), ("offer", "request", True)],
)
async def test_a_rotation_that_is_cut_off_goes_on(pair, admin, tmp_path, case):
    """Request or answer lost, with a restart of the device or without: the next session ends the rotation."""
    form, lost, restarts = case
    line = Line(*pair)
    device = await enrolled(pair[0], line, tmp_path)
    try:
        await device.connect(form)
        await make_due(pair[0], admin)
        device.device.engine.state.asked_bucket = None
        records = []

        def is_rotate(step):
            records.append(step)
            return step is Step.RECORD and records.count(Step.RECORD) == 2

        setattr(line, f"lose_{lost}", is_rotate)
        await device.connect(form)
        assert isinstance(device.device.rotation_failure, StoreUnavailableError)
        assert 1 == device.device.key_version
        assert {"request": 1, "answer": 2}[lost] == await version_at(pair[0])
        setattr(line, f"lose_{lost}", lambda _step: False)
        if restarts:
            await device.close()
            device = await AsyncDevice.open(tmp_path / "device.state", line)
        await device.connect(form, attempts=1)
        assert (2, 2) == (device.device.key_version, await version_at(pair[0]))
        assert device.device.engine.state.rotating is None
        await device.connect("hello", attempts=1)
        assert 2 == await version_at(pair[0])
    finally:
        await device.close()


async def test_refusals_that_somebody_makes_up_do_not_lose_keys(pair, tmp_path):
    """With made-up refusals of every handshake both keys stay, and the device ends its rotation when they stop."""
    line = Line(*pair)
    device = await enrolled(pair[0], line, tmp_path)
    try:
        await device.connect()
        line.lose_request = lambda step: step is Step.RECORD
        device.device.engine.state.asked_bucket = None
        with pytest.raises(StoreUnavailableError):
            await device.rotate_keys()
        line.lose_request, line.refuse = lambda _step: False, lambda step: step is Step.HELLO
        for _ in range(3):
            with pytest.raises(RefusedError):
                await device.connect(attempts=2)
        line.refuse = lambda _step: False
        assert 2 == await device.rotate_keys(), "the old session still lives"
        await device.connect(attempts=1)
        assert (2, 2) == (device.device.key_version, await version_at(pair[0]))
    finally:
        await device.close()


async def test_no_answer_of_the_application_ends_a_rotation(pair, tmp_path):
    """ROTATED counts in a control record alone: the same bytes as data change nothing."""
    line = Line(*pair)
    device = await enrolled(pair[0], line, tmp_path)
    try:
        terms = await device.connect()
        device.device.begin_rotation()
        forged = await pair[0].seal_record(terms.sid, b"\x04\x00\x00\x00\x02")
        with pytest.raises(QflareError):
            device.device.finish_rotation(forged)
        assert 1 == device.device.key_version
        assert 2 == await device.rotate_keys()
        with pytest.raises(QflareError):
            device.device.finish_rotation(forged)
    finally:
        await device.close()


async def test_a_device_seals_no_more_than_a_session_carries(pair, tmp_path):
    """At the bound the device seals nothing more and says what to do; the count outlives a restart, a handshake resets it."""
    line = Line(*pair)
    device = await enrolled(pair[0], line, tmp_path)
    try:
        await device.connect()
        state = device.device.engine.state
        state.sealed_records, state.sealed_bytes = SESSION_RECORDS_MAX - 1, 7
        device.device.seal(b"the last one")
        await device.refresh()
        await device.close()
        device = await AsyncDevice.open(tmp_path / "device.state", line)
        with pytest.raises(SessionUsedUpError, match="connect"):
            await device.exchange(b"one more")
        assert 7 + len(b"the last one") == device.device.engine.state.sealed_bytes
        await device.connect()
        await device.exchange(b"the first one")
        device.device.engine.state.sealed_bytes = SESSION_BYTES_MAX - 1
        device.device.seal(b"x")
        with pytest.raises(SessionUsedUpError):
            device.device.seal(b"x")
    finally:
        await device.close()
