"""
Columns: the fields of a batch, each lying where it lies, read by C without a copy.

`rows` is a field that differs from row to row, `shared` one that is the same in all rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qflare.errors import BatchError, LengthError, UsageError
from qflare.primitives.rows import as_view

if TYPE_CHECKING:
    from qflare.primitives.rows import Readable


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One field of every row of a batch; make it with `rows` or `shared`."""

    buffer: Readable = field(repr=False)  # may be a secret
    """Where the values lie; kept alive by the column."""
    width: int
    """Bytes a value."""
    stride: int
    """Bytes from one row's value to the next; 0 if all rows share one value."""
    offset: int = 0
    """Where the first row's value begins, in bytes."""
    is_packed: bool = False
    """True if the values fill the buffer, so that the number of rows can be checked exactly."""

    def require_rows(self, count: int, *, name: str = "a column") -> None:
        """
        Check that the column holds values for *count* rows; nothing is asked of a shared one.

        Raises:
            BatchError: it holds another number of rows.
        """
        size = len(as_view(self.buffer, name=name))
        if self.is_packed and self.width and size != count * self.width:
            message = f"{name} has {size} bytes; {count} rows of {self.width} are {count * self.width}"
            raise BatchError(message)
        needed = self.offset + max(0, count - 1) * self.stride + self.width
        if count and size < needed:
            message = f"{name} has {size} bytes; {count} rows of {self.width} need {needed}"
            raise BatchError(message)

    def row(self, index: int) -> memoryview:
        """View the value of row *index*, *width* bytes; the caller checked the number of rows."""
        first = self.offset + index * self.stride
        return as_view(self.buffer)[first : first + self.width]


def shared(buffer: Readable) -> Column:
    """
    Make a column whose one value, the whole *buffer*, belongs to every row.

    Raises:
        UsageError: *buffer* is no C-contiguous buffer.
    """
    return Column(buffer, width=len(as_view(buffer, name="a shared column")), stride=0)


def rows(buffer: Readable, width: int, stride: int | None = None, offset: int = 0) -> Column:
    """
    Make a column of values of *width* bytes, *stride* bytes apart.

    Args:
        buffer: Where the values lie; ``n x width`` bytes if neither *stride* nor *offset* is given.
        width: Bytes a value.
        stride: Bytes from one value to the next, at least *width*; *width* if not given.
        offset: Where the first value begins, bytes.

    Raises:
        UsageError: a number is negative or no integer, or *buffer* is no C-contiguous buffer.
        LengthError: *stride* is smaller than *width*.
    """
    step = width if stride is None else stride
    for name, value in (("width", width), ("stride", step), ("offset", offset)):
        if type(value) is not int or value < 0:
            message = f"{name} of a column must be a whole number of bytes, got {value!r}"
            raise UsageError(message)
    if step < width:
        name, expected = "stride of a column", f"at least {width}"
        raise LengthError(name, expected=expected, actual=step)
    as_view(buffer, name="a column")
    return Column(buffer, width=width, stride=step, offset=offset, is_packed=stride is None and offset == 0)
