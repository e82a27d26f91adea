import hashlib

import pytest
from Crypto.Hash import KMAC256
from hypothesis import given
from hypothesis import strategies as st

from qflare.errors import BatchError, LengthError, UsageError
from qflare.primitives import kdf
from qflare.primitives.columns import rows, shared
from qflare.secret import SecretBytes


def stream(seed: str, size: int) -> bytes:
    """Give bytes that look random and are the same in every run."""
    return hashlib.shake_128(seed.encode()).digest(size)


def kmac(key: bytes, data: bytes, length: int, custom: bytes) -> bytes:
    return KMAC256.new(key=key, data=data, mac_len=length, custom=custom).digest()


def reference_step(key: bytes, sid: bytes, bucket: int) -> bytes:
    return kmac(key, bucket.to_bytes(8, "big") + sid, 64, b"QFX1 bucket")


def reference_advance(key: bytes, sid: bytes, first: int, last: int) -> bytes:
    for bucket in range(first + 1, last + 1):
        key = reference_step(key, sid, bucket)
    return key


@given(st.binary(min_size=32, max_size=64), st.binary(max_size=200))
def test_extract_is_kmac256_with_its_label(salt, ikm):
    """Extract is KMAC256 with S = "QFX1 extract" and 512 bits (N1)."""
    assert kdf.extract(salt, ikm).equals(kmac(salt, ikm, 64, b"QFX1 extract"))


@given(st.sampled_from(["m1", "fin d", "map key"]), st.binary(max_size=200), st.integers(8, 100))
def test_expand_is_kmac256_with_its_label(label, context, length):
    """Expand is KMAC256 with S = "QFX1 " and the label (N1)."""
    key = stream("expand", 64)
    assert kdf.expand(key, label, context, length).equals(kmac(key, context, length, b"QFX1 " + label.encode()))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 1000])
def test_many_equals_single(count):
    """Every batch form is byte-equal to the loop over its single form."""
    keys, sids = stream("keys", count * 64), stream("sids", count * 16)
    one = [(keys[i * 64 : (i + 1) * 64], sids[i * 16 : (i + 1) * 16]) for i in range(count)]
    starts = [7 - i % 4 for i in range(count)]

    def joined(secrets):
        return SecretBytes.join(list(secrets))

    extracted = kdf.extract_many(count, rows(keys, 64), rows(sids, 16))
    assert extracted.equals(joined(kdf.extract(key, sid) for key, sid in one))
    expanded = kdf.expand_many(count, rows(keys, 64), "m1", (shared(b"all"), rows(sids, 16)), 32)
    assert expanded.equals(joined(kdf.expand(key, "m1", b"all" + sid, 32) for key, sid in one))
    stepped = kdf.chain_step_many(keys, sids, 8)
    assert stepped.equals(joined(kdf.chain_step(key, sid, 8) for key, sid in one))
    advanced = kdf.chain_advance_many(keys, sids, starts, 9)
    assert advanced.equals(
        joined(kdf.chain_advance(key, sid, start, 9) for (key, sid), start in zip(one, starts, strict=True))
    )
    message = kdf.message_keys_many(keys, 8, 1, b"qfx.record")
    assert message.equals(joined(kdf.message_key(key, 8, 1, b"qfx.record") for key, _ in one))


def test_labels_are_those_of_the_table():
    """The two labels this floor uses are those of the protocol's one table."""
    from qflare.protocol import labels

    assert labels.EXPAND_BUCKET == kdf.BUCKET_LABEL
    assert labels.EXPAND_KEY == kdf.KEY_LABEL
    assert kdf.EXTRACT_LABEL not in labels.EXPAND_LABELS


@pytest.mark.parametrize("label", ["extract", "", "é", "a\n", "x" * 65, b"bytes", None])
def test_labels_that_are_none_are_refused(label):
    """A label is printable ASCII and never "extract"."""
    with pytest.raises(UsageError):
        kdf.expand(bytes(64), label, b"", 32)


@given(st.integers(1, 2**64 - 1), st.binary(min_size=16, max_size=16))
def test_step_binds_bucket_and_session(bucket, sid):
    """The chain step is R1's formula for any bucket and session."""
    key = stream("step", 64)
    assert kdf.chain_step(key, sid, bucket).equals(reference_step(key, sid, bucket))


@pytest.mark.parametrize("steps", [0, 1, 2, 287, 288])
def test_advance_equals_repeated_steps(steps):
    """Going forward n buckets at once is n steps, up to a session's lifetime."""
    key, sid = stream("advance", 64), stream("sid", 16)
    assert kdf.chain_advance(key, sid, 1000, 1000 + steps).equals(reference_advance(key, sid, 1000, 1000 + steps))


def test_advance_reaches_the_last_bucket_of_64_bits():
    """The last bucket that 64 bits can name is reached and not passed."""
    key, sid, last = stream("last", 64), stream("sid", 16), 2**64 - 1
    assert kdf.chain_advance(key, sid, last - 2, last).equals(reference_advance(key, sid, last - 2, last))
    with pytest.raises(UsageError):
        kdf.chain_step(key, sid, last + 1)


