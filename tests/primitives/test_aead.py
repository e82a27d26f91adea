import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from qflare.errors import AuthenticationError, BatchError, LengthError, UsageError
from qflare.primitives import aead
from qflare.primitives.columns import rows, shared
from qflare.secret import SecretBytes
from vector_sets import package_text, records, report, vector_json

KEY, NONCE = bytes(range(32)), bytes(range(12))


def test_every_wycheproof_case_with_our_sizes():
    """Every wycheproof AES-GCM case with a 256-bit key and a 12-byte nonce seals and opens as it says."""
    ran, left_out = 0, 0
    for group in vector_json("wycheproof/aes_gcm_test.json")["testGroups"]:
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            left_out += len(group["tests"])
            continue
        for case in group["tests"]:
            key, nonce, aad, plaintext, ciphertext, tag = (
                bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            sealed = ciphertext + tag
            opened = aead.open_many(key, nonce, [sealed], [aad])[0]
            if case["result"] == "valid":
                assert sealed == aead.seal(key, nonce, plaintext, aad)
                assert aead.open(key, nonce, sealed, aad).equals(plaintext)
                assert opened is not None
                assert opened.equals(plaintext)
            else:
                with pytest.raises(AuthenticationError):
                    aead.open(key, nonce, sealed, aad)
                assert opened is None
            ran += 1
    assert ran > 50
    report(
        "wycheproof/aes_gcm_test.json",
        ran=ran,
        left_out=f"{left_out} with a 128- or 192-bit key or a nonce of another size than 12 bytes: never used here",
    )


@pytest.mark.parametrize("name", ["gcmEncryptExtIV256", "gcmDecrypt256"])
def test_nist_cases_with_our_sizes(name):
    """NIST's AES-256-GCM cases with 12-byte nonces and 16-byte tags open and seal as they say."""
    cases = records(package_text(f"ciphers/AES/GCM/{name}.rsp"))
    ours = [case for case in cases if (case["IVlen"], case["Taglen"]) == ("96", "128") and "Key" in case]
    for case in ours:
        key, nonce, aad = (bytes.fromhex(case[field]) for field in ("Key", "IV", "AAD"))
        sealed = bytes.fromhex(case["CT"] + case["Tag"])
        if "PT" in case:
            plaintext = bytes.fromhex(case["PT"])
            assert sealed == aead.seal(key, nonce, plaintext, aad)
            assert aead.open(key, nonce, sealed, aad).equals(plaintext)
        else:
            with pytest.raises(AuthenticationError):
                aead.open(key, nonce, sealed, aad)
    assert len(ours) > 100
    report(
        f"cryptography-vectors ciphers/AES/GCM/{name}.rsp",
        ran=len(ours),
        left_out=f"{len(cases) - len(ours)} with other nonce or tag sizes",
    )


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12), st.binary(max_size=500), st.binary())
def test_sealed_is_what_aes_gcm_makes(key, nonce, plaintext, aad):
    """Sealing is AES-GCM with the tag at the end, and opening undoes it."""
    sealed = aead.seal(key, nonce, plaintext, aad)
    assert AESGCM(key).encrypt(nonce, plaintext, aad) == sealed
    assert aead.open(key, nonce, sealed, aad).equals(plaintext)


def test_every_bit_flip_and_truncation_is_refused():
    """B2: no altered or shortened message, nonce or aad opens, and all failures look alike."""
    sealed = aead.seal(KEY, NONCE, b"twenty bytes of text", b"aad")
    seen = set()

    def refused(nonce, message, aad):
        with pytest.raises(AuthenticationError) as caught:
            aead.open(KEY, nonce, message, aad)
        seen.add((type(caught.value), str(caught.value), caught.value.__cause__, caught.value.__context__))

    def flips(data):
        for bit in range(len(data) * 8):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            yield changed

    for changed in flips(sealed):
        refused(NONCE, changed, b"aad")
    for size in range(len(sealed)):
        refused(NONCE, sealed[:size], b"aad")
    refused(NONCE, sealed + b"\0", b"aad")
    for changed in flips(NONCE):
        refused(changed, sealed, b"aad")
    for changed in flips(b"aad"):
        refused(NONCE, sealed, changed)
    assert {(AuthenticationError, "authentication failed", None, None)} == seen


