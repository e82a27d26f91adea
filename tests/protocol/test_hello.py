"""The server's side of a hello: the order of its checks, the seen set, and batches."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import BUCKET, NOW_S, TENANT, make_device, make_server

from qflare.errors import BatchError, EntropyError, KeyNotFoundError, UsageError
from qflare.model.refusal import Refusal
from qflare.primitives.random import drawing_from
from qflare.protocol import bucket as bucket_module
from qflare.protocol import hello as hello_module
from qflare.protocol import wire
from qflare.protocol.hello import answer_hellos, open_hellos
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.seen import ANSWERS_MAX, OTHERS_MAX, SeenHellos

SERVER = make_server()
DEVICE = make_device(SERVER)


def m1(device=DEVICE, server=SERVER, bucket=None):
    return start_hello(device, server.announcement(bucket)).message


def verdict(message, server=SERVER, **terms):
    (result,) = server.answer_hellos([message], **terms)
    return result


# --- the checks of H3, in their order --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("altered", "expected"),
    [
        (lambda message: message[:0], Refusal.LENGTH),
        (lambda message: message + b"\0", Refusal.LENGTH),
        (lambda message: b"\x02" + message[1:], Refusal.TYPE),
        (lambda message: message[:1] + b"\x02" + message[2:], Refusal.VERSION),
        (lambda message: message[:2] + b"\0\x02" + message[4:], Refusal.SUITE),
        (lambda message: message[:4] + wire.u64(BUCKET + 2) + message[12:], Refusal.BUCKET),
        (lambda message: message[:-1] + bytes((message[-1] ^ 1,)), Refusal.TAG),
        (lambda message: bytes(len(message)), Refusal.TYPE),
        (lambda message: message, None),
    ],
)
def test_first_failing_check_names_the_reason(altered, expected):
    """Inside, the exact reason is counted; the checks run from the cheapest on."""
    result = verdict(altered(m1()))
    assert isinstance(result, bytes) if expected is None else result is expected


def test_cheap_refusals_cost_no_decapsulation(monkeypatch):
    """What fails before the seen set is never decapsulated."""

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(bucket_module.kem, "decapsulate_one_key", fail)
    message = m1()
    seen = SeenHellos()
    for _ in range(ANSWERS_MAX):
        seen.admit(message[wire.M1_CT_AT : wire.M1_HEADER_BYTES], message)
    altered = [message[:-1], b"\x03" + message[1:], message[:4] + wire.u64(BUCKET - 2) + message[12:], message]
    assert SERVER.answer_hellos(altered, seen=seen) == [Refusal.LENGTH, Refusal.TYPE, Refusal.BUCKET, Refusal.SEEN]


@pytest.mark.parametrize("step", [-2, 2])
def test_buckets_outside_the_window_are_stale(step):
    """A bucket outside b-1 … b+1 is refused even while its key still lives; one that is not published, too."""
    server = make_server()
    device = make_device(server)
    server.publish(BUCKET + step)
    message = m1(device, server, BUCKET + step)
    assert verdict(message, server) is Refusal.BUCKET
    near = m1(device, server, BUCKET + step // 2)
    del server.keyring[BUCKET + step // 2]
    assert verdict(near, server) is Refusal.BUCKET


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (None, Refusal.UNKNOWN_DEVICE),
        ({"is_accepted": False}, Refusal.DEVICE_STATE),
        ({"refusal": Refusal.UNKNOWN_TENANT}, Refusal.UNKNOWN_TENANT),
        ({"key_version": 2}, Refusal.KEY_VERSION),
        ({"verification_key": SERVER.identity.certificate.log_key}, Refusal.SIGNATURE),
    ],
)
def test_row_decides_after_the_signature(monkeypatch, row, expected):
    """The signature is verified whatever the row says, under a dummy key if there is none; then the row counts."""
    verified = []
    verify_many = type(hello_module.SIG44).verify_many

    def watch(self, keys, messages, signatures, *, context):
        verified.append(len(messages))
        return verify_many(self, keys, messages, signatures, context=context)

    monkeypatch.setattr(type(hello_module.SIG44), "verify_many", watch)
    server = make_server()
    device = make_device(server)
    key = (TENANT, device.ref)
    if row is None:
        del server.roster[key]
    else:
        server.roster[key] = replace(server.roster[key], **row)
    assert verdict(m1(device, server), server) is expected
    assert verified == [1]


def test_signature_of_the_dummy_key_opens_nothing(monkeypatch):
    """Who knows the dummy's signing key is still an unknown device."""
    server = make_server()
    device = make_device(server)
    del server.roster[(TENANT, device.ref)]
    dummy = hello_module.SIG44.generate_from_seed(bytes(32))
    assert len(dummy.verification_key) == len(hello_module._dummy_verification_key())
    monkeypatch.setattr(hello_module, "_dummy_verification_key", lambda: dummy.verification_key)
    stranger = replace(device, signing_key=dummy.signing_key)
    assert verdict(m1(stranger, server), server) is Refusal.UNKNOWN_DEVICE


