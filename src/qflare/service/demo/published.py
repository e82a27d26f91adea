"""
The timings of the founding document, which the demo's own stand beside (GOALS: published timings).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PUBLISHED_MS: Final[Mapping[str, float]] = {
    "ML-KEM-1024 key generation": 0.1,
    "ML-KEM-1024 encapsulation": 0.15,
    "ML-KEM-1024 decapsulation": 0.2,
    "ML-DSA-44 signing": 0.5,
    "ML-DSA-44 verification": 0.1,
    "Key storage": 2.0,
    "Session lookup": 1.0,
    "Audit insert": 1.0,
    "Cleanup": 50.0,
}
"""Milliseconds by operation; there the schemes are called Kyber1024 and Dilithium2."""
