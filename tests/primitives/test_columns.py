import pytest

from qflare.errors import BatchError, LengthError, UsageError
from qflare.primitives.columns import rows, shared
from qflare.primitives.hash import transcript, transcript_many
from qflare.secret import SecretBytes


def test_rows_are_read_where_they_lie():
    """A strided column takes each row's bytes out of a wider record."""
    records = bytes(range(100))
    assert transcript(records[3:7]) + transcript(records[53:57]) == transcript_many(2, rows(records, 4, 50, 3))
    assert [bytes(rows(records, 4, 50, 3).row(i)) for i in range(2)] == [records[3:7], records[53:57]]


@pytest.mark.parametrize(
    ("column", "count"),
    [
        (rows(bytes(64), 32), 3),
        (rows(bytes(64), 32), 1),
        (rows(bytes(64), 32, 33), 2),
        (rows(bytes(64), 32, offset=1), 2),
        (rows(b"", 32), 1),
    ],
)
def test_wrong_number_of_rows_is_refused(column, count):
    """A column with more rows than the batch, or fewer, is refused before any work."""
    with pytest.raises(BatchError):
        transcript_many(count, column)


@pytest.mark.parametrize("arguments", [(-1,), (4, -4), (4, 4, -1), (4.0,), (True,), ("4",)])
def test_wrong_numbers_are_refused(arguments):
    """A width, stride or offset that is no whole number of bytes is refused."""
    with pytest.raises(UsageError):
        rows(bytes(64), *arguments)


def test_overlapping_rows_are_refused():
    """A stride below the width is a mistake, not a feature."""
    with pytest.raises(LengthError):
        rows(bytes(64), 32, 16)


def test_a_huge_offset_is_refused():
    """An offset or stride beyond the buffer never reaches C."""
    for column in (rows(bytes(8), 8, 2**62), rows(bytes(8), 8, 8, 2**61)):
        with pytest.raises(BatchError):
            transcript_many(2, column)


def test_what_is_no_buffer_is_refused():
    """A column is made of a buffer."""
    with pytest.raises(UsageError):
        shared("text")
    with pytest.raises(UsageError):
        rows([b"a", b"b"], 1)


def test_a_column_shows_no_content():
    """The repr of a column does not show what lies in it."""
    assert "secret" not in repr(shared(b"secret"))
    assert "secret" not in repr(rows(SecretBytes(bytearray(b"secret")), 6))