@pytest.mark.parametrize(("first", "last"), [(5, 4), (5, 5 + 289), (0, 2**63), (2**64 - 1, 0)])
def test_going_back_or_too_far_is_refused(first, last):
    """A chain key never goes back, and never further than a session lives."""
    keys, sids = bytes(3 * 64), bytes(3 * 16)
    with pytest.raises(BatchError, match=r"from_buckets\[1\]"):
        kdf.chain_advance_many(keys, sids, [last, first, last], last)


@pytest.mark.parametrize("bucket", [1.0, True, None, "5", -1, 0, 2**64])
def test_buckets_are_integers(bucket):
    """A bucket that is no integer of 64 bits is refused; there is none before bucket 1 to step from."""
    with pytest.raises(UsageError):
        kdf.chain_step(bytes(64), bytes(16), bucket)


@pytest.mark.parametrize("direction", [1, 2])
def test_message_key_is_its_formula(direction):
    """A message key is R2's formula, for both directions."""
    key = stream("message", 64)
    context = (77).to_bytes(8, "big") + bytes([direction]) + b"my.purpose"
    assert kdf.message_key(key, 77, direction, b"my.purpose").equals(kmac(key, context, 64, b"QFX1 key"))


@pytest.mark.parametrize("direction", [0, 3, 256, True, 1.0])
def test_directions_are_one_and_two(direction):
    """A direction other than 1 and 2 is refused."""
    with pytest.raises(UsageError):
        kdf.message_key(bytes(64), 1, direction, b"p")


@pytest.mark.parametrize("purpose", [b"", b"x" * 65])
def test_purposes_have_one_to_64_bytes(purpose):
    """A purpose of no or more than 64 bytes is refused."""
    with pytest.raises(LengthError):
        kdf.message_key(bytes(64), 1, 1, purpose)


def test_disagreeing_columns_are_refused():
    """Keys, sids and buckets of different numbers are refused before any work."""
    with pytest.raises(BatchError):
        kdf.chain_advance_many(bytes(128), bytes(16), [1, 1], 2)
    with pytest.raises(BatchError):
        kdf.chain_advance_many(bytes(64), bytes(32), [1, 1], 2)
    with pytest.raises(LengthError):
        kdf.chain_step_many(bytes(65), bytes(16), 2)
    with pytest.raises(LengthError, match="sid must be 16 bytes, got 32"):
        kdf.chain_step(bytes(64), bytes(32), 2)
    with pytest.raises(BatchError):
        kdf.extract_many(2, rows(bytes(128), 64), rows(bytes(16), 16))


def test_keys_given_as_a_sequence_of_secrets():
    """Chain keys may come as separate secrets; they are left as they were."""
    keys = [SecretBytes(bytearray(stream(f"key {i}", 64))) for i in range(3)]
    sids = [stream(f"sid {i}", 16) for i in range(3)]
    joined = SecretBytes.join(keys)
    assert kdf.chain_step_many(keys, sids, 5).equals(kdf.chain_step_many(joined, b"".join(sids), 5))
    assert joined.equals(SecretBytes.join(keys))


def test_numpy_arrays_are_rows():
    """Keys and sids may be numpy arrays of bytes."""
    numpy = pytest.importorskip("numpy")
    keys, sids = stream("numpy", 4 * 64), stream("numpy sids", 4 * 16)
    as_arrays = kdf.chain_step_many(
        numpy.frombuffer(keys, "u1").reshape(4, 64), numpy.frombuffer(sids, "u1").reshape(4, 16), 9
    )
    assert as_arrays.equals(kdf.chain_step_many(keys, sids, 9))


def test_ten_thousand_seeded_cases_fold_into_the_pinned_digest():
    """Golden: 10,000 chain keys of seeded sessions and buckets, stepped and used, never change.

    The digest is that of the same fold over pycryptodome's KMAC256 (reference_step and R2's formula above), which
    `reference_fold` makes again for the first hundred.
    """
    count = 10_000
    keys, sids = stream("fold keys", count * 64), stream("fold sids", count * 16)
    stepped = kdf.chain_step_many(keys, sids, 5_700_001)
    message = kdf.message_keys_many(stepped, 5_700_001, 2, b"qfx.record")

    def reference_fold(rows_used):
        for i in range(rows_used):
            key = reference_step(keys[i * 64 :][:64], sids[i * 16 :][:16], 5_700_001)
            yield kmac(key, (5_700_001).to_bytes(8, "big") + b"\2qfx.record", 64, b"QFX1 key")

    assert message.view()[: 100 * 64] == b"".join(reference_fold(100))
    digest = hashlib.sha256(message.view()).hexdigest()
    assert digest == "5c61185c5a258a0c2128b09222c6fd70d40e15dbac7be4e5972bf151eb01323a"
