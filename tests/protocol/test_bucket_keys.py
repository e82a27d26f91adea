"""A bucket's keys: made, stored as a seed, rebuilt; and decapsulation by bucket."""

from __future__ import annotations

from dataclasses import replace

import pytest
from parties import BUCKET, NOW_S, TENANT, WIDTH_S, make_device, make_server

from qflare.errors import (
    AuthenticationError,
    EntropyError,
    KeyCheckError,
    KeyNotFoundError,
    LengthError,
    UnexpectedMessageError,
    UsageError,
)
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.aead import AeadKey
from qflare.primitives.kdf import expand
from qflare.primitives.random import drawing_from
from qflare.protocol import bucket as bucket_module
from qflare.protocol import wire
from qflare.protocol.bucket import decapsulate_by_bucket, is_open, make_bucket_keys, restore_bucket_keys
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.hello import answer_hellos, open_hellos
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.offer import confirm_answers, make_offers, open_answers
from qflare.protocol.offer_device import accept_offer
from qflare.protocol.seen import SeenHellos
from qflare.protocol.ticket import TicketTerms, seal_tickets
from qflare.secret import SecretBytes

SERVER = make_server()


def make(**changes):
    terms = {"server_id": SERVER.server_id, "width_s": WIDTH_S, "bucket": BUCKET} | changes
    return make_bucket_keys(SERVER.announce_sk, **terms)


def test_stored_bucket_is_the_same_bucket():
    """From announcement, seed and ticket key another worker rebuilds the same keys."""
    keys, seed = make()
    restored = restore_bucket_keys(keys.announcement.encoded, SERVER.identity.certificate, seed, keys.ticket_key)
    assert restored.announcement == keys.announcement
    assert restored.decapsulation_key.equals(keys.decapsulation_key)
    assert restored.ticket_key.equals(keys.ticket_key)
    assert (restored.bucket, restored.width_s) == (BUCKET, WIDTH_S)


def test_stored_bucket_that_does_not_fit_is_refused():
    """A seed of another bucket, an altered announcement or a short ticket key is refused."""
    keys, seed = make()
    certificate = SERVER.identity.certificate
    with pytest.raises(KeyCheckError):
        restore_bucket_keys(keys.announcement.encoded, certificate, make().seed, keys.ticket_key)
    with pytest.raises(AuthenticationError):
        restore_bucket_keys(keys.announcement.encoded[:-1] + b"\0", certificate, seed, keys.ticket_key)
    with pytest.raises(LengthError):
        restore_bucket_keys(keys.announcement.encoded, certificate, seed, SecretBytes.zeros(31))
    with pytest.raises(LengthError):
        restore_bucket_keys(keys.announcement.encoded, certificate, SecretBytes.zeros(63), keys.ticket_key)


@pytest.mark.parametrize("changes", [{"width_s": 0}, {"bucket": -1}, {"server_id": b""}])
def test_impossible_bucket_leaves_no_keys(monkeypatch, changes):
    """When the announcement cannot be made, what was drawn is wiped."""
    drawn = []
    random_secret = bucket_module.random_secret
    monkeypatch.setattr(bucket_module, "random_secret", lambda size: drawn.append(random_secret(size)) or drawn[-1])
    with pytest.raises(UsageError):
        make(**changes)
    assert len(drawn) == 2
    assert not any(any(secret.view()) for secret in drawn)


@pytest.mark.parametrize("drawn", [0, 64, 96])
def test_failing_randomness_makes_no_bucket(drawn):
    """When the random source fails at any draw, there is no bucket."""
    with drawing_from(bytes(drawn)), pytest.raises(EntropyError):
        make()


def test_decapsulation_keeps_the_order_of_the_messages():
    """Ciphertexts of several buckets, mixed, give each its own secret at its own place."""
    buckets = [BUCKET + index % 3 - 1 for index in range(10)]
    made = [kem.encapsulate(SERVER.keyring[bucket].announcement.encapsulation_key) for bucket in buckets]
    with decapsulate_by_bucket(SERVER.keyring, buckets, [its.ciphertext for its in made]) as found:
        for row, its in enumerate(made):
            assert its.shared_secret.equals(found.row(row, 32))
    assert len(decapsulate_by_bucket(SERVER.keyring, [], [])) == 0


def test_damaged_bucket_key_is_an_error_of_our_own():
    """A decapsulation key that fails FIPS 203, section 7.3, is the server's own error, not a peer's."""
    server = make_server()
    server.keyring[BUCKET].decapsulation_key.row(0, 3168)[2000] ^= 1
    server.keyring[BUCKET].decapsulation_key.row(0, 3168)[3100] ^= 1
    ciphertext = kem.encapsulate(server.keyring[BUCKET].announcement.encapsulation_key).ciphertext
    for buckets in ([BUCKET], [BUCKET - 1, BUCKET]):
        with pytest.raises(KeyCheckError):
            decapsulate_by_bucket(server.keyring, buckets, [ciphertext] * len(buckets))


def test_window_is_one_bucket_to_each_side():
    """b-1, b, and b+1 once it is published."""
    assert [step for step in range(-3, 4) if is_open(SERVER.keyring, BUCKET + step, server_bucket=BUCKET)] == [-1, 0, 1]
    assert not is_open({}, BUCKET, server_bucket=BUCKET)


