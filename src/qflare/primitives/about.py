"""What the C core is made of: versions, where liboqs came from, and what the tests at load found."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from qflare._native import about as native
from qflare.primitives.engine import engine

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class NativeAbout:
    """Facts about the loaded C core."""

    liboqs_version: str
    """The version text of the liboqs that is loaded."""
    liboqs_origin: str
    """How the build found it: installed, or built from a pinned source."""
    liboqs_features: Mapping[str, bool]
    """What the build found it to offer beyond what is required, by trying."""
    self_test: Mapping[str, bool]
    """Known-answer tests at load, by name; a required one that fails stops the import."""
    engine: str
    """What computes decapsulations of a batch under one key; liboqs computes everything else."""
    keccak_width: int
    """Keccak states that a batch advances at once: 8 with AVX-512, 4 with AVX2, else 1."""
    extension: str
    """Path of the loaded extension."""


def native_about() -> NativeAbout:
    """Return the facts about the loaded C core."""
    return NativeAbout(
        liboqs_version=native.liboqs_version(),
        liboqs_origin=native.liboqs_origin(),
        liboqs_features=MappingProxyType(native.liboqs_features()),
        self_test=MappingProxyType(native.self_test()),
        engine=engine(),
        keccak_width=native.keccak_width(),
        extension=native.extension_path(),
    )
