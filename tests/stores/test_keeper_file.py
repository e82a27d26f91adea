import fcntl
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from qflare.errors import ConfigError, KeeperError, StoreError
from qflare.secret import SecretBytes
from qflare.stores.keeper import FileKeeper
from qflare.stores.keeper.folder import TURN_NAME, KeeperFolder
from qflare.stores.keeper.medium import file_system_of


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "lasting", tmp_path / "volatile"


@pytest.fixture
def keeper(folders):
    return FileKeeper(*folders)


def content(key: SecretBytes) -> bytes:
    with key, key.view() as view:
        return bytes(view)


def test_the_long_term_key_lasts(keeper, folders):
    """KEK_L is made once, has 32 bytes and mode 0600, and every keeper of the folder gets it."""
    key = content(keeper.long_term_key())
    assert 32 == len(key)
    assert key == content(keeper.long_term_key()) == content(FileKeeper(*folders).long_term_key())
    assert 0o600 == (folders[0] / "kek-l").stat().st_mode & 0o777


def test_bucket_keys_are_distinct_and_shared(keeper, folders):
    """Each bucket has its own key, the same for all workers."""
    keys = [content(keeper.make_bucket_key(bucket)) for bucket in range(20)]
    assert 20 == len(set(keys))
    other = FileKeeper(*folders)
    assert keys == [content(other.make_bucket_key(bucket)) for bucket in range(20)]
    assert keys[3] == content(other.bucket_key(3))


def test_a_bucket_key_that_was_never_made_is_an_error(keeper):
    """Asking for a key does not make one."""
    with pytest.raises(KeeperError, match="no key of bucket 7"):
        keeper.bucket_key(7)
    with pytest.raises(KeeperError):
        keeper.bucket_key(7)


def test_a_destroyed_key_is_gone_and_never_made_again(keeper, folders):
    """Destruction holds for every keeper of the folder and for buckets that never had a key."""
    for bucket in (3, 4, 5):
        keeper.make_bucket_key(bucket).wipe()
    assert 2 == keeper.destroy_bucket_keys(before=5)
    assert 0 == keeper.destroy_bucket_keys(before=5)
    other = FileKeeper(*folders)
    for bucket in (0, 3, 4):
        with pytest.raises(KeeperError, match="never made again"):
            other.make_bucket_key(bucket)
        with pytest.raises(KeeperError):
            other.bucket_key(bucket)
    other.bucket_key(5).wipe()
    assert 0 == other.destroy_bucket_keys(before=4)
    with pytest.raises(KeeperError, match="never made again"):
        other.make_bucket_key(4)


def test_a_destroyed_key_was_overwritten_in_place(keeper, folders):
    """Whoever still holds the file open, or another name of it, reads zeros."""
    key = content(keeper.make_bucket_key(3))
    path = folders[1] / "kek-b-3"
    os.link(path, folders[1] / "another-name")
    with path.open("rb") as held:
        assert key == held.read()
        keeper.destroy_bucket_keys(before=4)
        held.seek(0)
        assert bytes(32) == held.read()
    assert bytes(32) == (folders[1] / "another-name").read_bytes()


def test_the_mark_outlives_the_memory(keeper, folders):
    """After a restart of the machine, which empties the memory, no destroyed bucket gets a new key."""
    keeper.make_bucket_key(3).wipe()
    keeper.destroy_bucket_keys(before=9)
    for path in folders[1].iterdir():
        path.unlink()
    folders[1].rmdir()
    with pytest.raises(KeeperError, match="never made again"):
        FileKeeper(*folders).make_bucket_key(8)


def test_a_crash_between_mark_and_removal_is_finished_by_the_next_call(keeper, folders):
    """A key below the mark whose file still lies there is not handed out, and goes."""
    keeper.make_bucket_key(3).wipe()
    (folders[0] / "destroyed-before").write_text("9")
    (folders[0] / "destroyed-before").chmod(0o600)
    with pytest.raises(KeeperError, match="never made again"):
        keeper.make_bucket_key(3)
    assert 1 == keeper.destroy_bucket_keys(before=9)


def _make(folders, buckets, queue):
    keeper = FileKeeper(*folders)
    queue.put([content(keeper.make_bucket_key(bucket)) for bucket in buckets])


