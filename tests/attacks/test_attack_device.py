"""Attacks on a device: refusals that somebody made up, offers with another's session id, hostile servers, cut files."""

import contextlib
import gzip
import http.server
import threading
import tracemalloc

import pytest
from tests.device.test_device import Wire
from tests.protocol.parties import BUCKET, WIDTH_S, make_device, make_server

from manager_world import TurnedClock
from qflare.device import Device, HttpTransport, Step
from qflare.device import device as device_module
from qflare.device.state_file import StateFile
from qflare.errors import AuthenticationError, DecodeError, QflareError, RefusedError
from qflare.primitives import kem
from qflare.primitives.random import random_bytes
from qflare.protocol import wire
from qflare.protocol.envelope import split_envelope
from qflare.protocol.record import KIND_CONTROL, read_header


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
    """The messages that were sent; what else went out is the question of a handshake's end, whether the keys are due."""
    headers = [read_header(split_envelope(message)[1]) for step, message in link.sent if step is Step.RECORD]
    assert sum(header.kind == KIND_CONTROL for header in headers) <= 1
    return [header for header in headers if header.kind != KIND_CONTROL]


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


class Hostile(http.server.BaseHTTPRequestHandler):
    """Answers with what the test has put down."""

    protocol_version = "HTTP/1.1"

    def _answer(self):
        status, headers, chunks = self.server.said
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            for chunk in chunks():
                self.wfile.write(chunk)
        self.close_connection = True

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_):
        pass


def chunked(total):
    piece = b"10000\r\n" + bytes(2**16) + b"\r\n"
    for _ in range(total // 2**16):
        yield piece


BOMB = gzip.compress(bytes(14 * 2**20))
HOSTILE = {
    "declared huge": (200, {"content-length": str(2**40)}, lambda: [b"x"]),
    "chunks without end": (200, {"transfer-encoding": "chunked"}, lambda: chunked(2**28)),
    "gzip bomb": (200, {"content-encoding": "gzip", "content-length": str(len(BOMB))}, lambda: [BOMB]),
    "refusal of other bytes": (403, {"content-length": "16"}, lambda: [b"\x7f\x02" + bytes(14)]),
    "redirect": (302, {"location": "http://127.0.0.1:9/", "content-length": "0"}, list),
    "length that is none": (200, {"content-length": "1_0"}, lambda: [b"x" * 10]),
    "cut": (200, {"content-length": "100"}, lambda: [b"x"]),
    "no HTTP": (200, {"x": "\x00"}, lambda: [b"\xff" * 10]),
    "page": (200, {"content-type": "text/html", "content-length": "6"}, lambda: [b"<html>"]),
    "teapot": (418, {"content-length": "0"}, list),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answer_costs_little_and_makes_no_session(edge, name):
    """Whatever a server answers, a device holds a few KiB of it at most, raises one of our errors, and goes on."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        server.said = HOSTILE[name]
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        transport = HttpTransport(f"http://127.0.0.1:{server.server_port}", timeout_s=5)
        tracemalloc.start()
        try:
            for step in (Step.HELLO, Step.ANNOUNCEMENT):
                with contextlib.suppress(QflareError):
                    answer = transport.exchange(step, b"current")
                    assert len(answer) <= 2**14
                    with pytest.raises((AuthenticationError, DecodeError)):
                        edge.take_announcement(answer)
            assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
        finally:
            tracemalloc.stop()
            transport.close()
            server.shutdown()
            thread.join()
