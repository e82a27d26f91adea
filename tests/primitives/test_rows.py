import pytest

from qflare.errors import BatchError, LengthError, UsageError
from qflare.primitives.rows import as_messages, as_rows, as_view, count_rows, lent_rows, row
from qflare.secret import SecretBytes


def test_one_buffer_is_not_copied():
    """Rows in one buffer are viewed where they lie."""
    memory = bytearray(64)
    view = as_rows(memory, 32, name="keys")
    memory[0] = 7
    assert view[0] == 7


def test_a_sequence_is_joined():
    """A sequence of buffers becomes rows behind each other."""
    assert bytes(as_rows([b"ab", bytearray(b"cd")], 2, name="keys")) == b"abcd"
    assert bytes(as_rows([], 2, name="keys")) == b""


def test_numpy_arrays_of_any_shape_are_rows():
    """A numpy array is taken as the bytes it holds; one with gaps is refused."""
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(64, dtype="u1").reshape(2, 32)
    assert bytes(as_rows(array, 32, name="keys")) == bytes(range(64))
    assert bytes(as_rows(numpy.zeros((0, 32), "u1"), 32, name="keys")) == b""
    with pytest.raises(UsageError, match="contiguous"):
        as_rows(array[:, ::2], 16, name="keys")
    with pytest.raises(UsageError):
        as_view(numpy.array([object()]))


def test_lent_copies_are_wiped():
    """The copy that a sequence of secrets needs is wiped when the block ends, also by an error."""
    secrets = [SecretBytes(bytearray(b"abcd")), SecretBytes(bytearray(b"efgh"))]
    with lent_rows(secrets, 4, name="keys") as view:
        assert bytes(view) == b"abcdefgh"
    assert bytes(view) == bytes(8)
    with pytest.raises(RuntimeError), lent_rows(secrets, 4, name="keys") as view:
        raise RuntimeError
    assert bytes(view) == bytes(8)
    assert secrets[0].equals(b"abcd")


def test_lending_one_buffer_leaves_it_alone():
    """What is lent where it lies is not wiped: it has an owner."""
    memory = bytearray(b"abcd")
    with lent_rows(memory, 4, name="keys") as view:
        assert bytes(view) == b"abcd"
    assert memory == b"abcd"


def test_wrong_sizes_are_refused_by_name():
    """The error names the argument, the row, the expected and the actual size."""
    with pytest.raises(LengthError, match=r"keys must be a multiple of 32 bytes, got 33"):
        as_rows(bytes(33), 32, name="keys")
    with pytest.raises(LengthError, match=r"keys\[1\] must be 32 bytes, got 31"):
        as_rows([bytes(32), bytes(31)], 32, name="keys")
    with pytest.raises(BatchError, match="keys has 2 rows of 32 bytes, the batch has 3"):
        as_rows(bytes(64), 32, name="keys", count=3)


@pytest.mark.parametrize("wrong", [None, 5, "text", ["text"], {b"set"}])
def test_what_is_no_buffer_is_refused(wrong):
    """What is neither a buffer nor a sequence of buffers is refused."""
    with pytest.raises(UsageError):
        as_rows(wrong, 4, name="keys")
    with pytest.raises(UsageError):
        as_messages(wrong, name="messages")


def test_messages_have_any_length():
    """Messages are viewed one by one, and their number is checked."""
    assert [bytes(view) for view in as_messages([b"", b"abc"], name="messages")] == [b"", b"abc"]
    with pytest.raises(BatchError):
        as_messages([b""], name="messages", count=2)


def test_rows_are_counted_and_picked():
    """Rows are counted in either form, and a row that is not there is refused."""
    assert count_rows(bytes(64), 32, name="keys") == 2
    assert count_rows([b"", b"", b""], 32, name="keys") == 3
    assert bytes(row(b"abcdef", 1, 2)) == b"cd"
    for index in (-1, 3):
        with pytest.raises(BatchError):
            row(b"abcdef", index, 2)


@pytest.mark.parametrize("kind", ["O", "M8[s]", ">u4", "u1,u4"])
def test_numpy_arrays_of_other_things_are_refused(kind):
    """Arrays of objects, dates, foreign byte order or records are refused: their memory is not their content."""
    numpy = pytest.importorskip("numpy")
    with pytest.raises(UsageError):
        as_view(numpy.zeros(4, kind))


def test_numpy_arrays_of_numbers_are_their_bytes():
    """An array of floats is the bytes it lies in, as model updates are sealed."""
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(4, dtype="f4")
    assert array.tobytes() == bytes(as_view(array))
