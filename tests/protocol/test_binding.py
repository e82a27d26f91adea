"""Goal B3: a value taken from another handshake, party or purpose never leads to a session."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha3_256, shake_256

import pytest
from parties import BUCKET, OTHER_TENANT, TENANT, make_device, make_server

from qflare.errors import AuthenticationError, RefusedError
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.kdf import expand
from qflare.primitives.sig import SIG44
from qflare.protocol import hello as hello_module
from qflare.protocol import hello_device, labels, offer_device, wire
from qflare.protocol.announcement import sign_announcement
from qflare.protocol.confirm import Confirmation, encode_confirmation
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.credential import DeviceCredential
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.identity import device_ref
from qflare.protocol.offer_device import accept_offer
from qflare.secret import SecretBytes


@pytest.fixture
def server():
    return make_server()


@pytest.fixture
def device(server):
    return make_device(server)


def verdict(server, m1):
    (result,) = server.answer_hellos([m1])
    return result


def answered(server, device):
    hello = start_hello(device, server.announcement())
    return hello, server.answer_hello(hello.message)


def splice(message, other, first, last):
    return message[:first] + other[first:last] + message[last:]


M1_FIELDS = {
    "ek_e": (wire.M1_EK_AT, wire.M1_CT_AT),
    "ct_b": (wire.M1_CT_AT, wire.M1_HEADER_BYTES),
    "hdr": (0, wire.M1_HEADER_BYTES),
    "c1": (wire.M1_HEADER_BYTES, wire.M1_BYTES),
}
M2_FIELDS = {
    "sid": (2, wire.M2_CT_AT),
    "ct_e": (wire.M2_CT_AT, wire.M2_C2_AT),
    "c2": (wire.M2_C2_AT, wire.M2_TICKET_AT),
    "all but the ticket": (0, wire.M2_TICKET_AT),
    "all": (0, wire.M2_BYTES),
}
M3_FIELDS = {"ticket": (wire.M3_TICKET_AT, wire.M3_TAG_AT), "tag": (wire.M3_TAG_AT, wire.M3_BYTES)}
ANSWER_FIELDS = {
    "ticket": (wire.ANSWER_TICKET_AT, wire.ANSWER_CT_AT),
    "ct_b": (wire.ANSWER_CT_AT, wire.ANSWER_PRE_AT),
    "pre": (wire.ANSWER_PRE_AT, wire.ANSWER_TAG_AT),
    "tag": (wire.ANSWER_TAG_AT, wire.ANSWER_BYTES),
}


# --- fields between two handshakes of the same device ----------------------------------------------------------------


@pytest.mark.parametrize("field", M1_FIELDS)
def test_m1_takes_no_field_of_another(server, device, field):
    """No part of one M1 can stand in another."""
    first, second = (start_hello(device, server.announcement()).message for _ in range(2))
    assert verdict(server, splice(first, second, *M1_FIELDS[field])) is Refusal.TAG


@pytest.mark.parametrize("field", M2_FIELDS)
def test_m2_takes_no_field_of_another(server, device, field):
    """No part of one M2 can stand in another, nor an old M2 answer a new M1."""
    (hello, m2), (_, old_m2) = answered(server, device), answered(server, device)
    with pytest.raises(AuthenticationError):
        accept_hello(hello, splice(m2, old_m2, *M2_FIELDS[field]), device)


@pytest.mark.parametrize("field", M3_FIELDS)
def test_m3_takes_no_field_of_another(server, device, field):
    """No ticket goes with another handshake's tag."""
    m3s = [accept_hello(*answered(server, device), device).message for _ in range(2)]
    assert server.confirm_hellos([splice(*m3s, *M3_FIELDS[field])]) == [Refusal.TAG]


@pytest.mark.parametrize("field", ANSWER_FIELDS)
def test_answer_takes_no_field_of_another(server, device, field):
    """No part of one ANSWER can stand in another."""
    answers = [accept_offer(server.make_offer(device), device, server.announcement()).message for _ in range(2)]
    assert server.confirm_answers([splice(*answers, *ANSWER_FIELDS[field])]) == [Refusal.TAG]


