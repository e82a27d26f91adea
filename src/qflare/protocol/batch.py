"""Rows of a batch that go on when others were refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import BatchError
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGE_BYTES: Final = 512


def split_rows(rows: bytes | bytearray | memoryview, width: int) -> list[bytes]:
    """Return public *rows* as a list of rows of *width* bytes."""
    if width >= _LARGE_BYTES and type(rows) is not bytes:
        # A view of a large row costs less than the copy of all that a small one is cut from.
        view = memoryview(rows)
        return [bytes(view[start : start + width]) for start in range(0, len(view), width)]
    whole = bytes(rows)
    return [whole[start : start + width] for start in range(0, len(whole), width)]


def gather(rows: bytes | bytearray, width: int, keep: Sequence[int]) -> bytes:
    """Return the rows *keep* of public *rows*, *width* bytes each, in that order; ascending, none twice."""
    if len(keep) * width == len(rows):
        return bytes(rows)
    return b"".join([rows[place * width : (place + 1) * width] for place in keep])


def gather_secret(rows: SecretBytes, width: int, keep: Sequence[int]) -> SecretBytes:
    """Copy the rows *keep* of *rows* into a secret of its own; *rows* stays the caller's."""
    kept = SecretBytes.zeros(len(keep) * width)
    with rows.view() as source, kept.view() as target:
        if len(target) == len(source):
            target[:] = source
            return kept
        for row, place in enumerate(keep):
            target[row * width : (row + 1) * width] = source[place * width : (place + 1) * width]
    return kept


def keep_secret(rows: SecretBytes, width: int, keep: Sequence[int]) -> SecretBytes:
    """Return a secret of the rows *keep* of *rows*, which becomes the caller's: itself if all are kept, or is wiped."""
    if len(keep) * width == len(rows):
        return rows
    with rows:
        return gather_secret(rows, width, keep)


def require_same_count(name: str, actual: int, expected: int) -> None:
    """
    Check that a column of a call has a value for every item.

    Raises:
        BatchError: it has not.
    """
    if actual != expected:
        message = f"{name} has {actual} items, the batch has {expected}"
        raise BatchError(message)
