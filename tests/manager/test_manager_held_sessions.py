"""Sessions in a worker's memory: packed, bounded, wiped (manager/held_session.py, manager/key_rows.py)."""

import gc
import threading
import tracemalloc
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from qflare.errors import KeyNotFoundError
from qflare.manager.held_session import ChainId, HeldSession
from qflare.manager.key_rows import BLOCK_ROWS, KeyRows
from qflare.manager.sessions import Sessions
from qflare.manager.settings import ManagerSettings
from qflare.model.session import Session, SessionState
from qflare.secret import SecretBytes

NOW = datetime(2026, 11, 28, 12, 34, 56, 789_012, tzinfo=UTC)


def session_of(number=1, **values):
    terms = {
        "sid": number.to_bytes(16, "big"),
        "tenant_id": b"t" * 16,
        "device_id": f"device-{number}",
        "ref": number.to_bytes(32, "little"),
        "key_version": 1,
        "form": 1,
        "start": 5_931_000,
        "lifetime": 288,
        "policy": 0,
        "state": SessionState.LIVE,
        "epoch": 0,
        "created_at": NOW,
        "log_index": number,
    }
    return Session(**(terms | values))


def key_of(number):
    return memoryview(bytearray(number.to_bytes(8, "big") * 8))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"device_id": "ü" * 127 + "x", "created_at": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)},
        {
            "key_version": 2**32 - 1,
            "form": 2,
            "start": 2**40,
            "lifetime": 1,
            "policy": 2**32 - 1,
            "epoch": 2**32 - 1,
            "log_index": 2**63 - 1,
            "created_at": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        },
        *({"state": state} for state in SessionState),
    ],
)
def test_terms_come_out_as_they_went_in(values):
    """Packed terms give back the same session, whatever stands in it."""
    session = session_of(**values)
    held = HeldSession(session, KeyRows(64))
    held.share({})
    assert session == held.session
    assert (session.start, session.last_bucket, session.epoch) == (held.start, held.last_bucket, held.epoch)
    assert held.is_of(session.tenant_id, session.ref)
    assert not held.is_of(bytes(16), session.ref)
    assert not held.is_of(session.tenant_id, bytes(32))


def test_noted_terms_replace_the_old_ones_and_keys_stay():
    """What the database has now is what is told, with the keys that are held."""
    rows = KeyRows(64)
    held = HeldSession(session_of(), rows)
    held.keep(ChainId(0, 7), key_of(7))
    newer = session_of(epoch=1, state=SessionState.SUPERSEDED)
    held.note(newer)
    assert newer == held.session
    assert key_of(7) == held.key(ChainId(0, 7))


def test_keys_are_told_apart_by_epoch_and_bucket():
    """Each key is found by its own epoch and bucket, the nearest within its epoch alone."""
    rows = KeyRows(64)
    held = HeldSession(session_of(), rows)
    for number, its in enumerate([(0, 5), (0, 7), (1, 6)]):
        held.keep(ChainId(*its), key_of(number))
    held.keep(ChainId(0, 7), key_of(99))
    assert [key_of(0), key_of(1), key_of(2)] == [held.key(ChainId(*its)) for its in [(0, 5), (0, 7), (1, 6)]]
    assert (5, 7, 6, None) == tuple(held.nearest(ChainId(*its)) for its in [(0, 6), (0, 9), (1, 9), (1, 5)])
    assert (5, 6, None) == (held.lowest(0), held.lowest(1), held.lowest(2))
    assert held.wipe_before(7)
    assert [(0, 7)] == held.chain_ids
    with pytest.raises(KeyNotFoundError):
        held.key(ChainId(0, 5))
    assert not held.wipe_before(8)
    assert 0 == len(rows)


