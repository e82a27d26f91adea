"""The seen set: bounded, three answers, the oldest leaves first."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from qflare.model.refusal import Refusal
from qflare.protocol.seen import ANSWERS_MAX, OTHERS_MAX, SeenHellos


def test_oldest_entry_leaves_first():
    """The set never holds more than its capacity, and forgets in order of arrival."""
    seen = SeenHellos(capacity=3)
    for name in (b"a", b"b", b"c", b"d"):
        assert seen.admit(name, name) is None
    assert len(seen) == 3
    assert seen.admit(b"a", b"other") is None
    assert seen.admit(b"c", b"other") is Refusal.DRAWN_TWICE


def test_asking_changes_nothing():
    """`has_room_for` remembers nothing and counts nothing."""
    seen = SeenHellos()
    assert all(seen.has_room_for(b"ct", b"m1") for _ in range(10))
    assert len(seen) == 0
    for _ in range(ANSWERS_MAX):
        assert seen.has_room_for(b"ct", b"m1")
        assert seen.admit(b"ct", b"m1") is None
    assert not seen.has_room_for(b"ct", b"m1")


@given(st.lists(st.tuples(st.binary(max_size=1), st.binary(max_size=1)), max_size=60))
def test_set_behaves_like_its_rule(messages):
    """For any order of arrivals: the first message of a ciphertext three times, and three looks at others."""
    seen = SeenHellos()
    first: dict[bytes, bytes] = {}
    looks: Counter[tuple[bytes, bool]] = Counter()
    for ciphertext, message in messages:
        is_first = first.setdefault(ciphertext, message) == message
        has_room = looks[ciphertext, is_first] < (ANSWERS_MAX if is_first else OTHERS_MAX)
        expected = Refusal.SEEN if not has_room else None if is_first else Refusal.DRAWN_TWICE
        assert seen.has_room_for(ciphertext, message) == has_room
        assert seen.admit(ciphertext, message) is expected
        looks[ciphertext, is_first] += has_room


def test_threads_share_the_set():
    """Many threads with one M1 get three answers in all."""
    seen = SeenHellos()
    with ThreadPoolExecutor(8) as pool:
        admitted = list(pool.map(lambda _: seen.admit(b"ct", b"m1"), range(400)))
    assert admitted.count(None) == ANSWERS_MAX
    assert set(admitted) == {None, Refusal.SEEN}