def test_processes_that_race_get_the_same_keys(folders):
    """Workers that need a bucket's key at once all get one."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_make, args=(folders, range(30), queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        worker.close()
    queue.close()
    queue.join_thread()
    assert answers[0] == answers[1] == answers[2]


def test_who_releases_the_lock_and_wants_it_again_stands_behind_who_waits(folders):
    """A worker that asks for it in a loop starves nobody, however long the others sleep between two looks at it."""
    first, second = KeeperFolder(folders[0]), KeeperFolder(folders[0])
    order = []

    def wait_and_take():
        with second.locked(timeout_s=60):
            order.append("second")

    waiting = threading.Thread(target=wait_and_take)
    with first.locked():
        waiting.start()
        with (first.path / TURN_NAME).open("rb") as turn:
            while is_free(turn):
                time.sleep(0.001)
    with first.locked(timeout_s=60):
        order.append("first")
    waiting.join()
    assert ["second", "first"] == order


def is_free(file):
    """Say whether nobody holds the lock on a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def test_threads_that_race_with_destruction_get_a_key_or_an_error(keeper):
    """Making and destroying at once never hands out a key of a destroyed bucket afterwards."""
    outcomes = []

    def make():
        for bucket in range(40):
            try:
                keeper.make_bucket_key(bucket).wipe()
            except KeeperError:
                outcomes.append(bucket)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for before in range(0, 41, 5):
        keeper.destroy_bucket_keys(before=before)
    for thread in threads:
        thread.join()
    keeper.destroy_bucket_keys(before=40)
    assert [] == [path.name for path in keeper.volatile_dir.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_damaged_key_file_is_an_error(keeper, folders, size):
    """A key file of another size is named, and nothing replaces it."""
    path = folders[1] / "kek-b-3"
    path.write_bytes(b"x" * size)
    path.chmod(0o600)
    with pytest.raises(KeeperError, match="damaged"):
        keeper.make_bucket_key(3)
    assert size == path.stat().st_size


def test_a_key_file_that_others_may_read_is_refused(keeper, folders):
    """A key that was open to others is not used."""
    keeper.make_bucket_key(3).wipe()
    (folders[1] / "kek-b-3").chmod(0o644)
    with pytest.raises(KeeperError, match="this user alone"):
        keeper.bucket_key(3)


def test_links_are_not_followed(keeper, folders, tmp_path):
    """A link in the place of a key, a mark or a folder is refused."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"x" * 32)
    elsewhere.chmod(0o600)
    (folders[1] / "kek-b-3").symlink_to(elsewhere)
    with pytest.raises(KeeperError):
        keeper.make_bucket_key(3)
    with pytest.raises(KeeperError):
        keeper.destroy_bucket_keys(before=4)
    assert b"x" * 32 == elsewhere.read_bytes()
    (tmp_path / "link").symlink_to(folders[1])
    with pytest.raises(ConfigError, match="link"):
        FileKeeper(folders[0], tmp_path / "link")


def test_bad_folders_are_refused_with_the_remedy(tmp_path):
    """A missing parent, a file in the place, and a folder open to others are named."""
    with pytest.raises(ConfigError, match="cannot be made"):
        FileKeeper(tmp_path / "absent" / "folder", tmp_path / "volatile")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no folder"):
        FileKeeper(tmp_path / "file", tmp_path / "volatile")
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        FileKeeper(tmp_path / "open", tmp_path / "volatile")


def test_a_damaged_mark_is_an_error(keeper, folders):
    """Nothing is made while it is unknown what was destroyed."""
    (folders[0] / "destroyed-before").write_text("x")
    (folders[0] / "destroyed-before").chmod(0o600)
    with pytest.raises(KeeperError, match="damaged"):
        keeper.make_bucket_key(3)


def test_a_lasting_medium_voids_the_promise(keeper, tmp_path):
    """On a disk the keeper says that destroyed keys may remain."""
    if file_system_of(tmp_path) == "tmpfs":
        pytest.skip("the temporary folder lies in memory")
    assert "forward secrecy" in keeper.promise()


def test_the_default_folder_lies_in_memory(tmp_path):
    """By default bucket keys lie in a 0700 folder of /dev/shm, one for each data folder."""
    if not Path("/dev/shm").is_dir() or file_system_of(Path("/dev/shm")) != "tmpfs":  # noqa: S108
        pytest.skip("no /dev/shm in memory here")
    one, two = FileKeeper(tmp_path / "one"), FileKeeper(tmp_path / "two")
    try:
        assert one.volatile_dir != two.volatile_dir
        assert 0o700 == one.volatile_dir.stat().st_mode & 0o777
        swap = Path("/proc/swaps").read_text().count("\n") > 1
        assert (one.promise() is None) != swap
    finally:
        one.volatile_dir.rmdir()
        two.volatile_dir.rmdir()


def test_no_error_holds_a_key(keeper, folders):
    """Keeper errors are store errors and say nothing of what a file holds."""
    path = folders[1] / "kek-b-3"
    path.write_bytes(b"canary" * 9)
    path.chmod(0o600)
    with pytest.raises(StoreError) as caught:
        keeper.bucket_key(3)
    assert "canary" not in repr(caught.value) + str(caught.value)
