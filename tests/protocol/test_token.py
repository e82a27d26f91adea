"""Enrolment tokens: one text for each token, nothing else is one (E1)."""

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer import enrol as peer
from qflare.errors import DecodeError, LengthError
from qflare.primitives.hash import transcript
from qflare.protocol.token import EnrolmentToken, decode_token, new_token, token_secret_hash
from qflare.secret import SecretBytes

FIELDS = {"tenant_id": b"t" * 16, "token_id": b"i" * 16, "server_id": b"s" * 32}
TEXT = EnrolmentToken(secret=SecretBytes.copy_of(b"x" * 32), **FIELDS).encode()


def test_a_token_comes_back_as_it_was_written():
    """Random tokens survive being a text; the text is 156 characters of base32."""
    for _ in range(50):
        with new_token(tenant_id=b"t" * 16, server_id=b"s" * 32) as token:
            text = token.encode()
            assert len(text) == 156
            assert set(text) <= set(string.ascii_uppercase + "234567")
            with decode_token(f" {text}\n") as found:
                assert found.secret.equals(token.secret)
                assert (found.tenant_id, found.token_id, found.server_id) == (b"t" * 16, token.token_id, b"s" * 32)


def test_the_peer_writes_and_reads_the_same_text():
    """An independent implementation agrees in both directions."""
    assert peer.Token(b"t" * 16, b"i" * 16, b"x" * 32, b"s" * 32).text() == TEXT
    assert peer.read_token(TEXT).secret == b"x" * 32


def test_the_database_holds_a_hash_only():
    """secret_hash is H(secret) with its length in front (D1)."""
    with decode_token(TEXT) as token:
        assert token.secret_hash == transcript(b"x" * 32) == token_secret_hash(b"x" * 32)


def test_every_changed_character_is_another_token_or_none():
    """No two texts are one token: each substitution at each place is refused or means other bytes (left-over bits)."""
    with decode_token(TEXT) as token:
        original = (token.tenant_id, token.token_id, bytes(token.secret.view()), token.server_id)
    for place in range(156):
        for character in string.ascii_uppercase + "234567":
            if character == TEXT[place]:
                continue
            altered = TEXT[:place] + character + TEXT[place + 1 :]
            try:
                found = decode_token(altered)
            except DecodeError:
                continue
            assert (found.tenant_id, found.token_id, bytes(found.secret.view()), found.server_id) != original


def test_texts_that_are_no_token_are_refused():
    """Truncated, lengthened, lower case, padded, foreign characters, left-over bits, another version."""
    other = base64.b32encode(b"\2" + bytes(96)).decode().rstrip("=")
    last = [TEXT[:-1] + character for character in string.ascii_uppercase + "234567" if character not in "AQ"]
    for bad in (
        *(TEXT[:size] for size in range(156)),
        TEXT + "A",
        TEXT + "====",
        TEXT.lower(),
        TEXT[:80] + " " + TEXT[81:],
        TEXT[:80] + "1" + TEXT[81:],
        TEXT[:80] + "\u0130" + TEXT[81:],
        other,
        *last,
    ):
        with pytest.raises(DecodeError):
            decode_token(bad)


@given(st.text(max_size=200) | st.text(string.ascii_uppercase + "234567=", min_size=156, max_size=156))
def test_the_token_reader_is_total_and_never_repeats_the_text(text):
    """Any text is a token or a DecodeError that does not quote it."""
    try:
        decode_token(text).wipe()
    except DecodeError as error:
        assert len(text) < 8 or text not in str(error)  # noqa: PT017 - most texts are refused, a few are not


def test_a_token_does_not_show_its_secret():
    """Repr has no secret, and a wiped token has none either."""
    token = decode_token(TEXT)
    assert "x" * 8 not in repr(token)
    with token:
        pass
    assert bytes(token.secret.view()) == bytes(32)


@pytest.mark.parametrize("field", ["tenant_id", "token_id", "server_id", "secret"])
def test_fields_of_another_size_are_refused(field):
    """A token has fixed fields."""
    fields = {**FIELDS, "secret": SecretBytes.copy_of(b"x" * 32)}
    fields[field] = SecretBytes.zeros(31) if field == "secret" else b"short"
    with pytest.raises(LengthError):
        EnrolmentToken(**fields)
