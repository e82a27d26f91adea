"""Every width of Keccak gives the bytes of the one-wide path, which is compared with hashlib and an independent KMAC."""

from __future__ import annotations

import hashlib
import random
from array import array

import pytest
from Crypto.Hash import KMAC256

from qflare._native import about, hashes, kdf
from qflare._native.lanes import forced_width
from qflare.errors import UsageError
from qflare.primitives.columns import Column
from qflare.secret import SecretBytes

COUNTS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 1000)
WIDTHS = tuple(width for width in (4, 8) if width <= about.keccak_width())
SIZES = (0, 1, 7, 8, 9, 63, 64, 65, 71, 72, 73, 135, 136, 137, 200, 271, 272, 273, 1568)


@pytest.fixture(params=COUNTS)
def count(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def seeded(count: int) -> random.Random:
    return random.Random(f"lanes {count}")


def _each_width(call) -> bytes:
    """Return what *call* gives one wide, after checking that every other width gives the same."""
    with forced_width(1):
        expected = _plain(call())
    for width in WIDTHS:
        with forced_width(width):
            assert expected == _plain(call()), width
    assert expected == _plain(call())
    return expected


def _plain(result) -> bytes:
    return result.view().tobytes() if isinstance(result, SecretBytes) else bytes(result)


def _messages(source: random.Random, count: int) -> list[bytes]:
    return [source.randbytes(source.choice(SIZES)) for _ in range(count)]


def test_this_machine_is_told_as_it_is():
    """A width that the machine lacks is refused, and what is chosen is the widest."""
    assert about.keccak_width() in {1, 4, 8}
    for width in (0, 2, 3, 16, True, "8"):
        with pytest.raises(UsageError), forced_width(width):
            pass
    with forced_width(1):
        assert about.keccak_width() == 1
    assert about.keccak_width() == max((1, *WIDTHS))


def test_sha3_512_of_mixed_sizes(count, seeded):
    """Messages of any mixture of sizes have the hashes that hashlib gives."""
    messages = _messages(seeded, count)
    found = _each_width(lambda: hashes.sha3_512_batch(b"".join(messages), [len(m) for m in messages]))
    assert b"".join(hashlib.sha3_512(m).digest() for m in messages) == found


@pytest.mark.parametrize("out_size", [1, 31, 32, 64, 135, 136, 137, 300])
def test_shake256_of_mixed_sizes(count, seeded, out_size):
    """Messages of any mixture of sizes have the outputs of any size that hashlib gives."""
    messages = _messages(seeded, min(count, 70))
    found = _each_width(
        lambda: hashes.shake256_batch(b"".join(messages), [len(m) for m in messages], out_size=out_size)
    )
    assert b"".join(hashlib.shake_256(m).digest(out_size) for m in messages) == found


def test_one_long_message_among_short_ones():
    """A message that outlives its neighbours goes on alone and ends right, wherever it stands."""
    for place in range(11):
        messages = [bytes([i]) * (5000 if i == place else i * 9) for i in range(11)]
        found = _each_width(lambda m=messages: hashes.sha3_512_batch(b"".join(m), [len(x) for x in m]))
        assert b"".join(hashlib.sha3_512(m).digest() for m in messages) == found


def _framed(parts: list[bytes]) -> bytes:
    return hashlib.sha3_512(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


@pytest.mark.parametrize("widths", [(0,), (1,), (5, 16, 3), (64,), (68,), (72, 4), (1568, 64, 7), (63, 1, 2, 65, 130)])
def test_transcript_columns(count, seeded, widths):
    """Columns of any width and stride, shared ones among them, give H over each row's parts."""
    strides = [0 if i % 3 == 2 else width + 5 * (i % 2) for i, width in enumerate(widths)]
    buffers = [
        seeded.randbytes(7 + max(1, count) * (stride + width)) for width, stride in zip(widths, strides, strict=True)
    ]
    columns = [
        Column(buffer, width=width, stride=stride, offset=7)
        for buffer, width, stride in zip(buffers, widths, strides, strict=True)
    ]
    found = _each_width(lambda: hashes.transcript_batch(columns, count=count))
    expected = [
        _framed([bytes(c.buffer)[7 + row * c.stride :][: c.width] for c in columns]) for row in range(min(count, 40))
    ]
    assert b"".join(expected) == found[: 64 * 40]
    assert count * 64 == len(found)


def test_transcripts_of_any_shape(count, seeded):
    """Rows of different numbers and sizes of parts give H over their parts."""
    rows = [_messages(seeded, seeded.randrange(5)) for _ in range(count)]
    parts = [part for row in rows for part in row]
    found = _each_width(
        lambda: hashes.transcript_var_batch(b"".join(parts), [len(p) for p in parts], [len(row) for row in rows])
    )
    assert b"".join(_framed(row) for row in rows) == found


@pytest.mark.parametrize(("key_width", "out_size"), [(32, 64), (64, 32), (131, 64), (200, 1), (64, 300)])
def test_kmac256(count, seeded, key_width, out_size):
    """Keys, columns and outputs of any width give KMAC256."""
    keys, data = seeded.randbytes(key_width * max(1, count)), seeded.randbytes(33 * max(1, count))
    shared = seeded.randbytes(150)
    columns = [
        Column(data, width=21, stride=33, offset=9),
        Column(shared, width=150, stride=0, offset=0),
        Column(data, width=9, stride=33, offset=0),
    ]
    key = Column(keys, width=key_width, stride=key_width, offset=0)
    found = _each_width(lambda: kdf.kmac256_batch(key, columns, custom=b"lanes", out_size=out_size, count=count))
    for row in range(min(count, 40)):
        mac = KMAC256.new(key=keys[row * key_width :][:key_width], mac_len=max(8, out_size), custom=b"lanes")
        mac.update(data[row * 33 + 9 :][:21] + shared + data[row * 33 :][:9])
        if out_size >= 8:  # shorter ones pycryptodome refuses; L is part of what is hashed
            assert mac.digest() == found[row * out_size :][:out_size]


def _step(key: bytes, bucket: int, sid: bytes) -> bytes:
    mac = KMAC256.new(key=key, mac_len=64, custom=b"QFX1 bucket")
    return mac.update(bucket.to_bytes(8, "big") + sid).digest()


def test_chain_keys_from_mixed_buckets(count, seeded):
    """Chain keys that start in different buckets all arrive at the same one, each by its own steps."""
    keys, sids = seeded.randbytes(64 * count), seeded.randbytes(16 * count)
    first = array("Q", [100 - seeded.choice((0, 0, 1, 1, 1, 2, 5)) for _ in range(count)])
    found = _each_width(lambda: kdf.chain_advance_batch(keys, sids, first, to_bucket=100, custom=b"QFX1 bucket"))
    for row in range(min(count, 40)):
        key = keys[row * 64 :][:64]
        for bucket in range(first[row], 100):
            key = _step(key, bucket + 1, sids[row * 16 :][:16])
        assert key == found[row * 64 :][:64]


def test_message_keys(count, seeded):
    """Message keys of a batch are KMAC256 of bucket, direction and purpose under each chain key."""
    keys = seeded.randbytes(64 * count)
    found = _each_width(
        lambda: kdf.message_key_batch(
            keys, bucket=7, direction=2, purpose=b"qfx.record", custom=b"QFX1 key", count=count
        )
    )
    for row in range(min(count, 40)):
        mac = KMAC256.new(key=keys[row * 64 :][:64], mac_len=64, custom=b"QFX1 key")
        mac.update((7).to_bytes(8, "big") + b"\x02" + b"qfx.record")
        assert mac.digest() == found[row * 64 :][:64]
