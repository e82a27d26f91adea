"""Which algorithms are offered under which names (PROTOCOL N4; DESIGN, decision 1)."""

from __future__ import annotations

from typing import Final

from qflare.errors import UnsupportedAlgorithmError

KEM_NAMES: Final = ("Kyber1024", "ML-KEM-1024")
SIGNATURE_NAMES: Final = ("Dilithium2", "ML-DSA-44")
KEM_STANDARD: Final = "ML-KEM-1024"
SIGNATURE_STANDARD: Final = "ML-DSA-44"

_ROUND_3: Final = ("-R3", "-r3", "_R3", "-ROUND3", "-round3", "-90s")


def require_kem(name: str) -> str:
    """
    Return the standard's name of the KEM that *name* means.

    Raises:
        UnsupportedAlgorithmError: it is not offered; the error lists what is.
    """
    return _require(name, KEM_NAMES, KEM_STANDARD, "Kyber")


def require_signature(name: str) -> str:
    """
    Return the standard's name of the signature scheme that *name* means.

    Raises:
        UnsupportedAlgorithmError: it is not offered; the error lists what is.
    """
    return _require(name, SIGNATURE_NAMES, SIGNATURE_STANDARD, "Dilithium")


def _require(name: str, names: tuple[str, ...], standard: str, family: str) -> str:
    if name in names:
        return standard
    reason = ""
    if str(name).endswith(_ROUND_3) and str(name).startswith(family):
        # Keys of the round-3 submissions have the standard's sizes but are other keys: refused by name (N4).
        reason = f"the round-3 submission is not the standard: make new keys of {standard}"
    raise UnsupportedAlgorithmError(str(name), names, reason=reason)
