"""Purposes: the names under which keys are derived (N2, R2, K2), and which of them are reserved."""

from __future__ import annotations

import re
from typing import Final

from qflare.errors import UsageError
from qflare.protocol.labels import PURPOSE_RESERVED_PREFIX

_PURPOSE: Final = re.compile(rb"[a-z0-9._-]{1,64}")


def encode_purpose(purpose: str) -> bytes:
    """
    Return the ASCII of a purpose that a caller may use.

    Raises:
        UsageError: it does not match ``[a-z0-9._-]{1,64}``, or begins with the reserved ``qfx.``.
    """
    given: object = purpose
    if not isinstance(given, str):
        raise UsageError(f"a purpose must be text, got {type(purpose).__name__}")
    encoded = purpose.encode("ascii", errors="replace")
    if not _PURPOSE.fullmatch(encoded):
        message = f"a purpose is 1 to 64 characters of a-z, 0-9, '.', '_' and '-', got {purpose!r}"
        raise UsageError(message)
    if encoded.startswith(PURPOSE_RESERVED_PREFIX):
        message = f"purposes that begin {PURPOSE_RESERVED_PREFIX.decode()!r} are the protocol's own, got {purpose!r}"
        raise UsageError(message)
    return encoded
