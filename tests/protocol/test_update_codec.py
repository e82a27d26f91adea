"""Updates: dicts of arrays come back exactly, one dict has one encoding, and nothing malformed is read."""

import ctypes
import dataclasses
import subprocess
import sys
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qflare.errors import AuthenticationError, DecodeError, UsageError
from qflare.primitives.random import random_bytes
from qflare.protocol import record, update_codec
from qflare.protocol.segment import sealed_size
from qflare.protocol.stream import StreamSealer
from qflare.protocol.update_codec import (
    DTYPES,
    UpdateLimits,
    UpdateSpec,
    decode_update,
    decode_update_into,
    encode_update,
    swap_bytes,
    update_pieces,
)
from qflare.secret import SecretBytes

NUMPY_DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
SAMPLE = {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.array([1, 2], "i8"), "ok": np.array([True, False])}

some_arrays = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.sampled_from(NUMPY_DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    ),
    max_size=6,
)


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@settings(max_examples=150, deadline=None)
@given(some_arrays, st.integers(0, 2**63 - 1))
def test_updates_come_back_exactly(given_arrays, round_number):
    """Every dtype, shape (none, empty, many dimensions), bit pattern and name; both ways of decoding; one encoding."""
    encoded = encode_update(given_arrays, round_number=round_number)
    assert encoded.payload.startswith(encoded.aad)
    assert encoded.aad == UpdateSpec.of(given_arrays).header(round_number=round_number)
    assert b"".join(update_pieces(given_arrays, round_number=round_number)) == encoded.payload
    decoded = decode_update(encoded.payload, round_number=round_number)
    assert decoded.round_number == round_number
    assert set(decoded.arrays) == set(given_arrays)
    for name, original in given_arrays.items():
        assert same(np.asarray(decoded.arrays[name]), original)
    targets = {name: np.empty_like(original) for name, original in given_arrays.items()}
    decode_update_into(encoded.payload, targets, round_number=round_number)
    for name, original in given_arrays.items():
        assert same(targets[name], original)
    reordered = dict(reversed(list(given_arrays.items())))
    assert encode_update(reordered, round_number=round_number) == encoded


def test_the_encoding_is_pinned():
    """The bytes of a small update, field by field."""
    encoded = encode_update({"w": np.array([[1.0, -2.0]], "f4"), "b": np.array([True])}, round_number=3)
    expected = (
        b"QFLU\x01" + bytes(7) + b"\x03" + b"\0\0\0\x02"
        b"\x01bb1\x01" + bytes(7) + b"\x01"
        b"\x01wf4\x02" + bytes(7) + b"\x01" + bytes(7) + b"\x02"
    )  # fmt: skip
    assert encoded.aad == expected
    padding = bytes(-len(expected) % 8)
    assert encoded.payload == expected + padding + b"\x01" + bytes(7) + bytes.fromhex("0000803f000000c0")


def test_arrays_of_other_makers_are_taken():
    """array.array, ctypes arrays and bytes need no numpy, and go into a numpy array as well as into themselves."""
    given_arrays = {"a": array("d", [1.5, 2.5]), "c": (ctypes.c_float * 3)(1, 2, 3), "l": array("l", [-1]), "y": b"raw"}
    payload = encode_update(given_arrays, round_number=0).payload
    decoded = decode_update(payload)
    assert [(name, view.dtype, view.shape) for name, view in decoded.arrays.items()] == [
        ("a", "f8", (2,)),
        ("c", "f4", (3,)),
        ("l", f"i{array('l').itemsize}", (1,)),
        ("y", "u1", (3,)),
    ]
    targets = {"a": array("d", [0, 0]), "c": (ctypes.c_float * 3)(), "l": array("l", [0]), "y": bytearray(3)}
    decode_update_into(payload, targets)
    assert (list(targets["a"]), list(targets["c"]), list(targets["l"])) == ([1.5, 2.5], [1.0, 2.0, 3.0], [-1])
    assert targets["y"] == b"raw"


