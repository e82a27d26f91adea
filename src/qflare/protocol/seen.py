"""The hellos that this worker has seen: a bounded memory, no authority against replay (H3; H8 is the authority)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

ANSWERS_MAX: Final = 3
"""How often a byte-equal M1 is answered in all."""
CAPACITY_DEFAULT: Final = 65_536
"""Hellos remembered; about 400 bytes each."""
_NAME_BYTES: Final = 64


@dataclass(slots=True)
class _Entry:
    digest: bytes
    answers: int


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

    def __len__(self) -> int:
        """Return how many hellos are remembered."""
        return len(self._entries)

    def has_room_for(self, ciphertext: bytes, message: bytes) -> bool:
        """Return whether *message* with *ciphertext* could still be answered; remember nothing."""
        with self._lock:
            entry = self._entries.get(_name(ciphertext))
            if entry is None:
                return True
            digest, answers = entry.digest, entry.answers
        return answers < ANSWERS_MAX and digest == _digest(message)

    def admit(self, ciphertext: bytes, message: bytes) -> bool:
        """
        Remember *message* and return whether it is answered.

        Called after the tag has opened, so that only who made the ciphertext gets an entry (H3).
        """
        name, digest = _name(ciphertext), _digest(message)
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                self._entries[name] = _Entry(digest, 1)
                if len(self._entries) > self._capacity:
                    self._entries.popitem(last=False)
                return True
            if entry.digest != digest or entry.answers >= ANSWERS_MAX:
                return False
            entry.answers += 1
            return True


def _name(ciphertext: bytes) -> bytes:
    # Only a ciphertext that came out of Encaps gets an entry: any other is rejected implicitly, its c1 does not open.
    # 64 bytes of such a one are 46 coefficients that nobody can aim at, so no hash is needed to tell them apart.
    return bytes(ciphertext[:_NAME_BYTES])


def _digest(data: bytes) -> bytes:
    # Never leaves this worker, so it need not be the protocol's H; processors have SHA-256 built in.
    return sha256(data).digest()
