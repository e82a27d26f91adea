"""Keys, encapsulations and decapsulations of many keys in the lanes give the bytes that liboqs gives, at every width."""

from __future__ import annotations

import hashlib
import random

import pytest

from qflare._native import about, kem_lanes
from qflare._native.lanes import forced_width
from qflare.errors import BatchError, LengthError, SelfTestError
from qflare.primitives import engine as engines
from qflare.primitives import kem
from qflare.primitives.engine import Engine, choose_engine
from qflare.primitives.random import drawing_from

COUNTS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 1000)
WIDTHS = tuple(width for width in (1, 4, 8) if width <= about.keccak_width())
ROUNDS = 10_000

# hashlib over what liboqs 0.13.0 gives, by the procedure of `_accumulated`; those of 100 and 1,000 rounds are published
# (C2SP/CCTV, ML-KEM).
ACCUMULATED = {
    100: "c3ffe9ebecfa479c142656cbfbc6417efa05b77e994fe538eef4daed166363df",
    1_000: "df23d235ef494a38b2de2deda2704bb1312dd88ef6987ec4fc6f08fe5963ed7f",
    ROUNDS: "e3bf82b013307b2e9d47dde791ff6dfc82e694e6382404abdb948b908b75bad5",
}

# The first numbers d, little-endian in 32 bytes, of which an entry of the matrix takes 363 candidates or more; 256 are
# accepted, and three blocks of SHAKE128 have 336.
UNLUCKY = [number.to_bytes(32, "little") + bytes(32) for number in (43_045, 166_710, 251_959, 619_697)]


@pytest.fixture(params=WIDTHS)
def width(request):
    """Let the calls of this test run that many words wide."""
    with forced_width(request.param):
        yield request.param


def _rows(buffer, size: int) -> list[bytes]:
    data = bytes(buffer)
    return [data[at : at + size] for at in range(0, len(data), size)]


def _seeds(text: str, count: int) -> bytes:
    return hashlib.shake_256(text.encode()).digest(kem.SEED_BYTES * count)


