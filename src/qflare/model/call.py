"""Names of changes: one id for one change, so that whoever repeats it has it carried out once (decision 0031)."""

from __future__ import annotations

import hashlib
import secrets

from qflare.model.ids import ID_BYTES, CallId


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
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in (given, *subject))
    return CallId(hashlib.sha256(joined).digest()[:ID_BYTES])
