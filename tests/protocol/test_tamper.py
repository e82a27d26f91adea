"""Goal B2: every single-bit flip and every truncation of every message is refused, with one error class."""

from __future__ import annotations

import pytest
from parties import make_device, make_server
from tampering import batches, every_flip, every_truncation

from qflare.errors import AuthenticationError
from qflare.model.refusal import Refusal
from qflare.protocol import wire
from qflare.protocol.confirm import Confirmation
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.offer_device import accept_offer
from qflare.protocol.seen import SeenHellos

BATCH = 512
SERVER = make_server()
DEVICE = make_device(SERVER)


@pytest.fixture(scope="module")
def hello():
    return start_hello(DEVICE, SERVER.announcement())


@pytest.fixture(scope="module")
def m2(hello):
    return SERVER.answer_hello(hello.message)


@pytest.fixture(scope="module")
def pending(hello, m2):
    return accept_hello(hello, m2, DEVICE)


def refused_by_server(results):
    assert not [result for result in results if not isinstance(result, Refusal)]


def test_m1(hello):
    """No altered M1 is answered, and the good one among them is."""
    for batch in batches(every_flip(hello.message), BATCH):
        *altered, good = SERVER.answer_hellos([*batch, hello.message], seen=SeenHellos())
        refused_by_server(altered)
        assert isinstance(good, bytes)
    refused_by_server(SERVER.answer_hellos(list(every_truncation(hello.message)), seen=SeenHellos()))


def test_m2(hello, m2):
    """No altered M2 leads to a session: the device refuses it, or the server refuses the M3 with its ticket."""
    damaged_tickets = []
    for altered in every_flip(m2):
        if altered[: wire.M2_TICKET_AT] == m2[: wire.M2_TICKET_AT]:
            damaged_tickets.append(accept_hello(hello, altered, DEVICE).message)
            continue
        with pytest.raises(AuthenticationError):
            accept_hello(hello, altered, DEVICE)
    assert len(damaged_tickets) == 8 * wire.TICKET_HELLO_BYTES
    refused_by_server(SERVER.confirm_hellos(damaged_tickets))
    for altered in every_truncation(m2):
        with pytest.raises(AuthenticationError):
            accept_hello(hello, altered, DEVICE)


def test_m3(pending):
    """No altered M3 is confirmed, and the good one among them is."""
    for batch in batches(every_flip(pending.message), BATCH):
        *altered, good = SERVER.confirm_hellos([*batch, pending.message])
        refused_by_server(altered)
        assert isinstance(good, Confirmation)
    refused_by_server(SERVER.confirm_hellos(list(every_truncation(pending.message))))


def test_m4(pending):
    """No altered M4 makes a session on the device."""
    others = [start_hello(DEVICE, SERVER.announcement()) for _ in range(4)]
    m3s = [accept_hello(other, SERVER.answer_hello(other.message), DEVICE).message for other in others]
    # Five leaves, so that there is a path to alter.
    _, _, m4, *_ = SERVER.write_m4s(SERVER.confirm_hellos([m3s[0], m3s[1], pending.message, m3s[2], m3s[3]]))
    accept_confirmation(pending, m4, SERVER.identity, DEVICE, log_mark=None).wipe()
    for altered in [*every_flip(m4), *every_truncation(m4)]:
        with pytest.raises(AuthenticationError):
            accept_confirmation(pending, altered, SERVER.identity, DEVICE, log_mark=None)


def test_offer():
    """No altered OFFER leads to a session: the device refuses it, or the server refuses the ANSWER to it."""
    offer, announcement = SERVER.make_offer(DEVICE), SERVER.announcement()
    answers, refused = [], 0
    for altered in every_flip(offer):
        try:
            pending = accept_offer(altered, DEVICE, announcement)
        except AuthenticationError:
            refused += 1
        else:
            answers.append(pending.message)
            pending.wipe()
    # Of the fields before sid a device accepts another lifetime alone, and th1 binds that.
    assert refused >= 8 * (wire.OFFER_SID_AT - 2)
    for batch in batches(iter(answers), BATCH):
        refused_by_server(SERVER.confirm_answers(batch))
    for altered in every_truncation(offer):
        with pytest.raises(AuthenticationError):
            accept_offer(altered, DEVICE, announcement)


def test_answer():
    """No altered ANSWER is confirmed, and the good one among them is."""
    answer = accept_offer(SERVER.make_offer(DEVICE), DEVICE, SERVER.announcement()).message
    for batch in batches(every_flip(answer), BATCH):
        *altered, good = SERVER.confirm_answers([*batch, answer])
        refused_by_server(altered)
        assert isinstance(good, Confirmation)
    refused_by_server(SERVER.confirm_answers(list(every_truncation(answer))))