@pytest.mark.parametrize("how", ["wipe", "wipe_before", "collected", "in a cycle"])
def test_keys_are_zero_once_they_are_given_up(how):
    """The memory of a key is zero as soon as its session wipes it, or nobody has the session any more."""
    rows = KeyRows(64)
    held = HeldSession(session_of(), rows)
    held.keep(ChainId(0, 7), key_of(7))
    seen = held.key(ChainId(0, 7))
    assert any(seen)
    if how == "wipe":
        held.wipe()
    elif how == "wipe_before":
        held.wipe_before(8)
    elif how == "in a cycle":
        cycle = [held]
        cycle.append(cycle)
        del held, cycle
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
    else:
        del held
    assert not any(seen)
    assert 0 == len(rows)


def test_a_key_that_is_given_back_is_another_ones_room():
    """Rows are used again, never two keys at once in one; blocks go when they are empty, all but one."""
    rows = KeyRows(64)
    taken = {rows.take(key_of(number)): number for number in range(3 * BLOCK_ROWS)}
    assert 3 * BLOCK_ROWS == len(taken) == len(rows)
    assert 3 * BLOCK_ROWS * 64 == rows.size_bytes
    odd = [row for row, number in taken.items() if number % 2]
    for row in odd:
        rows.give_back(row)
        del taken[row]
    assert len(taken) == len(rows)
    for number in range(5000, 5000 + len(odd)):
        row = rows.take(key_of(number))
        assert row not in taken
        taken[row] = number
    assert 3 * BLOCK_ROWS * 64 == rows.size_bytes
    assert all(key_of(number) == rows.view(row) for row, number in taken.items())
    for row in taken:
        rows.give_back(row)
    assert 0 == len(rows)
    assert BLOCK_ROWS * 64 == rows.size_bytes
    assert not any(rows.view(0))


def test_what_is_given_leaves_its_owner_his_own():
    """A row is a copy: what its giver wipes stays in the row, and a session without keys has no row."""
    rows = KeyRows(64)
    with SecretBytes(bytearray(b"k" * 64)) as key:
        row = rows.take(key.view())
    assert b"k" * 64 == rows.view(row)


def sessions_holding(count, capacity):
    sessions = Sessions(
        store=None,
        buckets=SimpleNamespace(listeners=[]),
        offload=None,
        settings=ManagerSettings(sessions_cached_max=capacity),
    )
    for number in range(1, count + 1):
        held = HeldSession(session_of(number, created_at=NOW + timedelta(seconds=number)), sessions._rows)
        held.share(sessions._shared)
        held.keep(ChainId(0, 5_931_000), key_of(number))
        sessions._keep(held)
    return sessions


def test_what_was_used_longest_ago_goes_first():
    """Beyond the bound the sessions go that nobody asked for; a batch that has one of them keeps its key."""
    sessions = sessions_holding(20, 16)
    under_way = sessions._held[session_of(2).sid]
    sessions._keep(sessions._held[session_of(1).sid])
    sessions._evict()
    assert [*range(6, 21), 1] == [int.from_bytes(sid, "big") for sid in sessions._held]
    assert key_of(2) == under_way.key(ChainId(0, 5_931_000))
    assert 17 == len(sessions._rows)
    del under_way
    assert 16 == len(sessions._rows)


def test_a_live_session_takes_few_bytes():
    """A session with one chain key takes at most 600 bytes of a worker's memory, its name included."""
    count = 4096
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        sessions = sessions_holding(count, count)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(sessions)
    assert (after - before) / count <= 600


def test_a_name_that_shows_across_two_keys_is_no_key():
    """Keys are found by whole entries: the end of one and the beginning of the next make no third."""
    rows = KeyRows(64)
    held = HeldSession(session_of(), rows)
    # Entries are epoch, bucket and row, big-endian: here the second half of each is the first half of the other's name.
    held.keep(ChainId(0, 0), key_of(1))
    held.keep(ChainId(0, 1), key_of(2))
    held.keep(ChainId(1, 0), key_of(3))
    packed = held._keys
    for at in range(1, len(packed) - 12):
        if at % 16:
            wanted = ChainId(
                int.from_bytes(packed[at : at + 4], "big"), int.from_bytes(packed[at + 4 : at + 12], "big")
            )
            if wanted not in held.chain_ids:
                assert held.find_key(wanted) is None
    assert [key_of(1), key_of(2), key_of(3)] == [held.key(its) for its in held.chain_ids]
