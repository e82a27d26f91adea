"""Records: what one side seals the other opens, and nothing altered opens (R3)."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tampering import every_flip, every_truncation

from peer import record as peer
from qflare.errors import AuthenticationError, BatchError, DecodeError, LengthError, UsageError
from qflare.model.refusal import Refusal
from qflare.primitives.random import random_bytes
from qflare.protocol import record
from qflare.protocol.chain import SessionChain
from qflare.protocol.segment import (
    PLAINTEXT_BYTES_MAX,
    SEALED_SEGMENT_BYTES,
    SEGMENT_BYTES,
    plaintext_size,
    sealed_size,
)
from qflare.secret import SecretBytes

SID = bytes(range(16))
BUCKET = 5_900_000
SIZES = [0, 1, 15, 16, 17, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES, 700_001]


@pytest.fixture
def key():
    return SecretBytes(bytearray(random_bytes(64)))


def head(**changes):
    values = {"kind": 0, "sid": SID, "bucket": BUCKET, "epoch": 0, "direction": 1, "stream_id": b"t" * 16}
    return record.RecordHeader(**{**values, **changes})


def opened(message_key, sealed, *, aad=b""):
    with record.open_record(message_key, sealed, aad=aad) as plaintext:
        return bytes(plaintext.view())


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_every_size_come_back(key, size):
    """At every boundary of segments: size, both forms of sealing and of opening agree."""
    plaintext = random_bytes(size)
    sealed = record.seal_record(key, head(), plaintext, aad=b"round 3")
    assert isinstance(sealed, bytes)
    assert len(sealed) == sealed_size(size)
    assert plaintext_size(len(sealed)) == size
    assert opened(key, sealed, aad=b"round 3") == plaintext
    out = bytearray(len(sealed))
    record.seal_record_into(key, head(), plaintext, out, aad=b"round 3")
    assert out == sealed
    target = bytearray(b"\xaa" * size)
    record.open_record_into(key, sealed, target, aad=b"round 3")
    assert target == plaintext


def test_the_peer_reads_and_writes_the_same_records():
    """An independent implementation opens ours and seals byte for byte what we seal, in each kind and direction."""
    chain_key = random_bytes(64)
    chain = SessionChain.begin(SecretBytes.copy_of(chain_key), sid=SID, start=BUCKET, lifetime=5)
    for kind in (0, 1):
        for direction in (1, 2):
            for size in (0, 33, SEGMENT_BYTES, SEGMENT_BYTES + 1):
                header = record.new_header(sid=SID, bucket=BUCKET + 2, direction=direction, kind=kind)
                other = peer.Session(SID, BUCKET, 5, direction, {BUCKET: chain_key})
                plaintext = random_bytes(size)
                with chain.message_key(BUCKET + 2, direction=direction, purpose=header.purpose) as mk:
                    sealed = record.seal_record(mk, header, plaintext, aad=b"A")
                assert sealed == other.seal(plaintext, b"A", b=BUCKET + 2, kind=kind, stream_id=header.stream_id)
                reader = peer.Session(SID, BUCKET, 5, 3 - direction, {BUCKET: chain_key})
                assert reader.open(sealed, b"A") == plaintext


def test_every_flipped_bit_and_truncation_of_a_record_is_refused(key):
    """B2: no altered record opens, and every one gives the same error."""
    sealed = record.seal_record(key, head(), b"an update", aad=b"x")
    for altered in (*every_flip(sealed), *every_truncation(sealed)):
        with pytest.raises(AuthenticationError):
            record.open_record(key, altered, aad=b"x")


@pytest.mark.parametrize(
    "change",
    [
        {"sid": bytes(16)},
        {"bucket": BUCKET + 1},
        {"epoch": 1},
        {"direction": 2},
        {"kind": 1},
        {"stream_id": bytes(16)},
    ],
)
def test_a_record_under_any_other_header_is_refused(key, change):
    """Another session, bucket, epoch, direction, kind or stream: the tag fails under the very same message key."""
    sealed = record.seal_record(key, head(), b"an update")
    with pytest.raises(AuthenticationError):
        record.open_record(key, head(**change).encode() + sealed[48:])


def test_another_key_or_associated_data_is_refused(key):
    """The message key and the application's data are both needed, exactly."""
    sealed = record.seal_record(key, head(), b"an update", aad=b"round 3")
    for aad in (b"", b"round 4", b"round 3\0", b"round "):
        with pytest.raises(AuthenticationError):
            record.open_record(key, sealed, aad=aad)
    with pytest.raises(AuthenticationError):
        record.open_record(SecretBytes.zeros(64), sealed, aad=b"round 3")


