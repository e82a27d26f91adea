import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.errors import BatchError, UsageError
from qflare.primitives import hash as qhash
from qflare.primitives.columns import rows, shared
from qflare.secret import SecretBytes
from vector_sets import package_text, records, report, vector_json

BATCH_SIZES = (0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 1000)


def stream(seed: str, size: int) -> bytes:
    """Give bytes that look random and are the same in every run."""
    return hashlib.shake_128(seed.encode()).digest(size)


def test_sha3_512_matches_every_keccak_team_vector():
    """Every byte-aligned Keccak team vector of SHA3-512 holds, alone and as one batch."""
    cases = vector_json("sha3/SHA3-512_keccakKats.json")["SHA3-512"]
    whole = [case for case in cases if case["length"] % 8 == 0]
    messages = [bytes.fromhex(case["message"])[: case["length"] // 8] for case in whole]
    digests = [bytes.fromhex(case["digest"]) for case in whole]
    assert digests == [qhash.sha3_512(message) for message in messages]
    assert b"".join(digests) == qhash.sha3_512_many(messages)
    partial = len(cases) - len(whole)
    report(
        "sha3/SHA3-512_keccakKats.json",
        ran=len(whole),
        left_out=f"{partial} whose bit length is no multiple of 8" if partial else "",
    )


@pytest.mark.parametrize("name", ["SHA3_512ShortMsg", "SHA3_512LongMsg"])
def test_sha3_512_matches_nist_messages(name):
    """NIST's short and long messages hash to NIST's digests."""
    cases = [case for case in records(package_text(f"hashes/SHA3/{name}.rsp")) if "Msg" in case]
    messages = [bytes.fromhex(case["Msg"])[: int(case["Len"]) // 8] for case in cases]
    expected = b"".join(bytes.fromhex(case["MD"]) for case in cases)
    assert len(cases) > 50
    assert expected == qhash.sha3_512_many(messages)
    report(f"cryptography-vectors hashes/SHA3/{name}.rsp", ran=len(cases))


def test_sha3_512_matches_nist_monte_carlo():
    """NIST's Monte Carlo chain, 100 rounds of 1,000 hashes, gives NIST's digests."""
    cases = records(package_text("hashes/SHA3/SHA3_512Monte.rsp"))
    digest = bytes.fromhex(next(case["Seed"] for case in cases if "Seed" in case))
    expected = [bytes.fromhex(case["MD"]) for case in cases if "MD" in case]
    assert len(expected) == 100
    for round_digest in expected:
        for _ in range(1000):
            digest = qhash.sha3_512(digest)
        assert round_digest == digest
    report("cryptography-vectors hashes/SHA3/SHA3_512Monte.rsp", ran=len(expected))


@pytest.mark.parametrize("name", ["SHAKE256ShortMsg", "SHAKE256LongMsg", "SHAKE256VariableOut"])
def test_shake256_matches_nist_messages(name):
    """NIST's SHAKE256 messages, with outputs of every length, give NIST's outputs."""
    cases = [case for case in records(package_text(f"hashes/SHAKE/{name}.rsp")) if "Output" in case]
    ran = 0
    for case in cases:
        message = bytes.fromhex(case["Msg"])
        bits = int(case.get("Len", len(message) * 8))
        output = bytes.fromhex(case["Output"])
        assert output == qhash.shake256(message[: bits // 8], len(output))
        ran += 1
    assert ran > 50
    report(f"cryptography-vectors hashes/SHAKE/{name}.rsp", ran=ran)


def test_hmac_over_our_sha3_512_matches_wycheproof():
    """HMAC built on our SHA3-512 gives every wycheproof tag, and none of the invalid ones."""

    def hmac_sha3_512(key, message):
        block = 72
        key = (qhash.sha3_512(key) if len(key) > block else key).ljust(block, b"\0")
        inner = qhash.sha3_512(bytes(byte ^ 0x36 for byte in key) + message)
        return qhash.sha3_512(bytes(byte ^ 0x5C for byte in key) + inner)

    ran = 0
    for group in vector_json("wycheproof/hmac_sha3_512_test.json")["testGroups"]:
        for case in group["tests"]:
            tag = bytes.fromhex(case["tag"])
            made = hmac_sha3_512(bytes.fromhex(case["key"]), bytes.fromhex(case["msg"]))[: group["tagSize"] // 8]
            assert (case["result"] == "valid") == hmac.compare_digest(tag, made), case["tcId"]
            ran += 1
    report("wycheproof/hmac_sha3_512_test.json", ran=ran)


def test_every_length_around_the_block_matches_hashlib():
    """Messages of 0 to 600 bytes, over every block edge, hash as in hashlib."""
    messages = [stream("lengths", size) for size in range(601)]
    assert b"".join(hashlib.sha3_512(m).digest() for m in messages) == qhash.sha3_512_many(messages)
    assert b"".join(hashlib.shake_256(m).digest(200) for m in messages) == qhash.shake256_many(messages, 200)


@given(st.binary(max_size=2000), st.integers(1, 700))
def test_random_messages_match_hashlib(message, length):
    """Any message hashes as in hashlib."""
    assert hashlib.sha3_512(message).digest() == qhash.sha3_512(message)
    assert hashlib.shake_256(message).digest(length) == qhash.shake256(message, length)


@pytest.mark.parametrize("count", BATCH_SIZES)
def test_batch_equals_single(count):
    """A batch of any size is byte-equal to the loop over its messages."""
    messages = [stream(f"batch {i}", i % 300) for i in range(count)]
    assert b"".join(qhash.sha3_512(m) for m in messages) == qhash.sha3_512_many(messages)
    assert b"".join(qhash.shake256(m, 33) for m in messages) == qhash.shake256_many(messages, 33)


def reference_transcript(*parts: bytes) -> bytes:
    return hashlib.sha3_512(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()


@given(st.lists(st.binary(max_size=400), max_size=12))
def test_transcript_is_sha3_512_of_length_prefixed_parts(parts):
    """H is SHA3-512 over the parts, each behind its length as u32."""
    assert reference_transcript(*parts) == qhash.transcript(*parts)


@given(st.lists(st.lists(st.binary(max_size=200), max_size=5), max_size=9))
def test_variable_transcripts_equal_single_ones(batch):
    """Rows of different shapes in one call give what each gives alone."""
    assert b"".join(reference_transcript(*parts) for parts in batch) == qhash.transcript_var_many(batch)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(BATCH_SIZES[1:-1]))
def test_transcript_columns_equal_single_ones(data, count):
    """Columns, shared or not, packed or strided, hash row by row as the single form."""
    columns, values = [], []
    for index in range(data.draw(st.integers(1, 6))):
        width = data.draw(st.integers(0, 160))
        if data.draw(st.booleans()):
            value = stream(f"shared {index}", width)
            columns.append(shared(value))
            values.append([value] * count)
        else:
            gap, offset = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
            memory = stream(f"rows {index}", offset + count * (width + gap))
            columns.append(rows(memory, width, width + gap, offset))
            starts = range(offset, offset + count * (width + gap), width + gap) if width + gap else [offset] * count
            values.append([memory[start : start + width] for start in starts])
    expected = b"".join(qhash.transcript(*parts) for parts in zip(*values, strict=True))
    assert expected == qhash.transcript_many(count, *columns)


def test_transcript_of_no_rows_is_empty():
    """A batch of no rows is empty, whatever its columns."""
    assert qhash.transcript_many(0, shared(b"label"), rows(b"", 32)) == b""
    assert qhash.transcript_var_many([]) == b""


@pytest.mark.parametrize("count", [-1, 65537, 2**31 // 1568 + 1, 2**32 // 3168 + 1, 2**63, 1.0, True, None])
def test_impossible_counts_are_refused_before_allocation(count):
    """A count that no batch can have is refused, not tried."""
    with pytest.raises(BatchError):
        qhash.transcript_many(count, shared(b"x"))
    with pytest.raises(BatchError):
        qhash.kmac256_many(count, shared(b"k" * 64), (), 64)


@pytest.mark.parametrize("length", [0, -1, 2**31, 2**63, 1.5, True])
def test_impossible_lengths_are_refused_before_allocation(length):
    """An output length that cannot be is refused, not tried."""
    with pytest.raises(UsageError):
        qhash.shake256(b"", length)
    with pytest.raises(UsageError):
        qhash.kmac256(b"k" * 32, b"", length)


def test_too_much_output_is_refused_before_allocation():
    """Rows that are each fine but together more than a call may return are refused."""
    with pytest.raises(BatchError):
        qhash.shake256_many([b""] * 1000, 2**30)


def test_too_many_messages_are_refused():
    """One message more than a batch takes is refused."""
    with pytest.raises(BatchError):
        qhash.sha3_512_many([b""] * 65537)


@pytest.mark.parametrize("wrong", ["text", 5, None, [1, 2]])
def test_wrong_types_are_refused(wrong):
    """What is no buffer is refused with our error, naming its type."""
    with pytest.raises(UsageError):
        qhash.sha3_512(wrong)
    with pytest.raises(UsageError):
        qhash.transcript(b"x", wrong)


@pytest.mark.parametrize("wrong", [b"one message", "text", None, ["text"]])
def test_many_refuses_what_is_no_sequence_of_messages(wrong):
    """One buffer where many are due is refused rather than taken apart."""
    with pytest.raises(UsageError):
        qhash.sha3_512_many(wrong)


def test_columns_must_be_columns():
    """Bare bytes among the columns are refused: shared() or rows() must be said."""
    with pytest.raises(UsageError, match="shared"):
        qhash.transcript_many(1, b"bare")
    with pytest.raises(UsageError, match="at least one"):
        qhash.transcript_many(1)


def test_too_many_columns_are_refused():
    """More columns than a call takes are refused."""
    with pytest.raises(BatchError):
        qhash.transcript_many(1, *[shared(b"x")] * 65)


def test_all_kinds_of_buffers_hash_alike():
    """bytes, bytearray, memoryview, numpy and SecretBytes of the same content hash alike."""
    numpy = pytest.importorskip("numpy")
    data = stream("kinds", 128)
    kinds = [data, bytearray(data), memoryview(data), numpy.frombuffer(data, "u1"), SecretBytes.copy_of(data)]
    kinds.append(numpy.frombuffer(data, "u1").reshape(2, 64))
    for kind in kinds:
        assert hashlib.sha3_512(data).digest() == qhash.sha3_512(kind)
        assert qhash.transcript(data[:64]) + qhash.transcript(data[64:]) == qhash.transcript_many(2, rows(kind, 64))


def test_inputs_are_not_changed():
    """Hashing leaves what it was given as it was."""
    message = bytearray(b"message")
    qhash.sha3_512_many([message, message])
    qhash.transcript_var_many([[message], [message]])
    assert message == b"message"
