import copy
import gc
import json
import logging
import pickle

import pytest

from qflare.errors import LengthError, UsageError
from qflare.secret import SecretBytes, SecretMemory

CANARY = b"canary-0123456789"


@pytest.fixture
def secret():
    return SecretBytes(bytearray(CANARY))


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        "{}".format,
        "{!r}".format,
        lambda s: f"{s}",
        lambda s: f"{s:x>40}",
        lambda s: "%s %r" % (s, s),  # noqa: UP031  # logging formats so
    ],
)
def test_text_forms_show_the_length_only(secret, show):
    """F2: no way of turning a secret into text shows more than its length."""
    text = show(secret)
    assert "canary" not in text
    assert CANARY.hex() not in text
    assert "17 bytes" in text


@pytest.mark.parametrize(
    "use",
    [
        pickle.dumps,
        lambda s: pickle.dumps(s, 0),
        lambda s: pickle.dumps([s]),
        lambda s: s.__reduce__(),
        copy.copy,
        copy.deepcopy,
        lambda s: copy.deepcopy({"key": s}),
        lambda s: s == s,  # noqa: PLR0124  # even with itself
        lambda s: s == CANARY,
        lambda s: CANARY == s,  # the other side asks first
        lambda s: s != CANARY,
        lambda s: CANARY in [s],  # noqa: FURB171  # containers compare too
        bytes,
        list,
        iter,
    ],
)
def test_copying_and_comparing_are_refused(secret, use):
    """F2: pickle, copy, ==, bytes and iteration refuse, naming the way that works."""
    with pytest.raises(UsageError, match="use view"):
        use(secret)


def test_it_is_no_dictionary_key(secret):
    """F2: hashing a secret is refused."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(secret)
    with pytest.raises(TypeError):
        {secret: 1}  # noqa: B018


def test_json_refuses_it(secret):
    """F2: JSON refuses a secret, and with a fallback writes the redacted form."""
    with pytest.raises(TypeError):
        json.dumps({"key": secret})
    assert "canary" not in json.dumps({"key": secret}, default=str)


def test_logs_redact_it(secret, caplog):
    """F2: a secret in a log line is redacted, at DEBUG too."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("test").debug("got %s %r", secret, {"key": secret})
    assert "canary" not in caplog.text
    assert "17 bytes" in caplog.text


def test_refusals_show_nothing(secret):
    """F2: the errors of refused uses carry nothing of the secret."""
    for use in (pickle.dumps, copy.copy, bytes, lambda s: s == CANARY):
        with pytest.raises(UsageError) as caught:
            use(secret)
        assert "canary" not in str(caught.value)


def test_wiped_at_the_end_of_the_block(secret):
    """The memory is zero after the block."""
    with secret as lent:
        assert lent is secret
        view = secret.view()
        assert bytes(view) == CANARY
    assert bytes(view) == bytes(len(CANARY))
    assert len(secret) == len(CANARY)


def test_wiped_when_the_block_fails(secret):
    """The memory is zero after an error in the block."""
    view = secret.view()
    with pytest.raises(RuntimeError), secret:
        raise RuntimeError
    assert bytes(view) == bytes(len(CANARY))


def test_wiping_twice_is_fine(secret):
    """wipe() may be called again."""
    secret.wipe()
    secret.wipe()
    assert secret.equals(bytes(len(CANARY)))


def test_the_source_is_left_full_of_zeros():
    """Bytes move into the secret: nothing stays behind in the bytearray they came in."""
    source = bytearray(CANARY)
    secret = SecretBytes(source)
    assert bytes(len(CANARY)) == source
    assert secret.equals(CANARY)


def test_a_view_keeps_its_memory():
    """A view of a secret that nobody else holds shows the secret, not zeros."""
    view = SecretBytes(bytearray(CANARY)).view()
    gc.collect()
    assert bytes(view) == CANARY
    assert bytes(SecretBytes.copy_of(CANARY).row(0, 6)) == CANARY[:6]


@pytest.mark.parametrize("canary", [CANARY, CANARY * 1000, CANARY * 10_000], ids=["small", "large", "many pieces"])
def test_forgotten_memory_is_wiped(monkeypatch, canary):
    """The memory is wiped when its last user is gone: the secret and its views."""
    wiped = []
    wipe = SecretMemory.__del__

    def watch(memory):
        wipe(memory)
        wiped.append(bytes(memory))

    monkeypatch.setattr(SecretMemory, "__del__", watch)
    secret = SecretBytes.copy_of(canary)
    view = secret.view()
    del secret
    gc.collect()
    assert wiped == []
    view.release()
    del view
    gc.collect()
    assert wiped == [bytes(len(canary))]


def test_owning_takes_the_memory_itself():
    """A secret made of its memory shares it and wipes it; memory that would not wipe itself is refused."""
    memory = SecretMemory(CANARY)
    with SecretBytes.owning(memory) as made:
        assert made.equals(CANARY)
    assert memory == bytes(len(CANARY))
    for other in (bytearray(CANARY), CANARY, memoryview(bytearray(CANARY))):
        with pytest.raises(UsageError):
            SecretBytes.owning(other)


def test_views_write_through(secret):
    """A view writes into the secret's own memory."""
    with secret.view() as view:
        view[:] = bytes(reversed(CANARY))
    assert secret.equals(bytes(reversed(CANARY)))


def test_rows_are_views(secret):
    """A row is a view of its part, and a row that is not there is refused."""
    assert bytes(secret.row(1, 6)) == CANARY[6:12]
    taken = secret.take_row(1, 6)
    secret.wipe()
    assert taken.equals(CANARY[6:12])
    for index in (-1, 2):
        with pytest.raises(LengthError):
            secret.row(index, 6)


def test_join_and_copy_own_their_memory(secret):
    """What was joined or copied lives on when its sources are wiped."""
    joined, copied = SecretBytes.join([secret, secret]), SecretBytes.copy_of(secret)
    secret.wipe()
    assert joined.equals(CANARY * 2)
    assert copied.equals(CANARY)
    assert len(SecretBytes.join([])) == 0


def test_equals_compares_content(secret):
    """equals() says whether the bytes are the same, whatever kind of buffer holds them."""
    assert secret.equals(memoryview(CANARY))
    assert secret.equals(SecretBytes.copy_of(CANARY))
    assert not secret.equals(CANARY[:-1])
    assert not secret.equals(CANARY[:-1] + b"x")


@pytest.mark.parametrize("source", [CANARY, memoryview(CANARY), "text", 5, None])
def test_only_a_bytearray_can_be_taken_over(source):
    """Immutable sources are refused: they could not be wiped."""
    with pytest.raises(UsageError, match="copy_of"):
        SecretBytes(source)


def test_zeros_has_its_size():
    """zeros(n) has n zero bytes to be filled."""
    assert SecretBytes.zeros(5).equals(bytes(5))
