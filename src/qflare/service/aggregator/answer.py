"""
What goes back over HTTP: few, fixed shapes, so that two refusals differ in nothing (PROTOCOL N5).

Every answer is made of status, headers and body here; no other module writes a header.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.protocol import wire
from qflare.service import correlation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Send

_OCTETS: Final = b"application/octet-stream"
_TEXT: Final = b"text/plain; charset=utf-8"
_JSON: Final = b"application/json"
_REQUEST: Final = b"x-request-id"
_NO_STORE: Final = (b"cache-control", b"no-store")


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole HTTP answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | bytearray | tuple[bytes, ...]
    """One buffer, or parts that follow each other."""
    is_public: bool = False
    """Whether others may keep it, and give it to whoever asks next: then it names no request."""
    is_line: bool = False
    """Whether it is one line for people, which then ends with the request's id."""

    async def send(self, send: Send, *, is_closing: bool = False) -> None:
        """
        Send the answer.

        Args:
            send: ASGI's send.
            is_closing: Whether the connection ends with it, since the request's body was not read to its end.
        """
        parts = self.body if isinstance(self.body, tuple) else (self.body,)
        headers = [*self.headers]
        request = None if self.is_public else correlation.current()
        if request is not None:
            headers.append((_REQUEST, request.encode()))
            if self.is_line:
                parts = (bytes(parts[0]).rstrip() + b" (request %s)\n" % request.encode(),)
        headers.append((b"content-length", b"%d" % sum(len(part) for part in parts)))
        if is_closing:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for part in parts[:-1]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": parts[-1], "more_body": False})


def octets(*parts: bytes) -> Answer:
    """Return protocol bytes that must not be kept by anybody between."""
    return Answer(200, ((b"content-type", _OCTETS), _NO_STORE), parts or (b"",))


def cacheable(body: bytes, *, max_age_s: int) -> Answer:
    """Return public bytes that are the same for everybody, for up to *max_age_s* seconds (A3)."""
    control = b"public, max-age=%d" % max_age_s if max_age_s > 0 else b"no-store"
    return Answer(200, ((b"content-type", _OCTETS), (b"cache-control", control)), body, is_public=True)


def immutable(body: bytes) -> Answer:
    """Return public bytes that are the same for everybody, for ever."""
    control = (b"cache-control", b"public, max-age=31536000, immutable")
    return Answer(200, ((b"content-type", _OCTETS), control), body, is_public=True)


def note(text: str) -> Answer:
    """Return a signed note; it is replaced every few moments, so that nobody between keeps it (C2SP tlog-tiles)."""
    return Answer(200, ((b"content-type", _TEXT), _NO_STORE), text.encode())


def message(status: int, text: str, *headers: tuple[bytes, bytes]) -> Answer:
    """Return one line for people: what went wrong with the request as HTTP."""
    return Answer(status, ((b"content-type", _TEXT), _NO_STORE, *headers), f"{text}\n".encode(), is_line=True)


def report(status: int, facts: Mapping[str, object]) -> Answer:
    """Return facts for machines."""
    return Answer(status, ((b"content-type", _JSON), _NO_STORE), json.dumps(facts, sort_keys=True).encode())


REFUSED: Final = Answer(403, ((b"content-type", _OCTETS), _NO_STORE), wire.REFUSED)
"""N5: the same status, headers and bytes for every reason."""
NOT_FOUND: Final = message(404, "not found")
TOO_LARGE: Final = message(413, "the body is larger than any message of this kind")
TOO_SLOW: Final = message(408, "the body did not come in time")
WRONG_TYPE: Final = message(415, "send application/octet-stream, not encoded")
FAILED: Final = message(500, "internal error")


def not_allowed(method: str) -> Answer:
    """Say which one *method* the address takes."""
    return message(405, "method not allowed", (b"allow", method.encode()))


def unavailable(retry_after_s: int) -> Answer:
    """Say that the same request may succeed later."""
    return message(503, "try again later", (b"retry-after", b"%d" % retry_after_s))
