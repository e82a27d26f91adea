"""
How a device's bytes reach the server: a port, and HTTP as one way of doing it.

The protocol does not care who carries its bytes.  A transport of one's own (gRPC, Flower, a queue) has one method.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from qflare.errors import ConfigError, MissingExtraError, ProtocolError, StoreUnavailableError
from qflare.protocol import wire

if TYPE_CHECKING:
    from types import ModuleType

    import httpx

RESPONSE_BYTES_MAX: Final = 2**30 + 2**20
"""A record of 1 GiB with its tags; anything larger is refused before it is read."""
HANDSHAKE_BYTES_MAX: Final = 16 * 2**10
_HTTP_REFUSED: Final = 403
_LENGTH_DIGITS_MAX: Final = 18
_HTTP_UNAVAILABLE: Final = frozenset({429, 502, 503, 504})
_HTTP_OK: Final = 200
_REQUEST: Final = "x-request-id"
_REQUEST_ID: Final = re.compile("[0-9a-f]{16}", re.ASCII)


class Step(StrEnum):
    """What a message is for; a transport routes by it."""

    IDENTITY = "identity"
    ANNOUNCEMENT = "announcement"
    ENROL = "enrol"
    HELLO = "hello"
    OFFER = "offer"
    CONFIRM = "confirm"
    RECORD = "record"


class Refusal(bytes):
    """The server's refusal (PROTOCOL N5), with the id that its log has for the request."""

    request: str = ""
    """16 hex digits, empty where it was told none."""


class Transport(Protocol):
    """Carries one message to the server and brings the answer; blocking."""

    def exchange(self, step: Step, message: bytes | bytearray) -> bytes:
        """
        Return the server's answer to *message*.

        A refusal (PROTOCOL N5) is returned as the bytes it is, or as a `Refusal`.  Raises `StoreUnavailableError` when
        the server cannot be reached or is overloaded: then the same message may be sent again.
        """

    def close(self) -> None:
        """Release what the transport holds."""


class AsyncTransport(Protocol):
    """The same for asyncio."""

    async def exchange(self, step: Step, message: bytes | bytearray) -> bytes:
        """Return the server's answer to *message*; see `Transport.exchange`."""

    async def close(self) -> None:
        """Release what the transport holds."""


class HttpTransport:
    """Speaks to `qflare.Aggregator` with httpx; blocking."""

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        """Prepare a client for the server at *url* (``http(s)://host:port``, a path prefix may follow)."""
        httpx = _httpx()
        _require_url(url)
        self._unreachable: tuple[type[Exception], ...] = (httpx.TransportError,)
        self._url = url.rstrip("/")
        self._client = httpx.Client(timeout=timeout_s, trust_env=False, follow_redirects=False)

    def exchange(self, step: Step, message: bytes | bytearray) -> bytes:
        """Return the server's answer to *message*."""
        method, path, body = _request(step, message)
        try:
            with self._client.stream(method, self._url + path, content=body, headers=_headers(step)) as response:
                answer = bytearray()
                limit = _answer_limit(step, response)
                for chunk in response.iter_raw():
                    answer += chunk
                    _require_size(len(answer), limit)
                return _answer(response.status_code, bytes(answer), _request_of(response))
        except self._unreachable as error:
            raise _unreachable(self._url, error) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncHttpTransport:
    """Speaks to `qflare.Aggregator` with httpx; for asyncio."""

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        """Prepare a client for the server at *url*; see `HttpTransport`."""
        httpx = _httpx()
        _require_url(url)
        self._unreachable: tuple[type[Exception], ...] = (httpx.TransportError,)
        self._url = url.rstrip("/")
        self._client = httpx.AsyncClient(timeout=timeout_s, trust_env=False, follow_redirects=False)

    async def exchange(self, step: Step, message: bytes | bytearray) -> bytes:
        """Return the server's answer to *message*."""
        method, path, body = _request(step, message)
        try:
            async with self._client.stream(method, self._url + path, content=body, headers=_headers(step)) as response:
                answer = bytearray()
                limit = _answer_limit(step, response)
                async for chunk in response.aiter_raw():
                    answer += chunk
                    _require_size(len(answer), limit)
                return _answer(response.status_code, bytes(answer), _request_of(response))
        except self._unreachable as error:
            raise _unreachable(self._url, error) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


_HEADERS: Final = {
    "content-type": "application/octet-stream",
    "accept": "application/octet-stream",
    # WHY: bytes are taken as they come. A few compressed ones could unfold to more than any limit.
    "accept-encoding": "identity",
}
_FRESH_HEADERS: Final = _HEADERS | {"cache-control": "no-cache"}
"""A device asks for the identity when what it holds does not fit: a cache's copy would not help (A1)."""


def _httpx() -> ModuleType:
    try:
        import httpx
    except ImportError:
        raise MissingExtraError(feature="the HTTP transport", extra="http", package="httpx") from None
    return httpx


def _require_url(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        # Not what was given: a token, if the two were exchanged.
        message = "the server's address must begin with http:// or https://, as in https://host:port"
        raise ConfigError(message)


def _request(step: Step, message: bytes | bytearray) -> tuple[str, str, bytes | None]:
    match step:
        case Step.IDENTITY:
            return "GET", "/v1/identity", None
        case Step.ANNOUNCEMENT:
            # The message names what is asked for: b"current", b"next" or a bucket's number in decimal.
            return "GET", f"/v1/announcement/{bytes(message).decode('ascii')}", None
        case _:
            return "POST", f"/v1/{step.value}", bytes(message)


def _headers(step: Step) -> dict[str, str]:
    return _FRESH_HEADERS if step is Step.IDENTITY else _HEADERS


def _answer_limit(step: Step, response: httpx.Response) -> int:
    limit = RESPONSE_BYTES_MAX if step is Step.RECORD else HANDSHAKE_BYTES_MAX
    declared = response.headers.get("content-length", "0")
    if declared.isdecimal() and len(declared) <= _LENGTH_DIGITS_MAX:
        _require_size(int(declared), limit)
    return limit


def _require_size(size: int, limit: int) -> None:
    if size > limit:
        message = f"the server's answer has more than the {limit} bytes it may have; is this the right address?"
        raise ProtocolError(message)


def _request_of(response: httpx.Response) -> str:
    """Return the id that the server gave the request; empty if what is there is none: it goes to people's eyes."""
    its = response.headers.get(_REQUEST, "")
    return its if _REQUEST_ID.fullmatch(its) else ""


def _answer(status: int, body: bytes, request: str) -> bytes:
    if status in (_HTTP_OK, _HTTP_REFUSED) and body == wire.REFUSED:
        refusal = Refusal(body)
        refusal.request = request
        return refusal
    if status == _HTTP_OK:
        return body
    named = f", request id {request}" if request else ""
    if status in _HTTP_UNAVAILABLE:
        message = f"the server cannot take the request now (HTTP {status}{named}); try again later"
        raise StoreUnavailableError(message)
    message = f"the server answered with HTTP {status}{named}; is this the address of a QFLARE aggregator?"
    raise ProtocolError(message)


def _unreachable(url: str, error: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"cannot reach {url} ({type(error).__name__}); check the address and that the server runs"
    )