def test_neither_numpy_nor_pickle_is_imported():
    """The codec works where numpy is not installed, and never loads pickle."""
    program = (
        "import sys; from array import array; from qflare.protocol.update_codec import *;"
        "decode_update(encode_update({'a': array('f', [1])}, round_number=1).payload);"
        "sys.exit(bool({'numpy', 'pickle', '_pickle'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (np.array([1 + 2j]), "format"),
        (np.array(["text"]), "format"),
        (np.array([1], "datetime64[s]"), "no buffer"),
        (np.array([1.0], ">f4"), "byte order"),
        (np.arange(6).reshape(2, 3).T, "ascontiguousarray"),
        (np.arange(6)[::2], "ascontiguousarray"),
        (np.array([object()]), "format"),
        (np.zeros(1, "f8,i4"), "format"),
        ([1.0, 2.0], "no buffer"),
        (1.0, "no buffer"),
        (np.array([1], np.longdouble), "format"),
    ],
)
def test_arrays_that_cannot_be_sent_are_named_with_the_remedy(value, part):
    """The message says which array, what is wrong and what to do; nothing is encoded."""
    with pytest.raises(UsageError, match=part) as caught:
        encode_update({"fine": SAMPLE["w"], "weights": value}, round_number=1)
    assert "'weights'" in str(caught.value)


def test_names_and_rounds_that_cannot_be_are_refused():
    """Empty, long, no text; rounds that are no u63."""
    for name in ("", "x" * 256, "\ud800", 5):
        with pytest.raises(UsageError):
            encode_update({name: SAMPLE["w"]}, round_number=1)
    for round_number in (-1, 2**63, 1.0, True, None):
        with pytest.raises(UsageError):
            encode_update(SAMPLE, round_number=round_number)


@pytest.mark.parametrize(
    "limits",
    [
        UpdateLimits(arrays_max=2),
        UpdateLimits(name_bytes_max=1),
        UpdateLimits(dims_max=1),
        UpdateLimits(total_bytes_max=24 + 16 + 2 - 1),
    ],
)
def test_each_limit_holds_on_both_sides(limits):
    """What the sender may not encode the receiver does not decode either."""
    with pytest.raises(UsageError):
        encode_update(SAMPLE, round_number=1, limits=limits)
    with pytest.raises(UsageError):
        update_pieces(SAMPLE, round_number=1, limits=limits)
    payload = encode_update(SAMPLE, round_number=1).payload
    with pytest.raises(DecodeError):
        decode_update(payload, limits=limits)


def header(count, *entries, round_number=1):
    data = b"QFLU\x01" + round_number.to_bytes(8, "big") + count.to_bytes(4, "big") + b"".join(entries)
    return data + bytes(-len(data) % 8)


def entry(name, dtype, *dims):
    shape = b"".join(dim.to_bytes(8, "big") for dim in dims)
    return bytes((len(name),)) + name + dtype + bytes((len(dims),)) + shape


def test_declared_sizes_are_refused_before_anything_is_allocated():
    """A few bytes that promise exabytes, billions of arrays or dimensions cost nothing."""
    huge = 2**63
    for payload in (
        header(1, entry(b"a", b"f8", huge)),
        header(1, entry(b"a", b"f8", 2**32, 2**32, 2**32)),
        header(1, entry(b"a", b"f8", 0, huge)),
        header(2, entry(b"a", b"f8", 2**29), entry(b"b", b"f8", 2**30)),
        header(2**32 - 1),
        header(4096, entry(b"a", b"u1", 0)),
        header(1, entry(b"a", b"u1", *([1] * 200))),
        header(1, entry(b"a", b"u1", 8)),
        header(0, round_number=2**63),
    ):
        with pytest.raises(DecodeError):
            decode_update(payload)


def test_every_other_encoding_of_the_same_arrays_is_refused():
    """Order, repetition, padding, truth values, dtypes, versions, lengths and names have one form each."""
    a, b = entry(b"a", b"u1", 1), entry(b"b", b"u1", 1)
    one = b"\x01" + bytes(7)
    assert list(decode_update(header(2, a, b) + one + one).arrays) == ["a", "b"]
    good = header(1, a) + one
    for payload in (
        header(2, b, a) + one + one,
        header(2, a, a) + one + one,
        header(1, a) + b"\x01" + bytes(6) + b"\x01",
        header(1, a)[:-1] + b"\x01" + one,
        good[:-1],
        good + bytes(8),
        header(1, entry(b"", b"u1", 1)) + one,
        header(1, entry(b"\xff", b"u1", 1)) + one,
        header(1, entry(b"a", b"b1", 1)) + b"\x02" + bytes(7),
        header(1, entry(b"a", b"c8", 1)) + one,
        header(1, entry(b"a", b"\xff\xff", 1)) + one,
        b"QFLU\x02" + good[5:],
        b"PKLE" + good[4:],
        b"",
        b"QFLU",
    ):
        with pytest.raises(DecodeError):
            decode_update(payload)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3))
