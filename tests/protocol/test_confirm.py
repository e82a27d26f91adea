"""The end of both forms: tickets and their expiry, tags, and what goes into the transaction and M4."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import BUCKET, NOW_S, TENANT, WIDTH_S, make_device, make_server

from qflare.errors import AuthenticationError, BatchError, DecodeError, LengthError, LogForkError
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.hash import transcript
from qflare.primitives.kdf import expand
from qflare.primitives.random import drawing_from
from qflare.protocol import bucket as bucket_module
from qflare.protocol import confirm as confirm_module
from qflare.protocol import ticket as ticket_module
from qflare.protocol import wire
from qflare.protocol.bucket import make_bucket_keys
from qflare.protocol.confirm import Confirmation, confirm_hellos, encode_confirmation, split_glued
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.evidence import verify_evidence
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.offer import confirm_answers, make_offers, open_answers
from qflare.protocol.offer_device import accept_offer
from qflare.protocol.receipt import LogMark
from qflare.protocol.ticket import TicketTerms, hello_expiry_s, offer_expiry_s, open_tickets, seal_tickets
from qflare.secret import SecretBytes

SERVER = make_server()
DEVICE = make_device(SERVER)


def pending_hello():
    hello = start_hello(DEVICE, SERVER.announcement())
    return accept_hello(hello, SERVER.answer_hello(hello.message), DEVICE)


def pending_offer():
    return accept_offer(SERVER.make_offer(DEVICE), DEVICE, SERVER.announcement())


def confirm_at(message, now_s, keyring=None):
    keys = SERVER.keyring if keyring is None else keyring
    if message[0] == wire.TYPE_M3:
        return confirm_hellos([message], keys, now_s=now_s, server_id=SERVER.server_id)[0]
    with open_answers([message], keys, now_s=now_s) as opened:
        return confirm_answers(opened, [None], server_id=SERVER.server_id)[0]


# --- tickets ---------------------------------------------------------------------------------------------------------


def test_expiry_is_the_specified_one():
    """A hello's ticket lives min(60, width) seconds, an offer's as long as its bucket's keys."""
    assert hello_expiry_s(1000, 300) == 1060
    assert hello_expiry_s(1000, 7) == 1007
    assert offer_expiry_s(10, 300) == 3600


@pytest.mark.parametrize(
    ("make", "end_s"),
    [(pending_hello, NOW_S + 60), (pending_offer, (BUCKET + 2) * WIDTH_S)],
    ids=["hello", "offer"],
)
def test_ticket_is_valid_until_just_before_its_expiry(make, end_s):
    """Valid while now < expiry: the last second counts, the next does not."""
    message = make().message
    assert isinstance(confirm_at(message, end_s - 1), Confirmation)
    assert confirm_at(message, end_s) is Refusal.EXPIRED
    assert confirm_at(message, end_s + 10**9) is Refusal.EXPIRED
    assert isinstance(confirm_at(message, 0), Confirmation)


@pytest.mark.parametrize("make", [pending_hello, pending_offer], ids=["hello", "offer"])
def test_ticket_dies_with_its_bucket_key(make):
    """When TK_b is gone, or another, the ticket opens nothing, whatever the clock says."""
    message = make().message
    assert confirm_at(message, NOW_S, {}) is Refusal.BUCKET
    others = make_server().keyring
    assert confirm_at(message, NOW_S, others) is Refusal.TICKET


@pytest.mark.parametrize(("lifetime", "policy"), [(0, 0), (289, 0), (1, 1), (288, 0)])
def test_ticket_terms_are_checked_when_it_opens(lifetime, policy):
    """A ticket with a lifetime or policy that cannot be is refused, though the server itself sealed it."""
    terms = TicketTerms(bytes(16), TENANT, bytes(32), 1, BUCKET, BUCKET, NOW_S + 60, lifetime, policy)
    for form, size in ((wire.FORM_HELLO, 64), (wire.FORM_OFFER, 32)):
        secret = SecretBytes(bytearray(range(size)))
        (ticket,) = seal_tickets(form, SERVER.keyring[BUCKET], [terms], secret, bytes(64))
        with open_tickets(form, [ticket], SERVER.keyring, now_s=NOW_S) as opened:
            if (lifetime, policy) == (288, 0):
                assert opened.verdicts == [None]
                assert opened.terms == [terms]
                assert opened.secrets.equals(bytes(range(size)))
            else:
                assert opened.verdicts == [Refusal.TICKET]
                assert len(opened.secrets) == 0


