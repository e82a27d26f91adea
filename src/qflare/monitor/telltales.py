"""What gives a secret away in the data of an event: the name it goes by, or how it looks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

_SECRET_NAME: Final = re.compile(
    r"(^|_)(secret|password|passwd|passphrase|private|psk|token|seed|credential|cookie|bearer|kek|dk|sk"
    r"|(chain|session|signing|decapsulation|master|api|private|priv|secret|access|sealing)_?key"
    r"|(shared|client|operator|master)_?secret|pass_?word|pass_?phrase)s?\d*(_|$)",
    re.IGNORECASE,
)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BETWEEN: Final = re.compile(r"[\W_]+")
_HARMLESS_NAME: Final = re.compile(r"(^|_)(id|hash|count|name|kind|version|type|state|public)$", re.IGNORECASE)
"""`token_id` or `secret_hash` name something, they do not hold it."""

_LOOKS: Final = (
    ("a private key", re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")),
    ("a password in an address", re.compile(r"://[^\s/:@]{0,255}:[^\s/@]{1,255}@")),
    ("a bearer token", re.compile(r"[Bb]earer\s{1,4}[A-Za-z0-9._~+/=-]{16}")),
    ("an operator's secret", re.compile(r"\b[A-Za-z2-7]{77}\b")),
    ("an enrolment token", re.compile(r"\b[A-Za-z2-7]{156}\b")),
)
"""Hexadecimal is not among them: digests and ids are written so, and nobody can tell a key from a digest."""
SHORTEST: Final = len("-----BEGIN PRIVATE KEY")
"""Of all but an address, which is told by what it has behind its scheme."""
_NAME_KEPT_MAX: Final = 64
_NAMES_KEPT_MAX: Final = 1024
_harmless: Final[set[str]] = set()
"""Names that were looked at: events of one kind have the same names again and again."""


def are_harmless(names: Iterable[Hashable]) -> bool:
    """Return whether all *names* are known not to be those of secrets; if not, ask `sounds_secret` of each."""
    return _harmless.issuperset(names)


def sounds_secret(name: str) -> bool:
    """Return whether what goes by this name is a secret; `sessionKey`, `session-key` and `SESSIONKEY` are one name."""
    if name in _harmless:
        return False
    words = _BETWEEN.sub("_", _CAMEL.sub("_", name))
    if _SECRET_NAME.search(words) is not None and _HARMLESS_NAME.search(words) is None:
        return True
    if type(name) is str and len(name) <= _NAME_KEPT_MAX:
        if len(_harmless) >= _NAMES_KEPT_MAX:
            _harmless.clear()
        _harmless.add(name)
    return False


def looks_secret(text: str) -> str | None:
    """Return what *text* seems to hold, None if nothing that must not be told."""
    if len(text) < SHORTEST and "://" not in text:
        return None
    return next((what for what, look in _LOOKS if look.search(text)), None)
