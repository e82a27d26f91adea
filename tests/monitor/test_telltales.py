"""Which names and texts of an event's data give a secret away."""

import pytest

from qflare.model.ids import TenantId
from qflare.monitor.telltales import are_harmless, looks_secret, sounds_secret
from qflare.protocol.token import new_token
from qflare.service.operator_secret import new_secret


@pytest.mark.parametrize(
    "name",
    [
        "password", "passWord", "PASSWORD2", "pass_phrase", "privateKey", "PrivateKey", "PRIVATEKEY", "privkey", "SECRETKEY",
        "secret-key", "sharedsecret", "shared.secret", "api key", "apikey", "token", "tokens", "new_token", "session_key_hex",
        "chainKey", "kek", "dk1", "cookie",
    ],
)  # fmt: skip
def test_secrets_are_known_by_name(name):
    """However it is spelled."""
    assert sounds_secret(name)


@pytest.mark.parametrize(
    "name",
    ["token_id", "tokenId", "secret_hash", "seed_count", "author", "keyboard", "monkey", "passwords_state", "disk", "task",
     "public_key", "key_id", "kind", "compass", "tokenizer", "root_key"],
)  # fmt: skip
def test_what_names_something_is_taken(name):
    """A word that has another in it, or names what it does not hold."""
    assert not sounds_secret(name)


def texts():
    tenant_id = TenantId(bytes(range(16)))
    token, operator = new_token(tenant_id=tenant_id, server_id=bytes(range(32))), new_secret(tenant_id)
    with token.secret, operator.secret:
        return token.encode(), operator.encode()


def test_secrets_are_known_by_their_look():
    """Our own tokens and operators' secrets, keys in PEM, and what opens a database, wherever they stand in a text."""
    token, secret = texts()
    for text, what in (
        (token, "an enrolment token"),
        (f"see {token.lower()}, please", "an enrolment token"),
        (f"({secret})", "an operator's secret"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHc", "a private key"),
        ("cannot connect to postgresql://qflare:hunter2@db/x", "a password in an address"),
        ("Authorization: Bearer abcdefghijklmnop0123", "a bearer token"),
    ):
        assert what == looks_secret(text)


def test_digests_ids_and_prose_are_taken():
    """What the log is full of: hexadecimal, addresses without a password, certificates, long words, the bearer of news."""
    for text in (
        "ab" * 32, "0A" * 78, "a" * 155, "a" * 157, "A" * 78, "postgresql://db.example:5432/qflare", "http://[::1]:8440/v1",
        "ssh://git@host/x", "-----BEGIN CERTIFICATE-----", "the bearer of good news", "", "12:30 @ home",
        "://" * 5000, "bearer " * 2000, "a:" * 8000,
    ):  # fmt: skip
        assert looks_secret(text) is None


def test_names_that_were_looked_at_hide_no_others():
    """Thousands of names later a secret is still told from what is none, alone and among names that are known."""
    for number in range(3000):
        assert not sounds_secret(f"name_{number}")
        if number % 500 == 0:
            assert sounds_secret(f"token_{number}")
    assert are_harmless(["name_2999"])
    assert not are_harmless(["name_2999", "password"])
    assert sounds_secret("password")
    assert not are_harmless(["password"])
    assert not sounds_secret("x" * 65)
    assert not are_harmless(["x" * 65]), "long names are not kept"
