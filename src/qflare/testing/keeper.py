"""A keeper of sealing keys in memory, for tests."""

from __future__ import annotations

import threading
from typing import Final

from qflare.errors import KeeperError
from qflare.model.mark import HighWaterMark
from qflare.primitives.random import random_secret
from qflare.secret import SecretBytes

_KEY_BYTES: Final = 32


class MemoryKeeper:
    """
    `model.ports.Keeper` in the memory of one process; its workers share the one object.

    It passes the contract of the other keepers; with it go all keys, so that no store outlives it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._long_term: SecretBytes | None = None
        self._keys: dict[int, SecretBytes] = {}
        self._destroyed_before = 0
        self._mark = HighWaterMark()

    def long_term_key(self) -> SecretBytes:
        """Return KEK_L (32 bytes), made at first use; the caller wipes the copy."""
        with self._lock:
            if self._long_term is None:
                self._long_term = random_secret(_KEY_BYTES)
            return SecretBytes.copy_of(self._long_term)

    def make_bucket_key(self, bucket: int) -> SecretBytes:
        """
        Return KEK_b (32 bytes), made if it is absent and was never destroyed.

        Raises:
            KeeperError: the bucket is below the mark, or no bucket.
        """
        with self._lock:
            _require_bucket(bucket)
            if bucket < self._destroyed_before:
                raise KeeperError(f"the key of bucket {bucket} was destroyed and is never made again")
            if bucket not in self._keys:
                self._keys[bucket] = random_secret(_KEY_BYTES)
            return SecretBytes.copy_of(self._keys[bucket])

    def bucket_key(self, bucket: int) -> SecretBytes:
        """
        Return KEK_b; the caller wipes the copy.

        Raises:
            KeeperError: it was destroyed, or never made.
        """
        with self._lock:
            _require_bucket(bucket)
            if bucket not in self._keys:
                raise KeeperError(f"there is no key of bucket {bucket}: it was destroyed, or never made")
            return SecretBytes.copy_of(self._keys[bucket])

    def destroy_bucket_keys(self, *, before: int) -> int:
        """Wipe every KEK_b of buckets below *before*, for good; return how many."""
        with self._lock:
            self._destroyed_before = max(self._destroyed_before, before)
            over = [bucket for bucket in self._keys if bucket < before]
            for bucket in over:
                self._keys.pop(bucket).wipe()
            return len(over)

    def bucket_keys(self) -> tuple[int, ...]:
        """Return the buckets whose KEK_b stands, ascending."""
        with self._lock:
            return tuple(sorted(self._keys))

    def destroyed_before(self) -> int:
        """Return the lowest bucket whose key was not destroyed for good, 0 where none was yet."""
        with self._lock:
            return self._destroyed_before

    def high_water(self) -> HighWaterMark:
        """Return how far a store has come."""
        with self._lock:
            return self._mark

    def raise_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Raise the marks and return those that stand."""
        with self._lock:
            self._mark = self._mark.raised(mark)
            return self._mark

    def replace_high_water(self, mark: HighWaterMark) -> HighWaterMark:
        """Take over the log and database that an operator has accepted; return the marks that stand."""
        with self._lock:
            self._mark = self._mark.replaced(mark)
            return self._mark

    def promise(self) -> str:
        """Say that nothing is promised."""
        return "sealing keys lie in the memory of a test's process: forward secrecy at rest is not promised"

    def wipe(self) -> None:
        """Wipe every key that is held; whatever was sealed under them is lost."""
        with self._lock:
            for key in (*self._keys.values(), *([] if self._long_term is None else [self._long_term])):
                key.wipe()
            self._keys.clear()
            self._long_term = None


def _require_bucket(bucket: int) -> None:
    if bucket < 0:
        raise KeeperError(f"bucket indexes count from 0, got {bucket}")
