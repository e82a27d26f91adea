"""Both forms from end to end: both sides agree, and each has shown the other that it does."""

from __future__ import annotations

import pytest
from parties import BUCKET, fresh_psk, make_device, make_server

from qflare.protocol.confirm import Confirmation
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.offer_device import accept_offer


@pytest.mark.parametrize("psk", [None, fresh_psk()], ids=["without psk", "with psk"])
@pytest.mark.parametrize("ahead", [-1, 0, 1])
def test_hello_agrees(psk, ahead):
    """A hello under any live bucket gives both sides the same chain key and terms, and the device a receipt."""
    server = make_server()
    device = make_device(server, psk=psk)
    with start_hello(device, server.announcement(BUCKET + ahead)) as hello:
        m2 = server.answer_hello(hello.message)
        pending = accept_hello(hello, m2, device)
    (confirmation,) = server.confirm_hellos([pending.message])
    assert isinstance(confirmation, Confirmation)
    (m4,) = server.write_m4s([confirmation])
    session = accept_confirmation(pending, m4, server.identity, device, log_mark=None)
    assert session.chain_key.equals(confirmation.chain_key)
    assert (session.sid, session.start, session.lifetime) == (confirmation.sid, confirmation.start, 12)
    assert session.start == max(BUCKET, BUCKET + ahead)
    assert session.bucket_mark == BUCKET + ahead - 1


@pytest.mark.parametrize("psk", [None, fresh_psk()], ids=["without psk", "with psk"])
def test_offer_agrees(psk):
    """An offer gives both sides the same chain key and terms, and the device a receipt."""
    server = make_server()
    device = make_device(server, psk=psk)
    pending = accept_offer(server.make_offer(device), device, server.announcement())
    (confirmation,) = server.confirm_answers([pending.message])
    assert isinstance(confirmation, Confirmation)
    (m4,) = server.write_m4s([confirmation])
    session = accept_confirmation(pending, m4, server.identity, device, log_mark=None)
    assert session.chain_key.equals(confirmation.chain_key)
    assert (session.sid, session.start, session.lifetime) == (confirmation.sid, BUCKET, 12)
