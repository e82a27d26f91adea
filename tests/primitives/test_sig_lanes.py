"""Verification of ML-DSA-44 in lanes says of every signature what liboqs says."""

from __future__ import annotations

import random

import pytest

from engines import SIG_ENGINES
from qflare._native import sig as native
from qflare._native import sig_lanes
from qflare._native.lanes import forced_width
from qflare.errors import AuthenticationError, BatchError, LengthError, SelfTestError, UsageError
from qflare.primitives import engine as engines
from qflare.primitives.engine import Engine, choose_engine
from qflare.primitives.sig import SIG44, SIG87

COUNTS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 1000)
CASES = 102_400
"""Differential cases; figure of the engine: 100,000 in the suite."""
CONTEXT = b"QFX1 dev"

pytestmark = pytest.mark.skipif(Engine.LANES not in SIG_ENGINES, reason="this processor has no AVX-512")


@pytest.fixture(scope="module")
def signed():
    """1,000 keys, messages of many sizes, and their signatures."""
    keys = SIG44.generate_many(1000)
    source = random.Random("messages")
    messages = [source.randbytes(source.choice((0, 1, 63, 64, 64, 64, 136, 500))) for _ in range(1000)]
    rows = SIG44.sign_many(keys.signing_keys, messages, context=CONTEXT)
    return bytes(keys.verification_keys), messages, bytes(rows.signatures)


def _same(pks, messages, signatures) -> bytes:
    """Return the status bytes, after checking that both engines give the same."""
    expected = SIG44.verify_many(pks, messages, signatures, context=CONTEXT, engine=Engine.LIBOQS)
    assert expected == SIG44.verify_many(pks, messages, signatures, context=CONTEXT, engine=Engine.LANES)
    return expected


@pytest.mark.parametrize("count", COUNTS)
def test_every_count(signed, count):
    """Every count says of each row what it says of it alone, and one bad row fails alone at every place."""
    pks, messages, signatures = signed
    pks, messages = pks[: count * SIG44.PK_BYTES], messages[:count]
    rows = bytearray(signatures[: count * SIG44.SIG_BYTES])
    assert bytes(count) == _same(pks, messages, rows)
    for bad in {*range(min(count, 33)), *range(max(0, count - 9), count)}:
        rows[bad * SIG44.SIG_BYTES + 77] ^= 1
        found = _same(pks, messages, rows)
        assert [bad] == [row for row, status in enumerate(found) if status]
        rows[bad * SIG44.SIG_BYTES + 77] ^= 1


def test_random_and_adversarial_cases(signed):
    """Altered signatures, keys and messages of every kind: no case is judged differently."""
    pks, messages, signatures = signed
    source = random.Random("cases")
    good = 0
    for _ in range(CASES // 1000 + 1):
        rows, keys, texts = bytearray(signatures), bytearray(pks), list(messages)
        for row in range(1000):
            start = row * SIG44.SIG_BYTES
            kind = source.randrange(8)
            if kind == 0:  # any bit
                rows[start + source.randrange(SIG44.SIG_BYTES)] ^= 1 << source.randrange(8)
            elif kind == 1:  # the hints' places and counts
                rows[start + source.randrange(2336, SIG44.SIG_BYTES)] = source.choice((0, 1, 79, 80, 81, 255))
            elif kind == 2:  # z at and about its bounds
                place = start + 32 + 9 * source.randrange(256)
                rows[place : place + 9] = source.choice(
                    (bytes(9), b"\xff" * 9, b"\x4e\0" * 4 + b"\0", b"\x4f\0" * 4 + b"\0")
                )
            elif kind == 3:  # another challenge
                rows[start : start + 32] = source.randbytes(32)
            elif kind == 4:
                keys[row * SIG44.PK_BYTES + source.randrange(SIG44.PK_BYTES)] ^= 1 << source.randrange(8)
            elif kind == 5:
                texts[row] += b"x"
        good += _same(bytes(keys), texts, rows).count(0)
    assert 0.2 < good / CASES < 0.3


def test_one_key_for_all(signed):
    """A key shared by all rows is expanded once, and judges as it does row by row."""
    _, messages, _ = signed
    pair = SIG44.generate()
    with pair.signing_key as sk:
        rows = bytearray(SIG44.sign_many(sk, messages, context=CONTEXT).signatures)
    rows[5 * SIG44.SIG_BYTES] ^= 1
    found = _same(pair.verification_key, messages, rows)
    assert [5] == [row for row, status in enumerate(found) if status]


def test_contexts(signed):
    """The context is part of what is verified, from none to 255 bytes."""
    _, messages, _ = signed
    pair = SIG44.generate()
    with pair.signing_key as sk:
        for context in (b"", b"a", bytes(255)):
            signature = SIG44.sign(sk, messages[0], context=context)
            SIG44.verify(pair.verification_key, messages[0], signature, context=context, engine=Engine.LANES)
            with pytest.raises(AuthenticationError):
                SIG44.verify(pair.verification_key, messages[0], signature, context=b"b", engine=Engine.LANES)


def test_bad_arguments(signed):
    """Sizes and counts are refused as they are without lanes, and lanes that are not there are an error."""
    pks, messages, signatures = signed
    with pytest.raises(LengthError):
        SIG44.verify_many(pks, messages, signatures, context=bytes(256), engine=Engine.LANES)
    with pytest.raises(BatchError):
        SIG44.verify_many(pks[: 2 * SIG44.PK_BYTES], messages, signatures, context=b"", engine=Engine.LANES)
    with pytest.raises(UsageError):
        SIG87.verify(bytes(SIG87.PK_BYTES), b"", bytes(SIG87.SIG_BYTES), context=b"", engine=Engine.LANES)
    with forced_width(4), pytest.raises(UsageError):
        SIG44.verify_many(pks, messages, signatures, context=b"", engine=Engine.LANES)


def test_the_choice_reaches_verification(signed, monkeypatch):
    """A process that chose the lanes verifies ML-DSA-44 in them, singly and in batches, and ML-DSA-87 with liboqs."""
    before = engines.engine()
    taken = []
    monkeypatch.setattr(native, "verify_batch", lambda *_, is_in_lanes: taken.append(is_in_lanes) or b"")
    try:
        for name in ("lanes", "liboqs"):
            choose_engine("liboqs")
            if name == "lanes":
                monkeypatch.setattr(sig_lanes, "require_agreement", lambda: None)
            choose_engine(name)
            SIG44.verify_many(*signed, context=b"")
            SIG87.verify_many(b"", [], b"", context=b"")
    finally:
        monkeypatch.undo()
        choose_engine(before)
    assert [True, False, False, False] == taken


def test_disagreement_stops_the_choice(monkeypatch):
    """An engine that says something else than liboqs is not chosen, and nothing falls back silently."""
    honest = native.verify_batch

    def lying(*arguments, is_in_lanes=False):
        found = honest(*arguments, is_in_lanes=is_in_lanes)
        return bytes(len(found)) if is_in_lanes else found

    before = engines.engine()
    choose_engine("liboqs")
    try:
        monkeypatch.setattr(native, "verify_batch", lying)
        with pytest.raises(SelfTestError, match="ML-DSA-44"):
            choose_engine("lanes")
        assert engines.engine() is Engine.LIBOQS
    finally:
        monkeypatch.undo()
        choose_engine(before)