def test_tickets_need_one_secret_each():
    """Columns of different lengths are the caller's mistake."""
    terms = TicketTerms(bytes(16), TENANT, bytes(32), 1, BUCKET, BUCKET, NOW_S + 60, 1, 0)
    with pytest.raises(BatchError):
        seal_tickets(wire.FORM_HELLO, SERVER.keyring[BUCKET], [terms], SecretBytes.zeros(32), bytes(64))
    with pytest.raises(BatchError):
        seal_tickets(wire.FORM_HELLO, SERVER.keyring[BUCKET], [terms], SecretBytes.zeros(64), bytes(63))


def test_tickets_wipe_their_secrets_when_opening_fails(monkeypatch):
    """An error in the middle of a batch leaves no opened secret behind."""
    message = pending_hello().message
    made = []
    zeros = SecretBytes.zeros

    def watch(size):
        made.append(zeros(size))
        return made[-1]

    monkeypatch.setattr(ticket_module.SecretBytes, "zeros", staticmethod(watch))
    monkeypatch.setattr(ticket_module, "_check", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SERVER.confirm_hellos([message])
    assert made
    assert not any(any(secret.view()) for secret in made)


# --- what comes out --------------------------------------------------------------------------------------------------


def test_confirmation_carries_the_tickets_terms():
    """Everything for the transaction is from the ticket, nothing from the clock, and so it is the same at every repeat."""
    pending = pending_hello()
    first, again = SERVER.confirm_hellos([pending.message] * 2)
    for name in ("ticket_bucket", "sid", "ref", "start", "th3_hash", "leaf_data", "leaf_hash", "server_tag"):
        assert getattr(first, name) == getattr(again, name)
    assert first.chain_key.equals(again.chain_key)
    assert (first.ticket_bucket, first.hdr_bucket, first.policy) == (BUCKET, BUCKET, 0)
    assert first.th3_hash == transcript(pending.th3)
    with expand(pending.ck2, "who", pending.th3, 32) as who_key:
        who = transcript(b"who", TENANT, DEVICE.ref, wire.u32(1), who_key)[:32]
    expected = b"QFX1 LEAF\x01\x01\0\x01" + SERVER.server_id + pending.sid + wire.u64(BUCKET) + first.th3_hash + who
    assert first.leaf_data == expected


def test_evidence_holds_for_a_third_party():
    """What the device keeps of a session verifies under the server's identity alone."""
    for make in (pending_hello, pending_offer):
        pending = make()
        confirmation = confirm_at(pending.message, NOW_S)
        (m4,) = SERVER.write_m4s([confirmation])
        with accept_confirmation(pending, m4, SERVER.identity, DEVICE, log_mark=None) as session:
            verify_evidence(session.evidence, SERVER.identity, tenant_id=TENANT, ref=DEVICE.ref, key_version=1)
        assert not any(session.chain_key.view())


def test_log_that_forks_is_an_alarm():
    """An equal size with another root is refused; a smaller size is no error."""
    pending = pending_hello()
    (m4,) = SERVER.write_m4s(SERVER.confirm_hellos([pending.message]))
    session = accept_confirmation(pending, m4, SERVER.identity, DEVICE, log_mark=None)
    mark = session.log_mark
    with pytest.raises(LogForkError):
        accept_confirmation(pending, m4, SERVER.identity, DEVICE, log_mark=LogMark(size=mark.size, root=bytes(32)))
    larger = LogMark(size=mark.size + 1, root=bytes(32))
    assert accept_confirmation(pending, m4, SERVER.identity, DEVICE, log_mark=larger).log_mark == larger


def test_first_bucket_has_no_mark_below_zero():
    """The mark after a session of bucket 0 is 0."""
    pending = pending_hello()
    (m4,) = SERVER.write_m4s(SERVER.confirm_hellos([pending.message]))
    pending.bucket = 0
    assert accept_confirmation(pending, m4, SERVER.identity, DEVICE, log_mark=None).bucket_mark == 0


@pytest.mark.parametrize("changes", [{"sid": b""}, {"server_tag": b""}, {"receipt": b""}])
def test_m4_of_wrong_parts_is_the_callers_mistake(changes):
    """M4 is written from parts of the right size alone."""
    parts = {"sid": bytes(16), "server_tag": bytes(32), "receipt": bytes(2445)}
    assert len(encode_confirmation(**parts)) == wire.M4_BYTES_MIN
    with pytest.raises(LengthError):
        encode_confirmation(**(parts | changes))


# --- glued records ---------------------------------------------------------------------------------------------------


def test_glued_record_is_split_off():
    """What follows the fixed size of M3 or ANSWER is one record; everything else stays whole."""
    record = bytes((wire.TYPE_RECORD, wire.VERSION)) + bytes(62)
    for message in (pending_hello().message, pending_offer().message):
        assert split_glued(message) == (message, None)
        assert split_glued(message + record) == (message, record)
        for bad in (b"\0", record[:47], b"\x07" + record[1:], record[:1] + b"\x02" + record[2:]):
            with pytest.raises(DecodeError):
                split_glued(message + bad)
    for other in (b"", b"\x01" * 5636, b"\x03"):
        assert split_glued(other) == (other, None)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 33])
