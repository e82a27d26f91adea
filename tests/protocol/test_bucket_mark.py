"""The clock rule A2: buckets under clocks that jump both ways."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare.errors import UsageError
from qflare.protocol.bucket_mark import BucketMark

WIDTH_S = 300
START_S = 1_000 * WIDTH_S
NS = 1_000_000_000


class Clocks:
    """A wall clock that can be set, and a monotonic one that only passes."""

    def __init__(self, wall_s=START_S, monotonic_s=5_000):
        self.wall_s, self.monotonic_s = wall_s, monotonic_s

    def mark(self, mark=0, width_s=WIDTH_S):
        return BucketMark(width_s=width_s, mark=mark, now_s=self.wall_s, monotonic_ns=self.monotonic_s * NS)

    def tick(self, mark):
        return mark.tick(now_s=self.wall_s, monotonic_ns=self.monotonic_s * NS)

    def sleep(self, seconds, mark=None):
        """Let time pass; with *mark*, tick every second."""
        for _ in range(seconds):
            self.wall_s += 1
            self.monotonic_s += 1
            if mark is not None:
                self.tick(mark)


def test_bucket_follows_a_good_clock():
    """With a good clock, b is floor(time / width) at every second."""
    clocks = Clocks()
    mark = clocks.mark(1_000)
    for _ in range(3 * WIDTH_S):
        tick = clocks.tick(mark)
        assert (tick.bucket, tick.is_behind, tick.held_buckets) == (clocks.wall_s // WIDTH_S, False, 0)
        clocks.sleep(1)


@pytest.mark.parametrize("back_s", [11, WIDTH_S + 11, 100 * WIDTH_S, START_S])
def test_clock_that_goes_back_turns_no_bucket_back(back_s):
    """Behind the mark, buckets go on by elapsed time: none is repeated, and keys still die."""
    clocks = Clocks()
    mark = clocks.mark(1_000)
    clocks.sleep(10, mark)
    clocks.wall_s -= back_s
    buckets = []
    for _ in range(10, 3 * WIDTH_S):
        buckets.append(clocks.tick(mark).bucket)
        clocks.sleep(1)
    if back_s > WIDTH_S:
        assert buckets == [1_000 + passed // WIDTH_S for passed in range(10, 3 * WIDTH_S)]
        assert clocks.tick(mark).is_behind
    else:
        # The clock is 1 s behind: at the next boundary it is in the marked bucket again, and the wall clock counts.
        assert buckets == [1_000 + max(0, passed - back_s) // WIDTH_S for passed in range(10, 3 * WIDTH_S)]


@pytest.mark.parametrize("stuck_at", [0, 1, WIDTH_S - 1])
def test_clock_that_stands_still_keeps_no_key_alive(stuck_at):
    """A wall clock that never moves on is overruled when a bucket has lasted a whole width too long."""
    clocks = Clocks(wall_s=START_S + stuck_at)
    mark = clocks.mark(1_000)
    seen = {}
    for _ in range(6 * WIDTH_S):
        clocks.monotonic_s += 1
        seen.setdefault(clocks.tick(mark).bucket, clocks.monotonic_s)
    entered = list(seen.values())
    assert list(seen) == list(range(1_000, 1_000 + len(seen)))
    assert all(later - earlier <= 2 * WIDTH_S for earlier, later in pairwise(entered))
    assert len(seen) >= 5


def test_clock_that_comes_back_is_followed_again():
    """After a step back that was corrected, b is the wall clock's again."""
    clocks = Clocks()
    mark = clocks.mark(1_000)
    clocks.wall_s -= 50 * WIDTH_S
    clocks.sleep(WIDTH_S, mark)
    assert clocks.tick(mark).is_behind
    clocks.wall_s += 50 * WIDTH_S
    tick = clocks.tick(mark)
    assert (tick.bucket, tick.is_behind, tick.held_buckets) == (1_001, False, 0)


@pytest.mark.parametrize("ahead", [2, 3, 1_000, 10**9])
def test_clock_that_jumps_ahead_is_held(ahead):
    """More than 2 above the mark is not published: buckets go on by elapsed time, and the jump is an alarm."""
    clocks = Clocks()
    mark = clocks.mark(1_000)
    clocks.wall_s += ahead * WIDTH_S
    for passed in range(2 * WIDTH_S + 1):
        tick = clocks.tick(mark)
        assert tick.bucket == 1_000 + passed // WIDTH_S
        assert tick.held_buckets == clocks.wall_s // WIDTH_S - tick.bucket
        clocks.sleep(1)
    assert not clocks.tick(mark).is_behind