# --- the seen set ----------------------------------------------------------------------------------------------------


def test_the_same_m1_is_answered_three_times():
    """A byte-equal M1 is answered 3 times in all, each time freshly, in one batch or in several."""
    message = m1()
    seen = SeenHellos()
    first = SERVER.answer_hellos([message], seen=seen)
    later = SERVER.answer_hellos([message] * 4, seen=seen)
    answers = [result for result in first + later if isinstance(result, bytes)]
    assert len(set(answers)) == ANSWERS_MAX
    assert later[2:] == [Refusal.SEEN, Refusal.SEEN]
    assert SERVER.answer_hellos([message], seen=seen) == [Refusal.SEEN]


def test_another_m1_with_the_same_ciphertext_is_refused(monkeypatch):
    """Who made a ct_b gets one M1 for it; another one is refused with the reason, a few times, and then unseen."""
    made = hello_module.kem.encapsulate(SERVER.announcement().encapsulation_key)
    secret = bytes(made.shared_secret.view())

    def same(_):
        return type(made)(made.ciphertext, type(made.shared_secret).copy_of(secret))

    monkeypatch.setattr(hello_module.kem, "encapsulate", same)
    first, second, *more = (m1() for _ in range(OTHERS_MAX + 2))
    forged = second[:-1] + bytes((second[-1] ^ 1,))
    monkeypatch.undo()
    for batch in ([[first, second]], [[first], [second]]):
        seen = SeenHellos()
        results = [result for messages in batch for result in SERVER.answer_hellos(messages, seen=seen)]
        assert isinstance(results[0], bytes)
        assert results[1] is Refusal.DRAWN_TWICE
    # A stranger who copies a ct_b accuses nobody, however often.
    assert SERVER.answer_hellos([forged] * 9, seen=seen) == [Refusal.TAG] * 9
    assert SERVER.answer_hellos(more, seen=seen) == [Refusal.DRAWN_TWICE] * (OTHERS_MAX - 1) + [Refusal.SEEN]
    assert isinstance(SERVER.answer_hellos([first], seen=seen)[0], bytes)


def test_forged_m1_does_not_block_the_real_one():
    """Only who made ct_b fills the set: a stranger who copies it changes nothing."""
    message = m1()
    seen = SeenHellos()
    forged = [message[:-1] + bytes((message[-1] ^ 1 << bit,)) for bit in range(8)]
    assert SERVER.answer_hellos(forged, seen=seen) == [Refusal.TAG] * 8
    assert len(seen) == 0
    assert isinstance(SERVER.answer_hellos([message], seen=seen)[0], bytes)


