"""Names of changes: one id for one change, so that whoever repeats it has it carried out once (decision 0031)."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

from qflare.model.ids import ID_BYTES, CallId

TOLD_ONCE: Final = -1
"""Outcome of a call whose result holds private keys: none of `print_of`, and a repeat gets nothing."""
IDENTITY_ROTATION: Final = b"identity-rotation"
IDENTITY_REQUEST: Final = b"identity-request"
"""What changes of the server's identity are about: there is one, so that the id alone tells them."""


@dataclass(frozen=True, slots=True)
class NotedCall:
    """A call that is to be remembered with what it changes."""

    call_id: CallId
    outcome: int
    """What a repeat of it gets, or is compared with; 63 bits."""


def fresh_call() -> CallId:
    """Return an id for a caller that gives none: then the store alone repeats the change."""
    return CallId(secrets.token_bytes(ID_BYTES))


def call_about(given: CallId | None, *subject: bytes) -> CallId:
    """
    Return the id of a change about *subject*.

    The caller's id alone would let one id that is used for two devices leave the second one undone.
    """
    if given is None:
        return fresh_call()
    return CallId(_digest(given, *subject)[:ID_BYTES])


def print_of(*parts: bytes) -> int:
    """
    Return 63 bits that tell *parts* from others: the outcome of a call that is to be repeated with the same ones.

    They rest in the database: what is secret comes in here only as a keyed hash.
    """
    return int.from_bytes(_digest(*parts)[:8], "big") >> 1


def _digest(*parts: bytes) -> bytes:
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(joined).digest()
