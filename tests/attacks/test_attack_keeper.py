"""Attacks on the keeper's folders: keys that were destroyed come back, or somebody else's are taken."""

import pytest

from qflare.errors import KeeperError, QflareError
from qflare.stores.keeper import FileKeeper


@pytest.fixture(name="keeper")
def _keeper(tmp_path):
    return FileKeeper(tmp_path / "lasting", tmp_path / "volatile")


def test_key_put_back_below_the_mark_is_not_used(keeper, tmp_path):
    """A KEK_b that was copied away and put back after its destruction, or that a crash left, is never handed out again."""
    keeper.make_bucket_key(5).wipe()
    path = tmp_path / "volatile" / "kek-b-5"
    copy = path.read_bytes()
    assert 1 == keeper.destroy_bucket_keys(before=6)
    path.write_bytes(copy)
    path.chmod(0o600)
    for call in (keeper.bucket_key, keeper.make_bucket_key):
        with pytest.raises(KeeperError):
            call(5)
    assert 1 == keeper.destroy_bucket_keys(before=6)
    assert not path.exists()


@pytest.mark.parametrize("mark", [b"", b"-1", b"1e9", b"\xc2\xb2"])
def test_mark_that_is_no_number_gives_no_key(keeper, tmp_path, mark):
    """A damaged mark is an error for every call that would rest on it: no key below the true one is made."""
    keeper.make_bucket_key(5).wipe()
    keeper.destroy_bucket_keys(before=6)
    path = tmp_path / "lasting" / "destroyed-before"
    path.write_bytes(mark)
    for call in (
        lambda: keeper.make_bucket_key(5),
        lambda: keeper.bucket_key(7),
        lambda: keeper.destroy_bucket_keys(before=7),
    ):
        with pytest.raises(QflareError):
            call()


def test_leftovers_of_a_crash_hold_no_key_that_is_in_use(keeper, tmp_path):
    """What a crash leaves between writing and linking a key is either not that key, or erased with it."""
    with keeper.make_bucket_key(5) as key, key.view() as view:
        content = bytes(view)
    volatile = tmp_path / "volatile"
    # The crash came after the link and before the first name went.
    (volatile / ".kek-b-5.0011223344556677").hardlink_to(volatile / "kek-b-5")
    keeper.destroy_bucket_keys(before=6)
    assert all(content not in path.read_bytes() for path in volatile.iterdir())
