"""Announcements: what a device takes, and what it does not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import BUCKET, WIDTH_S, make_server
from tampering import every_flip, every_truncation

from qflare.errors import AuthenticationError, LengthError, RefusedError, StaleBucketError, UsageError
from qflare.primitives import kem
from qflare.protocol import labels, wire
from qflare.protocol.announcement import sign_announcement, verify_announcement

SERVER = make_server()
CERTIFICATE = SERVER.identity.certificate
ANNOUNCEMENT = SERVER.keyring[BUCKET].announcement


def sign(**changes):
    terms = {
        "server_id": SERVER.server_id,
        "width_s": WIDTH_S,
        "bucket": BUCKET,
        "encapsulation_key": ANNOUNCEMENT.encapsulation_key,
    } | changes
    return sign_announcement(SERVER.announce_sk, **terms)


def test_announcement_round_trips():
    """What was signed is what a device reads."""
    assert verify_announcement(ANNOUNCEMENT.encoded, CERTIFICATE) == ANNOUNCEMENT
    assert (ANNOUNCEMENT.bucket, ANNOUNCEMENT.width_s) == (BUCKET, WIDTH_S)


def test_altered_announcement_is_refused():
    """Every single-bit flip and every truncation: one error class."""
    for altered in [*every_flip(ANNOUNCEMENT.encoded), *every_truncation(ANNOUNCEMENT.encoded)]:
        with pytest.raises(AuthenticationError):
            verify_announcement(altered, CERTIFICATE)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=4032, max_size=4032))
def test_random_bytes_are_refused(data):
    """The decoder is total on bytes of the right length with the right magic."""
    with pytest.raises(AuthenticationError):
        verify_announcement(labels.MAGIC_ANNOUNCEMENT + wire.SUITE_FIELD + data, CERTIFICATE)


def test_bucket_below_the_mark_is_stale():
    """A device never goes below the mark it has stored."""
    assert verify_announcement(ANNOUNCEMENT.encoded, CERTIFICATE, minimum_bucket=BUCKET) == ANNOUNCEMENT
    with pytest.raises(StaleBucketError):
        verify_announcement(ANNOUNCEMENT.encoded, CERTIFICATE, minimum_bucket=BUCKET + 1)


@pytest.mark.parametrize("bucket", [BUCKET - 11, BUCKET + 1001, 0, 2**64 - 1])
def test_bucket_outside_the_certificate_is_refused(bucket):
    """First and last bucket of CERT bound what its announce key may sign."""
    with pytest.raises(AuthenticationError):
        verify_announcement(sign(bucket=bucket).encoded, CERTIFICATE)


def test_bucket_at_the_ends_of_the_certificate_is_taken():
    """First and last are inclusive."""
    for bucket in (BUCKET - 10, BUCKET + 1000):
        assert verify_announcement(sign(bucket=bucket).encoded, CERTIFICATE).bucket == bucket


def test_another_width_is_refused():
    """A server has one width."""
    assert verify_announcement(ANNOUNCEMENT.encoded, CERTIFICATE, width_s=WIDTH_S) == ANNOUNCEMENT
    with pytest.raises(RefusedError):
        verify_announcement(ANNOUNCEMENT.encoded, CERTIFICATE, width_s=WIDTH_S + 1)


def test_two_bodies_for_one_bucket_are_an_alarm():
    """A bucket has one key; another signature over the same body is no second one."""
    again = sign()
    assert again.encoded != ANNOUNCEMENT.encoded
    assert verify_announcement(again.encoded, CERTIFICATE, held=ANNOUNCEMENT).body_hash == ANNOUNCEMENT.body_hash
    other = sign(encapsulation_key=kem.generate().encapsulation_key)
    with pytest.raises(RefusedError):
        verify_announcement(other.encoded, CERTIFICATE, held=ANNOUNCEMENT)
    elsewhere = SERVER.keyring[BUCKET + 1].announcement
    assert verify_announcement(elsewhere.encoded, CERTIFICATE, held=ANNOUNCEMENT) == elsewhere


def test_key_that_fails_its_check_is_refused():
    """An announced key with a coefficient of q or more is refused (FIPS 203, section 7.2), signed or not."""
    with pytest.raises(AuthenticationError):
        verify_announcement(sign(encapsulation_key=b"\xff" * 1568).encoded, CERTIFICATE)


def test_other_servers_announcement_is_refused():
    """Neither another server's announcement nor this server's under another certificate is taken."""
    other = make_server()
    with pytest.raises(AuthenticationError):
        verify_announcement(other.keyring[BUCKET].announcement.encoded, CERTIFICATE)
    with pytest.raises(AuthenticationError):
        verify_announcement(ANNOUNCEMENT.encoded, other.identity.certificate)


@pytest.mark.parametrize("changes", [{"width_s": 0}, {"width_s": 2**32}, {"bucket": -1}, {"bucket": 2**64}])
def test_signing_nonsense_is_the_callers_mistake(changes):
    """A number that does not fit is refused before anything is signed."""
    with pytest.raises(UsageError):
        sign(**changes)


@pytest.mark.parametrize("changes", [{"server_id": b"x"}, {"encapsulation_key": b"x"}])
def test_signing_wrong_sizes_is_the_callers_mistake(changes):
    """A value of the wrong size is refused before anything is signed."""
    with pytest.raises(LengthError):
        sign(**changes)
