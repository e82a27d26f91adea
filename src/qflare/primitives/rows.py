"""
Rows: n values of one size behind each other, the shape in which every batch travels.

A batch is given either as one C-contiguous buffer of ``n x size`` bytes (bytes, bytearray, memoryview, a numpy array,
`SecretBytes`) or as a sequence of n buffers of *size* bytes.  The first form is never copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, final

from qflare._native.border import BATCH_MAX
from qflare.errors import BatchError, LengthError, UsageError
from qflare.secret import SecretBytes, zeroize

_NUMBER_FORMATS: Final = frozenset("bBcehHiIlLqQfd")

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Readable: TypeAlias = Buffer | SecretBytes
    RowsLike: TypeAlias = Readable | Sequence[Readable]


def as_view(buffer: Readable, *, name: str = "buffer") -> memoryview:
    """
    View *buffer* as one row of bytes, without a copy.

    The view of a `SecretBytes` must not outlive it: the secret wipes itself when it is collected.

    Raises:
        UsageError: *buffer* is no buffer, or not C-contiguous.
    """
    view = memoryview(buffer) if type(buffer) is bytes else _try_view(buffer, name)
    if view is None:
        message = f"{name} must be bytes or another buffer, got {type(buffer).__name__}"
        raise UsageError(message)
    return view


def as_buffer(buffer: Readable, *, name: str = "buffer") -> bytes | SecretBytes | memoryview:
    """
    Return `bytes` and `SecretBytes` as they are, anything else as `as_view` does: the cheap form for the C border.

    Raises:
        UsageError: as `as_view`.
    """
    return buffer if type(buffer) is bytes or type(buffer) is SecretBytes else as_view(buffer, name=name)


def as_rows(rows: RowsLike, size: int, *, name: str, count: int | None = None) -> memoryview:
    """
    Return *rows* as one contiguous view of ``n x size`` bytes.

    Only a sequence is copied; for sequences of secrets use `lent_rows`, which wipes that copy.

    Args:
        rows: ``n x size`` bytes, or a sequence of n buffers of *size* bytes.
        size: Bytes a row.
        name: What the rows are, for the error.
        count: The n that the other arguments of the call have, if known.

    Raises:
        LengthError: the total is no multiple of *size*, or a row of a sequence has another size.
        BatchError: there are not *count* rows, or a sequence has more than a call takes.
    """
    return _gathered(rows, size, name, count)[0]


@final
class lent_rows:  # noqa: N801  # used as a verb: with lent_rows(...) as view
    """
    Lend *rows* as `as_rows` does, and wipe the copy that a sequence needed at the end of the block.

    Raises:
        LengthError: as `as_rows`.
        BatchError: as `as_rows`.
    """

    # WHY a class and not a generator: entering a generator costs as much as a derivation.
    __slots__ = ("_copy", "_view")

    def __init__(self, rows: RowsLike, size: int, *, name: str, count: int | None = None) -> None:
        """Gather the rows; arguments as `as_rows`."""
        self._view, self._copy = _gathered(rows, size, name, count)

    def __enter__(self) -> memoryview:
        """Lend the rows to a block."""
        return self._view

    def __exit__(self, *_: object) -> None:
        """Wipe what was copied, however the block ended."""
        if self._copy is not None:
            zeroize(self._copy)


def count_rows(rows: RowsLike, size: int, *, name: str) -> int:
    """
    Count the rows of *size* bytes.

    Raises:
        LengthError: the total is no multiple of *size*.
    """
    view = _try_view(rows, name)
    if view is None:
        return len(_as_sequence(rows, name))
    return _whole_rows(view, size, name)


def as_messages(messages: Sequence[Readable], *, name: str, count: int | None = None) -> list[memoryview]:
    """
    View every one of *messages*, which may have any lengths, without a copy.

    Raises:
        UsageError: *messages* is no sequence of buffers; one buffer alone is none.
        BatchError: there are not *count* messages.
    """
    given: object = messages  # callers without a type checker exist
    if not isinstance(given, Sequence) or isinstance(given, (bytes, bytearray, memoryview, str)):
        message = f"{name} must be a sequence of buffers, got {type(messages).__name__}"
        raise UsageError(message)
    if count is not None and len(messages) != count:
        message = f"{name} has {len(messages)} rows, the batch has {count}"
        raise BatchError(message)
    return _views(messages, name)


def one_row(buffer: Readable, size: int, *, name: str) -> memoryview:
    """
    View *buffer*, which is exactly one row of *size* bytes.

    Raises:
        LengthError: it has another size.
    """
    view = as_view(buffer, name=name)
    if len(view) != size:
        raise LengthError(name, expected=size, actual=len(view))
    return view


def row(buffer: Readable, index: int, size: int) -> memoryview:
    """
    View row *index* of *size* bytes.

    Raises:
        BatchError: there is no such row.
    """
    view = as_view(buffer, name="rows")
    if not 0 <= index < len(view) // size:
        message = f"row {index} of {size} bytes is outside {len(view)} bytes"
        raise BatchError(message)
    return view[index * size : (index + 1) * size]


def _gathered(rows: RowsLike, size: int, name: str, count: int | None) -> tuple[memoryview, bytearray | None]:
    view = _try_view(rows, name)
    copy: bytearray | None = None
    if view is None:
        parts = _as_sequence(rows, name)
        if len(parts) > BATCH_MAX:  # before the copy, which could be of any size
            message = f"{name} must be 0 to {BATCH_MAX} rows a call, got {len(parts)}; split the batch"
            raise BatchError(message)
        views = _views(parts, name)
        for index, part_view in enumerate(views):
            if len(part_view) != size:
                label = f"{name}[{index}]"
                raise LengthError(label, expected=size, actual=len(part_view))
        copy = bytearray().join(views)
        view = memoryview(copy)
    found = _whole_rows(view, size, name)
    if count is not None and found != count:
        message = f"{name} has {found} rows of {size} bytes, the batch has {count}"
        raise BatchError(message)
    return view, copy


def _views(parts: Sequence[Readable], name: str) -> list[memoryview]:
    return [
        memoryview(part) if type(part) is bytes else as_view(part, name=f"{name}[{index}]")
        for index, part in enumerate(parts)
    ]


def _whole_rows(view: memoryview, size: int, name: str) -> int:
    if len(view) % size != 0:
        expected = f"a multiple of {size}"
        raise LengthError(name, expected=expected, actual=len(view))
    return len(view) // size


def _as_sequence(rows: object, name: str) -> Sequence[Readable]:
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        return rows
    message = f"{name} must be a buffer or a sequence of buffers, got {type(rows).__name__}"
    raise UsageError(message)


def _try_view(buffer: object, name: str) -> memoryview | None:
    if type(buffer) is bytes:
        return memoryview(buffer)
    if isinstance(buffer, SecretBytes):
        return buffer.view()
    try:
        view = memoryview(buffer)  # type: ignore[arg-type]  # a TypeError is the answer we look for
    except (TypeError, ValueError):
        return None  # numpy says ValueError for what it cannot lend
    if not view.c_contiguous:
        message = f"{name} must be C-contiguous"
        raise UsageError(message)
    if view.nbytes == 0:
        return memoryview(b"")  # cast() refuses a shape with a zero in it
    if view.format == "B" and view.ndim == 1:
        return view
    if view.format.lstrip("@") not in _NUMBER_FORMATS:
        # Objects and structures are no bytes: what lies in memory there are pointers and padding.
        message = f"{name} must hold bytes or native numbers, got items of format {view.format!r}"
        raise UsageError(message)
    return view.cast("B")
