"""Against other libraries."""

from __future__ import annotations

import time

import operations
import peers
import pytest

pytestmark = pytest.mark.benchmark(timer=time.thread_time)

WHOLE_BATCH = 256


@pytest.fixture(params=peers.NAMES)
def peer(request) -> str:
    """A library that is at hand; the table says which are not."""
    absent = peers.absence(request.param)
    if absent:
        pytest.skip(f"{request.param}: {absent}")
    return request.param


def test_which_peers(bench):
    """The table names the libraries that were at hand, and those that were not."""
    bench.once(lambda: bench.machine(peers=[peers.said_of(name) for name in peers.NAMES]))


@pytest.mark.parametrize("operation", operations.NAMES)
def test_batch(bench, peer, operation):
    """A batch of 256 costs less than the other library's calls."""
    _compare(bench, peer, operation, operations.batch(operation, WHOLE_BATCH), f"batch of {WHOLE_BATCH}")


@pytest.mark.parametrize("operation", operations.NAMES)
def test_single_call(bench, peer, operation):
    """One call costs less than the other library's."""
    _compare(bench, peer, operation, operations.single(operation), "one call")


def _compare(bench, peer: str, operation: str, work, how: str) -> None:
    rounds = bench.interleave(work, peers.works(peer)[operation], block_s=operations.block_s(operation))
    bench.faster_than(f"{operations.NAMES[operation]}, {how}", rounds, peer, 1, is_mean=operation == "sign")