def test_clock_one_bucket_ahead_is_followed():
    """One bucket at a step is the ordinary turn."""
    clocks = Clocks()
    mark = clocks.mark(1_000)
    clocks.wall_s += WIDTH_S
    assert clocks.tick(mark).bucket == 1_001


def test_operator_accepts_a_jump():
    """After an operator's word the clock is followed, and only as far as he said."""
    clocks = Clocks()
    mark = clocks.mark(1_000)
    clocks.wall_s += 500 * WIDTH_S
    assert clocks.tick(mark).held_buckets == 500
    mark.accept_jump(1_400)
    assert clocks.tick(mark).bucket == 1_000
    mark.accept_jump(1_500)
    assert clocks.tick(mark).bucket == 1_500
    clocks.wall_s += 500 * WIDTH_S
    assert clocks.tick(mark).bucket == 1_500


def test_late_tick_catches_up():
    """A process that slept over buckets goes on where the clocks agree that it is, with no operator."""
    clocks = Clocks()
    mark = clocks.mark(1_000)
    clocks.sleep(7 * WIDTH_S)
    assert clocks.tick(mark).bucket == 1_007


@pytest.mark.parametrize(
    ("stored", "expected", "step"), [(0, 1_000, 0), (999, 1_000, 1), (400, 1_000, 600), (1_200, 1_200, 0)]
)
def test_start_takes_a_larger_step(stored, expected, step):
    """At start-up a larger step is taken, and how large it was is said; a clock behind the mark does not turn it back."""
    mark = Clocks().mark(stored)
    assert (mark.mark, mark.startup_step) == (expected, step)


def test_start_behind_the_mark_goes_on_by_elapsed_time():
    """A server that starts with its clock behind still lets its buckets end."""
    clocks = Clocks()
    mark = clocks.mark(1_200)
    clocks.sleep(WIDTH_S - 1)
    assert clocks.tick(mark).bucket == 1_200
    clocks.sleep(1)
    assert clocks.tick(mark).bucket == 1_201


def test_mark_of_another_worker_is_taken_over():
    """A higher mark in the database is followed, a lower one changes nothing."""
    clocks = Clocks()
    mark = clocks.mark(1_000)
    mark.raise_to(900, monotonic_ns=0)
    assert mark.mark == 1_000
    mark.raise_to(1_003, monotonic_ns=clocks.monotonic_s * NS)
    assert clocks.tick(mark).bucket == 1_003
    clocks.sleep(WIDTH_S, mark)
    assert clocks.tick(mark).bucket == 1_004


@given(
    st.lists(st.tuples(st.integers(-(10**7), 10**7), st.integers(0, 2_000)), max_size=40),
    st.integers(1, 1_000),
)
def test_bucket_never_falls_and_never_stands_still(steps, width_s):
    """For any jumps: b never falls, goes at most one above what the elapsed time explains, and keys die in time."""
    clocks = Clocks()
    mark = clocks.mark(0, width_s)
    previous, previous_s = mark.mark, clocks.monotonic_s
    for jump_s, passed_s in steps:
        clocks.wall_s = max(0, clocks.wall_s + jump_s + passed_s)
        clocks.monotonic_s += passed_s
        bucket = clocks.tick(mark).bucket
        elapsed = clocks.monotonic_s - previous_s
        assert previous <= bucket <= previous + elapsed // width_s + 2
        if bucket > previous:
            previous, previous_s = bucket, clocks.monotonic_s
        else:
            # A bucket lasts two widths at most, whatever the wall clock does.
            assert elapsed < 2 * width_s


@pytest.mark.parametrize("changes", [{"width_s": 0}, {"mark": -1}, {"now_s": -1}, {"width_s": 2**32}])
def test_impossible_numbers_are_the_callers_mistake(changes):
    """A width or mark that cannot be is refused."""
    with pytest.raises(UsageError):
        BucketMark(**({"width_s": 300, "mark": 0, "now_s": 0, "monotonic_ns": 0} | changes))