def _same_keys(seeds: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return ek and dk rows, after checking that both engines give the same."""
    expected = kem.generate_from_seeds_many(seeds, engine=Engine.LIBOQS)
    found = kem.generate_from_seeds_many(seeds, engine=Engine.LANES)
    assert expected.status == found.status
    assert expected.encapsulation_keys == found.encapsulation_keys
    assert found.decapsulation_keys.equals(expected.decapsulation_keys.view())
    return _rows(found.encapsulation_keys, kem.EK_BYTES), _rows(found.decapsulation_keys.view(), kem.DK_BYTES)


def _same_encapsulations(eks: list[bytes], m: bytes) -> tuple[list[bytes], list[bytes], bytes]:
    """Return ct and ss rows and the status, after checking that both engines give the same."""
    with drawing_from(m):
        expected = kem.encapsulate_many(eks, engine=Engine.LIBOQS)
    with drawing_from(m):
        found = kem.encapsulate_many(eks, engine=Engine.LANES)
    assert expected.status == found.status
    assert expected.ciphertexts == found.ciphertexts
    assert found.shared_secrets.equals(expected.shared_secrets.view())
    return _rows(found.ciphertexts, kem.CT_BYTES), _rows(found.shared_secrets.view(), kem.SS_BYTES), found.status


def _same_decapsulations(dks: list[bytes], cts: list[bytes]) -> tuple[list[bytes], bytes]:
    """Return ss rows and the status, after checking that both engines give the same."""
    expected = kem.decapsulate_many(dks, cts, engine=Engine.LIBOQS)
    found = kem.decapsulate_many(dks, cts, engine=Engine.LANES)
    assert expected.status == found.status
    assert found.shared_secrets.equals(expected.shared_secrets.view())
    return _rows(found.shared_secrets.view(), kem.SS_BYTES), found.status


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.usefixtures("width")
def test_every_count(count):
    """Every count gives each row what a call of one gives it, full groups and groups with idle places alike."""
    eks, dks = _same_keys(_seeds("counts", count))
    cts, secrets, status = _same_encapsulations(eks, hashlib.shake_256(b"counts").digest(32 * count))
    assert bytes(count) == status
    assert (secrets, bytes(count)) == _same_decapsulations(dks, cts)
    for row in {*range(min(count, 9)), count - 1} if count else ():
        pair = kem.generate_from_seed(_seeds("counts", count)[64 * row :][:64])
        assert eks[row] == pair.encapsulation_key
        assert pair.decapsulation_key.equals(dks[row])
        with drawing_from(hashlib.shake_256(b"counts").digest(32 * count)[32 * row :][:32]):
            made = kem.encapsulate(pair.encapsulation_key)
        assert cts[row] == made.ciphertext
        assert made.shared_secret.equals(secrets[row])


@pytest.mark.usefixtures("width")
def test_one_bad_key_at_every_place():
    """An encapsulation or decapsulation key that fails its check fails alone at any place: zeros, and no randomness."""
    count = 33
    eks, dks = _same_keys(_seeds("bad", count))
    m = hashlib.shake_256(b"bad").digest(32 * (count - 1))
    cts, secrets, _ = _same_encapsulations(eks, m + bytes(32))
    for place in range(count):
        bad_eks = [*eks]
        bad_eks[place] = eks[place][:384] + b"\x01\x0d" + eks[place][386:]  # 3329
        made, shared, status = _same_encapsulations(bad_eks, m)
        assert [place] == [row for row in range(count) if status[row]]
        assert not any(made[place] + shared[place])
        assert made[:place] == cts[:place]
        bad_dks = [*dks]
        bad_dks[place] = dks[place][:3104] + bytes([dks[place][3104] ^ 1]) + dks[place][3105:]
        opened, status = _same_decapsulations(bad_dks, cts)
        assert [place] == [row for row in range(count) if status[row]]
        assert not any(opened[place])
        assert [*secrets[:place], bytes(32), *secrets[place + 1 :]] == opened


@pytest.mark.usefixtures("width")
def test_randomness_that_ends_fails_the_rows_behind_it():
    """When the random source ends after some rows, these are good and the others are zero and say so."""
    count = 19
    eks, _ = _same_keys(_seeds("ends", count))
    seeds = _seeds("random ends", count)
    for enough in (0, 1, 7, 8, 18):
        for engine in Engine:
            with drawing_from(seeds[: 64 * enough + 31]):
                pairs = kem.generate_many(count, engine=engine)
            assert [0] * enough == [*pairs.status[:enough]]
            assert all(pairs.status[enough:])
            assert any(pairs.encapsulation_keys[: enough * kem.EK_BYTES]) == (enough > 0)
            assert not any(pairs.encapsulation_keys[enough * kem.EK_BYTES :])
            assert not any(pairs.decapsulation_keys.view()[enough * kem.DK_BYTES :])
        _, _, status = _same_encapsulations(eks, seeds[: 32 * enough + 31])
        assert [0] * enough == [*status[:enough]]
        assert all(status[enough:])


@pytest.mark.usefixtures("width")
def test_every_byte_of_a_ciphertext_altered():
    """A change in any byte of a ciphertext is rejected implicitly, each under its own key."""
    count = 64
    _, dks = _same_keys(_seeds("altered", count))
    cts, secrets, _ = _same_encapsulations(_same_keys(_seeds("altered", count))[0], bytes(range(32)) * count)
    source = random.Random("altered")
    rows = []
    for place in range(kem.CT_BYTES):
        altered = bytearray(cts[place % count])
        altered[place] ^= 1 << source.randrange(8)
        rows.append(bytes(altered))
    opened, status = _same_decapsulations([dks[place % count] for place in range(kem.CT_BYTES)], rows)
    assert not any(status)
    assert len({*opened, *secrets}) == kem.CT_BYTES + count


@pytest.mark.parametrize("values", [(3328,), (3329,), (4095,), (0,), (3328, 3329, 4095, 0, 1)])
@pytest.mark.usefixtures("width")
def test_keys_with_coefficients_at_the_edges(values):
    """Keys whose coefficients are q - 1, q or 4095 are computed with modulo q or refused, as liboqs is made to."""
    eks, dks = _same_keys(_seeds("edges", 17))
    vector = sum(values[i % len(values)] << (12 * i) for i in range(1024)).to_bytes(1536, "little")
    _, _, status = _same_encapsulations([vector + ek[1536:] for ek in eks], bytes(32 * 17))
    assert all(status) if max(values) > 3328 else not any(status)
    cts, _, _ = _same_encapsulations(eks, bytes(32 * 17))
    for where in ("s", "t", "both"):
        altered = []
        for dk in dks:
            row = bytearray(dk)
            if where in {"s", "both"}:
                row[:1536] = vector
            if where in {"t", "both"}:
                row[1536:3072] = vector
                row[3104:3136] = hashlib.sha3_256(row[1536:3104]).digest()
            altered.append(bytes(row))
        _, status = _same_decapsulations(
            altered, [*cts[:8], *(random.Random(values[0]).randbytes(1568) for _ in cts[8:])]
        )
        assert not any(status)


def _candidates(rho: bytes, x: int, y: int) -> int:
    """Return how many candidates SampleNTT looks at for one entry of the matrix, by hashlib alone."""
    stream = hashlib.shake_128(rho + bytes((x, y))).digest(168 * 5)
    looked_at = have = 0
    while have < 256:
        at = looked_at // 2 * 3
        value = int.from_bytes(stream[at : at + 3], "little") >> (12 * (looked_at % 2)) & 0xFFF
        looked_at += 1
        have += value < 3329
    return looked_at


@pytest.mark.usefixtures("width")
def test_seeds_that_need_many_rejections():
    """Keys whose matrix needs a fourth block of SHAKE128, in any entry, are liboqs's, beside keys that need none."""
    seeds = [*UNLUCKY, _seeds("lucky", 1)]
    for d in UNLUCKY:
        rho = hashlib.sha3_512(d[:32] + b"\x04").digest()[:32]
        most = max(_candidates(rho, x, y) for x in range(4) for y in range(4))
        assert most >= 363
    for count in (1, len(seeds), 33):
        rows = [seeds[row % len(seeds)] for row in range(count)]
        eks, dks = _same_keys(b"".join(rows))
        cts, secrets, _ = _same_encapsulations(eks, bytes(32 * count))
        assert (secrets, bytes(count)) == _same_decapsulations(dks, cts)


def _accumulated(rounds: int) -> dict[int, str]:
    """Hash ek, dk, ct, k and k for a random ciphertext, of keys and messages from one SHAKE128 stream (C2SP/CCTV)."""
    stream = hashlib.shake_128().digest(rounds * (64 + 32 + kem.CT_BYTES))
    step, digest, found = 64 + 32 + kem.CT_BYTES, hashlib.shake_128(), {}
    for first in range(0, rounds, 100):
        inputs = [stream[row * step :][:step] for row in range(first, first + 100)]
        pairs = kem.generate_from_seeds_many(b"".join(x[:64] for x in inputs), engine=Engine.LANES)
        with drawing_from(b"".join(x[64:96] for x in inputs)):
            made = kem.encapsulate_many(pairs.encapsulation_keys, engine=Engine.LANES)
        dks = pairs.decapsulation_keys.view()
        opened = kem.decapsulate_many(dks, made.ciphertexts, engine=Engine.LANES)
        assert opened.shared_secrets.equals(made.shared_secrets.view())
        rejected = kem.decapsulate_many(dks, b"".join(x[96:] for x in inputs), engine=Engine.LANES)
        columns = (
            _rows(pairs.encapsulation_keys, kem.EK_BYTES),
            _rows(dks, kem.DK_BYTES),
            _rows(made.ciphertexts, kem.CT_BYTES),
            _rows(made.shared_secrets.view(), 32),
            _rows(rejected.shared_secrets.view(), 32),
        )
        for row in zip(*columns, strict=True):
            digest.update(b"".join(row))
        if first + 100 in ACCUMULATED:
            found[first + 100] = digest.hexdigest(32)
    return found


def test_accumulated(width):
    """The published hashes of 100 and 1,000 rounds come out at every width, and our own of 10,000 at the widest."""
    rounds = ROUNDS if width == WIDTHS[-1] else 1_000
    assert {n: text for n, text in ACCUMULATED.items() if n <= rounds} == _accumulated(rounds)


@pytest.mark.usefixtures("width")
def test_bad_arguments():
    """Wrong counts and sizes are refused as liboqs's batches refuse them, before any work."""
    for count in (-1, 65_537, 2**31 // 1568 - 1, 2**31 // 1568 + 1, 2**32 // 3168 - 1, 2**32 // 3168 + 1, 2**63):
        with pytest.raises(BatchError, match="65536"):
            kem.generate_many(count, engine=Engine.LANES)
        for call in (kem_lanes.keygen_seeded_batch, kem_lanes.encaps_batch):
            with pytest.raises(BatchError, match="65536"):
                call(memoryview(b""), count)
        with pytest.raises(BatchError, match="65536"):
            kem_lanes.decaps_batch(memoryview(b""), memoryview(b""), count)
    with pytest.raises(LengthError):
        kem_lanes.keygen_seeded_batch(memoryview(bytes(63)), 1)
    with pytest.raises(LengthError):
        kem_lanes.encaps_batch(memoryview(bytes(1569)), 1)
    with pytest.raises(LengthError):
        kem_lanes.decaps_batch(memoryview(bytes(3168)), memoryview(bytes(1567)), 1)
    with pytest.raises(LengthError):
        kem_lanes.decaps_batch(memoryview(bytes(3167)), memoryview(bytes(1568)), 1)


@pytest.mark.usefixtures("width")
def test_the_scratch_memory_is_left_zero():
    """After any operation nothing of it stands in the memory that the thread keeps for the next one."""
    eks, dks = _same_keys(_seeds("scratch", 33))
    assert not any(kem_lanes._scratch.memory)
    cts, _, _ = _same_encapsulations(eks, bytes(32 * 33))
    assert not any(kem_lanes._scratch.memory)
    _same_decapsulations(dks, cts)
    assert not any(kem_lanes._scratch.memory)


@pytest.fixture
def chosen():
    """Give the process's choice back after the test."""
    before = engines.engine()
    yield
    choose_engine(before)


@pytest.mark.usefixtures("chosen")
def test_a_batch_goes_to_the_chosen_engine(monkeypatch):
    """Once the lanes are chosen every batch from four rows on is theirs; smaller ones and single calls are liboqs's."""
    names = ("keygen_batch", "keygen_seeded_batch", "encaps_batch", "decaps_batch")
    choose_engine("lanes")
    seen: list[str] = []
    for name in names:
        real = getattr(kem_lanes, name)
        monkeypatch.setattr(kem_lanes, name, lambda *args, name=name, real=real: seen.append(name) or real(*args))
    for count in (1, 3, 4, 5):
        seen.clear()
        kem.generate_many(count)
        pairs = kem.generate_from_seeds_many(bytes(64 * count))
        made = kem.encapsulate_many(pairs.encapsulation_keys)
        kem.decapsulate_many(pairs.decapsulation_keys, made.ciphertexts)
        assert [*(names if count >= engines.LANES_COUNT_MIN else ())] == seen
        seen.clear()
        kem.generate_many(count, engine=Engine.LIBOQS)
        assert seen == []


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("name", ["keygen_seeded_batch", "encaps_batch", "decaps_batch"])
def test_a_disagreement_of_any_operation_stops_the_start(monkeypatch, name):
    """An engine that differs from liboqs in one bit of one output of any operation is never chosen."""
    choose_engine("liboqs")
    real = getattr(kem_lanes, name)

    def wrong(*args):
        outputs = real(*args)
        secret = outputs[0] if name == "decaps_batch" else outputs[1]
        secret.view()[len(secret) - 1] ^= 1
        return outputs

    monkeypatch.setattr(kem_lanes, name, wrong)
    with pytest.raises(SelfTestError, match="disagree"):
        choose_engine("lanes")
    assert engines.engine() is Engine.LIBOQS