def test_moving_bytes_between_header_and_data_changes_what_is_bound(key):
    """The header has a length of its own in H, so that it cannot be continued by associated data."""
    sealed = record.seal_record(key, head(), b"m", aad=b"")
    longer = record.seal_record(key, head(), b"m", aad=b"\0")
    assert sealed[48:] != longer[48:]


def segments(sealed):
    body = sealed[48:]
    return [body[at : at + SEALED_SEGMENT_BYTES] for at in range(0, len(body), SEALED_SEGMENT_BYTES)]


def test_segments_cannot_be_moved_dropped_repeated_or_added(key):
    """Each change of the sequence of a message of four segments is refused, also with an honest last one."""
    sealed = record.seal_record(key, head(), random_bytes(3 * SEGMENT_BYTES + 100))
    parts = segments(sealed)
    assert len(parts) == 4
    exact = segments(record.seal_record(key, head(), random_bytes(2 * SEGMENT_BYTES)))
    sequences = [
        [parts[1], parts[0], parts[2], parts[3]],
        [parts[0], parts[2], parts[1], parts[3]],
        parts[1:],
        [parts[0], parts[2], parts[3]],
        parts[:3],
        parts[:2],
        parts[:1],
        parts[3:],
        [parts[0], parts[0], *parts[1:]],
        [*parts, parts[3]],
        [*parts[:3], parts[2], parts[3]],
        [*parts[:3], exact[1]],
        [parts[0], parts[1], parts[2], parts[3][:-1]],
        [parts[0][:-16], *parts[1:]],
        exact[:1],
        [*exact, exact[1]],
    ]
    for sequence in sequences:
        target_record = sealed[:48] + b"".join(sequence)
        with pytest.raises(AuthenticationError):
            record.open_record(key, target_record)


def test_segments_of_another_stream_of_the_same_key_are_refused(key):
    """Two records under one message key cannot lend each other segments."""
    one = record.seal_record(key, head(), random_bytes(2 * SEGMENT_BYTES))
    other = record.seal_record(key, head(stream_id=b"u" * 16), random_bytes(2 * SEGMENT_BYTES))
    mixed = one[: 48 + SEALED_SEGMENT_BYTES] + other[48 + SEALED_SEGMENT_BYTES :]
    with pytest.raises(AuthenticationError):
        record.open_record(key, mixed)


def test_a_failed_record_leaves_nothing_in_the_callers_buffer(key):
    """When the last of three segments fails, the two that were good are wiped too."""
    size = 2 * SEGMENT_BYTES + 5
    sealed = bytearray(record.seal_record(key, head(), b"\x55" * size))
    sealed[-1] ^= 1
    target = bytearray(b"\xaa" * size)
    with pytest.raises(AuthenticationError):
        record.open_record_into(key, sealed, target)
    assert target == bytes(size)


def test_sizes_that_no_record_has_are_refused():
    """An empty body, a rest of 1 to 15 bytes, and an empty last segment after others (R3)."""
    full = SEALED_SEGMENT_BYTES
    for body in (-48, -1, 0, 1, 15, full + 1, full + 15, full + 16, 2 * full + 16):
        with pytest.raises(DecodeError):
            plaintext_size(48 + body)
    for body, size in ((16, 0), (17, 1), (full, SEGMENT_BYTES), (full + 17, SEGMENT_BYTES + 1), (2 * full, 2**19)):
        assert plaintext_size(48 + body) == size
    with pytest.raises(LengthError):
        sealed_size(PLAINTEXT_BYTES_MAX + 1)
    assert plaintext_size(sealed_size(PLAINTEXT_BYTES_MAX)) == PLAINTEXT_BYTES_MAX
    with pytest.raises(DecodeError):
        plaintext_size(sealed_size(PLAINTEXT_BYTES_MAX) + 17)


@given(st.integers(0, 2**40))
def test_sizes_are_inverse(size):
    """Sealed and plaintext sizes tell each other."""
    assert plaintext_size(sealed_size(size)) == size


def test_headers_are_read_as_written_and_refused_in_order(key):
    """Length, type, version and kind are looked at in that order (R5)."""
    header = head(epoch=7, direction=2, kind=1)
    sealed = record.seal_record(key, header, b"x")
    assert record.decode_header(sealed) == header
    claim = header.claim()
    assert (claim.sid, claim.direction, claim.stream_id, claim.bucket) == (SID, 2, b"t" * 16, BUCKET)
    assert len(header.encode()) == 48
    assert record.read_header(sealed[:63]) is Refusal.LENGTH
    for at, byte, refusal in (
        (0, 9, Refusal.TYPE),
        (1, 2, Refusal.VERSION),
        (2, 2, Refusal.LENGTH),  # a reply's header is longer (R6)
        (2, 4, Refusal.UNEXPECTED),
        (2, 255, Refusal.UNEXPECTED),
        (31, 0, Refusal.UNEXPECTED),
        (31, 3, Refusal.UNEXPECTED),
    ):
        altered = bytearray(sealed)
        altered[at] = byte
        assert record.read_header(altered) is refusal
        with pytest.raises(DecodeError, match=refusal.value):
            record.decode_header(altered)


