"""The lanes engine of ML-KEM-1024 gives the bytes that liboqs gives, at every width that the machine has."""

from __future__ import annotations

import hashlib
import random
import threading

import pytest

from qflare._native import about, kem_agreement, kem_lanes
from qflare._native.lanes import forced_width
from qflare.errors import BatchError, ConfigError, KeyCheckError, LengthError, SelfTestError, UsageError
from qflare.primitives import engine as engines
from qflare.primitives import kem
from qflare.primitives.engine import Engine, choose_engine
from qflare.primitives.random import drawing_from

COUNTS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 1000)
WIDTHS = tuple(width for width in (1, 4, 8) if width <= about.keccak_width())
CASES = 102_400
"""Differential cases a width, an eighth without wide vectors; figure of the engine: 100,000 in the suite."""


@pytest.fixture(params=WIDTHS)
def width(request):
    """Let the calls of this test run that many words wide."""
    with forced_width(request.param):
        yield request.param


@pytest.fixture
def chosen():
    """Give the process's choice back after the test."""
    before = engines.engine()
    yield
    choose_engine(before)


def _key(seed: str) -> kem.KemKeyPair:
    return kem.generate_from_seed(hashlib.shake_256(seed.encode()).digest(64))


def _encapsulations(pair: kem.KemKeyPair, count: int, seed: str) -> list[bytes]:
    with drawing_from(hashlib.shake_256(seed.encode()).digest(32 * count)):
        many = kem.encapsulate_many([pair.encapsulation_key] * count)
    rows = bytes(many.ciphertexts)
    return [rows[at : at + kem.CT_BYTES] for at in range(0, len(rows), kem.CT_BYTES)]


def _same(dk, cts) -> bytes:
    """Return the secrets, after checking that both engines give the same."""
    with (
        kem.decapsulate_one_key(dk, cts, engine=Engine.LIBOQS) as expected,
        kem.decapsulate_one_key(dk, cts, engine=Engine.LANES) as found,
    ):
        assert found.equals(expected.view())
        return found.view().tobytes()


def test_as_many_at_once_as_said(width):
    """Without wide vectors 8 ciphertexts go together, with four words a vector 16, with eight 32, or 16 on old ones."""
    assert engines.lanes_items() in {1: {8}, 4: {16}, 8: {16, 32}}[width]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.usefixtures("width")
def test_every_count(count):
    """Every count gives each row what it gets alone, full groups and groups with idle places alike."""
    pair = _key("counts")
    cts = _encapsulations(pair, count, "counts")
    assert len(_same(pair.decapsulation_key, b"".join(cts))) == 32 * count


@pytest.mark.usefixtures("width")
def test_every_byte_of_a_ciphertext_altered():
    """A change in any byte of a ciphertext is rejected implicitly, with liboqs's pseudorandom secret."""
    pair = _key("altered")
    (ct,) = _encapsulations(pair, 1, "altered")
    good = _same(pair.decapsulation_key, ct)
    source = random.Random("altered")
    rows = []
    for place in range(kem.CT_BYTES):
        altered = bytearray(ct)
        altered[place] ^= 1 << source.randrange(8)
        rows.append(bytes(altered))
    secrets = _same(pair.decapsulation_key, rows)
    each = {secrets[at : at + 32] for at in range(0, len(secrets), 32)}
    assert len(each) == kem.CT_BYTES
    assert good not in each


@pytest.mark.usefixtures("width")
def test_one_altered_row_at_every_place():
    """A wrong ciphertext at any place of a batch changes its own secret alone."""
    pair = _key("places")
    cts = _encapsulations(pair, 33, "places")
    good = _same(pair.decapsulation_key, cts)
    for place in range(len(cts)):
        altered = [*cts]
        altered[place] = altered[place][:700] + bytes([altered[place][700] ^ 16]) + altered[place][701:]
        secrets = _same(pair.decapsulation_key, altered)
        wrong = [row for row in range(33) if secrets[32 * row :][:32] != good[32 * row :][:32]]
        assert [place] == wrong