def test_offers_in_a_batch_equal_a_loop(count):
    """A batch of offers is byte for byte what the same offers are one by one."""
    devices = [DEVICE] * count
    sizes = (32, wire.SID_BYTES, wire.NONCE_BYTES)
    draws = {size: bytes(index % 251 for index in range(size, size + count * size)) for size in sizes}
    with drawing_from(b"".join(draws.values())):
        batch = SERVER.make_offers(devices)
    for index, device in enumerate(devices):
        own = b"".join(draw[index * size : (index + 1) * size] for size, draw in draws.items())
        with drawing_from(own):
            assert SERVER.make_offers([device]) == [batch[index]]


@pytest.mark.parametrize("make", [pending_hello, pending_offer], ids=["hello", "offer"])
@pytest.mark.parametrize("place", range(5))
def test_one_bad_item_fails_alone(make, place):
    """At every position a bad message is refused, and its neighbours are confirmed as they would be alone."""
    messages = [make().message for _ in range(5)]
    messages[place] = messages[place][:-1] + bytes((messages[place][-1] ^ 1,))
    results = SERVER.confirm_hellos(messages) if make is pending_hello else SERVER.confirm_answers(messages)
    for index, result in enumerate(results):
        if index == place:
            assert result is Refusal.TAG
        else:
            alone = confirm_at(messages[index], NOW_S)
            assert (result.sid, result.leaf_data, result.server_tag) == (alone.sid, alone.leaf_data, alone.server_tag)
            assert result.chain_key.equals(alone.chain_key)


def test_answers_of_two_buckets_in_one_batch():
    """Answers whose tickets are of different buckets are each decapsulated under their own key."""
    server = make_server()
    device = make_device(server)
    pendings = []
    for bucket in (BUCKET, BUCKET - 1, BUCKET + 1, BUCKET):
        server.bucket = bucket
        pendings.append(accept_offer(server.make_offer(device), device, server.announcement()))
    confirmations = server.confirm_answers([pending.message for pending in pendings])
    assert [its.start for its in confirmations] == [BUCKET, BUCKET - 1, BUCKET + 1, BUCKET]
    for pending, its in zip(pendings, confirmations, strict=True):
        with expand(pending.ck2, "chain", pending.th3, 64) as chain_key:
            assert its.chain_key.equals(chain_key)


def test_nothing_is_decapsulated_before_the_pre_tag(monkeypatch):
    """An ANSWER whose "pre" tag fails costs no decapsulation."""
    answer = pending_offer().message
    seen = []
    decapsulate = bucket_module.kem.decapsulate_one_key
    monkeypatch.setattr(
        bucket_module.kem, "decapsulate_one_key", lambda dk, cts: seen.append(len(cts)) or decapsulate(dk, cts)
    )
    damaged = answer[: wire.ANSWER_PRE_AT] + bytes(16) + answer[wire.ANSWER_TAG_AT :]
    assert SERVER.confirm_answers([damaged]) == [Refusal.TAG]
    assert seen == []
    assert isinstance(SERVER.confirm_answers([answer])[0], Confirmation)
    assert seen == [kem.CT_BYTES]