def test_m4_takes_no_field_of_another(server, device):
    """No sid, tag or receipt of one M4 can stand in another."""
    pendings = [accept_hello(*answered(server, device), device) for _ in range(2)]
    m4, other = server.write_m4s(server.confirm_hellos([pending.message for pending in pendings]))
    accept_confirmation(pendings[0], m4, server.identity, device, log_mark=None)
    for first, last in (
        (2, wire.M4_TAG_AT),
        (wire.M4_TAG_AT, wire.M4_RECEIPT_AT),
        (wire.M4_RECEIPT_AT, len(m4)),
        (0, len(m4)),
    ):
        with pytest.raises(AuthenticationError):
            accept_confirmation(pendings[0], splice(m4, other, first, last), server.identity, device, log_mark=None)


# --- the twelve substitutions ----------------------------------------------------------------------------------------


def test_another_devices_id(server, device):
    """Ids: a registered device cannot begin a session in another's name."""
    victim = make_device(server, "victim")
    thief = replace(device, device_id=victim.device_id, ref=victim.ref)
    assert verdict(server, start_hello(thief, server.announcement()).message) is Refusal.SIGNATURE


def test_another_ephemeral_or_device_key(server, device):
    """ek: neither an ephemeral key of the attacker nor another device's KEM key leads to a session."""
    hello = start_hello(device, server.announcement())
    forged = splice(hello.message, bytes(12) + kem.generate().encapsulation_key, 12, wire.M1_CT_AT)
    assert verdict(server, forged) is Refusal.TAG
    other = make_device(server, "other")
    stray = replace(other, tenant_id=device.tenant_id, ref=device.ref, device_id=device.device_id)
    answer = accept_offer(server.make_offer(device), stray, server.announcement()).message
    assert server.confirm_answers([answer]) == [Refusal.TAG]


def test_another_ciphertext(server, device):
    """ct: a fresh encapsulation in place of the sender's is refused, in every message that carries one."""
    hello, m2 = answered(server, device)
    fresh = kem.encapsulate(server.announcement().encapsulation_key).ciphertext
    assert (
        verdict(server, splice(hello.message, bytes(wire.M1_CT_AT) + fresh, wire.M1_CT_AT, wire.M1_HEADER_BYTES))
        is Refusal.TAG
    )
    ek_e = hello.message[wire.M1_EK_AT : wire.M1_CT_AT]
    fresh = kem.encapsulate(ek_e).ciphertext
    with pytest.raises(AuthenticationError):
        accept_hello(hello, splice(m2, bytes(wire.M2_CT_AT) + fresh, wire.M2_CT_AT, wire.M2_C2_AT), device)
    offer = server.make_offer(device)
    fresh = kem.encapsulate(device.encapsulation_key).ciphertext
    forged = splice(offer, bytes(wire.OFFER_CT_AT) + fresh, wire.OFFER_CT_AT, wire.OFFER_TICKET_AT)
    answer = accept_offer(forged, device, server.announcement()).message
    assert server.confirm_answers([answer]) == [Refusal.TAG]


def test_another_suite(server, device):
    """Suite: a message that names any other suite is refused, so there is nothing to downgrade to."""
    hello = start_hello(device, server.announcement()).message
    offer = server.make_offer(device)
    for suite in (0, 2, 0x0100, 0xFFFF):
        assert verdict(server, hello[:2] + wire.u16(suite) + hello[4:]) is Refusal.SUITE
        with pytest.raises(AuthenticationError):
            accept_offer(offer[:2] + wire.u16(suite) + offer[4:], device, server.announcement())


@pytest.mark.parametrize("step", [-1, 1])
def test_another_bucket(server, device, step):
    """Bucket: a hello made for one live bucket is not one of another, nor an offer."""
    hello = start_hello(device, server.announcement()).message
    assert verdict(server, hello[:4] + wire.u64(BUCKET + step) + hello[12:]) is Refusal.TAG
    offer = server.make_offer(device)
    moved = offer[:4] + wire.u64(BUCKET + step) * 2 + offer[20:]
    answer = accept_offer(moved, device, server.announcement(BUCKET + step)).message
    assert server.confirm_answers([answer]) == [Refusal.TAG]
    with pytest.raises(AuthenticationError):
        accept_offer(offer, device, server.announcement(BUCKET + step))


def test_another_tenant(server, device):
    """Tenant: the same name with the same keys in another tenant is another device."""
    abroad = replace(device, tenant_id=OTHER_TENANT, ref=device_ref(OTHER_TENANT, device.device_id))
    assert verdict(server, start_hello(abroad, server.announcement()).message) is Refusal.UNKNOWN_DEVICE
    mixed = replace(device, tenant_id=OTHER_TENANT)
    assert verdict(server, start_hello(mixed, server.announcement()).message) is Refusal.UNKNOWN_DEVICE
    answer = accept_offer(server.make_offer(device), mixed, server.announcement()).message
    assert server.confirm_answers([answer]) == [Refusal.TAG]
    assert device.tenant_id == TENANT


