"""Every way in which a message can be altered by one bit or cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def flip(message: bytes, bit: int) -> bytes:
    """Return *message* with one bit flipped."""
    place = bit // 8
    return message[:place] + bytes((message[place] ^ 1 << bit % 8,)) + message[place + 1 :]


def every_flip(message: bytes) -> Iterator[bytes]:
    """Yield *message* with each of its bits flipped in turn."""
    return (flip(message, bit) for bit in range(8 * len(message)))


def every_truncation(message: bytes) -> Iterator[bytes]:
    """Yield each prefix of *message* but itself, and *message* with a byte too many."""
    yield from (message[:size] for size in range(len(message)))
    yield message + b"\0"


def batches(messages: Iterator[bytes], count: int) -> Iterator[list[bytes]]:
    """Yield *messages* in lists of at most *count*."""
    batch: list[bytes] = []
    for message in messages:
        batch.append(message)
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch
