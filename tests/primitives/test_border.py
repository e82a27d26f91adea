"""The checks between Python and C, called as no caller above would: each alone keeps C inside its memory."""

from array import array
from types import SimpleNamespace

import pytest

from qflare._native import border, hashes, kdf, kem, sig
from qflare.errors import BatchError, EntropyError, KeyCheckError, LengthError, NativeError, UsageError


def column(buffer=b"12345678", width=8, stride=8, offset=0):
    return SimpleNamespace(buffer=buffer, width=width, stride=stride, offset=offset)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 9},
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**63},
        {"width": -1},
        {"width": 2**32},
        {"stride": -8},
        {"stride": 1},
        {"stride": 2**62},
        {"width": 1.0},
        {"stride": True},
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_columns_outside_their_buffer_never_reach_c(wrong, count):
    """A column that reads before, beyond or across its buffer is refused, whoever made it."""
    with pytest.raises(UsageError):
        hashes.transcript_batch([column(**wrong)], count=count)
    with pytest.raises(UsageError):
        kdf.kmac256_batch(column(**wrong), [], custom=b"", out_size=32, count=count)


def test_too_many_columns_never_reach_c():
    """More columns than C takes are refused."""
    with pytest.raises(BatchError):
        hashes.transcript_batch([column()] * (hashes.COLUMNS_MAX + 1), count=1)


@pytest.mark.parametrize("sizes", [[4], [6], [2, 2], [-1, 6], [2**64 - 1, 6]])
def test_sizes_that_do_not_add_up_never_reach_c(sizes):
    """Message sizes are the data's, neither more nor less nor negative."""
    with pytest.raises((LengthError, OverflowError)):
        hashes.sha3_512_batch(b"12345", sizes)
    with pytest.raises((LengthError, OverflowError)):
        hashes.shake256_batch(b"12345", sizes, out_size=32)
    with pytest.raises((LengthError, OverflowError)):
        hashes.transcript_var_batch(b"12345", sizes, [len(sizes)])


def test_part_counts_that_do_not_add_up_never_reach_c():
    """Part counts are the sizes' number."""
    with pytest.raises(LengthError):
        hashes.transcript_var_batch(b"12345", [5], [2])


@pytest.mark.parametrize(("keys", "sids"), [(bytes(63), bytes(16)), (bytes(64), bytes(17)), (bytes(128), bytes(16))])
def test_chain_rows_of_wrong_size_never_reach_c(keys, sids):
    """Keys and sids are exactly as long as the number of buckets says."""
    with pytest.raises(LengthError):
        kdf.chain_advance_batch(keys, sids, [1], to_bucket=2, custom=b"")


@pytest.mark.parametrize("buckets", [[1.0], [True], [-1], [2**64], [3], array("d", [1.0]), array("q", [-1])])
def test_buckets_that_are_none_never_reach_c(buckets):
    """Buckets are integers of 64 bits that lie before the target."""
    with pytest.raises(UsageError):
        kdf.chain_advance_batch(bytes(64), bytes(16), buckets, to_bucket=2, custom=b"")


@pytest.mark.parametrize("buckets", [[1], array("Q", [1]), array("b", [1])])
def test_buckets_in_any_array_are_the_same(buckets):
    """A list and arrays of integers of any width give the same keys."""
    expected = kdf.chain_advance_batch(bytes(64), bytes(16), (1,), to_bucket=2, custom=b"")
    assert expected.equals(kdf.chain_advance_batch(bytes(64), bytes(16), buckets, to_bucket=2, custom=b""))


def test_message_keys_of_wrong_size_never_reach_c():
    """Chain keys, purpose and customization have their sizes."""
    good = {"bucket": 1, "direction": 1, "purpose": b"p", "custom": b"", "count": 1}
    for change in ({"count": 2}, {"purpose": b""}, {"purpose": bytes(65)}, {"custom": bytes(257)}):
        with pytest.raises(LengthError):
            kdf.message_key_batch(bytes(64), **{**good, **change})


