"""
The self-test of ML-DSA-44 verification in `csrc/lanes`: it says of every signature what liboqs says.

`sig.verify_batch` runs it where it is told to; the comparison comes before a process chooses it.
"""

from __future__ import annotations

from typing import Final

from qflare._native import sig
from qflare.errors import SelfTestError

_SET: Final = 44
_SIG_BYTES: Final = sig.SIZES[_SET][2]
_COUNT: Final = 9
"""A full group of eight and one alone."""
_CONTEXT: Final = b"QFLARE self-test"
_ALTERED: Final = (0, 31, 32, 700, 2335, 2336, 2415, 2416, 2419)
"""A byte of each part of a signature: c~, z, the places of the hints, their counts."""


def require_agreement() -> None:
    """
    Compare the engine with liboqs: good signatures under fixed and fresh keys, and altered ones.

    Raises:
        SelfTestError: they differ; nothing falls back to the other.
    """
    if sig.lanes_items() == 0:
        return
    keys = [sig.keygen_one(_SET), sig.keygen_one(_SET)]
    if sig.has_seeded_keys(_SET):
        rows, seeded, _ = sig.keygen_seeded_batch(_SET, memoryview(bytes(range(sig.SEED_BYTES))), 1)
        keys.append((bytes(rows), seeded))
    for pk, sk in keys:
        with sk:
            messages = [memoryview(bytes([number]) * (3 * number)) for number in range(_COUNT)]
            signed = bytes(sig.sign_batch(_SET, sk.view(), messages, _CONTEXT)[0])
        altered = bytearray(signed)
        for row, place in enumerate(_ALTERED):
            altered[row * _SIG_BYTES + place] ^= 1
        for signatures in (signed, bytes(altered)):
            each = [
                sig.verify_batch(_SET, memoryview(pk), messages, memoryview(signatures), _CONTEXT, is_in_lanes=lanes)
                for lanes in (False, True)
            ]
            if each[0] != each[1] or (signatures is signed and any(each[0])):
                raise SelfTestError(
                    "the lanes engine and liboqs disagree about ML-DSA-44; "
                    "do not use this build: report the processor, and set QFLARE_ENGINE=liboqs until it is mended"
                )
