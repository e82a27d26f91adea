"""Streams: the same records piece by piece, in flat memory, delivered whole or not at all (R3)."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.errors import AuthenticationError, DecodeError, LengthError, UnexpectedMessageError, UsageError
from qflare.primitives.random import random_bytes
from qflare.protocol import record, stream
from qflare.protocol.segment import SEALED_SEGMENT_BYTES, SEGMENT_BYTES, sealed_size
from qflare.protocol.stream import StreamOpener, StreamSealer
from qflare.secret import SecretBytes

KEY = bytes(range(64))
HEADER = record.RecordHeader(kind=0, sid=bytes(16), bucket=9, epoch=0, direction=1, stream_id=b"t" * 16)
SIZES = [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES, 2 * SEGMENT_BYTES + 7]


@pytest.fixture
def key():
    return SecretBytes.copy_of(KEY)


def cut(data, sizes):
    """Cut *data* into pieces of *sizes*, over and over."""
    view, at, number = memoryview(data), 0, 0
    while at < len(view):
        size = max(1, sizes[number % len(sizes)])
        yield view[at : at + size]
        at, number = at + size, number + 1


def opener(key, out, aad=b""):
    return StreamOpener(key, HEADER, out, aad=aad)


@pytest.mark.parametrize("size", SIZES)
def test_a_stream_is_the_record_whatever_way_it_is_cut(key, size):
    """One buffer, pieces of any size, pushed by hand: the same bytes as sealing in one call, and back."""
    plaintext = random_bytes(size)
    expected = record.seal_record(key, HEADER, plaintext, aad=b"a")
    assert b"".join(StreamSealer(key, HEADER, aad=b"a").seal(plaintext)) == expected
    for sizes in ([1 << 20], [SEGMENT_BYTES], [SEGMENT_BYTES - 1, 2], [77_777], [3, 1 << 19]):
        assert b"".join(StreamSealer(key, HEADER, aad=b"a").seal(cut(plaintext, sizes))) == expected
        sealer = StreamSealer(key, HEADER, aad=b"a")
        parts = [sealer.header]
        for piece in cut(plaintext, sizes):
            parts += sealer.push(piece)
        assert b"".join([*parts, sealer.finish()]) == expected
        out = bytearray(size + 3)
        with opener(key, out, b"a") as reader:
            for piece in cut(expected[48:], sizes):
                reader.write(piece)
            assert reader.finish() == size
        assert out[:size] == plaintext


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3 * SEGMENT_BYTES), st.lists(st.integers(1, 2 * SEGMENT_BYTES), min_size=1, max_size=5))
def test_random_cuts_agree(size, sizes):
    """Any size and any cuts on both sides."""
    key = SecretBytes.copy_of(KEY)
    plaintext = random_bytes(size)
    sealed = b"".join(StreamSealer(key, HEADER).seal(cut(plaintext, sizes)))
    assert sealed == record.seal_record(key, HEADER, plaintext)
    out = bytearray(size)
    reader = opener(key, out)
    for piece in cut(sealed[48:], [*reversed(sizes), 7]):
        reader.write(piece)
    assert reader.finish() == size
    assert out == plaintext


WHOLE = SEALED_SEGMENT_BYTES


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("sizes", [[WHOLE], [0, WHOLE], [WHOLE, 9], [WHOLE, WHOLE, 1, WHOLE], [5, WHOLE, WHOLE]])
def test_pieces_may_change_once_they_were_written(key, kind, sizes):
    """Whole segments as they travel, of both kinds, before and behind others; who writes may use its buffer again."""
    size = 4 * SEGMENT_BYTES + 11
    plaintext, out = random_bytes(size), bytearray(size)
    body = record.seal_record(key, HEADER, plaintext)[48:]
    reader, at, number = opener(key, out), 0, 0
    while at < len(body):
        piece = kind(body[at : at + sizes[number % len(sizes)]])
        reader.write(piece)
        at, number = at + len(piece), number + 1
        if kind is bytearray:
            piece[:] = bytes(len(piece))
    assert reader.finish() == size
    assert out == plaintext


def test_a_whole_segment_that_was_held_back_is_the_last_only_if_it_was_sealed_so(key):
    """A record cut after a whole segment is not authentic, and delivers nothing."""
    body = record.seal_record(key, HEADER, bytes(SEGMENT_BYTES + 1))[48:]
    out = bytearray(b"\xaa" * 2 * SEGMENT_BYTES)
    reader = opener(key, out)
    reader.write(bytes(body[:WHOLE]))
    with pytest.raises(AuthenticationError):
        reader.finish()
    with pytest.raises(UnexpectedMessageError):
        reader.write(bytes(body[WHOLE:]))


def feed(key, body, size, sizes=(100_000,)):
    out = bytearray(b"\xaa" * size)
    reader = opener(key, out)
    try:
        for piece in cut(body, sizes):
            reader.write(piece)
        reader.finish()
    except AuthenticationError:
        return out, reader
    raise AssertionError("an altered stream was delivered")


def test_altered_streams_deliver_nothing(key):
    """Reordered, dropped, repeated, extended, cut or flipped segments: refused, and what was opened is wiped."""
    size = 3 * SEGMENT_BYTES + 10
    body = record.seal_record(key, HEADER, b"\x55" * size)[48:]
    parts = [body[at : at + SEALED_SEGMENT_BYTES] for at in range(0, len(body), SEALED_SEGMENT_BYTES)]
    flipped = bytearray(body)
    flipped[-1] ^= 1
    for altered in (
        parts[1] + parts[0] + parts[2] + parts[3],
        b"".join(parts[:3]),
        b"".join(parts[:2]) + parts[3],
        b"".join(parts[:3]) + parts[2],
        b"".join(parts) + parts[3],
        b"".join(parts) + b"\0",
        body[:-1],
        body[: -len(parts[3]) + 15],
        body[: -len(parts[3]) + 16],
        bytes(flipped),
        b"",
        body[:16],
        body[:15],
    ):
        out, reader = feed(key, altered, 5 * SEGMENT_BYTES)
        assert 0x55 not in out
        with pytest.raises(UnexpectedMessageError):
            reader.finish()
        with pytest.raises(UnexpectedMessageError):
            reader.write(b"")


def test_an_abandoned_stream_wipes_what_it_had_opened(key):
    """Leaving the block before `finish` leaves nothing behind."""
    body = record.seal_record(key, HEADER, b"\x55" * (2 * SEGMENT_BYTES))[48:]
    out = bytearray(2 * SEGMENT_BYTES)
    with opener(key, out) as reader:
        reader.write(body)
        assert reader.has_verified
        assert out[0] == 0x55
    assert out == bytes(2 * SEGMENT_BYTES)


def test_a_delivered_message_stays(key):
    """After `finish`, leaving the block keeps the message."""
    out = bytearray(3)
    with opener(key, out) as reader:
        assert not reader.has_verified
        reader.write(record.seal_record(key, HEADER, b"abc")[48:])
        assert not reader.has_verified
        reader.finish()
        assert reader.has_verified
    assert out == b"abc"


def test_a_message_longer_than_the_buffer_is_refused_and_wiped(key):
    """The buffer's size is the limit, before and at the last segment."""
    body = record.seal_record(key, HEADER, b"\x55" * (SEGMENT_BYTES + 10))[48:]
    for size in (SEGMENT_BYTES + 9, SEGMENT_BYTES, SEGMENT_BYTES - 1, 0):
        out = bytearray(size)
        reader = opener(key, out)
        with pytest.raises(DecodeError):  # noqa: PT012 - which of the two finds out depends on the size
            reader.write(body)
            reader.finish()
        assert out == bytes(size)
        with pytest.raises(UnexpectedMessageError):
            reader.finish()


