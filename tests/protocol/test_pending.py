"""What a device keeps over a crash, and the eight offers it answers at most."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import BUCKET, make_device, make_server

from qflare.errors import AuthenticationError, DecodeError, EntropyError, LengthError, RefusedError, UsageError
from qflare.model.refusal import Refusal
from qflare.primitives.random import drawing_from
from qflare.protocol import hello_device, offer_device, wire
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.device_identity import DeviceIdentity
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.offer_device import accept_offer, offer_bucket
from qflare.protocol.pending import PENDING_OFFERS_MAX, PendingConfirmation, PendingHello
from qflare.secret import SecretBytes

SERVER = make_server()
DEVICE = make_device(SERVER, psk=b"\x07" * 64)


def test_hello_goes_on_after_a_crash():
    """A device that restarts between M1 and M2, and again between M3 and M4, ends with the same session."""
    hello = start_hello(DEVICE, SERVER.announcement())
    restored = PendingHello.from_state(hello.to_state())
    assert (restored.message, restored.bucket) == (hello.message, BUCKET)
    pending = accept_hello(restored, SERVER.answer_hello(hello.message), DEVICE)
    again = PendingConfirmation.from_state(pending.to_state())
    (confirmation,) = SERVER.confirm_hellos([again.message])
    (m4,) = SERVER.write_m4s([confirmation])
    session = accept_confirmation(again, m4, SERVER.identity, DEVICE, log_mark=None)
    assert session.chain_key.equals(confirmation.chain_key)


def test_offer_goes_on_after_a_crash():
    """A device that restarts between ANSWER and M4 ends with the same session."""
    pending = accept_offer(SERVER.make_offer(DEVICE), DEVICE, SERVER.announcement())
    again = PendingConfirmation.from_state(pending.to_state())
    (confirmation,) = SERVER.confirm_answers([again.message])
    (m4,) = SERVER.write_m4s([confirmation])
    assert accept_confirmation(again, m4, SERVER.identity, DEVICE, log_mark=None).form == wire.FORM_OFFER


@pytest.mark.parametrize("make", ["hello", "confirmation"])
@pytest.mark.parametrize("damage", ["missing", "type", "size"])
def test_damaged_state_is_refused(make, damage):
    """A state that lacks a field, or has one of another type or size, is refused with the remedy."""
    hello = start_hello(DEVICE, SERVER.announcement())
    if make == "hello":
        pending, kind = hello, PendingHello
    else:
        pending, kind = accept_hello(hello, SERVER.answer_hello(hello.message), DEVICE), PendingConfirmation
    for name, value in pending.to_state().items():
        state = pending.to_state()
        if damage == "missing":
            del state[name]
        elif damage == "type":
            state[name] = "text"
        else:
            state[name] = (
                -1 if isinstance(value, int) else SecretBytes.zeros(1) if isinstance(value, SecretBytes) else b""
            )
        with pytest.raises(DecodeError, match="new handshake"):
            kind.from_state(state)


def test_pending_wipes_its_secrets():
    """The ephemeral keys are gone when the block that holds them ends."""
    with start_hello(DEVICE, SERVER.announcement()) as hello:
        with accept_hello(hello, SERVER.answer_hello(hello.message), DEVICE) as pending:
            assert any(pending.ck2.view())
        assert not any(pending.ck2.view())
    assert not any(hello.ck1.view())
    assert not any(hello.decapsulation_key.view())


def test_failed_m2_changes_nothing():
    """An M2 that does not open leaves the wait as it was."""
    hello = start_hello(DEVICE, SERVER.announcement())
    m2 = SERVER.answer_hello(hello.message)
    with pytest.raises(AuthenticationError):
        accept_hello(hello, m2[: wire.M2_C2_AT] + bytes(wire.M2_BYTES - wire.M2_C2_AT), DEVICE)
    assert accept_hello(hello, m2, DEVICE).sid == m2[2:18]


def test_repeated_offer_gets_the_same_answer_under_the_new_ticket():
    """Answers are kept by th1 and repeated with the ticket of the OFFER at hand."""
    offer = SERVER.make_offer(DEVICE)
    first = accept_offer(offer, DEVICE, SERVER.announcement())
    answer, pending = first.message, {first.th1: first}
    other_ticket = SERVER.make_offer(DEVICE)[wire.OFFER_TICKET_AT :]
    again = accept_offer(offer[: wire.OFFER_TICKET_AT] + other_ticket, DEVICE, SERVER.announcement(), pending=pending)
    assert again is first
    assert again.message == answer[:2] + other_ticket + answer[wire.ANSWER_CT_AT :]
    assert accept_offer(offer, DEVICE, SERVER.announcement(), pending=pending).message == answer


def test_ninth_offer_is_dropped():
    """With 8 answers pending a new OFFER is dropped, an old one still repeated."""
    offers = [SERVER.make_offer(DEVICE) for _ in range(PENDING_OFFERS_MAX)]
    pending: dict[bytes, PendingConfirmation] = {}
    for offer in offers:
        its = accept_offer(offer, DEVICE, SERVER.announcement(), pending=pending)
        pending[its.th1] = its
    with pytest.raises(RefusedError):
        accept_offer(SERVER.make_offer(DEVICE), DEVICE, SERVER.announcement(), pending=pending)
    assert accept_offer(offers[0], DEVICE, SERVER.announcement(), pending=pending).th1 in pending


def test_offer_names_the_announcement_it_needs():
    """The bucket stands where a device reads it before it has checked anything."""
    assert offer_bucket(SERVER.make_offer(DEVICE)) == BUCKET


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000), st.binary(min_size=1877, max_size=1877))
def test_random_bytes_are_refused(message, tail):
    """The device's decoders are total, and an OFFER of random bytes leads to no session."""
    hello = HELLO
    for data in (message, b"\x02\x01" + tail):
        with pytest.raises(AuthenticationError):
            accept_hello(hello, data, DEVICE)
    head = SERVER.make_offer(DEVICE)[: wire.OFFER_SID_AT]
    for data in (message, tail[: wire.OFFER_BYTES], b"\x06\x01\x00\x01" + tail[: wire.OFFER_BYTES - 4]):
        with pytest.raises(AuthenticationError):
            accept_offer(data, DEVICE, SERVER.announcement())
    forged = accept_offer((head + tail)[: wire.OFFER_BYTES], DEVICE, SERVER.announcement())
    assert isinstance(SERVER.confirm_answers([forged.message])[0], Refusal)