def test_unknown_devices_do_fill_the_set():
    """The entry is made before the signature is verified, so that a signature is verified 3 times at most."""
    server = make_server()
    device = make_device(server)
    del server.roster[(TENANT, device.ref)]
    message = m1(device, server)
    assert server.answer_hellos([message] * 4) == [Refusal.UNKNOWN_DEVICE] * 3 + [Refusal.SEEN]


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 33])
def test_batch_equals_loop(count):
    """A batch gives byte for byte what the same messages give one by one, with the same randomness."""
    messages = [m1(bucket=BUCKET + index % 3 - 1) for index in range(count)]
    chooser = random.Random(count)
    draws = {size: chooser.randbytes(count * size) for size in (32, wire.SID_BYTES, wire.NONCE_BYTES)}
    with drawing_from(b"".join(draws.values())):
        batch = SERVER.answer_hellos(messages, seen=SeenHellos())
    for index, message in enumerate(messages):
        own = b"".join(draw[index * size : (index + 1) * size] for size, draw in draws.items())
        with drawing_from(own):
            assert verdict(message, seen=SeenHellos()) == batch[index]


@pytest.mark.parametrize("place", range(9))
def test_one_bad_item_fails_alone(place):
    """At every position a bad M1 is refused and its neighbours are answered."""
    messages = [m1() for _ in range(9)]
    messages[place] = messages[place][:-1] + bytes((messages[place][-1] ^ 1,))
    results = SERVER.answer_hellos(messages)
    assert [index for index, result in enumerate(results) if isinstance(result, Refusal)] == [place]


def test_empty_batch():
    """No messages, no answers."""
    assert SERVER.answer_hellos([]) == []
    assert SERVER.confirm_hellos([]) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=6000), max_size=8), st.binary(max_size=5632))
def test_random_bytes_are_refused(messages, tail):
    """The server's decoder is total: random bytes are refused, whatever their length."""
    head = bytes((wire.TYPE_M1, wire.VERSION)) + wire.SUITE_FIELD + wire.u64(BUCKET)
    padded = (head + tail).ljust(wire.M1_BYTES, b"\0")[: wire.M1_BYTES]
    results = SERVER.answer_hellos([*messages, padded], seen=SeenHellos())
    assert all(isinstance(result, Refusal) for result in results)


# --- the caller's mistakes, and failures of our own ------------------------------------------------------------------


def test_answering_needs_a_device_for_every_message():
    """Rows and messages that disagree are the caller's mistake."""
    with open_hellos([m1()], SERVER.keyring, server_bucket=BUCKET, seen=SeenHellos()) as opened:
        with pytest.raises(BatchError):
            answer_hellos(opened, [], SERVER.keyring, server_bucket=BUCKET, now_s=NOW_S)
        with pytest.raises(KeyNotFoundError):
            answer_hellos(opened, [None], SERVER.keyring, server_bucket=BUCKET + 9, now_s=NOW_S)
        for terms in ({"lifetime": 0}, {"lifetime": 289}, {"lifetime": 1.0}, {"policy": 1}, {"policy": -1}):
            with pytest.raises(UsageError):
                answer_hellos(opened, [None], SERVER.keyring, server_bucket=BUCKET, now_s=NOW_S, **terms)


@pytest.mark.parametrize("drawn", [0, 32, 32 + 16])
def test_failing_randomness_answers_nothing(drawn):
    """When the random source fails at any draw, there is no M2: an error, or a refusal for the row."""
    message = m1()
    with drawing_from(bytes(drawn)):
        try:
            results = SERVER.answer_hellos([message], seen=SeenHellos())
        except EntropyError:
            results = [Refusal.INTERNAL]
    assert results == [Refusal.INTERNAL]


def test_secrets_are_wiped_at_the_end_of_the_block():
    """What was opened is zero once its owner has left the block, even by an error."""
    opened = open_hellos([m1()], SERVER.keyring, server_bucket=BUCKET, seen=SeenHellos())
    assert any(opened.ck1.view())
    with pytest.raises(ZeroDivisionError), opened:
        raise ZeroDivisionError
    assert not any(opened.ck1.view())
    assert not any(opened.names.view())


def test_m2_and_m3_hide_nothing_from_a_lost_m2():
    """After a lost M2 the same M1 gets another M2, and the device takes the first one that opens."""
    hello = start_hello(DEVICE, SERVER.announcement())
    _lost, second = SERVER.answer_hellos([hello.message] * 2, seen=SeenHellos())
    pending = accept_hello(hello, second, DEVICE)
    assert not isinstance(SERVER.confirm_hellos([pending.message])[0], Refusal)