@pytest.mark.usefixtures("width")
def test_extreme_ciphertexts():
    """Ciphertexts of all zeros, all ones, and every single value of u and v in all places agree with liboqs."""
    pair = _key("extreme")
    rows = [bytes(kem.CT_BYTES), b"\xff" * kem.CT_BYTES]
    for value in (*range(0, 2048, 31), 2047):
        u = sum(value << (11 * i) for i in range(1024)).to_bytes(1408, "little")
        v = sum((value % 32) << (5 * i) for i in range(256)).to_bytes(160, "little")
        rows.append(u + v)
    _same(pair.decapsulation_key, rows)


@pytest.mark.parametrize("values", [(3328,), (3329,), (4095,), (0,), (3328, 3329, 4095, 0, 1)])
@pytest.mark.usefixtures("width")
def test_keys_with_coefficients_at_the_edges(values):
    """Keys whose coefficients are q - 1, q or 4095 are computed with modulo q, as liboqs does."""
    pair = _key("edges")
    vector = sum(values[i % len(values)] << (12 * i) for i in range(1024)).to_bytes(1536, "little")
    source = random.Random("edges")
    for where in ("s", "t", "both"):
        dk = bytearray(pair.decapsulation_key.view())
        if where in {"s", "both"}:
            dk[:1536] = vector
        if where in {"t", "both"}:
            dk[1536:3072] = vector
            dk[3104:3136] = hashlib.sha3_256(dk[1536:3104]).digest()
        cts = [*_encapsulations(pair, 16, "edges"), *(source.randbytes(kem.CT_BYTES) for _ in range(17))]
        _same(bytes(dk), cts)


def test_differential(width):
    """Random keys, and ciphertexts true, altered in one to many bits, foreign and random: no difference to liboqs."""
    source = random.Random(f"differential {width}")
    rows_each = 1024
    for number in range(CASES // rows_each // (8 if width == 1 else 1)):
        pair = _key(f"differential {number}")
        base = _encapsulations(pair, 32, f"differential {number}")
        rows = []
        for row in range(rows_each):
            ct = base[row % 32]
            kind = source.randrange(4)
            if kind == 1:
                altered = bytearray(ct)
                for _ in range(source.choice((1, 1, 2, 8, 64))):
                    altered[source.randrange(kem.CT_BYTES)] ^= 1 << source.randrange(8)
                ct = bytes(altered)
            elif kind == 2:
                at = source.randrange(kem.CT_BYTES)
                ct = ct[:at] + base[source.randrange(32)][at:]
            elif kind == 3 and row % 16 == 0:
                ct = source.randbytes(kem.CT_BYTES)
            rows.append(ct)
        _same(pair.decapsulation_key, b"".join(rows))


@pytest.mark.parametrize("width", WIDTHS[1:] or WIDTHS, indirect=True)
@pytest.mark.usefixtures("width")
def test_accumulated():
    """Ten thousand keys, each with its ciphertext and an altered one, give the pinned digest of liboqs's secrets."""
    digest = hashlib.shake_256()
    for number in range(10):
        seeds = hashlib.shake_256(f"accumulated {number}".encode()).digest(1000 * 96)
        pairs = kem.generate_from_seeds_many(seeds[: 1000 * 64])
        with drawing_from(seeds[1000 * 64 :]):
            many = kem.encapsulate_many(pairs.encapsulation_keys)
        for row in range(1000):
            ct = bytes(many.ciphertexts[row * kem.CT_BYTES :][: kem.CT_BYTES])
            altered = bytearray(ct)
            altered[row] ^= 1
            dk = pairs.decapsulation_keys.row(row, kem.DK_BYTES)
            with kem.decapsulate_one_key(dk, ct + altered, engine=Engine.LANES) as secrets:
                digest.update(secrets.view())
            assert many.shared_secrets.row(row, 32) == secrets_of(dk, ct)
    assert digest.hexdigest(32) == ACCUMULATED


def secrets_of(dk, ct) -> bytes:
    with kem.decapsulate_one_key(dk, ct, engine=Engine.LANES) as secret:
        return secret.view().tobytes()


# hashlib over liboqs 0.13.0's decapsulations of the same keys and ciphertexts.
ACCUMULATED = "6f03023c4b49abcb9bba038de2a403909d98861b4bdae1d08b65b2db85c923a4"


@pytest.mark.usefixtures("width")
def test_bad_arguments():
    """Wrong sizes and keys are refused as liboqs's batch refuses them, before any work."""
    pair = _key("bad")
    (ct,) = _encapsulations(pair, 1, "bad")
    dk = pair.decapsulation_key.view().tobytes()
    with pytest.raises(LengthError):
        kem.decapsulate_one_key(dk[:-1], ct, engine=Engine.LANES)
    with pytest.raises(LengthError):
        kem.decapsulate_one_key(dk, ct[:-1], engine=Engine.LANES)
    with pytest.raises(BatchError):
        kem.decapsulate_one_key(dk, [ct] * 65537, engine=Engine.LANES)
    for place in (1536, 3104, 3135):
        wrong = bytearray(dk)
        wrong[place] ^= 1
        with pytest.raises(KeyCheckError):
            kem.decapsulate_one_key(bytes(wrong), ct, engine=Engine.LANES)
    with kem_lanes.expand(dk) as context, pytest.raises(LengthError):
        kem_lanes.decaps(context, memoryview(ct + b"\0"), 1)


@pytest.mark.usefixtures("width")
def test_the_scratch_memory_is_left_zero():
    """After a call nothing of it stands in the memory that the thread keeps for the next one."""
    pair = _key("scratch")
    _same(pair.decapsulation_key, b"".join(_encapsulations(pair, 33, "scratch")))
    assert not any(kem_lanes._scratch.memory)


def test_threads_do_not_share_memory():
    """Batches on several threads at once each give their own secrets."""
    pair = _key("threads")
    batches = [b"".join(_encapsulations(pair, 64, f"threads {n}")) for n in range(4)]
    expected = [_same(pair.decapsulation_key, batch) for batch in batches]
    found: list[list[bytes]] = [[] for _ in batches]

    def work(place):
        for _ in range(20):
            with kem.decapsulate_one_key(pair.decapsulation_key, batches[place], engine=Engine.LANES) as secrets:
                found[place].append(secrets.view().tobytes())

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[secret] * 20 for secret in expected] == found


