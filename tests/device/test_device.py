"""A device makes sessions over any transport, keeps its state durably, and refuses what is not the server's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.protocol.parties import BUCKET, Server, make_device, make_server

from qflare.clock import SystemClock
from qflare.device import AsyncDevice, Device, Step
from qflare.device import device as device_module
from qflare.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ConfigError,
    RefusedError,
    ReplayError,
    SessionExpiredError,
    StoreUnavailableError,
    UnexpectedMessageError,
)
from qflare.model.refusal import Refusal
from qflare.protocol import wire
from qflare.protocol.chain import SessionChain
from qflare.protocol.confirm import Confirmation
from qflare.protocol.envelope import encode_envelope, split_envelope
from qflare.protocol.evidence import Evidence, verify_evidence
from qflare.protocol.record import new_header, open_record, read_header, seal_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qflare.model.ids import SessionId
    from qflare.protocol.device_identity import DeviceIdentity


@dataclass
class Wire:
    """A transport that hands bytes to a server in the same process, and may lose or alter them on the way."""

    server: Server
    sent: list[tuple[Step, bytes]] = field(default_factory=list)
    lose: Callable[[Step], bool] = lambda _step: False
    alter: Callable[[Step, bytes], bytes] = lambda _step, answer: answer
    chains: dict[bytes, SessionChain] = field(default_factory=dict)
    devices: list[DeviceIdentity] = field(default_factory=list)

    def exchange(self, step: Step, message: bytes | bytearray) -> bytes:
        self.sent.append((step, bytes(message)))
        answer = self._answer(step, bytes(message))
        if self.lose(step):
            text = "the answer was lost"
            raise StoreUnavailableError(text)
        return self.alter(step, answer)

    def close(self) -> None:
        """Nothing is held."""

    def _answer(self, step: Step, message: bytes) -> bytes:
        server = self.server
        match step:
            case Step.IDENTITY:
                return server.identity.served
            case Step.ANNOUNCEMENT:
                bucket = server.bucket if message == b"current" else int(message)
                return server.keyring[bucket].announcement.encoded
            case Step.HELLO:
                return self._sent_back(server.answer_hellos([message])[0])
            case Step.OFFER:
                device = next(row for row in self.devices if row.ref == message[:32])
                return server.make_offer(device)
            case Step.CONFIRM:
                confirm = server.confirm_hellos if message[0] == wire.TYPE_M3 else server.confirm_answers
                return self._begin(confirm([message])[0])
            case Step.RECORD:
                return self._echo(message)
            case Step.ENROL:
                raise AssertionError

    def _begin(self, confirmation: Confirmation | Refusal) -> bytes:
        if isinstance(confirmation, Refusal):
            return wire.REFUSED
        (m4,) = self.server.write_m4s([confirmation])
        self.chains[confirmation.sid] = SessionChain.begin(
            confirmation.chain_key, sid=confirmation.sid, start=confirmation.start, lifetime=confirmation.lifetime
        )
        return m4

    def _echo(self, message: bytes) -> bytes:
        aad, record = split_envelope(message)
        header = read_header(record)
        assert not isinstance(header, Refusal)
        chain = self.chains[header.sid]
        with chain.message_key(header.bucket, direction=header.direction, purpose=header.purpose) as key:
            try:
                plaintext = open_record(key, record, aad=aad)
            except AuthenticationError:
                return wire.REFUSED
        return encode_envelope(b"", self.reply(header.sid, plaintext.view().tobytes().upper()))

    def reply(self, sid: SessionId, plaintext: bytes, *, bucket: int | None = None) -> bytes:
        """Seal a record to the device."""
        header = new_header(sid=sid, bucket=bucket or self.server.bucket, direction=wire.DIRECTION_TO_DEVICE)
        with self.chains[sid].message_key(header.bucket, direction=2, purpose=header.purpose) as key:
            return seal_record(key, header, plaintext)

    @staticmethod
    def _sent_back(answer: bytes | Refusal) -> bytes:
        return wire.REFUSED if isinstance(answer, Refusal) else answer


class AsyncWire:
    """The same, awaited."""

    def __init__(self, wire_: Wire) -> None:
        self.wire = wire_

    async def exchange(self, step: Step, message: bytes | bytearray) -> bytes:
        await asyncio.sleep(0)
        return self.wire.exchange(step, message)

    async def close(self) -> None:
        """Nothing is held."""


@pytest.fixture(name="pauses")
def _pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the pauses instead of waiting them out."""
    pauses: list[float] = []
    monkeypatch.setattr(device_module.time, "sleep", pauses.append)
    return pauses


@pytest.fixture(name="link")
def _link() -> Wire:
    return Wire(make_server())


@pytest.fixture(name="edge")
def _edge(link: Wire, tmp_path: Path) -> Iterator[Device]:
    identity = make_device(link.server)
    link.devices.append(identity)
    with Device.from_identity(
        identity, served=link.server.identity.served, server=link, state=tmp_path / "edge.state"
    ) as device:
        yield device