def test_a_refused_message_leaves_no_plaintext():
    """The caller's buffer is zero after a failure, not full of unverified plaintext."""
    sealed = bytearray(aead.seal(KEY, NONCE, b"p" * 1000, b""))
    sealed[-1] ^= 1
    out = bytearray(b"x" * 1000)
    with pytest.raises(AuthenticationError):
        aead.open_into(KEY, NONCE, sealed, b"", out)
    assert bytes(1000) == out


def test_a_key_object_serves_many_messages():
    """One key schedule seals and opens many messages, in the caller's buffers."""
    key = aead.AeadKey(SecretBytes.copy_of(KEY))
    sealed, opened = bytearray(1016), bytearray(1000)
    for index in range(20):
        nonce, plaintext = index.to_bytes(12, "big"), os.urandom(1000)
        key.seal_into(nonce, plaintext, b"aad", sealed)
        assert aead.seal(KEY, nonce, plaintext, b"aad") == sealed
        key.open_into(nonce, sealed, b"aad", opened)
        assert plaintext == opened


@pytest.mark.parametrize("change", [-1, 1])
def test_outputs_of_wrong_size_are_refused(change):
    """An output buffer of another size is refused and left as it was."""
    key = aead.AeadKey(KEY)
    sealed = key.seal(NONCE, bytes(100), b"")
    for call, source, size in ((key.open_into, sealed, 100), (key.seal_into, bytes(100), 116)):
        out = bytearray(b"x" * (size + change))
        with pytest.raises(LengthError):
            call(NONCE, source, b"", out)
        assert out == b"x" * (size + change)


def test_a_read_only_output_is_refused():
    """Immutable bytes are no output, for plaintext would be written into them."""
    with pytest.raises(UsageError, match="writable"):
        aead.AeadKey(KEY).seal_into(NONCE, b"x", b"", bytes(17))
    with pytest.raises(UsageError, match="writable"):
        aead.open_into(KEY, NONCE, aead.seal(KEY, NONCE, b"x", b""), b"", memoryview(bytes(1)))


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_keys_have_32_bytes(size):
    """A key of another size is refused, those of AES-128 and AES-192 too."""
    with pytest.raises(LengthError, match="key must be 32 bytes"):
        aead.seal(bytes(size), NONCE, b"", b"")
    with pytest.raises(LengthError):
        aead.open(bytes(size), NONCE, bytes(16), b"")


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_nonces_have_12_bytes(size):
    """A nonce of another size is refused."""
    with pytest.raises(LengthError, match="nonce must be 12 bytes"):
        aead.seal(KEY, bytes(size), b"", b"")
    with pytest.raises(LengthError):
        aead.open(KEY, bytes(size), bytes(16), b"")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 1000])
def test_batch_equals_single(count):
    """A batch seals and opens as the loop over its rows, with rows and columns of every shape."""
    keys, nonces = os.urandom(32 * count), os.urandom(12 * count)
    texts = [os.urandom(i % 50) for i in range(count)]
    aads = os.urandom(64 * count)
    sealed = aead.seal_many(keys, nonces, texts, rows(aads, 64))
    singles = [
        aead.seal(keys[i * 32 :][:32], nonces[i * 12 :][:12], texts[i], aads[i * 64 :][:64]) for i in range(count)
    ]
    assert singles == sealed
    opened = aead.open_many(keys, nonces, sealed, [aads[i * 64 :][:64] for i in range(count)])
    assert all(plain is not None and plain.equals(text) for plain, text in zip(opened, texts, strict=True))


def test_one_nonce_and_aad_for_all_rows():
    """Rows under their own keys may share the zero nonce and the aad."""
    keys = os.urandom(32 * 5)
    sealed = aead.seal_many(SecretBytes.copy_of(keys), aead.NONCE_ZERO, rows(bytes(50), 10), shared(b"all"))
    assert [aead.seal(keys[i * 32 :][:32], bytes(12), bytes(10), b"all") for i in range(5)] == sealed


