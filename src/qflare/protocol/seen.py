"""The hellos that this worker has seen: a bounded memory, no authority against replay (H3; H8 is the authority)."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.model.refusal import Refusal
from qflare.primitives.aead import KEY_BYTES, NONCE_ZERO, AeadKey
from qflare.primitives.columns import shared

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWERS_MAX: Final = 3
"""How often a byte-equal M1 is answered in all."""
OTHERS_MAX: Final = 3
"""How many other M1s with the same `ct_b` are looked at until it is known whose they are."""
CAPACITY_DEFAULT: Final = 65_536
"""Hellos remembered; about 400 bytes each."""
_NAME_BYTES: Final = 64


class _Entry(NamedTuple):
    tag: bytes
    answers: int
    others: int = 0


class SeenHellos:
    """
    Remembers which `ct_b` came with which M1; the oldest entry leaves first.

    Safe to share between the threads of one worker.
    """

    def __init__(self, capacity: int = CAPACITY_DEFAULT) -> None:
        """Remember at most *capacity* hellos, at least 1."""
        self._capacity = max(1, capacity)
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        # From the system, for what `primitives.random` draws is the protocol's own, in an order that vectors fix.
        self._key = AeadKey(os.urandom(KEY_BYTES))

    def __len__(self) -> int:
        """Return how many hellos are remembered."""
        return len(self._entries)

    def has_room_for(self, ciphertext: bytes, message: bytes) -> bool:
        """Return whether *message* with *ciphertext* is worth a look; remember nothing."""
        name = _name(ciphertext)
        with self._lock:
            entry = self._entries.get(name)
        if entry is None:
            return True
        if entry.answers >= ANSWERS_MAX and entry.others >= OTHERS_MAX:
            return False
        return entry.answers < ANSWERS_MAX if entry.tag == self._tags((message,))[0] else entry.others < OTHERS_MAX

    def admit(self, ciphertext: bytes, message: bytes) -> Refusal | None:
        """As `admit_many`, for one."""
        return self.admit_many((ciphertext,), (message,))[0]

    def admit_many(self, ciphertexts: Sequence[bytes], messages: Sequence[bytes]) -> list[Refusal | None]:
        """
        Remember *messages*, one after the other, and return for each None if it is answered, or why it is not.

        `Refusal.DRAWN_TWICE`: the ciphertext came with another message before, which is worth a look at whose it is.

        Called after the tag has opened, so that only who made the ciphertext gets an entry (H3).
        """
        names = [_name(ciphertext) for ciphertext in ciphertexts]
        tags = self._tags(messages)
        with self._lock:
            return [self._admit(name, tag) for name, tag in zip(names, tags, strict=True)]

    def _admit(self, name: bytes, tag: bytes) -> Refusal | None:
        # The caller holds the lock.
        entry = self._entries.get(name)
        if entry is None:
            self._entries[name] = _Entry(tag, 1)
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
            return None
        if entry.tag != tag:
            if entry.others >= OTHERS_MAX:
                return Refusal.SEEN
            self._entries[name] = entry._replace(others=entry.others + 1)
            return Refusal.DRAWN_TWICE
        if entry.answers >= ANSWERS_MAX:
            return Refusal.SEEN
        self._entries[name] = entry._replace(answers=entry.answers + 1)
        return None

    def _tags(self, messages: Sequence[bytes]) -> list[bytes]:
        # Tells M1s apart as H(M1) would: GMAC is a universal hash under this memory's own random key, so that two
        # different M1s agree with probability below 2^-118, and nobody can try, for no tag leaves the worker. That is
        # also why one nonce will do.
        return self._key.seal_many(len(messages), NONCE_ZERO * len(messages), shared(b""), messages)


def _name(ciphertext: bytes) -> bytes:
    # Only a ciphertext that came out of Encaps gets an entry: any other is rejected implicitly, its c1 does not open.
    # 64 bytes of such a one are 46 coefficients that nobody can aim at, so no hash is needed to tell them apart.
    return bytes(ciphertext[:_NAME_BYTES])