@pytest.mark.usefixtures("chosen")
def test_choosing():
    """A server gets the lanes where there are some, what it names, and an error for what is not to be had."""
    assert choose_engine("liboqs") is Engine.LIBOQS
    assert choose_engine(None) is Engine.LANES
    assert engines.engine() is choose_engine("lanes") is Engine.LANES
    with pytest.raises(ConfigError):
        choose_engine("openssl")
    with forced_width(1):  # right, but slower than liboqs: only who names them gets them
        assert choose_engine("lanes") is Engine.LANES
        assert choose_engine(None) is Engine.LIBOQS
    assert engines.engine() is Engine.LIBOQS


@pytest.mark.usefixtures("chosen")
def test_a_machine_without_an_engine(monkeypatch):
    """Where there are no lanes at all they cannot be named, in a setting or in a call, and liboqs computes."""
    monkeypatch.setattr(kem_lanes, "items", lambda: 0)
    kem_agreement.require_agreement()
    assert choose_engine(None) is Engine.LIBOQS
    with pytest.raises(ConfigError, match="no lanes engine"):
        choose_engine("lanes")
    with pytest.raises(UsageError, match="no lanes engine"):
        kem.generate_many(1, engine=Engine.LANES)


@pytest.mark.usefixtures("chosen")
def test_a_disagreement_stops_the_start(monkeypatch):
    """An engine that gives another secret is an error, and what computed before goes on."""
    choose_engine("liboqs")
    right = kem_lanes.decaps

    def wrong(context, cts, count):
        secrets = right(context, cts, count)
        secrets.view()[32 * count - 1] ^= 1
        return secrets

    monkeypatch.setattr(kem_lanes, "decaps", wrong)
    with pytest.raises(SelfTestError, match="disagree"):
        choose_engine(None)
    assert engines.engine() is Engine.LIBOQS