def test_psks_and_messages_must_agree():
    """Columns of different lengths are the caller's mistake."""
    with open_answers([pending_offer().message], SERVER.keyring, now_s=NOW_S) as opened, pytest.raises(BatchError):
        confirm_answers(opened, [], server_id=SERVER.server_id)
    assert make_offers([], SERVER.keyring[BUCKET]) == []
    assert SERVER.confirm_answers([]) == []


@pytest.mark.parametrize(
    ("altered", "expected"),
    [
        (lambda message: message[:-1], Refusal.LENGTH),
        (lambda message: b"\x01" + message[1:], Refusal.TYPE),
        (lambda message: message[:1] + b"\x02" + message[2:], Refusal.VERSION),
        (lambda message: message[:2] + bytes((message[2] ^ 3,)) + message[3:], Refusal.TICKET),
        (lambda message: message[:3] + wire.u64(BUCKET + 5) + message[11:], Refusal.BUCKET),
        (lambda message: message[:3] + wire.u64(BUCKET + 1) + message[11:], Refusal.TICKET),
        (lambda message: message[:11] + bytes(12) + message[23:], Refusal.TICKET),
    ],
)
@pytest.mark.parametrize("make", [pending_hello, pending_offer], ids=["hello", "offer"])
def test_first_failing_check_names_the_reason(make, altered, expected):
    """Inside, the exact reason is counted; the checks run from the cheapest on."""
    assert confirm_at_any(altered(make().message), make is pending_hello) is expected


def confirm_at_any(message, is_hello):
    (result,) = SERVER.confirm_hellos([message]) if is_hello else SERVER.confirm_answers([message])
    return result


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.binary(min_size=1849, max_size=1849))
def test_random_bytes_are_refused(message, tail):
    """The decoders are total: random bytes are refused by both sides, whatever their length."""
    for data in (message, tail[:297], tail, b"\x03\x01" + tail[:295], b"\x07\x01" + tail[:1847]):
        assert all(isinstance(result, Refusal) for result in SERVER.confirm_hellos([data]))
        assert all(isinstance(result, Refusal) for result in SERVER.confirm_answers([data]))
    pending = PENDING
    for data in (message, b"\x04\x01" + pending.sid + message, b"\x04\x01" + pending.sid + tail * 2):
        with pytest.raises(AuthenticationError):
            accept_confirmation(pending, data, SERVER.identity, DEVICE, log_mark=None)


PENDING = pending_hello()


def test_bucket_keys_are_wiped_together():
    """A bucket's two keys are destroyed together."""
    made = make_bucket_keys(SERVER.announce_sk, server_id=SERVER.server_id, width_s=1, bucket=3)
    with made.keys as keys:
        assert any(keys.ticket_key.view())
    assert not any(keys.ticket_key.view())
    assert not any(keys.decapsulation_key.view())


def test_batch_that_fails_wipes_the_chain_keys_it_made(monkeypatch):
    """An error in the middle of a batch leaves no chain key behind; a confirmation wipes its own."""
    made = []
    confirmation_type = confirm_module.Confirmation

    def watch(*fields):
        if len(made) == 2:
            raise ZeroDivisionError
        made.append(confirmation_type(*fields))
        return made[-1]

    messages = [pending_hello().message for _ in range(3)]
    monkeypatch.setattr(confirm_module, "Confirmation", watch)
    with pytest.raises(ZeroDivisionError):
        SERVER.confirm_hellos(messages)
    monkeypatch.undo()
    assert [any(its.chain_key.view()) for its in made] == [False, False]
    (confirmation,) = SERVER.confirm_hellos(messages[:1])
    with confirmation:
        assert any(confirmation.chain_key.view())
    assert not any(confirmation.chain_key.view())


def test_a_confirmation_wipes_its_own_chain_key_alone():
    """Chain keys of a batch share their memory: who wipes one confirmation leaves the others theirs."""
    first, second = SERVER.confirm_hellos([pending_hello().message for _ in range(2)])
    kept = second.chain_key
    assert not first.chain_key.equals(kept)
    first.wipe()
    assert not any(first.chain_key.view())
    assert second.chain_key.equals(kept)
    second.chain_keys.wipe()
    assert not any(second.chain_key.view())