@pytest.mark.parametrize(
    "context", [context for context in labels.SIGNATURE_CONTEXTS if context != labels.CONTEXT_DEVICE]
)
def test_another_context(server, device, monkeypatch, context):
    """Context: a signature made for any other purpose does not open a session."""
    monkeypatch.setattr(labels, "CONTEXT_DEVICE", context)
    message = start_hello(device, server.announcement()).message
    monkeypatch.undo()
    assert verdict(server, message) is Refusal.SIGNATURE


def test_reflection(server, device):
    """Reflection: what a party sent is not taken back, and the device's tag is not the server's."""
    hello, m2 = answered(server, device)
    pending = accept_hello(hello, m2, device)
    for echoed in (hello.message, pending.message):
        with pytest.raises(AuthenticationError):
            accept_hello(hello, echoed, device)
        with pytest.raises(AuthenticationError):
            accept_confirmation(pending, echoed, server.identity, device, log_mark=None)
    (confirmation,) = server.confirm_hellos([pending.message])
    (m4,) = server.write_m4s([confirmation])
    for echoed in (m2, m4):
        assert server.confirm_hellos([echoed]) == [Refusal.LENGTH]
        assert verdict(server, echoed) is Refusal.LENGTH
    reflected = encode_confirmation(pending.sid, pending.message[wire.M3_TAG_AT :], m4[wire.M4_RECEIPT_AT :])
    with pytest.raises(AuthenticationError):
        accept_confirmation(pending, reflected, server.identity, device, log_mark=None)


def test_role_swap(server, device):
    """Role swap: the server's tag does not stand in for the device's, and a device's keys do not make a server."""
    hello, m2 = answered(server, device)
    pending = accept_hello(hello, m2, device)
    with expand(pending.ck2, labels.EXPAND_FINISHED_SERVER, pending.th3, 32) as tag:
        swapped = pending.message[: wire.M3_TAG_AT] + bytes(tag.view())
    assert server.confirm_hellos([swapped]) == [Refusal.TAG]
    signed_by_device = sign_announcement(
        device.signing_key,
        server_id=server.server_id,
        width_s=300,
        bucket=BUCKET,
        encapsulation_key=device.encapsulation_key,
    )
    server.keyring[BUCKET] = replace(server.keyring[BUCKET], announcement=signed_by_device)
    with pytest.raises(AuthenticationError):
        server.announcement()


def test_round_3_kyber(server, device, monkeypatch):
    """Round-3 keys: Kyber's keys have ML-KEM's sizes, but its shared secret is another, so that no proof holds."""
    decapsulate = kem.decapsulate

    def round_3_decapsulate(dk, ct):
        # Kyber (round 3) hashes once more: K = KDF(K' || H(c)), where ML-KEM gives K' itself.
        inner = decapsulate(dk, ct)
        return SecretBytes.copy_of(shake_256(bytes(inner.view()) + sha3_256(ct).digest()).digest(32))

    hello, m2 = answered(server, device)
    offer = server.make_offer(device)
    monkeypatch.setattr(offer_device.kem, "decapsulate", round_3_decapsulate)
    with pytest.raises(AuthenticationError):
        accept_hello(hello, m2, device)
    answer = accept_offer(offer, device, server.announcement()).message
    monkeypatch.undo()
    assert server.confirm_answers([answer]) == [Refusal.TAG]


def test_another_servers_key(server, device):
    """Other server: nothing made for one server is taken by another, nor the other's answers by the device."""
    other = make_server()
    other.roster = server.roster
    hello, m2 = answered(server, device)
    pending = accept_hello(hello, m2, device)
    assert verdict(other, hello.message) is Refusal.TAG
    assert other.confirm_hellos([pending.message]) == [Refusal.TICKET]
    with pytest.raises(RefusedError):
        start_hello(device, other.announcement())
    with pytest.raises(RefusedError):
        accept_offer(other.make_offer(device), device, other.announcement())
    answer = accept_offer(other.make_offer(device), device, server.announcement()).message
    assert server.confirm_answers([answer]) == [Refusal.TICKET]
    (confirmation,) = server.confirm_hellos([pending.message])
    (m4,) = other.write_m4s([confirmation])
    for identity in (server.identity, other.identity):
        with pytest.raises(AuthenticationError):
            accept_confirmation(pending, m4, identity, device, log_mark=None)


