"""The server's identity: one root, one certificate, pinned by its id."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import BUCKET, ORIGIN, TENANT, make_server

from qflare.errors import AuthenticationError, LengthError, RefusedError, UsageError
from qflare.primitives.hash import transcript
from qflare.primitives.sig import SIG44, SIG87
from qflare.protocol import labels, wire
from qflare.protocol.identity import (
    decode_certificate,
    decode_identity,
    device_ref,
    device_refs_many,
    encode_name,
    issue_certificate,
    server_id_of,
)

ROOT = SIG87.generate()
ANNOUNCE, LOG = SIG44.generate(), SIG44.generate()
KEY_BITS_AT = 58


def issue(**changes):
    terms = {
        "serial": 7,
        "announce_key": ANNOUNCE.verification_key,
        "log_key": LOG.verification_key,
        "first_bucket": BUCKET,
        "last_bucket": BUCKET + 9,
        "log_origin": ORIGIN,
    } | changes
    return issue_certificate(ROOT.signing_key, ROOT.verification_key, **terms)


CERTIFICATE = issue()


def test_certificate_round_trips():
    """What was issued is what a device reads."""
    assert decode_certificate(CERTIFICATE.encoded, root_key=ROOT.verification_key) == CERTIFICATE
    assert len(CERTIFICATE.encoded) == 7318 + len(ORIGIN)
    assert CERTIFICATE.server_id == transcript(b"server", ROOT.verification_key)[:32]


def test_certificate_covers_first_and_last_bucket():
    """First and last are inclusive."""
    assert [CERTIFICATE.has_bucket(BUCKET + step) for step in (-1, 0, 9, 10)] == [False, True, True, False]


def test_identity_round_trips():
    """`root vk ‖ CERT` is served and read as it is."""
    served = ROOT.verification_key + CERTIFICATE.encoded
    identity = decode_identity(served, server_id=CERTIFICATE.server_id)
    assert identity.served == served
    assert identity.server_id == server_id_of(ROOT.verification_key)


def test_altered_identity_is_refused():
    """Each bit of every short field, one seeded bit of every other byte, and every truncation: one error class."""
    served = ROOT.verification_key + CERTIFICATE.encoded
    chooser = random.Random(2)
    certificate_at = len(ROOT.verification_key)
    short = range(certificate_at, certificate_at + KEY_BITS_AT)
    tail = range(certificate_at + wire.CERTIFICATE_ORIGIN_AT - 17, certificate_at + 2691 + len(ORIGIN))
    altered = []
    for place in range(len(served)):
        bits = range(8) if place in short or place in tail else (chooser.randrange(8),)
        altered.extend(served[:place] + bytes((served[place] ^ 1 << bit,)) + served[place + 1 :] for bit in bits)
    altered.extend(served[:size] for size in range(0, len(served), 7))
    altered.append(served + b"\0")
    for identity in altered:
        with pytest.raises(AuthenticationError):
            decode_identity(identity, server_id=CERTIFICATE.server_id)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12_000))
def test_decoding_random_bytes_only_refuses(data):
    """The decoders are total: random bytes are refused, never anything else."""
    with pytest.raises(AuthenticationError):
        decode_identity(data, server_id=CERTIFICATE.server_id)
    with pytest.raises(AuthenticationError):
        decode_certificate(labels.MAGIC_CERTIFICATE + wire.SUITE_FIELD + data, root_key=ROOT.verification_key)


def test_another_server_is_refused():
    """A certificate that is good under its own root is not the pinned server's."""
    other = make_server()
    with pytest.raises(AuthenticationError):
        decode_identity(other.identity.served, server_id=CERTIFICATE.server_id)
    with pytest.raises(AuthenticationError):
        decode_certificate(CERTIFICATE.encoded, root_key=other.identity.root_key)


def test_serial_never_falls():
    """A lower serial, and other bytes under the same serial, are refused; the same bytes and a higher serial are not."""
    server_id = CERTIFICATE.server_id
    for certificate, is_taken in (
        (CERTIFICATE, True),
        (issue(serial=8), True),
        (issue(serial=6), False),
        (issue(), False),
    ):
        served = ROOT.verification_key + certificate.encoded
        if is_taken:
            decode_identity(served, server_id=server_id, held=CERTIFICATE)
        else:
            with pytest.raises(RefusedError):
                decode_identity(served, server_id=server_id, held=CERTIFICATE)


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": -1},
        {"serial": 2**64},
        {"first_bucket": 2, "last_bucket": 1},
        {"last_bucket": 2**64},
        {"log_origin": ""},
        {"log_origin": "a b"},
        {"log_origin": "a+b"},
        {"log_origin": "a\x7fb"},
        {"log_origin": "a\x00b"},
        {"log_origin": "a\u00a0b"},
        {"log_origin": "a\ud800"},
        {"log_origin": "x" * 256},
        {"announce_key": b"short"},
        {"log_key": b""},
    ],
)
def test_issuing_nonsense_is_the_callers_mistake(changes):
    """A value that cannot stand in a certificate is refused before anything is signed."""
    with pytest.raises(UsageError):
        issue(**changes)


def test_issuing_under_another_root_is_the_callers_mistake():
    """A signing key that is not the root key's is found out at once."""
    with pytest.raises(UsageError):
        issue_certificate(
            SIG87.generate().signing_key,
            ROOT.verification_key,
            serial=1,
            announce_key=ANNOUNCE.verification_key,
            log_key=LOG.verification_key,
            first_bucket=0,
            last_bucket=1,
            log_origin=ORIGIN,
        )


def test_certificate_with_a_bad_origin_is_refused():
    """A signed certificate whose origin is no C2SP name, or whose buckets are reversed, is refused all the same."""
    body = CERTIFICATE.encoded[: 2691 + len(ORIGIN)]
    for altered in (
        body[:-1] + b"+",
        body[:-1] + b"\xff",
        body[: 2690 - 16] + bytes((255,)) * 8 + body[2690 - 8 :],
    ):
        signature = SIG87.sign(ROOT.signing_key, transcript(altered), context=b"QFX1 crt")
        with pytest.raises(AuthenticationError):
            decode_certificate(altered + signature, root_key=ROOT.verification_key)


def test_ref_is_the_transcript_of_tenant_and_name():
    """`ref = H("device", tenant_id, device_id)[:32]`, one and many."""
    names = ["a", "Gerät-7", "x" * 255]
    expected = [transcript(b"device", TENANT, name.encode())[:32] for name in names]
    assert [device_ref(TENANT, name) for name in names] == expected
    assert device_refs_many([(TENANT, name) for name in names]) == expected
    assert device_refs_many([]) == []


@pytest.mark.parametrize("name", ["", "x" * 256, "\u20ac" * 86, "\ud800"])
def test_names_are_1_to_255_bytes_of_utf8(name):
    """Any other name is the caller's mistake."""
    with pytest.raises(UsageError):
        encode_name(name)


def test_sizes_are_checked():
    """A tenant or root key of another size is the caller's mistake."""
    with pytest.raises(LengthError):
        device_ref(b"short", "a")
    with pytest.raises(LengthError):
        device_refs_many([(b"short", "a")])
    with pytest.raises(LengthError):
        server_id_of(b"short")