HELLO = start_hello(DEVICE, SERVER.announcement())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"server_id": b""}, LengthError),
        ({"ref": b""}, LengthError),
        ({"signing_key": SecretBytes.zeros(32)}, LengthError),
        ({"psk": SecretBytes.zeros(64)}, UsageError),
        ({"key_version": -1}, UsageError),
    ],
)
def test_device_identity_of_wrong_values_is_the_callers_mistake(changes, error):
    """A device is made of values of the right size, and a psk of zeros is none."""
    fields = {name: getattr(DEVICE, name) for name in DeviceIdentity.__dataclass_fields__}
    with pytest.raises(error):
        DeviceIdentity(**(fields | changes))


def test_device_identity_wipes_its_keys():
    """Signing key, decapsulation key and psk are destroyed together."""
    with make_device(SERVER, "short-lived", psk=b"\x01" * 64) as device:
        pass
    assert not any(device.signing_key.view())
    assert not any(device.decapsulation_key.view())
    assert not any(device.psk.view())


@pytest.mark.parametrize("drawn", [0, 64, 96])
def test_failing_randomness_makes_no_m1(drawn):
    """When the random source fails at any draw, there is no M1."""
    with drawing_from(bytes(drawn)), pytest.raises(EntropyError):
        start_hello(DEVICE, SERVER.announcement())


def test_failing_randomness_makes_no_answer():
    """When the random source fails, there is no ANSWER."""
    offer = SERVER.make_offer(DEVICE)
    with drawing_from(b""), pytest.raises(EntropyError):
        accept_offer(offer, DEVICE, SERVER.announcement())


def test_failure_after_the_agreement_leaves_no_secret(monkeypatch):
    """When the last derivation fails, in either form, ck2 is wiped."""
    hello, offer = start_hello(DEVICE, SERVER.announcement()), SERVER.make_offer(DEVICE)
    m2 = SERVER.answer_hello(hello.message)
    left = []

    def fail(ck2, _th3):
        left.append(ck2)
        raise ZeroDivisionError

    monkeypatch.setattr(hello_device, "finished_tag", fail)
    monkeypatch.setattr(offer_device, "finished_tag", fail)
    with pytest.raises(ZeroDivisionError):
        accept_hello(hello, m2, DEVICE)
    with pytest.raises(ZeroDivisionError):
        accept_offer(offer, DEVICE, SERVER.announcement())
    assert [any(ck2.view()) for ck2 in left] == [False, False]