@pytest.mark.parametrize("form", ["hello", "offer"])
def test_connect_agrees_with_the_server_on_every_key(edge: Device, link: Wire, form: str) -> None:
    """Both forms end with the same session on both sides: terms, derived keys, and records both ways."""
    terms = edge.connect(form)
    chain = link.chains[terms.sid]
    assert form == terms.form
    assert (terms.start, terms.lifetime) == (BUCKET, 12)
    with edge.derive_session_key("encryption") as ours, chain.derive_session_key("encryption") as theirs:
        assert ours.equals(theirs)
    reply = edge.exchange(b"an update", aad=b"round 1")
    assert reply is not None
    assert reply.plaintext.equals(b"AN UPDATE")


@pytest.mark.parametrize("form", ["hello", "offer"])
def test_connect_leaves_evidence_for_third_parties(edge: Device, link: Wire, form: str) -> None:
    """What the device keeps of a handshake verifies with public values alone, after a round trip as JSON."""
    edge.connect(form)
    evidence = Evidence.from_json(edge.evidence().to_json())
    assert verify_evidence(evidence, link.server.identity, ref=edge.ref).index == 0


def test_a_session_survives_a_restart(edge: Device, link: Wire, tmp_path: Path) -> None:
    """Closing and opening the state file keeps session, marks and seen streams."""
    terms = edge.connect("hello")
    record = link.reply(terms.sid, b"once")
    with edge.open_record(record) as plaintext:
        assert plaintext.equals(b"once")
    edge.close()
    with Device.open(tmp_path / "edge.state", link) as again:
        assert again.session is not None
        assert terms.sid == again.session.sid
        with pytest.raises(ReplayError):
            again.open_record(record)
        reply = again.exchange(b"still here")
        assert reply is not None
        assert reply.plaintext.equals(b"STILL HERE")


@pytest.mark.parametrize("step", [Step.HELLO, Step.CONFIRM])
def test_a_lost_answer_is_asked_for_again_with_the_same_bytes(
    edge: Device, link: Wire, step: Step, pauses: list[float]
) -> None:
    """After a lost M2 or M4 the device sends the same bytes again and the handshake goes on (H7)."""
    lost = iter([True])
    link.lose = lambda asked: asked is step and next(lost, False)
    edge.connect("hello")
    repeated = [message for asked, message in link.sent if asked is step]
    assert len(repeated) == 2
    assert repeated[0] == repeated[1]
    assert all(1 <= pause <= 300 for pause in pauses)


def test_a_pending_hello_goes_on_after_a_restart(edge: Device, link: Wire, tmp_path: Path, pauses: list[float]) -> None:
    """A device that stopped between M1 and M2 sends the same M1 when it is back."""
    link.lose = lambda step: step is Step.HELLO
    with pytest.raises(StoreUnavailableError):
        edge.connect("hello")
    edge.close()
    link.lose = lambda _step: False
    # H3: the byte-equal M1 is answered three times in all, so the server is asked afresh.
    link.server.seen = type(link.server.seen)()
    with Device.open(tmp_path / "edge.state", link) as again:
        again.connect("hello")
    hellos = {message for step, message in link.sent if step is Step.HELLO}
    assert len(hellos) == 1
    assert pauses


def test_a_refused_device_waits_and_starts_over(edge: Device, link: Wire, pauses: list[float]) -> None:
    """Refused, it waits 1 to 300 s, fetches the announcement anew and makes a new M1; at last it says so (N5)."""
    link.alter = lambda step, answer: wire.REFUSED if step is Step.HELLO else answer
    with pytest.raises(RefusedError):
        edge.connect("hello", attempts=3)
    hellos = [message for step, message in link.sent if step is Step.HELLO]
    assert len(set(hellos)) == 3
    assert len(pauses) == 2
    assert all(1 <= pause <= 300 for pause in pauses)
    assert edge.session is None


@pytest.mark.parametrize("step", [Step.HELLO, Step.CONFIRM, Step.ANNOUNCEMENT])
def test_an_altered_answer_makes_no_session(edge: Device, link: Wire, step: Step) -> None:
    """A device whose M2, M4 or announcement was altered has no session, and can still make one."""
    link.alter = lambda asked, answer: answer[:-1] + bytes([answer[-1] ^ 1]) if asked is step else answer
    with pytest.raises((AuthenticationError, RefusedError)):
        # The last byte of M2 is in the ticket, which only the server can check: it shows at M3.
        edge.connect("hello", attempts=1)
    assert edge.session is None
    link.alter = lambda _asked, answer: answer
    link.server.seen = type(link.server.seen)()
    assert edge.connect("hello").form == "hello"