# --- keys that were wiped are keys of nobody --------------------------------------------------------------------------


def test_wiped_bucket_answers_nothing():
    """While a turn wipes a bucket that is still in the keyring, nothing is opened or sealed under its zeros."""
    server = make_server()
    device = make_device(server)
    hello = start_hello(device, server.announcement())
    m2 = server.answer_hello(hello.message)
    m3 = accept_hello(hello, m2, device).message
    answer = accept_offer(server.make_offer(device), device, server.announcement()).message
    with open_hellos([hello.message], server.keyring, server_bucket=BUCKET, seen=SeenHellos()) as opened:
        server.keyring[BUCKET].wipe()
        with pytest.raises(KeyNotFoundError):
            answer_hellos(opened, [server.find(opened.claims[0])], server.keyring, server_bucket=BUCKET, now_s=NOW_S)
    assert server.keyring[BUCKET].is_destroyed
    assert server.answer_hellos([hello.message], seen=SeenHellos()) == [Refusal.BUCKET]
    assert server.confirm_hellos([m3]) == [Refusal.BUCKET]
    assert server.confirm_answers([answer]) == [Refusal.BUCKET]
    with pytest.raises(KeyNotFoundError):
        server.make_offers([device])
    with pytest.raises(KeyCheckError):
        decapsulate_by_bucket(server.keyring, [BUCKET], [hello.message[1580:3148]])


def test_ticket_sealed_under_zeros_is_refused():
    """Who forges a ticket under the zeros of a wiped key begins no session."""
    server = make_server()
    keys = server.keyring[BUCKET]
    forger = replace(keys, ticket_key=SecretBytes(bytearray(31) + b"\x01"))
    terms = TicketTerms(bytes(16), TENANT, bytes(32), 1, BUCKET, BUCKET, NOW_S + 60, 1, 0)
    (ticket,) = seal_tickets(wire.FORM_HELLO, forger, [terms], SecretBytes.zeros(64), bytes(64))
    plaintext = AeadKey(forger.ticket_key).open(ticket[9:21], ticket[21:], ticket[:9])
    forged = ticket[:21] + AeadKey(bytes(32)).seal(ticket[9:21], plaintext, ticket[:9])
    with expand(bytes(64), "fin d", bytes(64), 32) as tag:
        m3 = bytes((wire.TYPE_M3, wire.VERSION)) + forged + bytes(tag.view())
    keys.wipe()
    assert server.confirm_hellos([m3]) == [Refusal.BUCKET]


def test_bucket_that_turns_during_the_look_up_is_refused():
    """An M1 whose bucket has left the window when the devices are known is refused, not answered out of range."""
    server = make_server()
    device = make_device(server)
    hello = start_hello(device, server.announcement(BUCKET - 1))
    with open_hellos([hello.message], server.keyring, server_bucket=BUCKET, seen=SeenHellos()) as opened:
        rows = [server.find(opened.claims[0])]
        answers = answer_hellos(opened, rows, server.keyring, server_bucket=BUCKET + 1, now_s=NOW_S)
    assert answers == [Refusal.BUCKET]


def test_what_was_wiped_is_not_used():
    """Opened messages, pending handshakes and psks that were wiped lead nowhere: zeros are known to everybody."""
    server = make_server()
    device = make_device(server, psk=b"\x05" * 64)
    hello = start_hello(device, server.announcement())
    row = server.roster[(TENANT, device.ref)]
    opened = open_hellos([hello.message], server.keyring, server_bucket=BUCKET, seen=SeenHellos())
    opened.wipe()
    terms = {"server_bucket": BUCKET, "now_s": NOW_S}
    assert answer_hellos(opened, [row], server.keyring, **terms) == [Refusal.INTERNAL]
    pending = accept_hello(hello, server.answer_hello(hello.message), device)
    (m4,) = server.write_m4s(server.confirm_hellos([pending.message]))
    offered = accept_offer(server.make_offer(device), device, server.announcement())
    answers = open_answers([offered.message], server.keyring, now_s=NOW_S)
    answers.wipe()
    assert confirm_answers(answers, [row.psk], server_id=server.server_id) == [Refusal.TAG]
    pending.wipe()
    with pytest.raises(UnexpectedMessageError):
        accept_confirmation(pending, m4, server.identity, device, log_mark=None)
    row.psk.wipe()
    with pytest.raises(UsageError):
        server.answer_hellos([hello.message])
    other = start_hello(device, server.announcement())
    m2 = make_server_answer(server, device, other)
    device.psk.wipe()
    with pytest.raises(UsageError):
        accept_hello(other, m2, device)


def make_server_answer(server, device, hello):
    key = (TENANT, device.ref)
    server.roster[key] = replace(server.roster[key], psk=SecretBytes.copy_of(device.psk))
    return server.answer_hello(hello.message)


def test_offers_need_whole_rows():
    """Keys that have the right size only together are refused: none of them would be a device's."""
    server = make_server()
    ek = server.announcement().encapsulation_key
    targets = [(TENANT, bytes(32), 1, ek[:-1]), (TENANT, bytes(32), 1, ek + b"\0")]
    with pytest.raises(LengthError):
        make_offers(targets, server.keyring[BUCKET])