@pytest.mark.parametrize("bad", range(9))
def test_one_bad_row_fails_alone(bad):
    """A4: one altered row is None, at every position; the others open."""
    keys = os.urandom(32 * 9)
    sealed = [bytearray(row) for row in aead.seal_many(keys, NONCE, [b"text"] * 9, shared(b""))]
    sealed[bad][0] ^= 1
    opened = aead.open_many(keys, NONCE, sealed, shared(b""))
    assert [bad] == [index for index, plain in enumerate(opened) if plain is None]
    sealed[bad] = bytearray(b"short")
    assert aead.open_many(keys, NONCE, sealed, shared(b""))[bad] is None


@pytest.mark.parametrize("count", [0, 1, 3, 8, 33])
def test_one_key_seals_rows_as_it_seals_each(count):
    """A batch under one key is the loop over its rows; too few rows of anything are refused."""
    key, nonces, texts = aead.AeadKey(KEY), os.urandom(12 * count), os.urandom(50 * count)
    aads = [os.urandom(index) for index in range(count)]
    sealed = key.seal_many(count, nonces, rows(texts, 50), aads)
    assert sealed == [key.seal(nonces[i * 12 :][:12], texts[i * 50 :][:50], aads[i]) for i in range(count)]
    for nonce_rows, text_rows, aad_rows in ((36, 100, 2), (12, 100, 2), (24, 50, 2), (24, 100, 1)):
        with pytest.raises(BatchError):
            key.seal_many(2, bytes(nonce_rows), rows(bytes(text_rows), 50), [b""] * aad_rows)


@pytest.mark.parametrize("count", [0, 1, 3, 8, 33])
def test_rows_open_into_one_secret(count):
    """Rows open behind each other into one secret, with a status each; a forged one is zero and fails alone."""
    keys, texts, aads = os.urandom(32 * count), os.urandom(50 * count), os.urandom(64 * count)
    sealed = bytearray().join(aead.seal_many(keys, NONCE, rows(texts, 50), rows(aads, 64)))
    framed = bytes(7) + sealed
    with SecretBytes(bytearray(b"x" * (50 * count))) as out:
        assert aead.open_many_into(keys, NONCE, rows(framed, 66, 66, 7), rows(aads, 64), out) == bytes(count)
        assert out.equals(texts)
        for bad in range(count):
            forged = bytearray(sealed)
            forged[bad * 66 + 49] ^= 1
            expected = texts[: bad * 50] + bytes(50) + texts[(bad + 1) * 50 :]
            status = aead.open_many_into(keys, NONCE, rows(forged, 66), rows(aads, 64), out)
            assert status == bytes(row == bad for row in range(count))
            assert out.equals(expected)


def test_rows_open_into_no_other_size():
    """A secret of another size, rows shorter than a tag or of another number: refused, nothing written."""
    for size, width, count, error in ((99, 66, 2, LengthError), (0, 15, 2, LengthError), (100, 66, 3, BatchError)):
        with SecretBytes(bytearray(b"x" * size)) as out:
            with pytest.raises(error):
                aead.open_many_into(bytes(64), NONCE, rows(bytes(width * count), width), shared(b""), out)
            assert out.equals(b"x" * size)


def test_disagreeing_batches_are_refused():
    """Keys, nonces, texts and aads of different numbers are refused before anything is sealed."""
    for nonces, texts, aads in (
        (bytes(36), [b""] * 2, shared(b"")),
        (NONCE, [b""] * 3, shared(b"")),
        (NONCE, [b""] * 2, [b""]),
        (NONCE, rows(bytes(3), 1), shared(b"")),
    ):
        with pytest.raises(BatchError):
            aead.seal_many(bytes(64), nonces, texts, aads)
        with pytest.raises(BatchError):
            aead.open_many(bytes(64), nonces, texts, aads)
    with pytest.raises(UsageError):
        aead.seal_many(bytes(64), NONCE, b"one buffer", shared(b""))


def test_plaintexts_beyond_the_limit_are_refused(monkeypatch):
    """A message longer than one call takes is refused before anything is allocated."""
    monkeypatch.setattr(aead, "PLAINTEXT_BYTES_MAX", 100)
    with pytest.raises(LengthError, match="at most 100"):
        aead.seal(KEY, NONCE, bytes(101), b"")
    with pytest.raises(AuthenticationError):
        aead.open(KEY, NONCE, bytes(117), b"")
