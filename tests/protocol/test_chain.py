"""The chain of a session: agreement, boundaries, erasure (R1, R2, R5, R9)."""

import pytest

from peer import record as peer
from qflare.errors import LengthError, SessionExpiredError, StaleBucketError, UsageError
from qflare.model.refusal import Refusal
from qflare.primitives.random import random_bytes
from qflare.protocol.chain import SessionChain, refuse_bucket
from qflare.protocol.purpose import encode_purpose
from qflare.secret import SecretBytes

SID = bytes(range(16))
START = 5_900_000
KEY = bytes(range(64))


def begin(*, start=START, lifetime=288):
    return SessionChain.begin(SecretBytes.copy_of(KEY), sid=SID, start=start, lifetime=lifetime)


def value(secret):
    with secret:
        return bytes(secret.view())


def test_every_bucket_of_a_session_has_the_key_that_the_specification_names():
    """All 288 chain keys equal those of a peer that hashes one step at a time."""
    chain, key = begin(), KEY
    for bucket in range(START, START + 288):
        if bucket > START:
            key = peer.turn(key, bucket, SID)
        assert value(chain.chain_key(bucket)) == key


def test_a_sleeping_device_catches_up_whatever_way_it_goes():
    """288 steps at once, one by one, or in leaps: the same keys at the end (R5)."""
    expected = value(begin().chain_key(START + 287))
    for leaps in ([START + 287], list(range(START, START + 288)), [START + 1, START + 100, START + 287]):
        chain = begin()
        for bucket in leaps:
            chain.advance_to(bucket)
        assert value(chain.chain_key(START + 287)) == expected


def test_deriving_ahead_leaves_the_chain_where_it_was():
    """An unauthenticated bucket moves nothing (R5)."""
    chain = begin()
    chain.message_key(START + 200, direction=1, purpose=b"qfx.record").wipe()
    assert chain.bucket == START
    assert value(chain.chain_key(START)) == KEY


def test_the_chain_holds_its_bucket_and_the_one_before():
    """After a step both are readable, after two the first is erased from memory (R1)."""
    chain = begin()
    first = chain._keys[START]
    chain.advance_to(START + 1)
    assert value(chain.chain_key(START)) == KEY
    assert chain.oldest_bucket == START
    held = chain.export_keys()
    assert sorted(held) == [START, START + 1]
    chain.advance_to(START + 2)
    assert bytes(first.view()) == bytes(64)
    with pytest.raises(StaleBucketError):
        chain.chain_key(START)
    assert sorted(chain.export_keys()) == [START + 1, START + 2]


def test_going_back_changes_nothing():
    """A bucket behind the chain is no step."""
    chain = begin()
    chain.advance_to(START + 5)
    chain.advance_to(START + 3)
    chain.advance_to(0)
    assert (chain.bucket, chain.oldest_bucket) == (START + 5, START + 4)


def test_a_session_ends_after_its_last_bucket():
    """The last bucket is written and read, one later still read, two later everything is erased (R9)."""
    chain = begin(lifetime=3)
    last = START + 2
    value(chain.chain_key(last))
    with pytest.raises(SessionExpiredError):
        chain.chain_key(last + 1)
    chain.advance_to(last + 1)
    assert not chain.is_ended
    assert chain.oldest_bucket == last
    with pytest.raises(SessionExpiredError):
        chain.derive_session_key("app", bucket=last + 1)
    value(chain.derive_session_key("app"))
    held = chain._keys[last]
    chain.advance_to(last + 2)
    assert chain.is_ended
    assert bytes(held.view()) == bytes(64)
    for call in (lambda: chain.chain_key(last), lambda: chain.oldest_bucket):
        with pytest.raises(SessionExpiredError):
            call()
    chain.advance_to(last + 3)


def test_a_leap_beyond_the_end_erases_everything():
    """Waking up after the session's end leaves no key."""
    chain = begin(lifetime=2)
    chain.advance_to(START + 1000)
    assert chain.is_ended


def test_a_chain_goes_on_from_what_was_exported():
    """State written and read back gives the same keys from the same bucket."""
    chain = begin()
    chain.advance_to(START + 7)
    again = SessionChain(chain.export_keys(), sid=SID, start=START, lifetime=288, epoch=0)
    for bucket in (START + 6, START + 7, START + 200):
        assert value(again.chain_key(bucket)) == value(chain.chain_key(bucket))
    assert again.bucket == START + 7