def test_old_transcript(server, device):
    """Old transcript: what ended one handshake does not end another, whoever replays it."""
    old = accept_hello(*answered(server, device), device)
    (confirmation,) = server.confirm_hellos([old.message])
    (old_m4,) = server.write_m4s([confirmation])
    new = accept_hello(*answered(server, device), device)
    with pytest.raises(AuthenticationError):
        accept_confirmation(new, old_m4, server.identity, device, log_mark=None)
    with pytest.raises(AuthenticationError):
        accept_confirmation(replace(new, sid=old.sid), old_m4, server.identity, device, log_mark=None)
    mixed = new.message[: wire.M3_TAG_AT] + old.message[wire.M3_TAG_AT :]
    assert server.confirm_hellos([mixed]) == [Refusal.TAG]


# --- further properties ----------------------------------------------------------------------------------------------


def test_unknown_key_share(server, device):
    """Who registers another's keys as his own gets no session of the other's under his name."""
    twin_ref = device_ref(TENANT, "twin")
    server.roster[(TENANT, twin_ref)] = server.roster[(TENANT, device.ref)]
    twin = replace(device, device_id="twin", ref=twin_ref)
    pending = accept_hello(*answered(server, device), device)
    (confirmation,) = server.confirm_hellos([pending.message])
    assert isinstance(confirmation, Confirmation)
    assert confirmation.ref == device.ref
    answer = accept_offer(server.make_offer(twin), device, server.announcement()).message
    assert server.confirm_answers([answer]) == [Refusal.TAG]


def test_key_version_is_bound(server, device):
    """A device that believes in another version of its keys does not agree."""
    stale = replace(device, key_version=2)
    assert verdict(server, start_hello(stale, server.announcement()).message) is Refusal.KEY_VERSION
    answer = accept_offer(server.make_offer(device), stale, server.announcement()).message
    assert server.confirm_answers([answer]) == [Refusal.TAG]


def test_forms_are_not_confused(server, device):
    """A ticket of one form is refused in the other form's message, whatever its length is made to be."""
    m3 = accept_hello(*answered(server, device), device).message
    answer = accept_offer(server.make_offer(device), device, server.announcement()).message
    hello_ticket, offer_ticket = m3[2 : wire.M3_TAG_AT], answer[2 : wire.ANSWER_CT_AT]
    tag = m3[wire.M3_TAG_AT :]
    assert server.confirm_hellos([m3[:2] + offer_ticket + tag]) == [Refusal.LENGTH]
    padding = bytes(len(hello_ticket) - len(offer_ticket))
    assert server.confirm_hellos([m3[:2] + offer_ticket + padding + tag]) == [Refusal.TICKET]
    relabelled = bytes((wire.FORM_HELLO,)) + offer_ticket[1:] + padding
    assert server.confirm_hellos([m3[:2] + relabelled + tag]) == [Refusal.TICKET]
    cut = hello_ticket[: len(offer_ticket)]
    assert server.confirm_answers([answer[:2] + cut + answer[wire.ANSWER_CT_AT :]]) == [Refusal.TICKET]
    relabelled = bytes((wire.FORM_OFFER,)) + cut[1:]
    assert server.confirm_answers([answer[:2] + relabelled + answer[wire.ANSWER_CT_AT :]]) == [Refusal.TICKET]
    assert server.confirm_hellos([answer]) == [Refusal.LENGTH]
    assert server.confirm_answers([m3]) == [Refusal.LENGTH]


def test_psk_must_be_the_same(server):
    """With different psks, or one on one side alone, no session comes about, in either form."""
    device = make_device(server, psk=b"\x01" * 64)
    for psk in (None, b"\x02" * 64):
        stray = replace(device, psk=None if psk is None else SecretBytes.copy_of(psk))
        hello, m2 = answered(server, device)
        with pytest.raises(AuthenticationError):
            accept_hello(hello, m2, stray)
        answer = accept_offer(server.make_offer(device), stray, server.announcement()).message
        assert server.confirm_answers([answer]) == [Refusal.TAG]


def test_server_without_the_bucket_key_is_no_server(server, device):
    """Who knows all but `dk_b` cannot answer a hello or confirm an answer."""
    hello = start_hello(device, server.announcement())
    answer = accept_offer(server.make_offer(device), device, server.announcement()).message
    stray = kem.generate().decapsulation_key
    server.keyring[BUCKET] = replace(server.keyring[BUCKET], decapsulation_key=stray)
    assert verdict(server, hello.message) is Refusal.TAG
    assert server.confirm_answers([answer]) == [Refusal.TAG]


