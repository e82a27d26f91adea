"""
The id of the request that is being answered: in its answer, and in every line that is logged on its behalf.

It is drawn here for each request and says nothing about it.  What a client sends as an id is not taken: it would let
one speak in another's name in the log.
"""

from __future__ import annotations

import secrets
from contextvars import ContextVar, Token
from typing import Final

ID_BYTES: Final = 8
_current: ContextVar[str | None] = ContextVar("qflare_request", default=None)


def begin() -> Token[str | None]:
    """Draw the id of a request that begins; the token ends it."""
    return _current.set(secrets.token_hex(ID_BYTES))


def end(token: Token[str | None]) -> None:
    """End the request that began with *token*."""
    _current.reset(token)


def current() -> str | None:
    """Return the id of the request that is being answered, None outside of one."""
    return _current.get()
