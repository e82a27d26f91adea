"""What every keeper promises, asked of each."""

import functools
import multiprocessing
import threading
import time

import pytest

from qflare.errors import KeeperError
from qflare.stores.keeper import FileKeeper
from qflare.stores.keeper.pkcs11 import Pkcs11Keeper
from qflare.testing import MemoryKeeper
from softhsm import soft_token  # noqa: F401 - a fixture


def content(key):
    with key, key.view() as view:
        return bytes(view)


def patiently(call):
    """Call, and again while a keeper under this load refuses to wait longer than its second, as its users do."""
    end = time.monotonic() + 50
    while True:
        try:
            return call()
        except KeeperError as error:
            if time.monotonic() > end or not ("does not release" in str(error) or "in time" in str(error)):
                raise


def open_keeper(kind, place, uri):
    return FileKeeper(place / "lasting", place / "volatile") if kind == "file" else Pkcs11Keeper(uri, place / "lasting")


@pytest.fixture(params=["file", "pkcs11", "memory"])
def opener(request, tmp_path):
    """Opens keepers of one place, as several workers do."""
    if request.param == "memory":
        shared = MemoryKeeper()
        return lambda: shared
    uri = request.getfixturevalue("soft_token").uri() if request.param == "pkcs11" else None
    return lambda: open_keeper(request.param, tmp_path, uri)


@pytest.fixture
def keeper(opener):
    return opener()


def test_the_long_term_key_lasts(keeper, opener):
    """KEK_L is made once, has 32 bytes, and every keeper of the place gets it."""
    key = content(keeper.long_term_key())
    assert 32 == len(key)
    assert key != bytes(32)
    assert key == content(keeper.long_term_key()) == content(opener().long_term_key())


def test_bucket_keys_are_distinct_and_shared(keeper, opener):
    """Each bucket has its own key, the same for all workers, and none is KEK_L."""
    keys = [content(keeper.make_bucket_key(bucket)) for bucket in range(8)]
    assert 9 == len({*keys, content(keeper.long_term_key())})
    other = opener()
    assert keys == [content(other.make_bucket_key(bucket)) for bucket in range(8)]
    assert keys[3] == content(other.bucket_key(3))


def test_asking_makes_no_key(keeper):
    """A bucket key that was never made is an error, again and again; so is a number below zero."""
    for _ in range(2):
        with pytest.raises(KeeperError, match="no key of bucket 7"):
            keeper.bucket_key(7)
    for call in (keeper.bucket_key, keeper.make_bucket_key):
        with pytest.raises(KeeperError, match="count from 0"):
            call(-1)


def test_a_destroyed_key_is_gone_and_never_made_again(keeper, opener):
    """Destruction holds for every keeper of the place and for buckets that never had a key."""
    for bucket in (3, 4, 5):
        keeper.make_bucket_key(bucket).wipe()
    kept = content(keeper.bucket_key(5))
    lasting = content(keeper.long_term_key())
    assert 2 == keeper.destroy_bucket_keys(before=5)
    assert 0 == keeper.destroy_bucket_keys(before=5)
    for other in (keeper, opener()):
        for bucket in (0, 3, 4):
            with pytest.raises(KeeperError, match="never made again"):
                other.make_bucket_key(bucket)
            with pytest.raises(KeeperError):
                other.bucket_key(bucket)
        assert kept == content(other.bucket_key(5))
        assert lasting == content(other.long_term_key())
        assert 0 == other.destroy_bucket_keys(before=4)
        with pytest.raises(KeeperError, match="never made again"):
            other.make_bucket_key(4)


def test_the_keys_that_stand_are_listed(keeper, opener):
    """Every keeper of the place lists the buckets whose keys stand; looking makes none, and KEK_L is none of them."""
    assert () == keeper.bucket_keys()
    keeper.long_term_key().wipe()
    for bucket in (12, 3, 5):
        keeper.make_bucket_key(bucket).wipe()
    assert (3, 5, 12) == keeper.bucket_keys() == opener().bucket_keys()
    keeper.destroy_bucket_keys(before=6)
    assert (12,) == opener().bucket_keys()


def test_a_wiped_copy_leaves_the_key(keeper):
    """Each call returns a copy that the caller owns."""
    keeper.make_bucket_key(1).wipe()
    assert bytes(32) != content(keeper.bucket_key(1)) == content(keeper.bucket_key(1))


def test_threads_that_race_with_destruction_get_a_key_or_an_error(keeper):
    """Making and destroying at once never hands out a key of a destroyed bucket afterwards."""
    keys = {}

    def make():
        for bucket in range(12):
            try:
                made = content(keeper.make_bucket_key(bucket))
            except KeeperError:
                continue
            assert keys.setdefault(bucket, made) == made

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for before in range(0, 9, 4):
        patiently(functools.partial(keeper.destroy_bucket_keys, before=before))
    for thread in threads:
        thread.join()
    keeper.destroy_bucket_keys(before=12)
    for bucket in range(12):
        with pytest.raises(KeeperError):
            keeper.bucket_key(bucket)


def _make(kind, place, uri, queue):
    keeper = patiently(lambda: open_keeper(kind, place, uri))
    keys = [patiently(keeper.long_term_key)]
    keys += [patiently(functools.partial(keeper.make_bucket_key, bucket)) for bucket in range(10)]
    queue.put([content(key) for key in keys])


@pytest.mark.parametrize("kind", ["file", "pkcs11"])
def test_processes_that_race_get_the_same_keys(kind, tmp_path, request):
    """Workers of one place that need a key at once, KEK_L included, all get one."""
    uri = request.getfixturevalue("soft_token").uri() if kind == "pkcs11" else None
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_make, args=(kind, tmp_path, uri, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        worker.close()
    queue.close()
    queue.join_thread()
    assert answers[0] == answers[1]