def test_stolen_bucket_keys_alone_are_no_server(server, device):
    """Who has `dk_b` and `TK_b` but not the log key finishes no session with a device: M4's receipt fails."""
    thief = make_server()
    thief.keyring, thief.roster, thief.identity = server.keyring, server.roster, server.identity
    pending = accept_hello(*answered(thief, device), device)
    (m4,) = thief.write_m4s(thief.confirm_hellos([pending.message]))
    with pytest.raises(AuthenticationError):
        accept_confirmation(pending, m4, server.identity, device, log_mark=None)


def test_device_without_its_keys_is_no_device(server, device):
    """Who knows all of a device but its signing key begins no hello; but its KEM key, answers no offer."""
    thief = replace(
        device, signing_key=SIG44.generate().signing_key, decapsulation_key=kem.generate().decapsulation_key
    )
    assert verdict(server, start_hello(thief, server.announcement()).message) is Refusal.SIGNATURE
    answer = accept_offer(server.make_offer(device), thief, server.announcement()).message
    assert server.confirm_answers([answer]) == [Refusal.TAG]


@pytest.mark.parametrize("terms", [(-1, 12, 0), (2, 12, 0), (0, 0, 0), (0, 289, 0), (0, 12, 1), (0, 12, 1 << 31)])
def test_device_refuses_terms_it_does_not_know(server, device, monkeypatch, terms):
    """An M2 that opens but whose start, lifetime or policy is not acceptable ends the handshake."""
    start, lifetime, policy = terms
    monkeypatch.setattr(
        hello_module._Offered,
        "to",
        lambda self, claim, sid: hello_module.TicketTerms(
            sid, claim.tenant_id, claim.ref, claim.key_version, BUCKET, BUCKET + start, self.expiry_s, lifetime, policy
        ),
    )
    hello, m2 = answered(server, device)
    with pytest.raises(RefusedError):
        accept_hello(hello, m2, device)


@pytest.mark.parametrize(
    ("at", "field"), [(12, wire.u64(BUCKET + 1)), (20, wire.u16(0)), (20, wire.u16(289)), (22, wire.u32(1))]
)
def test_device_refuses_an_offer_of_unknown_terms(server, device, at, field):
    """An OFFER whose start, lifetime or policy is not acceptable is refused before anything is computed."""
    offer = server.make_offer(device)
    with pytest.raises(AuthenticationError):
        accept_offer(offer[:at] + field + offer[at + len(field) :], device, server.announcement())


def test_replayed_ephemeral_key_fails_its_check(server, device, monkeypatch):
    """A device whose ephemeral key fails FIPS 203, section 7.2, is refused alone; its neighbours are answered."""
    bad = kem.KemKeyPair(b"\xff" * kem.EK_BYTES, kem.generate().decapsulation_key)
    monkeypatch.setattr(hello_device.kem, "generate", lambda: bad)
    damaged = start_hello(device, server.announcement()).message
    monkeypatch.undo()
    good = start_hello(device, server.announcement()).message
    results = server.answer_hellos([good, damaged])
    assert isinstance(results[0], bytes)
    assert results[1] is Refusal.ENCAPSULATION_KEY


def test_offer_to_a_bad_key_is_refused_alone(server, device):
    """A registered key that fails FIPS 203, section 7.2, gets no offer; its neighbours do."""
    broken = replace(device, encapsulation_key=b"\xff" * 1568)
    offers = server.make_offers([device, broken, device])
    assert offers[1] is Refusal.ENCAPSULATION_KEY
    assert not isinstance(offers[0], Refusal)
    assert not isinstance(offers[2], Refusal)


def test_credential_refuses_impossible_keys():
    """A psk of zeros means none, and sizes are checked where the row is read, not inside a batch."""
    good = {"key_version": 1, "is_accepted": True, "verification_key": bytes(1312), "encapsulation_key": bytes(1568)}
    DeviceCredential(**good)
    for bad in (
        {"verification_key": b""},
        {"encapsulation_key": b""},
        {"psk": SecretBytes.zeros(63)},
        {"psk": SecretBytes.zeros(64)},
    ):
        with pytest.raises(ValueError, match="bytes"):
            DeviceCredential(**(good | bad))