def test_headers_that_cannot_be_are_not_written():
    """Kinds and directions that do not exist, a reply without a request, wide numbers and short ids are refused."""
    for change in (
        {"kind": 2},
        {"kind": 4},
        {"request_id": b"r" * 16},
        {"direction": 0},
        {"bucket": -1},
        {"bucket": 2**64},
        {"epoch": 2**32},
    ):
        with pytest.raises(UsageError):
            head(**change)
    for change in ({"sid": b"x"}, {"stream_id": b"x"}, {"kind": 2, "request_id": b"x"}):
        with pytest.raises(LengthError):
            head(**change)


def test_stream_ids_are_fresh():
    """No two headers share a stream id."""
    ids = {record.new_header(sid=SID, bucket=1, direction=1).stream_id for _ in range(1000)}
    assert len(ids) == 1000


@given(st.binary(max_size=300))
def test_opening_is_total_on_random_bytes(data):
    """Any bytes give one error, with and without a plausible header."""
    key = SecretBytes.zeros(64)
    for candidate in (data, head().encode() + data):
        with pytest.raises(AuthenticationError):
            record.open_record(key, candidate)


def test_wrong_buffers_are_refused_before_anything_is_written(key):
    """Targets of another size and keys of another size are usage errors; nothing is touched."""
    sealed = record.seal_record(key, head(), b"four")
    target = bytearray(b"\xaa" * 5)
    with pytest.raises(LengthError):
        record.open_record_into(key, sealed, target)
    with pytest.raises(LengthError):
        record.seal_record_into(key, head(), b"four", target)
    assert target == b"\xaa" * 5
    with pytest.raises(LengthError):
        record.open_record(SecretBytes.zeros(63), sealed)


# --- batches ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=20)), max_size=40), st.booleans())
def test_batches_equal_loops(shapes, has_large):
    """Sealing and opening many gives what one by one gives, for any number and size."""
    sizes = [size for size, _ in shapes] + ([SEGMENT_BYTES + 3] if has_large else [])
    aads = [aad for _, aad in shapes] + ([b"big"] if has_large else [])
    keys = [random_bytes(64) for _ in sizes]
    headers = [head(bucket=BUCKET + number, stream_id=random_bytes(16)) for number in range(len(sizes))]
    plaintexts = [random_bytes(size) for size in sizes]
    sealed = record.seal_records_many(b"".join(keys), headers, plaintexts, aads=aads)
    expected = [
        record.seal_record(SecretBytes.copy_of(key), header, plaintext, aad=aad)
        for key, header, plaintext, aad in zip(keys, headers, plaintexts, aads, strict=True)
    ]
    assert sealed == expected
    found = record.open_records_many(SecretBytes.copy_of(b"".join(keys)), sealed, aads=aads)
    assert [bytes(one.view()) for one in found] == plaintexts


def test_one_bad_record_fails_alone_at_every_place():
    """Whatever is wrong with one, its neighbours open."""
    count = 7
    keys = random_bytes(64 * count)
    sealed = record.seal_records_many(
        keys, [head(stream_id=random_bytes(16)) for _ in range(count)], [b"m%d" % n for n in range(count)]
    )
    for place in range(count):
        for bad, refusal in (
            (b"", Refusal.LENGTH),
            (sealed[place][:-1] + bytes((sealed[place][-1] ^ 1,)), Refusal.TAG),
            (b"\7" + sealed[place][1:], Refusal.TYPE),
            (sealed[place - 1], Refusal.TAG),
        ):
            batch = [*sealed[:place], bad, *sealed[place + 1 :]]
            found = record.open_records_many(keys, batch)
            for number, one in enumerate(found):
                if number == place:
                    assert one is refusal
                else:
                    assert isinstance(one, SecretBytes)
                    assert bytes(one.view()) == b"m%d" % number


def test_batches_that_do_not_fit_together_are_refused():
    """Other numbers of keys, headers, messages or associated data are errors before any work; none is fine."""
    assert record.seal_records_many(b"", [], []) == []
    assert record.open_records_many(b"", []) == []
    for arguments, error in (
        ((bytes(64), [head(), head()], [b"", b""]), BatchError),
        ((bytes(128), [head(), head()], [b""]), BatchError),
        ((bytes(100), [head()], [b""]), LengthError),
    ):
        with pytest.raises(error):
            record.seal_records_many(*arguments)
    with pytest.raises(BatchError):
        record.open_records_many(bytes(64), [b""], aads=[])


def test_a_header_is_public_and_frozen():
    """Nobody changes a header after it was used."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        head().bucket = 3