@pytest.mark.parametrize("wrong", [-1, 1])
def test_single_operations_of_wrong_size_never_reach_c(wrong):
    """Keys, ciphertexts and contexts of a single operation have their sizes, counted in bytes whatever the items are."""
    ek, dk, ct = bytes(kem.EK_BYTES), bytes(kem.DK_BYTES), bytes(kem.CT_BYTES)
    pk_bytes, sk_bytes, sig_bytes = sig.SIZES[44]
    calls = [
        lambda: kem.encaps_one(bytes(kem.EK_BYTES + wrong)),
        lambda: kem.encaps_one(array("H", ek + ek)),  # 1,568 items
        lambda: kem.decaps_one(bytes(kem.DK_BYTES + wrong), ct),
        lambda: kem.decaps_one(dk, bytearray(kem.CT_BYTES + wrong)),
        lambda: kem.decaps_one(memoryview(b"").cast("B"), ct),
        lambda: sig.sign_one(44, bytes(sk_bytes + wrong), b"", b""),
        lambda: sig.sign_one(44, bytes(sk_bytes), b"", bytes(256)),
        lambda: sig.sign_one(44, bytes(sk_bytes), b"", array("I", range(64))),
        lambda: sig.verify_one(44, bytes(pk_bytes + wrong), b"", bytes(sig_bytes), b""),
        lambda: sig.verify_one(44, bytes(pk_bytes), b"", bytes(sig_bytes), bytes(256)),
    ]
    for call in calls:
        with pytest.raises(LengthError):
            call()
    assert sig.verify_one(44, bytes(pk_bytes), b"", bytes(sig_bytes + wrong), b"") is False


@pytest.mark.parametrize("text", ["text", 7, None, 1.0])
def test_single_operations_take_buffers_only(text):
    """What is no buffer is refused before C sees anything."""
    for call in (
        lambda: kem.encaps_one(text),
        lambda: kem.decaps_one(text, bytes(kem.CT_BYTES)),
        lambda: sig.sign_one(44, bytes(sig.SIZES[44][1]), text, b""),
        lambda: sig.verify_one(44, bytes(sig.SIZES[44][0]), b"", text, b""),
    ):
        with pytest.raises(UsageError):
            call()


def test_times_of_wrong_size_never_reach_c():
    """Times and buckets are exactly as long as the count says."""
    with pytest.raises(LengthError):
        kdf.bucket_of_batch(bytes(8), bytearray(16), width_s=300, count=2)
    with pytest.raises(LengthError):
        kdf.bucket_of_batch(bytes(16), bytearray(8), width_s=300, count=2)


def test_outputs_are_ours_and_writable():
    """What C writes into is a bytearray; immutable bytes are refused by the border itself."""
    with pytest.raises(BufferError):
        border.writable(b"immutable")


@pytest.mark.parametrize(
    ("status", "error"),
    [(1, NativeError), (2, NativeError), (3, NativeError), (4, EntropyError), (5, KeyCheckError), (99, NativeError)],
)
def test_every_status_is_an_error(status, error):
    """No status but 0 passes, one that nobody knows neither."""
    with pytest.raises(error):
        border.check(status, "the operation")
    border.check(0, "the operation")


def test_a_native_error_names_operation_and_status():
    """A failure inside C says which call, which status and what it means."""
    with pytest.raises(NativeError, match=r"the operation failed in the C core: .* \(status 2\)") as caught:
        border.check(2, "the operation")
    assert (caught.value.operation, caught.value.status) == ("the operation", 2)


def test_strided_memory_is_refused():
    """A view with gaps is refused without an inner cause that would hold on to it."""
    with pytest.raises(UsageError) as caught:
        border.readable(memoryview(bytes(8))[::2])
    assert caught.value.__context__ is None
