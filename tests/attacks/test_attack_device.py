"""Attacks on a device: refusals that somebody made up, offers with another's session id, hostile servers, cut files."""

import contextlib

import pytest
from tests.device.test_device import Wire
from tests.protocol.parties import BUCKET, WIDTH_S, make_device, make_server

from manager_world import TurnedClock
from qflare.device import Device, Step
from qflare.device import device as device_module
from qflare.device.state_file import StateFile
from qflare.errors import DecodeError, QflareError, RefusedError
from qflare.primitives import kem
from qflare.primitives.random import random_bytes
from qflare.protocol import wire
from qflare.protocol.envelope import split_envelope
from qflare.protocol.record import read_header


@pytest.fixture(name="clock")
def _clock():
    return TurnedClock()


@pytest.fixture(name="link")
def _link():
    return Wire(make_server())


@pytest.fixture(name="edge")
def _edge(link, clock, tmp_path, monkeypatch):
    monkeypatch.setattr(device_module.time, "sleep", lambda _seconds: None)
    identity = make_device(link.server)
    link.devices.append(identity)
    with Device.from_identity(
        identity, served=link.server.identity.served, server=link, state=tmp_path / "edge.state", clock=clock
    ) as device:
        yield device


def records(link):
    return [read_header(split_envelope(message)[1]) for step, message in link.sent if step is Step.RECORD]


def test_forged_refusal_does_not_make_a_device_send_twice(edge, link):
    """Somebody lets a record through and answers with a refusal while the bucket turns: the message goes out once."""
    edge.connect("hello")

    def turn(step, answer):
        if step is not Step.RECORD:
            return answer
        link.server.bucket = BUCKET + 1
        return wire.REFUSED

    link.alter = turn
    with pytest.raises(RefusedError):
        edge.exchange(b"an update that must count once")
    assert 1 == len(records(link))


@pytest.mark.parametrize("is_monotonic", [True, False])
def test_device_that_slept_asks_for_the_bucket_before_it_sends(edge, link, clock, is_monotonic):
    """After a sleep, whichever of its clocks noticed, a device seals under the bucket of now at the first try (R5)."""
    edge.connect("hello")
    edge.exchange(b"x")
    for bucket in range(BUCKET + 2, BUCKET + 5):
        link.server.publish(bucket)
    link.server.bucket = BUCKET + 4
    if is_monotonic:
        clock.elapsed_ns += 4 * WIDTH_S * 10**9
    else:
        clock.turn(4 * WIDTH_S, monotonic=False)
    assert edge.exchange(b"y").plaintext.equals(b"Y")
    assert BUCKET + 4 == records(link)[-1].bucket


@pytest.mark.parametrize("is_first", [True, False])
def test_forged_offer_with_the_same_sid_does_not_stop_the_real_one(edge, link, is_first):
    """Who knows a device's public key and a session id makes an OFFER with it: the server's still leads to a session."""
    edge.refresh()
    (identity,) = link.devices
    real = link.server.make_offer(identity)
    forged = b"".join(
        (
            real[: wire.OFFER_CT_AT],
            kem.encapsulate(identity.encapsulation_key).ciphertext,
            random_bytes(wire.TICKET_OFFER_BYTES),
        )
    )
    answers = {offer: edge.answer_offer(offer) for offer in ((forged, real) if is_first else (real, forged))}
    terms = edge.finish(link.exchange(Step.CONFIRM, answers[real]))
    assert edge.exchange(b"x").plaintext.equals(b"X")
    assert terms.sid == real[wire.OFFER_SID_AT : wire.OFFER_CT_AT]


def test_eight_offers_are_the_most_that_wait(edge, link):
    """A flood of OFFERs leaves eight pending and changes nothing else; a hello still works."""
    edge.refresh()
    (identity,) = link.devices
    for _ in range(8):
        edge.answer_offer(link.server.make_offer(identity))
    for _ in range(3):
        with pytest.raises(RefusedError):
            edge.answer_offer(link.server.make_offer(identity))
    assert 8 == len(edge.engine.state.confirmations)
    assert "hello" == edge.connect("hello").form


def test_marks_and_identity_survive_what_a_hostile_server_sends(edge, link, tmp_path):
    """An older announcement, another server's identity and an M4 for nobody change neither marks nor state."""
    link.server.bucket = BUCKET + 1
    link.server.publish(BUCKET + 2)
    edge.connect("hello")
    before = edge.engine.state
    kept = (before.bucket_mark, before.log_mark, before.server, before.announcement)
    stranger = make_server()
    for step, answer in (
        (Step.ANNOUNCEMENT, stranger.keyring[BUCKET].announcement.encoded),
        (Step.ANNOUNCEMENT, b""),
        (Step.ANNOUNCEMENT, bytes(4042)),
        (Step.IDENTITY, stranger.identity.served),
    ):
        link.alter = lambda asked, real, step=step, answer=answer: answer if asked is step else real
        with contextlib.suppress(QflareError):
            edge.refresh()
    link.alter = lambda _step, real: real
    after = edge.engine.state
    assert kept == (after.bucket_mark, after.log_mark, after.server, after.announcement)
    assert edge.exchange(b"x").plaintext.equals(b"X")
    edge.close()
    with Device.open(tmp_path / "edge.state", link) as again:
        assert kept[:2] == (again.engine.state.bucket_mark, again.engine.state.log_mark)


def test_every_cut_and_flip_of_a_state_file_is_refused(edge, link, tmp_path):
    """A state file that was cut or altered anywhere is refused, and a half-written one never takes its place."""
    edge.connect("hello")
    edge.close()
    path = tmp_path / "edge.state"
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 64)):
        path.write_bytes(whole[:at])
        with pytest.raises(DecodeError):
            Device.open(path, link)
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 0x40,)) + whole[at + 1 :])
        with pytest.raises(DecodeError):
            Device.open(path, link)
    path.write_bytes(whole)
    # What a crash between writing and renaming leaves beside it.
    (tmp_path / ".edge.state.0011223344556677").write_bytes(whole[: len(whole) // 2])
    with Device.open(path, link) as again:
        assert again.session is not None
    assert 0o600 == path.stat().st_mode & 0o777
    with contextlib.closing(StateFile(path)) as file:
        path.chmod(0o640)
        with pytest.raises(QflareError, match="chmod"):
            file.read()
