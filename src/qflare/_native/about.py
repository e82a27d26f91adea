"""What the extension knows about itself and the liboqs in it."""

from __future__ import annotations

from qflare._native import SELF_TEST, _qflare
from qflare._native._qflare import ffi, lib


def _text(pointer: object) -> str:
    return str(ffi.string(pointer).decode("utf-8", errors="replace"))


def liboqs_version() -> str:
    """Return the version text of the liboqs that is loaded."""
    return _text(lib.qfl_liboqs_version())


def liboqs_origin() -> str:
    """Return how the build found liboqs."""
    return _text(lib.qfl_liboqs_origin())


def liboqs_features() -> dict[str, bool]:
    """Return what the build found this liboqs to offer beyond what is required."""
    pairs = (word.split("=", 1) for word in _text(lib.qfl_liboqs_features()).split())
    return {name: value == "TRUE" for name, value in pairs}


def keccak_width() -> int:
    """Return how many Keccak states a batch call of this thread advances at once: 8, 4 or 1."""
    return int(lib.qfl_lanes_width())


def self_test() -> dict[str, bool]:
    """Return what the known-answer tests at load found."""
    return dict(SELF_TEST)


def extension_path() -> str:
    """Return where the loaded extension lies."""
    return str(_qflare.__file__)
