import hashlib
import hmac

import pytest
from Crypto.Hash import KMAC256
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.errors import BatchError, LengthError
from qflare.primitives.columns import rows, shared
from qflare.primitives.hash import kmac256, kmac256_many
from vector_sets import report, vector_json

SAMPLE_4 = (
    "20c570c31346f703c9ac36c61c03cb64c3970d0cfc787e9b79599d273a68d2f7"
    "f69d4cc3de9d104a351689f27cf6f5951f0103f33f4f24871024d9c27773a8dd"
)
SAMPLE_5 = (
    "75358cf39e41494e949707927cee0af20a3ff553904c86b08f21cc414bcfd691"
    "589d27cf5e15369cbbff8b9a4c2eb17800855d0235ff635da82533ec6b759b69"
)
SAMPLE_6 = (
    "b58618f71f92e1d56c1b8c55ddd7cd188b97b4ca4d99831eb2699a837da2e4d9"
    "70fbacfde50033aea585f1a2708510c32d07880801bd182898fe476876fc8965"
)


def stream(seed: str, size: int) -> bytes:
    """Give bytes that look random and are the same in every run."""
    return hashlib.shake_128(seed.encode()).digest(size)


def oracle(key: bytes, data: bytes, length: int, custom: bytes) -> bytes:
    return KMAC256.new(key=key, data=data, mac_len=length, custom=custom).digest()


def test_every_wycheproof_tag():
    """Every wycheproof KMAC256 tag is made, and none of the invalid ones."""
    ran = 0
    for group in vector_json("wycheproof/kmac256_no_customization_test.json")["testGroups"]:
        for case in group["tests"]:
            tag = bytes.fromhex(case["tag"])
            made = kmac256(bytes.fromhex(case["key"]), bytes.fromhex(case["msg"]), group["tagSize"] // 8)
            assert (case["result"] == "valid") == made.equals(tag), case["tcId"]
            ran += 1
    report("wycheproof/kmac256_no_customization_test.json", ran=ran)


@pytest.mark.parametrize(
    ("size", "custom", "expected"),
    [
        (4, b"My Tagged Application", SAMPLE_4),
        (200, b"", SAMPLE_5),
        (200, b"My Tagged Application", SAMPLE_6),
    ],
)
def test_nist_samples(size, custom, expected):
    """The three KMAC256 samples that NIST published with SP 800-185 hold."""
    key, data = bytes(range(0x40, 0x60)), bytes(range(size))
    assert kmac256(key, data, 64, custom).equals(bytes.fromhex(expected))


@given(
    st.binary(min_size=32, max_size=300),
    st.binary(max_size=500),
    st.integers(8, 400),
    st.binary(max_size=256),
)
def test_random_cases_match_an_independent_implementation(key, data, length, custom):
    """Any key, message, length and customization give what pycryptodome gives."""
    assert kmac256(key, data, length, custom).equals(oracle(key, data, length, custom))


@settings(max_examples=60)
@given(st.data(), st.integers(1, 9))
def test_columns_are_concatenated(data, count):
    """A row's message is its columns behind each other, shared ones included, with nothing between."""
    widths = data.draw(st.lists(st.integers(0, 200), max_size=5))
    key_width = data.draw(st.sampled_from([32, 64, 131, 132, 136, 200]))
    keys = stream("keys", count * key_width)
    columns, parts = [], []
    for index, width in enumerate(widths):
        if data.draw(st.booleans()):
            value = stream(f"shared {index}", width)
            columns.append(shared(value))
            parts.append([value] * count)
        else:
            memory = stream(f"rows {index}", count * width)
            columns.append(rows(memory, width))
            parts.append([memory[i * width : (i + 1) * width] for i in range(count)])
    expected = b"".join(
        oracle(keys[i * key_width : (i + 1) * key_width], b"".join(part[i] for part in parts), 40, b"S")
        for i in range(count)
    )
    assert kmac256_many(count, rows(keys, key_width), columns, 40, b"S").equals(expected)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 1000])
def test_batch_equals_single(count):
    """A batch of any size is byte-equal to the loop over its rows."""
    keys, data = stream("batch keys", count * 64), stream("batch data", count * 24)
    many = kmac256_many(count, rows(keys, 64), (rows(data, 24),), 64, b"QFX1 test")
    singles = b"".join(
        oracle(keys[i * 64 : (i + 1) * 64], data[i * 24 : (i + 1) * 24], 64, b"QFX1 test") for i in range(count)
    )
    assert many.equals(singles)


def test_output_length_is_part_of_the_input():
    """A shorter output is no prefix of a longer one: this is not the XOF."""
    long, short = kmac256(b"k" * 32, b"x", 64), kmac256(b"k" * 32, b"x", 32)
    assert not hmac.compare_digest(long.view()[:32], short.view())


def test_too_long_customization_is_refused():
    """A customization string of more than 256 bytes is refused."""
    with pytest.raises(LengthError):
        kmac256(b"k" * 32, b"", 32, b"c" * 257)


def test_missing_rows_are_refused():
    """A key column of fewer rows than the batch is refused before anything is computed."""
    with pytest.raises(BatchError):
        kmac256_many(3, rows(bytes(128), 64), (), 32)
