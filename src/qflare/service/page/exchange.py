"""
What comes in and goes out over HTTP: bounded forms, cookies, who asks from where, and answers with their headers.

The page is reached over plain HTTP on loopback, where every program of the machine, and every site open in the same
browser, can send requests.  So the name it is asked under must be one of its own (a name of an attacker's that was
made to lead to 127.0.0.1 is none), and what changes anything must come from its own forms.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import replace
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from qflare.errors import UsageError
from qflare.service.aggregator.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope

FORM_BYTES_MAX: Final = 4096
FORM_S: Final = 10.0
"""Longest wait for a form's body."""
_FIELDS_MAX: Final = 8
_FORM: Final = "application/x-www-form-urlencoded"
_HTTP_PORT: Final = 80
_TEXT: Final = "text/plain; charset=utf-8"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not no-referrer: with it a browser sends `Origin: null` with the page's own forms.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
)


class RequestError(UsageError):
    """A request that is not answered as it was meant; the message is for the person who sent it."""

    def __init__(self, status: int, message: str) -> None:
        """Say *message* with *status*."""
        super().__init__(message)
        self.status = status


class Origins:
    """The names under which the page may be asked for."""

    def __init__(self, host: str, port: int, *, outside: str | None) -> None:
        """Listen on *host* and *port*; *outside* is the address of a proxy before it, or None."""
        names = {"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host}
        hosts = {f"{name}:{port}" for name in names} | (names if port == _HTTP_PORT else set())
        self._origins = {each: f"http://{each}" for each in hosts}
        if outside is not None:
            self._origins[urlsplit(outside).netloc] = outside
        self._outside = outside

    def of(self, headers: Mapping[str, str]) -> str:
        """
        Return the origin that a request was sent to.

        Raises:
            RequestError: it is none of ours.
        """
        origin = self._origins.get(headers.get("host", "").lower())
        if origin is None:
            raise RequestError(421, "this page is not served under that name")
        return origin

    def is_secure(self, origin: str) -> bool:
        """Tell whether the browser came over TLS, so that its cookies stay on it."""
        return origin == self._outside


def headers_of(scope: Scope) -> dict[str, str]:
    """Return a request's headers; of one that is sent twice the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def require_own(headers: Mapping[str, str], origin: str) -> None:
    """
    Refuse what another site has sent.

    Raises:
        RequestError: the request does not say that it comes from *origin*.
    """
    if headers.get("origin") != origin or headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise RequestError(403, "this did not come from the page itself: reload it and try again")


def require_form(given: str, token: str) -> None:
    """
    Refuse a form that is not of the visit's own documents.

    CT: who can measure it must not build the token byte by byte.

    Raises:
        RequestError: the token that was *given* is another.
    """
    if not hmac.compare_digest(token.encode(), given.encode(errors="replace")):
        raise RequestError(403, "this form is of another login: reload the page and try again")


def cookie_of(headers: Mapping[str, str], name: str) -> str:
    """Return a cookie, empty if there is none."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def set_cookie(name: str, value: str, *, is_secure: bool, max_age_s: int | None = None) -> tuple[bytes, bytes]:
    """Return the header that sets a cookie which no script reads and no other site sends; 0 seconds remove it."""
    text = f"{name}={value}; Path=/; HttpOnly; SameSite=Strict"
    if is_secure:
        text += "; Secure"
    if max_age_s is not None:
        text += f"; Max-Age={max_age_s}"
    return b"set-cookie", text.encode()


async def read_form(headers: Mapping[str, str], receive: Receive) -> dict[str, str]:
    """
    Read a form's fields.

    Raises:
        RequestError: it is none, too large or too slow.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise RequestError(415, "a form is expected")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "the form was cut short")
                body += message.get("body", b"")
                if len(body) > FORM_BYTES_MAX:
                    raise RequestError(413, "the form is too large")
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise RequestError(408, "the form did not come in time") from None
    try:
        return dict(
            parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict")
        )
    except (UnicodeDecodeError, ValueError):
        raise RequestError(400, "the form cannot be read") from None


def number(fields: Mapping[str, str], name: str) -> int:
    """
    Return a whole number of a query.

    Raises:
        RequestError: there is none.
    """
    text = fields.get(name, "")
    if not (text.isascii() and text.isdecimal()) or len(text) > 19:  # noqa: PLR2004 - digits of 2^63
        raise RequestError(400, f"{name} is a whole number")
    return int(text)


def query_of(scope: Scope) -> dict[str, str]:
    """Return the fields of the query, the last of each name."""
    try:
        return dict(parse_qsl(scope["query_string"].decode("ascii"), max_num_fields=_FIELDS_MAX))
    except (UnicodeDecodeError, ValueError):
        raise RequestError(400, "the query cannot be read") from None


def answer(status: int, kind: str, body: bytes, *more: tuple[bytes, bytes]) -> Answer:
    """Return an answer with the headers that all have."""
    return Answer(status, ((b"content-type", kind.encode()), *SECURITY_HEADERS, *more), body)


def html(body: bytes, *more: tuple[bytes, bytes], status: int = 200) -> Answer:
    """Return a document."""
    return answer(status, "text/html; charset=utf-8", body, *more)


def line(status: int, text: str, *more: tuple[bytes, bytes]) -> Answer:
    """Return one line for people, which ends with the request's id."""
    return replace(answer(status, _TEXT, f"{text}\n".encode(), *more), is_line=True)


def redirect(path: str, *more: tuple[bytes, bytes]) -> Answer:
    """Return the way to another address of the page, to be fetched with GET."""
    return answer(303, _TEXT, b"", (b"location", path.encode()), *more)