def test_session_keys_differ_by_bucket_direction_and_purpose():
    """No two of them are equal, and both sides have the same (R2)."""
    mine, theirs = begin(), begin()
    found = {
        value(mine.derive_session_key(purpose, bucket=START + step, direction=direction))
        for purpose in ("a", "b", "model.v1")
        for direction in (1, 2)
        for step in (0, 1, 2)
    }
    assert len(found) == 18
    assert value(theirs.derive_session_key("a")) == value(mine.derive_session_key("a", bucket=START, direction=1))
    expected = peer.message_key(KEY, START, 2, "model.v1")
    assert value(mine.derive_session_key("model.v1", direction=2)) == expected


def test_sessions_with_equal_chain_keys_part_at_the_first_step():
    """The sid is in every step, so that chains of two sessions never meet."""
    other = SessionChain.begin(SecretBytes.copy_of(KEY), sid=bytes(16), start=START, lifetime=288)
    assert value(other.chain_key(START + 1)) != value(begin().chain_key(START + 1))


@pytest.mark.parametrize("purpose", ["", "A", "a b", "x" * 65, "\u00e4", "a\n", "qfx.record", "qfx.", "a/b"])
def test_purposes_that_may_not_be_used_are_refused(purpose):
    """Only [a-z0-9._-]{1,64}, and nothing reserved."""
    with pytest.raises(UsageError):
        encode_purpose(purpose)
    with pytest.raises(UsageError):
        begin().derive_session_key(purpose)


def test_purposes_at_the_edge_are_allowed():
    """All letters, all lengths, and what only looks reserved."""
    for purpose in ("a", "0._-z", "x" * 64, "qfx", "qfxrecord", "a.qfx."):
        assert encode_purpose(purpose) == purpose.encode()


def test_a_direction_is_one_or_two():
    """Anything else is refused before anything is derived."""
    for direction in (0, 3, -1):
        with pytest.raises(UsageError):
            begin().derive_session_key("app", direction=direction)


def test_chains_that_cannot_be_are_refused():
    """Keys outside the session, too many, apart, of a wrong size; wrong sids and lifetimes."""
    secret = SecretBytes.copy_of(KEY)
    terms = {"sid": SID, "start": START, "lifetime": 4}
    for keys in (
        {},
        {START - 1: secret},
        {START + 4: secret},
        {START: secret, START + 2: secret},
        {START: secret, START + 1: secret, START + 2: secret},
    ):
        with pytest.raises(UsageError):
            SessionChain(keys, **terms)
    for change in ({"lifetime": 0}, {"lifetime": 289}, {"start": -1}, {"epoch": -1}):
        with pytest.raises(UsageError):
            SessionChain({START: secret}, **{**terms, **change})
    with pytest.raises(LengthError):
        SessionChain({START: SecretBytes.zeros(63)}, **terms)
    with pytest.raises(LengthError):
        SessionChain({START: secret}, **{**terms, "sid": b"x"})


def test_a_wiped_chain_says_so_and_shows_no_key():
    """Wiping ends the session on this side; repr names buckets, never a key."""
    key = SecretBytes.copy_of(KEY)
    with SessionChain.begin(key, sid=SID, start=START, lifetime=2) as chain:
        assert KEY[32:40].hex() not in repr(chain)
    assert bytes(key.view()) == bytes(64)
    with pytest.raises(SessionExpiredError):
        chain.chain_key(START)
    chain.wipe()


def test_the_servers_window_is_exact():
    """R1: b-1, b, and b+1 once published, and never outside the session, at every boundary."""
    for server in range(START - 2, START + 7):
        for bucket in range(START - 3, START + 8):
            for published in (False, True):
                refused = refuse_bucket(
                    bucket, start=START, lifetime=4, server_bucket=server, is_next_published=published
                )
                in_window = bucket in {server - 1, server} or (published and bucket == server + 1)
                expected = None if in_window and START <= bucket < START + 4 else Refusal.BUCKET
                assert refused == expected


def test_random_walks_agree_with_the_peer():
    """Any mixture of reading and moving gives the peer's keys for what is still held."""
    draw = random_bytes(400)
    chain = begin()
    other = peer.Session(SID, START, 288, 1, {START: KEY})
    for pair in range(0, 400, 2):
        bucket = min(START + 287, chain.bucket + draw[pair] % 4)
        assert value(chain.chain_key(bucket)) == other.chain_key(bucket)
        if draw[pair + 1] & 1:
            chain.advance_to(bucket)
            other.move_to(bucket)
        assert min(chain.export_keys()) == min(other.keys)
