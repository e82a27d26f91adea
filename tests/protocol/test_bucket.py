"""A bucket's keys: made, stored as a seed, rebuilt; and decapsulation by bucket."""

from __future__ import annotations

import pytest
from parties import BUCKET, WIDTH_S, make_server

from qflare.errors import AuthenticationError, EntropyError, KeyCheckError, LengthError, UsageError
from qflare.primitives import kem
from qflare.primitives.random import drawing_from
from qflare.protocol import bucket as bucket_module
from qflare.protocol.bucket import decapsulate_by_bucket, is_open, make_bucket_keys, restore_bucket_keys
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