def test_a_record_follows_the_bucket_turn(edge: Device, link: Wire) -> None:
    """The device writes under the latest announcement it verified, and keeps one bucket behind it readable (R5)."""
    terms = edge.connect("hello")
    late = link.reply(terms.sid, b"late")
    link.server.bucket = BUCKET + 1
    assert edge.refresh() == BUCKET + 1
    header = read_header(edge.seal(b""))
    assert not isinstance(header, Refusal)
    assert header.bucket == BUCKET + 1
    assert edge.open_record(late).equals(b"late")


def test_a_sleeping_device_hashes_forward(edge: Device, link: Wire) -> None:
    """A record of a bucket far ahead opens on a copy, and only then are older keys erased (R5)."""
    terms = edge.connect("hello")
    early = link.reply(terms.sid, b"early", bucket=BUCKET)
    ahead = link.reply(terms.sid, b"ahead", bucket=BUCKET + 11)
    altered = ahead[:-1] + bytes([ahead[-1] ^ 1])
    with pytest.raises(AuthenticationError):
        edge.open_record(altered)
    assert edge.open_record(early).equals(b"early")
    assert edge.open_record(ahead).equals(b"ahead")


def test_no_session_is_said_so(edge: Device) -> None:
    """Records and keys without a session are refused with the remedy."""
    with pytest.raises(SessionExpiredError, match="connect"):
        edge.seal(b"x")
    with pytest.raises(SessionExpiredError, match="connect"):
        edge.derive_session_key("encryption")


def test_an_unasked_answer_is_refused(edge: Device) -> None:
    """An M2 or M4 that nothing waits for is an error and changes nothing."""
    with pytest.raises(UnexpectedMessageError):
        edge.answer_hello(bytes(wire.M2_BYTES))
    with pytest.raises(UnexpectedMessageError):
        edge.finish(bytes(wire.M4_BYTES_MIN))


def test_an_existing_state_is_not_overwritten(edge: Device, link: Wire, tmp_path: Path) -> None:
    """Provisioning into a file that holds a device is refused."""
    edge.close()
    with pytest.raises(AlreadyExistsError):
        Device.from_identity(
            make_device(link.server, "other"), served=link.server.identity.served, state=tmp_path / "edge.state"
        )


def test_a_device_without_transport_carries_nothing(edge: Device, link: Wire, tmp_path: Path) -> None:
    """Without a server the caller carries the messages; asking the device to is a clear error."""
    edge.close()
    with Device.open(tmp_path / "edge.state") as alone:
        with pytest.raises(ConfigError, match="no transport"):
            alone.connect()
        alone.take_announcement(link.server.announcement().encoded)
        m2 = link.server.answer_hello(alone.begin_hello())
        (confirmation,) = link.server.confirm_hellos([alone.answer_hello(m2)])
        assert isinstance(confirmation, Confirmation)
        (m4,) = link.server.write_m4s([confirmation])
        assert confirmation.sid == alone.finish(m4).sid


def test_a_forgotten_device_warns(link: Wire) -> None:
    """A device that is dropped without close() is a ResourceWarning."""
    device = Device.from_identity(make_device(link.server, "forgotten"), served=link.server.identity.served)
    with pytest.warns(ResourceWarning, match="was not closed"):
        del device


async def test_async_device_runs_the_same_flows(link: Wire, tmp_path: Path) -> None:
    """The asynchronous device makes a session and exchanges records over an asynchronous transport."""
    identity = make_device(link.server)
    link.devices.append(identity)
    Device.from_identity(identity, served=link.server.identity.served, state=tmp_path / "edge.state").close()
    async with await AsyncDevice.open(tmp_path / "edge.state", AsyncWire(link), clock=SystemClock()) as device:
        for form in ("hello", "offer"):
            terms = await device.connect(form)
            assert form == terms.form
        reply = await device.exchange(b"ping")
        assert reply is not None
        assert reply.plaintext.equals(b"PING")


async def test_async_cancellation_leaves_a_usable_device(link: Wire, tmp_path: Path) -> None:
    """A cancelled connect leaves no half-changed state: the next one succeeds."""
    identity = make_device(link.server)
    Device.from_identity(identity, served=link.server.identity.served, state=tmp_path / "edge.state").close()
    async with await AsyncDevice.open(tmp_path / "edge.state", AsyncWire(link), clock=SystemClock()) as device:
        for turns in range(6):
            task = asyncio.ensure_future(device.connect("hello"))
            for _ in range(turns * 3):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            link.server.seen = type(link.server.seen)()
        assert (await device.connect("hello")).form == "hello"


def test_a_token_in_the_place_of_the_address_is_not_repeated(tmp_path: Path) -> None:
    """Arguments that were exchanged are refused before any work, by an error without the token."""
    token = "A" * 156
    with pytest.raises(ConfigError, match="begin with http") as ended:
        Device.enrol(token, "http://localhost", device_id="x", state=tmp_path / "state")
    assert token not in str(ended.value)
    assert not (tmp_path / "state").exists()
