import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.errors import BatchError, UsageError
from qflare.primitives.kdf import bucket_of, bucket_of_many, bucket_range

CHUNK = 50_000


@pytest.mark.parametrize("width_s", [1, 7, 300, 86_400, 2**32 - 1])
def test_a_million_random_times_lie_in_their_bucket(width_s):
    """B5: of 10^6 random times every one lies in exactly the bucket that Python's integers name, at any width."""
    source = random.Random(width_s)
    for _ in range(1_000_000 // CHUNK):
        times = array("Q", source.randbytes(8 * CHUNK))
        assert [time // width_s for time in times] == bucket_of_many(times, width_s).tolist()


def test_consecutive_seconds_skip_and_repeat_no_bucket():
    """B5: over a million consecutive seconds the bucket rises by exactly one, every 300 seconds, at the boundary."""
    first = 1_700_000_000 // 300 * 300
    buckets: list[int] = []
    for start in range(first, first + 1_000_200, CHUNK):
        buckets.extend(bucket_of_many(range(start, min(start + CHUNK, first + 1_000_200))))
    assert [bucket for bucket in range(first // 300, first // 300 + 3334) for _ in range(300)] == buckets


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1))
def test_every_boundary_is_exact(time, width_s):
    """B5: the first second of a bucket is in it, the last too, their neighbours are not."""
    bucket = bucket_of(time, width_s)
    if bucket >= (2**64 - 1) // width_s:
        with pytest.raises(UsageError, match="64 bits"):
            bucket_range(bucket, width_s)
        return
    span = bucket_range(bucket, width_s)
    assert span.first_s <= time < span.end_s
    assert span.end_s - span.first_s == width_s
    assert bucket_of(span.first_s, width_s) == bucket
    assert bucket_of(span.end_s - 1, width_s) == bucket
    assert bucket_of(span.end_s, width_s) == bucket + 1
    if bucket:
        assert bucket_of(span.first_s - 1, width_s) == bucket - 1


@pytest.mark.parametrize("time", [0, 1, 299, 300, 301, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63, 2**64 - 1])
def test_integers_only(time):
    """B5: no float is on the way: times beyond 2^53 are as exact as small ones."""
    assert bucket_of(time) == time // 300


@pytest.mark.parametrize("time", [-1, 2**64, 1.0, 1e9, True, None, "300"])
def test_times_that_are_none_are_refused(time):
    """A float, a negative time and one beyond 64 bits are refused, not rounded."""
    with pytest.raises(UsageError):
        bucket_of(time)
    with pytest.raises(UsageError):
        bucket_of_many([0, time])


@pytest.mark.parametrize("width_s", [0, -300, 2**32, 300.0, True, None])
def test_widths_that_are_none_are_refused(width_s):
    """A width of no seconds, or no integer, is refused."""
    with pytest.raises(UsageError):
        bucket_of(0, width_s)
    with pytest.raises(UsageError):
        bucket_range(0, width_s)


def test_no_times_have_no_buckets():
    """An empty batch is empty; too large a one is refused."""
    assert bucket_of_many([]).tolist() == []
    with pytest.raises(BatchError):
        bucket_of_many(range(65_537))
