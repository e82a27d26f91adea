"""
The lanes engine held against liboqs, operation by operation, before a process chooses it.

A fixed case and a fresh one, in more rows than go together, with rows that must fail; a difference is an error.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from qflare._native import kem, kem_lanes, random
from qflare.errors import NativeError, SelfTestError

if TYPE_CHECKING:
    from qflare.secret import SecretBytes

_MESSAGE_BYTES: Final = 32


def require_agreement() -> None:
    """
    Compare key generation, encapsulation and both decapsulations of the engine with liboqs's.

    Raises:
        SelfTestError: they differ, or one of them failed; nothing falls back to the other.
    """
    rows = kem_lanes.items() + 1  # a full group and one that is not
    if rows == 1:
        return
    seed_bytes = rows * (kem.SEED_BYTES + _MESSAGE_BYTES)
    for inputs in (bytes(at * 167 % 251 for at in range(seed_bytes)), secrets.token_bytes(seed_bytes)):
        try:
            _compare(inputs[: rows * kem.SEED_BYTES], inputs[rows * kem.SEED_BYTES :], rows)
        except NativeError as error:
            raise _disagreement("fail differently") from error


def _compare(seeds: bytes, messages: bytes, rows: int) -> None:
    ek, dk, status = kem.keygen_seeded_batch(memoryview(seeds), rows)
    found_ek, found_dk, found_status = kem_lanes.keygen_seeded_batch(memoryview(seeds), rows)
    with dk, found_dk:
        _require(ek == found_ek and status == found_status and found_dk.equals(dk.view()), "key generation")
        ek[2 * kem.EK_BYTES - 34 : 2 * kem.EK_BYTES - 32] = b"\xff\xff"  # 4095 in the second key: section 7.2
        cts = _encapsulations(ek, messages, rows)
        dk.view()[3 * kem.DK_BYTES - 64] ^= 1  # H(ek) of the third key: section 7.3
        ss, status = kem.decaps_batch(dk.view(), memoryview(cts), rows)
        found_ss, found_status = kem_lanes.decaps_batch(dk.view(), memoryview(cts), rows)
        with ss, found_ss:
            _require(status == found_status and found_ss.equals(ss.view()), "decapsulation")
        _compare_under_one_key(dk, cts, rows)


def _encapsulations(ek: bytearray, messages: bytes, rows: int) -> bytearray:
    """Return the ciphertexts on which both agree, with some of them altered."""
    drawn = messages[: (rows - 1) * _MESSAGE_BYTES]  # the second key fails and draws nothing
    with random.input_of_thread(drawn):
        ct, ss, status = kem.encaps_batch(memoryview(ek), rows)
    with random.input_of_thread(drawn):
        found_ct, found_ss, found_status = kem_lanes.encaps_batch(memoryview(ek), rows)
    with ss, found_ss:
        _require(ct == found_ct and status == found_status and found_ss.equals(ss.view()), "encapsulation")
    for row in range(3, rows, 2):
        ct[row * kem.CT_BYTES + row * 97 % kem.CT_BYTES] ^= 0x40
    return ct


def _compare_under_one_key(dk: SecretBytes, cts: bytearray, rows: int) -> None:
    key = dk.row(0, kem.DK_BYTES)
    with (
        kem.decaps_one_key(key, memoryview(cts), rows) as ss,
        kem_lanes.expand(key) as context,
        kem_lanes.decaps(context, memoryview(cts), rows) as found,
    ):
        _require(found.equals(ss.view()), "decapsulation under one key")


def _require(agrees: bool, what: str) -> None:  # noqa: FBT001  # a claim, as of assert
    if not agrees:
        raise _disagreement(f"disagree about {what}")


def _disagreement(how: str) -> SelfTestError:
    return SelfTestError(
        f"the lanes engine of ML-KEM-1024 ({kem_lanes.items()} items at once) and liboqs {how}; "
        "do not use this build: report the processor, and set QFLARE_ENGINE=liboqs until it is mended"
    )