def test_a_sealer_is_used_once(key):
    """Nonces never repeat: after the last segment there is no other."""
    sealer = StreamSealer(key, HEADER)
    list(sealer.seal(b"one"))
    with pytest.raises(UnexpectedMessageError):
        list(sealer.seal(b"two"))
    with pytest.raises(UnexpectedMessageError):
        sealer.finish()
    with pytest.raises(UnexpectedMessageError):
        sealer.push(bytes(SEGMENT_BYTES + 1))
    with pytest.raises(UnexpectedMessageError):
        sealer.push(b"held back, and lost if it were taken")
    begun = StreamSealer(key, HEADER)
    begun.push(b"one")
    with pytest.raises(UnexpectedMessageError):
        list(begun.seal(b"two"))


def test_a_stream_ends_at_2_to_the_32_segments(key, monkeypatch):
    """R9: neither side goes on after the last segment there is."""
    monkeypatch.setattr(stream, "SEGMENTS_MAX", 2)
    body = record.seal_record(key, HEADER, b"\x55" * (2 * SEGMENT_BYTES + 1))[48:]
    sealer = StreamSealer(key, HEADER)
    sealer.push(bytes(2 * SEGMENT_BYTES))
    sealer.push(b"1")
    with pytest.raises(LengthError):
        sealer.finish()
    out = bytearray(2 * SEGMENT_BYTES + 1)
    with opener(key, out) as reader:
        reader.write(body)
        with pytest.raises(AuthenticationError):
            reader.finish()
    assert 0x55 not in out


def test_a_read_only_buffer_is_refused(key):
    """What cannot be written cannot be opened into."""
    with pytest.raises(UsageError):
        opener(key, memoryview(b"read only"))


def test_held_plaintext_is_wiped(key):
    """A sealer that is left before its end keeps nothing of the message."""
    with StreamSealer(key, HEADER) as sealer:
        sealer.push(b"\x55" * 1000)
        held = sealer._held
        assert held[0] == 0x55
    assert held == bytes(SEGMENT_BYTES)


def peak_of(work):
    """Return the most bytes that were allocated at once while *work* ran."""
    work()  # whatever is made once is made now
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_flat(key):
    """Sealing and opening 16 MiB each need at most two segments beyond the caller's buffers, however it is done."""
    size = 16 << 20
    plaintext, out, sealed = bytearray(size), bytearray(size), bytearray(sealed_size(size))
    record.seal_record_into(key, HEADER, plaintext, sealed)

    def drain(source):
        stream = StreamSealer(key, HEADER).seal(source)
        while next(stream, None) is not None:
            pass

    def fill():
        reader = opener(key, out)
        for piece in cut(memoryview(sealed)[48:], [100_000]):
            reader.write(piece)
        reader.finish()

    for work in (
        lambda: drain(plaintext),
        lambda: drain(cut(plaintext, [100_000])),
        fill,
        lambda: record.seal_record_into(key, HEADER, plaintext, sealed),
        lambda: record.open_record_into(key, sealed, out),
    ):
        assert peak_of(work) <= 2 * SEALED_SEGMENT_BYTES + 20_000