def test_the_reader_is_total_on_random_bytes(data, count):
    """Any bytes, also behind a plausible beginning, are an update or a DecodeError."""
    for payload in (data, header(count) + data, header(count)[:17] + data):
        try:
            decoded = decode_update(payload)
        except DecodeError:
            continue
        whole = {name: np.asarray(view) for name, view in decoded.arrays.items()}
        assert encode_update(whole, round_number=decoded.round_number).payload == payload


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_reader_is_total_on_altered_updates(data):
    """A changed, removed or added byte gives an update that encodes to those bytes, or a DecodeError."""
    payload = bytearray(encode_update(SAMPLE, round_number=7).payload)
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        decoded = decode_update(payload)
    except DecodeError:
        return
    whole = {name: np.asarray(view) for name, view in decoded.arrays.items()}
    assert encode_update(whole, round_number=decoded.round_number).payload == payload


def test_an_update_goes_into_exactly_the_arrays_that_are_expected():
    """Another name, dtype, shape, round or a read-only target: refused, and no array is touched."""
    payload = encode_update(SAMPLE, round_number=7).payload
    fresh = {name: np.full_like(value, 1) for name, value in SAMPLE.items()}
    for change in (
        {"w": np.ones((3, 2), "f4")},
        {"w": np.ones((2, 3), "f8")},
        {"b": np.ones(2, "u8")},
        {"more": np.ones(1, "f4")},
    ):
        with pytest.raises(DecodeError):
            decode_update_into(payload, {**fresh, **change}, round_number=7)
    with pytest.raises(DecodeError):
        decode_update_into(payload, {"w": fresh["w"]})
    with pytest.raises(DecodeError, match="round 7"):
        decode_update_into(payload, fresh, round_number=8)
    locked = fresh["w"].copy()
    locked.flags.writeable = False
    with pytest.raises(UsageError, match="read-only"):
        decode_update_into(payload, {**fresh, "w": locked})
    for value in fresh.values():
        assert (value == 1).all()


def test_a_sealed_update_opens_only_for_the_round_and_arrays_that_were_expected():
    """The receiver's own spec is the associated data: another round, dtype or shape does not open."""
    key = SecretBytes(bytearray(random_bytes(64)))
    head = record.new_header(sid=bytes(16), bucket=1, direction=1)
    spec = UpdateSpec.of(SAMPLE)
    pieces = update_pieces(SAMPLE, round_number=7)
    sealed = b"".join(StreamSealer(key, head, aad=spec.header(round_number=7)).seal(pieces))
    assert len(sealed) == sealed_size(spec.encoded_size())
    with record.open_record(key, sealed, aad=spec.header(round_number=7)) as payload:
        decode_update_into(payload, {name: np.empty_like(value) for name, value in SAMPLE.items()}, round_number=7)
    for wrong in (
        spec.header(round_number=8),
        UpdateSpec.of({**SAMPLE, "w": SAMPLE["w"].astype("f8")}).header(round_number=7),
        UpdateSpec.of({**SAMPLE, "w": SAMPLE["w"].reshape(3, 2)}).header(round_number=7),
        b"",
    ):
        with pytest.raises(AuthenticationError):
            record.open_record(key, sealed, aad=wrong)


def test_big_endian_machines_write_the_same_bytes(monkeypatch):
    """Elements are swapped on the way out and on the way in where the machine's order is the other one."""
    native = {"w": np.arange(6, dtype="f4").reshape(2, 3), "i": np.arange(3, dtype="u2"), "y": np.arange(3, dtype="u1")}
    expected = encode_update(native, round_number=1).payload
    monkeypatch.setattr(update_codec, "_IS_LITTLE", False)
    swapped = {name: value.byteswap() for name, value in native.items()}
    assert encode_update(swapped, round_number=1).payload == expected
    targets = {name: np.zeros_like(value) for name, value in native.items()}
    decode_update_into(expected, targets)
    for name, value in swapped.items():
        assert same(targets[name], value)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_swapping_bytes_is_what_numpy_does(width):
    """swap_bytes is byteswap, and its own inverse."""
    data = np.frombuffer(random_bytes(width * 50), f"u{width}")
    swapped = swap_bytes(memoryview(data).cast("B"), width)
    assert swapped == data.byteswap().tobytes()
    assert swap_bytes(swapped, width) == data.tobytes()


def test_decoded_arrays_are_read_only_views():
    """Nothing is copied, and nobody writes into the update through them."""
    payload = encode_update(SAMPLE, round_number=1).payload
    view = decode_update(payload).arrays["w"]
    assert view.data.readonly
    assert not np.asarray(view).flags.writeable
    payload[-1] ^= 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.dtype = "f8"
    assert set(DTYPES) == {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
